"""Arrays in, numbers out; no model and no file. ``geometry``, ``statistics``, ``grams`` (all layers at once),
``randomness``."""
