"""What a model is asked to read and write: ``corpus`` reads it from ``data/``, ``checks`` says in what it falls
short, ``stories`` are the ones kept with it."""
