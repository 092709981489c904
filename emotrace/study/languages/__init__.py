"""What steering in English does to Chinese (C11): ``experiments`` (the list), ``writing_systems``, ``lexicon``,
``readout`` and ``rows``, which ``measure`` runs; ``claims``, ``figures``."""
