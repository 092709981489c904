"""One thread at a time in one model. A module of its own, since importing nnsight takes a while."""

from __future__ import annotations

import threading

from nnsight.tracing.backend import Backend
from nnsight.tracing.tracer import Tracer


class InTurn(Backend):
    """A backend that waits until no other thread is in the model.

    nnsight hooks one interleaver, of one thread, into a model: two at once end in greenlet errors. A context only notes
    its block until its ``with`` ends, and the backend then runs it: so this is where threads have to queue. The lock is
    re-entrant, since the traces of a session run within it.

    Args:
        lock: the model's own.
        backend: what runs the block; None: nnsight's, in this process.
    """

    def __init__(self, lock: threading.RLock, backend: Backend | None = None) -> None:
        self.lock, self.backend = lock, backend or Backend()

    def __call__(self, tracer: Tracer) -> None:
        with self.lock:
            self.backend(tracer)
