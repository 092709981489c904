"""One thread at a time in one model, and how a loop of decoding ends. Importing nnsight takes a while: by itself."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator

from nnsight.tracing.backend import Backend
from nnsight.tracing.tracer import Tracer

from emotrace.hosts.finite import Named, not_finite
from emotrace.hosts.threads import Turn
from emotrace.hosts.torch_settings import as_shipped
from emotrace.in_trace import NOT_FINITE


class InTurn(Backend):
    """A backend that waits until no other thread is in the model, and runs it in torch as it is shipped.

    nnsight hooks one interleaver, of one thread, into a model: two at once end in greenlet errors. A context only notes
    its block until its ``with`` ends, and the backend then runs it: so this is where threads have to queue. The lock is
    re-entrant, since the traces of a session run within it.

    Args:
        lock: the model's own.
        backend: what runs the block; None: nnsight's, in this process.
    """

    def __init__(self, lock: Turn, backend: Backend | None = None) -> None:
        self.lock, self.backend = lock, backend or Backend()

    def __call__(self, tracer: Tracer) -> None:
        with self.lock, as_shipped():
            self.backend(tracer)


_counting, _quiet, _loops = threading.Lock(), contextlib.ExitStack(), 0


@contextlib.contextmanager
def loop_to_the_end(model: Named) -> Iterator[None]:
    """For loops over ``tracer.iter[:]``: they end with the generation, as they should, and nnsight warns of it.

    Warning filters are the process's: the first of several threads sets one, the last puts all back.

    Raises:
        EmotraceError: no likeliest token, here or on a server.
    """
    global _loops
    with _counting:
        if not _loops:
            _quiet.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message=".*was never reached")
        _loops += 1
    try:
        yield
    except Exception as error:
        if NOT_FINITE not in str(error):
            raise
        raise not_finite(model) from None
    finally:
        with _counting:
            _loops -= 1
            if not _loops:
                _quiet.close()
