"""Runs one peer in an environment of its own and does what it is asked, a line of JSON a job.

    PEER'S PYTHON serve.py NAME MODEL_FOLDER

Started by ``benchmarks/today.py``. emotrace is not there: ``peer_NAME.py`` beside this file calls the peer as its own
documentation does. In: ``{"job": "read" | "rows" | "write", "with": {…}, "file": where an array goes}``; out: seconds,
and what is no array. Whatever a peer prints goes to standard error.
"""

import importlib
import json
import sys
import time

import numpy as np


def main(name: str, folder: str) -> None:
    answers, sys.stdout = sys.stdout, sys.stderr
    peer = importlib.import_module(f"peer_{name}").Peer(folder)
    for line in sys.stdin:
        asked = json.loads(line)
        start = time.perf_counter()
        found = getattr(peer, asked["job"])(**asked["with"])
        answer = {"seconds": time.perf_counter() - start}
        if isinstance(found, np.ndarray):
            np.save(asked["file"], found)
        else:
            answer["found"] = found
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
