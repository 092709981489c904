"""``python -m emotrace``."""

from emotrace.cli import main

main()
