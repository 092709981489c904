"""Keys and tokens, which no message, log, file or traceback may hold in any form."""

from __future__ import annotations

import base64
import functools
import html
import json
import os
import re
import sys
import urllib.parse

VARIABLES = ("NDIF_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
# What a file, a shell or a form adds around a key that is pasted: blanks, line ends, a byte-order mark, quotes.
AROUND = " \t\r\n\v\f\0\u00a0\u200b\ufeff\"'`“”‘’"
# A shorter one is no secret, and blotting it out would make every message unreadable.
SHORTEST = 4
MARK = "…"
_IN_ADDRESS = re.compile(r"(?<=://)[^\s/@]+@")


def redacted(text: str, *more: str) -> str:
    """A text without the secrets of this process and ``more`` of them, nor the user of any address in it."""
    for secret in {*_secrets(), *more}:
        for form in _forms(secret):
            text = text.replace(form, MARK)
    return _IN_ADDRESS.sub(f"{MARK}@", text)


def without_secret(error: BaseException) -> BaseException | None:
    """The exception unchanged, as the cause of another; None if it, or what it came from, holds a secret."""
    link: BaseException | None = error
    while link is not None:
        said = f"{link} {link!r}"
        if redacted(said) != said:
            return None
        link = link.__cause__ or link.__context__
    return error


def _secrets() -> list[str]:
    configured = getattr(sys.modules.get("nnsight"), "CONFIG", None)
    key = configured.API.APIKEY if configured else None
    return [value for value in (*map(os.environ.get, VARIABLES), key) if value]


@functools.lru_cache(maxsize=16)
def _forms(secret: str) -> tuple[str, ...]:
    """How a secret may be written: as it is, quoted, escaped for an address, JSON or Python, in base64; longest first.

    Base64 is looked for at each of its three alignments, since a user's name may stand before the secret.
    """
    forms: set[str] = set()
    for bare in {secret, secret.strip(AROUND)}:
        if len(bare) < SHORTEST:
            continue
        data = bare.encode("utf-8", "surrogatepass")
        in_addresses = {urllib.parse.quote(data), urllib.parse.quote(data, safe=""), urllib.parse.quote_plus(data)}
        in_addresses |= {re.sub("%..", lambda code: code[0].lower(), form) for form in in_addresses}
        escaped = {repr(bare)[1:-1], ascii(bare)[1:-1], repr(data)[2:-1], json.dumps(bare)[1:-1]}
        escaped |= {json.dumps(bare, ensure_ascii=False)[1:-1], html.escape(bare), data.hex()}
        escaped |= {bare.encode("latin-1", "replace").decode("latin-1"), repr(bare.encode("latin-1", "replace"))[2:-1]}
        forms |= {bare, *in_addresses, *escaped}
        for before in range(3):
            encoded = base64.b64encode(b"\0" * before + data).decode()
            # Characters at either end hold bits of what stands beside the secret.
            part = encoded.rstrip("=")[(0, 2, 3)[before] : -1 if (before + len(data)) % 3 else None]
            forms |= {part, part.replace("+", "-").replace("/", "_")}
    return tuple(sorted((form for form in forms if len(form) >= SHORTEST), key=len, reverse=True))
