"""What a model holds of a message before it replies: implied feelings, and feelings by degrees: ``experiments`` (the
list), ``measure``, ``projection`` (arrays in, numbers out), ``claims``, ``figures``."""
