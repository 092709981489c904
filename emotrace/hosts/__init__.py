"""Where a model runs. From files: ``sources``, ``gguf``, ``control_vectors``. On a CPU: ``cpu_matmul``,
``cpu_attention``, ``threads``. On a server: ``remote``, ``patience``, ``ndif_backend``, ``faults``."""
