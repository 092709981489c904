"""What steering does to texts (C8, C9, C10): ``experiments`` (the list), ``sweep``, ``dose`` and ``verification``,
which ``measure`` runs; ``claims``, ``figures``."""
