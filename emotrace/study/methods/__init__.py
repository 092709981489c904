"""Generation against comprehension (C3, C5): ``experiments`` (the list), ``design``, ``factorial``, ``comparison``
and ``story_rates``, which ``measure`` runs; ``claims``, ``figures``."""
