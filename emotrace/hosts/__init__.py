"""Where a model runs.

From files: ``sources``, ``checkpoints``, ``gguf``, ``gguf_settings``, ``control_vectors``. On a CPU: ``cpu_matmul``,
``cpu_attention``, ``threads``. On a server: ``remote``, ``patience``, ``ndif_backend``, ``faults``.
"""
