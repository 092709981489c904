"""``python -m emotrace``."""

from .cli import main

main()
