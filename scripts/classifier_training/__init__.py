"""How the embedded judge is trained and measured; ``scripts/train_classifier.py`` is the command."""
