"""How emotions separate over depth in what the model reads (C6, C7): ``experiments`` (the list), ``measure``,
``claims``, ``figures``."""
