"""Arrays in, numbers out; no model and no file. ``geometry``, ``statistics``, ``grams`` (all layers at once),
``randomness``, ``words_floor`` (what texts give away without a model)."""
