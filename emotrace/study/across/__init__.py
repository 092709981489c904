"""What only several models show together: their ``facts``, ``geometry``, ``steering`` and ``regimes``, which
``measure`` puts together; ``claims``, ``figures``."""
