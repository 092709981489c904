"""Several threads on one model: the same results as one after the other, and no error.

nnsight itself takes one thread at a time (ndif-team/nnsight#280): each of these tests fails within a few calls without
the model's lock.
"""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import emotrace
from emotrace import activations, scoring, tokens
from emotrace.errors import EmotraceError
from emotrace.tokens import Writing
from emotrace.whatif import token_reading

TEXTS = ["The rain fell on the roof all night.", "She laughed and left.", "He waited for the last train home."]
WRITING = Writing(6, 0.8, seeds=(1, 2))


@pytest.fixture(scope="module")
def vectors(tiny):
    """Few emotions of the tiny llama, from few passages."""
    return emotrace.extract(tiny("llama"), pooling="mean", emotions=["happy", "sad"])


def readings(model, vectors, number):
    """What each public function gives for the texts from ``number`` on, in comparable form."""
    texts = TEXTS[number % 3 :] + TEXTS[: number % 3]
    pooled = activations.read_activations(model, texts)
    streams = activations.read_tokens(model, texts)
    written = emotrace.steer(model, texts, vectors, [0.0, 0.5], layers=[2], writing=WRITING)
    scored = scoring.score(model, texts, None)
    ids = [tokens.encode(model, [text])[0].ids for text in texts]
    reading = emotrace.read_emotions(model, texts[0], "happy", vectors=vectors, layer=2)
    return [
        pooled["mean"],
        pooled["last"],
        *streams,
        scored["log_probabilities"],
        *scoring.log_likelihoods(model, ids, [[5, 6], [7], [8]]),
        reading.score,
        written["text"].to_numpy(),
    ]


def same(ours, alone):
    return all(np.array_equal(a, b, equal_nan=a.dtype != object) for a, b in zip(ours, alone, strict=True))


def together(threads, jobs):
    """The results of the jobs, started at one moment, and how many raised."""
    gate = threading.Barrier(threads)

    def started(job):
        gate.wait()
        torch.set_num_threads(1)
        return [job() for _ in range(3)]

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(started, job) for job in jobs]
    errors = [error for future in futures if (error := future.exception())]
    return [future.result() for future in futures if not future.exception()], errors


@pytest.mark.filterwarnings("error:.*was never reached")
@pytest.mark.parametrize("threads", [2, 4, 8])
def test_threads_on_one_model_get_what_one_gets(tiny, vectors, monkeypatch, threads):
    model = tiny("llama")
    alone = [readings(model, vectors, number) for number in range(threads)]
    monkeypatch.setattr(token_reading, "_remembered", {})
    model.norms = None
    jobs = [lambda number=number: readings(model, vectors, number) for number in range(threads)]
    results, errors = together(threads, jobs)
    assert errors == []
    wrong = [number for number, rounds in enumerate(results) if not all(same(ours, alone[number]) for ours in rounds)]
    assert wrong == []


def test_the_natural_cell_works_in_threads_too(tiny):
    """No function of emotrace stands between a user's own ``with model.trace`` and nnsight."""
    model = tiny("gpt2")

    def stream(text):
        with torch.no_grad(), model.trace(text):
            hidden = model.layers[2].output.save()
        return hidden.numpy()

    alone = [stream(text) for text in TEXTS]
    results, errors = together(3, [lambda text=text: stream(text) for text in TEXTS])
    assert errors == []
    assert all(
        np.array_equal(ours, expected) for rounds, expected in zip(results, alone, strict=True) for ours in rounds
    )


def test_two_models_in_two_threads(tiny):
    models = [tiny("llama"), tiny("gpt2")]
    assert models[0].lock is not models[1].lock
    alone = [activations.read_activations(model, TEXTS)["mean"] for model in models]
    results, errors = together(
        2, [lambda model=model: activations.read_activations(model, TEXTS)["mean"] for model in models]
    )
    assert errors == []
    assert all(
        np.array_equal(ours, expected) for rounds, expected in zip(results, alone, strict=True) for ours in rounds
    )


def test_a_model_is_not_held_while_another_is_used(tiny):
    """One thread holds the first model; the second model answers all the same."""
    held, free = tiny("llama"), tiny("gpt2")
    with held.lock, ThreadPoolExecutor(1) as pool:
        assert pool.submit(activations.read_activations, free, TEXTS).result(timeout=60)["mean"].shape[0] == 3


def test_an_error_in_one_thread_leaves_the_model_to_the_others(tiny):
    model = tiny("llama")
    alone = activations.read_activations(model, TEXTS)["mean"]

    def broken():
        try:
            with torch.no_grad(), model.trace(TEXTS[0]):
                _ = model.layers[0].output
                raise ValueError("mine")
        except ValueError as error:
            return alone if "mine" in str(error) else None

    jobs = [broken, lambda: activations.read_activations(model, TEXTS)["mean"]] * 2
    results, errors = together(4, jobs)
    assert errors == []
    assert all(np.array_equal(ours, alone) for rounds in results for ours in rounds)
    with ThreadPoolExecutor(1) as pool:  # from another thread, so that a lock still held would be seen
        pool.submit(model.lock.__enter__).result(timeout=5)
        pool.submit(model.lock.__exit__).result(timeout=5)


def test_asyncio_to_thread(tiny, vectors):
    model = tiny("llama")

    async def gathered():
        calls = [
            asyncio.to_thread(emotrace.what_if, model, text, "happy", 0.4, vectors=vectors, layer=2, judge=False)
            for text in TEXTS * 2
        ]
        return await asyncio.gather(*calls)

    results = asyncio.run(gathered())
    for text, result in zip(TEXTS * 2, results, strict=True):
        expected = emotrace.what_if(model, text, "happy", 0.4, vectors=vectors, layer=2, judge=False)
        assert (result.plain, result.steered) == (expected.plain, expected.steered)


def test_models_loaded_at_once_are_those_loaded_alone(tiny_folder):
    families = ("llama", "gpt2", "qwen", "gemma")
    alone = [activations.read_activations(emotrace.load(str(tiny_folder(f))), TEXTS)["mean"] for f in families]

    def loaded(family):
        return activations.read_activations(emotrace.load(str(tiny_folder(family))), TEXTS)["mean"]

    results, errors = together(4, [lambda family=family: loaded(family) for family in families])
    assert errors == []
    assert all(
        np.array_equal(ours, expected) for rounds, expected in zip(results, alone, strict=True) for ours in rounds
    )


def test_a_refusal_in_a_thread_is_the_one_line(tiny):
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(activations.read_activations, tiny("llama"), [""]) for _ in range(2)]
    for future in futures:
        assert isinstance(future.exception(), EmotraceError)
