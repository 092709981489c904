"""What the test server serves, and how nnsight is aimed at a server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import nnsight

from emotrace.hosts.sources import DEFAULT_MODEL, resolve
from emotrace.instrument import corpus

HUB_ID = corpus.model_registry().loc[DEFAULT_MODEL, "hub_id"]
TINY = "emotrace-tests/llama"  # a hub id that no hub knows


def weights(name: str = DEFAULT_MODEL) -> Path:
    """The folder of a packaged model, as ``save_pretrained`` would write it."""
    return Path(resolve(name, lambda line: None)[0])


@contextlib.contextmanager
def aimed(url: str, key: str = "") -> Iterator[None]:
    """Within, nnsight's remote requests go to ``url`` with this API key, and nothing is drawn on the terminal."""
    api, app = nnsight.CONFIG.API, nnsight.CONFIG.APP
    before = api.HOST, api.APIKEY, app.REMOTE_LOGGING
    api.HOST, api.APIKEY, app.REMOTE_LOGGING = url, key, False
    try:
        yield
    finally:
        api.HOST, api.APIKEY, app.REMOTE_LOGGING = before
