"""Remote runs without a server: nnsight's simulation of one, faults and what they mean, patience, parts.

The simulation serialises every trace and reads it back with all local modules hidden, so that code or values which
could not travel fail here. A real server is in tests/ndif.
"""

import ast
import copy
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import tiny_models
import torch
import websocket
from nnsight.intervention.backends.remote import RemoteError

import emotrace
from emotrace import activations, in_trace, scoring, steered_texts, steering, tokens
from emotrace.errors import EmotraceError
from emotrace.hosts import patience, remote
from emotrace.hosts.faults import TooLarge, diagnose
from emotrace.tokens import Writing

HOST = "http://server"
TEXTS = ["The rain fell on the roof all night.", "She laughed.", "He waited at the station for the last train home."]
PROMPTS = ["The door opened and", "The door opened and", "He said that the"]


@pytest.fixture(scope="module")
def simulated(tiny_folder):
    """``simulated(family)``: a tiny model whose traces go through the simulation."""
    loaded = {}

    def load(family):
        if family not in loaded:
            loaded[family] = emotrace.load(str(tiny_folder(family)), remote="local")
        return loaded[family]

    return load


@pytest.fixture
def there(request, simulated):
    """The simulated twin of the test's ``tiny_model``."""
    return simulated(request.node.callspec.params["tiny_model"])


@pytest.fixture
def hasty(monkeypatch):
    """A patience that waits for nothing, and the waits that it would have made."""
    waits = []
    monkeypatch.setattr(patience, "PATIENCE", patience.Patience(attempts=4, pause=1, longest_pause=3))
    monkeypatch.setattr(patience.time, "sleep", waits.append)
    return waits


# -- the same code path ------------------------------------------------------------------------------------------------


def _edit(model, **settings):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(len(PROMPTS), model.d_model, generator=generator)
    return steering.Edit({1: rows, 3: 0.5 * rows}, **settings)


@pytest.mark.parametrize("how", [{}, {"positions": "all"}, {"on_the_fly": True}])
def test_texts_written_in_the_simulation_are_those_written_here(tiny_model, there, how):
    prompts = [tokens.encode(tiny_model, [prompt])[0].ids for prompt in PROMPTS]
    settings = Writing(6, 0.8), [3, 4, 5]
    edit = _edit(tiny_model, **how)
    here = steering.generate(tiny_model, prompts, edit, *settings)
    assert steering.generate(there, prompts, edit, *settings) == here
    assert steering.generate(tiny_model, prompts, None, *settings) != here


def test_every_reading_in_the_simulation_is_bit_for_bit_the_one_here(tiny_model, there):
    groups = np.zeros((tiny_model.nn._module.config.get_text_config().vocab_size, 2), dtype=np.float32)
    groups[:50, 0] = groups[50:, 1] = 1
    written = [[7, 8, 9], [10, 11], [12]]
    ids = [list(tokens.encode(tiny_model, [prompt])[0].ids) for prompt in PROMPTS]
    edit = _edit(tiny_model)

    def readings(model):
        model.norms = None
        pooled = activations.read_activations(model, TEXTS)
        streamed = activations.read_while_writing(model, ids, Writing(3, 0.7), [0, 1, 2])
        scored = scoring.score(model, PROMPTS, edit, groups=[[1, 2], [], [3]])
        return [
            pooled["mean"],
            pooled["last"],
            activations.residual_norms(model),
            *activations.read_tokens(model, TEXTS),
            *(row.stream for row in streamed),
            scored["stream"],
            scored["log_probabilities"],
            *scoring.log_likelihoods(model, ids, written),
            *scoring.reread(model, ids, written, edit, groups),
            scoring.unembed(model, torch.arange(2.0 * model.d_model).reshape(2, -1)),
        ]

    here = readings(tiny_model)
    for mine, theirs in zip(here, readings(there), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert [n for n, mine in enumerate(here) if mine.size and not np.nanmax(np.abs(mine)) > 0] == []


def test_a_groups_log_probability_is_the_sum_of_its_tokens(tiny):
    model = tiny("llama")
    whole = scoring.score(model, PROMPTS, None)["log_probabilities"]
    parts = scoring.score(model, PROMPTS, None, groups=[[1, 2, 9], [], [5]])["log_probabilities"]
    np.testing.assert_allclose(parts[:, 0], np.log(np.exp(whole[:, [1, 2, 9]]).sum(axis=1)), rtol=1e-5)
    np.testing.assert_allclose(parts[:, 2], whole[:, 5], rtol=1e-5)
    assert np.isnan(parts[:, 1]).all()


def test_what_travels_by_value_needs_nothing_but_torch_and_transformers():
    tree = ast.parse(Path(in_trace.__file__).read_text())
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert imported == {"__future__", "collections.abc", "typing", "torch", "transformers"}


# -- the natural cell --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny_models.FAMILY_OF)
@pytest.mark.parametrize("remote", [False, "local"])
def test_a_bare_trace_and_a_bare_generation_work_on_the_handle_that_load_returns(tiny, tiny_folder, family, remote):
    """What a notebook's first cell does, against what transformers says."""
    module = tiny(family).nn._module
    model = emotrace.load(str(tiny_folder(family)), remote=remote)
    ids = torch.tensor([tokens.encode(model, TEXTS[:1])[0].ids])
    with torch.no_grad(), model.trace(TEXTS[0]):
        hidden = model.layers[2].output.save()
        logits = model.unembedding.output.save()
    with torch.no_grad():
        states = module(ids, output_hidden_states=True, use_cache=False).hidden_states
    torch.testing.assert_close(hidden, states[3], atol=1e-5, rtol=1e-5)
    assert logits.shape[:2] == ids.shape
    direction = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    push = 3 * states[2].norm(dim=-1).mean() * torch.nn.functional.normalize(direction, dim=0)
    settings = {"max_new_tokens": 6, "do_sample": False}
    with torch.no_grad(), model.generate(**settings) as tracer:
        with tracer.invoke(TEXTS[0]):
            for _ in tracer.iter[:]:
                model.layers[1].output[:, -1] += push
        with tracer.invoke():
            written = tracer.result.save()
    edit = steering.Edit({2: push[None]})
    expected = steering.generate(model, ids.tolist(), edit, Writing(6))[0]
    assert written[0, ids.shape[1] :].tolist()[: len(expected)] == expected
    assert expected != steering.generate(model, ids.tolist(), None, Writing(6))[0]


# -- where -------------------------------------------------------------------------------------------------------------


def test_the_address_is_nnsights_or_the_one_given(monkeypatch):
    import nnsight

    monkeypatch.setattr(nnsight.CONFIG.API, "HOST", "https://somewhere")
    assert remote.address(True) == "https://somewhere"
    assert remote.address("http://127.0.0.1:9/") == "http://127.0.0.1:9"
    assert remote.address("local") == "local"
    with pytest.raises(EmotraceError, match="'ftp://x'"):
        remote.address("ftp://x")


def test_a_folder_of_this_machine_is_not_on_a_server(tiny_folder):
    with pytest.raises(EmotraceError, match="hub id"):
        emotrace.load(str(tiny_folder("gpt2")), remote="http://127.0.0.1:9")


def test_a_server_that_is_not_there_is_one_line(hasty):
    with pytest.raises(EmotraceError, match="cannot be reached; given up after 4 attempts"):
        emotrace.load("org/name", remote="http://127.0.0.1:9")
    assert len(hasty) == 3


# -- faults ------------------------------------------------------------------------------------------------------------


def _status(code, body="", **headers):
    request = httpx.Request("POST", HOST)
    answer = httpx.HTTPStatusError(
        str(code), request=request, response=httpx.Response(code, headers=headers, request=request)
    )
    error = RemoteError(f"Failed to send request: {body or code}")
    error.__cause__ = answer
    return error


@pytest.mark.parametrize(
    ("error", "transient", "too_large", "words"),
    [
        (ConnectionRefusedError("refused"), True, False, "cannot be reached"),
        (ConnectionResetError("reset"), True, False, "was lost"),
        (websocket.WebSocketConnectionClosedException("gone"), True, False, "was lost"),
        (websocket.WebSocketTimeoutException("slow"), True, False, "was lost"),
        (TimeoutError("no word for 60 s"), True, False, "no word"),
        (websocket.WebSocketBadStatusException("%d %s", 503, "no", {}), True, False, "503"),
        (_status(429), True, False, "is busy"),
        (_status(500), True, False, "answers with 500"),
        (_status(503), True, False, "answers with 503"),
        (_status(413), False, True, "size"),
        (_status(401, "Missing or invalid API key"), False, False, "NDIF_API_KEY"),
        (_status(400, "Invalid API key format: 'secret'"), False, False, "NDIF_API_KEY"),
        (_status(403), False, False, "rejects the API key"),
        (_status(400, "Client nnsight version 0.1 is below the minimum"), False, False, "doctor"),
        (_status(422), False, False, "refuses"),
        (RemoteError("Critical server error occurred. Please try again later."), True, False, "Critical"),
        (RemoteError("Replica was evicted while processing your request"), True, False, "evicted"),
        (RemoteError("Your job was cancelled or preempted by the server."), True, False, "preempted"),
        (RemoteError("Could not deploy this model. No room"), False, False, "not deployed"),
        (RemoteError("Your request payload could not be read (x)"), False, False, "do not fit"),
        (RemoteError("Your job exceeded the execution timeout of 30.0s."), False, True, "could not hold"),
        (RemoteError("Traceback\n  x\ntorch.OutOfMemoryError: CUDA out of memory."), False, True, "out of memory"),
        (RemoteError("Traceback (most recent call last)\n  File\nValueError: boom"), False, False, "ValueError: boom"),
    ],
)
def test_each_fault_is_told_apart(error, transient, too_large, words):
    fault = diagnose(error, HOST, "secret")
    assert (fault.transient, fault.too_large) == (transient, too_large)
    assert words in fault.reason
    assert "secret" not in fault.reason
    assert "\n" not in fault.reason
    assert isinstance(fault.error(), TooLarge) is too_large


def test_the_server_may_say_how_long_to_wait():
    assert diagnose(_status(429, **{"Retry-After": "7"}), HOST).retry_after == 7
    assert diagnose(_status(429, **{"Retry-After": "Wed, 21 Oct"}), HOST).retry_after is None


# -- patience ----------------------------------------------------------------------------------------------------------


def _failing(*errors):
    left = list(errors)

    def once():
        if left:
            raise left.pop(0)
        return "answer"

    return once


def test_a_passing_fault_is_waited_out_with_growing_pauses(hasty):
    lines = []
    errors = [ConnectionRefusedError(), _status(500), ConnectionResetError()]
    assert patience.patiently(_failing(*errors), HOST, lines.append) == "answer"
    assert len(lines) == len(hasty) == 3
    for wait, expected in zip(hasty, (1, 2, 3), strict=True):  # doubled, up to the longest
        assert 0.75 * expected <= wait <= 1.25 * expected


def test_the_wait_that_the_server_asks_for_is_kept(hasty):
    patience.patiently(_failing(_status(429, **{"Retry-After": "2.5"})), HOST)
    assert hasty == [2.5]


def test_a_lasting_fault_ends_at_once(hasty):
    with pytest.raises(EmotraceError, match="API key"):
        patience.patiently(_failing(_status(403)), HOST)
    assert hasty == []


def test_patience_ends(hasty):
    with pytest.raises(EmotraceError, match="given up after 4 attempts"):
        patience.patiently(_failing(*[ConnectionRefusedError()] * 9), HOST)
    assert len(hasty) == 3


# -- in flight ---------------------------------------------------------------------------------------------------------


def _under_way(where, jobs, seconds=0.05):
    """What ``answers`` gives, how many jobs were under way when each began, and in which threads."""
    running, seen, threads, lock = set(), [], set(), threading.Lock()

    def compute(job):
        with lock:
            running.add(job)
            seen.append(len(running))
            threads.add(threading.get_ident())
        time.sleep(seconds * (2 if job % 2 else 1))  # the second is done before the first
        with lock:
            running.remove(job)
        return job * job

    found = list(remote.answers(None if where is None else remote.Remote(where), jobs, compute))
    return found, max(seen), threads


def test_two_requests_are_in_flight_and_come_back_in_order():
    found, most, threads = _under_way(HOST, range(7))
    assert found == [(job, job * job) for job in range(7)]
    assert most == remote.IN_FLIGHT == 2
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("where", [None, "local"])
def test_in_this_process_one_is_done_after_the_other(where):
    assert _under_way(where, range(4), 0) == ([(0, 0), (1, 1), (2, 4), (3, 9)], 1, {threading.get_ident()})


def test_an_error_in_flight_is_raised_where_its_answer_was_due_and_nothing_more_is_asked():
    asked, given = [], []

    def compute(job):
        asked.append(job)
        if job == 1:
            raise EmotraceError("job 1")
        return job

    asking = remote.answers(remote.Remote(HOST), range(9), compute)
    with pytest.raises(EmotraceError, match="job 1"):
        given.extend(job for job, _ in asking)
    assert given == [0]
    assert sorted(asked) == [0, 1, 2]  # the one that was under way beside it, and none after


def test_small_batches_travel_together_and_large_ones_alone(tiny, monkeypatch):
    here = tiny("llama")
    there = copy.copy(here)
    lengths = [40, 40, 30, 30, 20, 20, 10, 10]
    single = [[0, 1], [2, 3], [4, 5, 6, 7]]
    assert activations._requests(here, lengths, 80, 100) == single
    monkeypatch.setattr(there, "nn", SimpleNamespace(_module=torch.nn.Linear(1, 1, device="meta")))
    assert activations._requests(there, lengths, 80, 100) == [[0, 1, 2, 3, 4, 5, 6, 7]]
    monkeypatch.setattr(activations, "REQUEST_BYTES", 400)
    assert activations._requests(there, lengths, 80, 100) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    monkeypatch.setattr(activations, "REQUEST_TOKENS", 139)
    assert activations._requests(there, lengths, 80, 1) == single  # 80 + 60 tokens are too many


def test_a_request_of_several_batches_is_bit_for_bit_each_batch_by_itself(tiny_model, there):
    texts = sorted(tokens.encode(tiny_model, TEXTS * 2), key=lambda text: -len(text.ids))
    layers, budget = list(range(tiny_model.n_layers + 1)), 2 * len(texts[0].ids)
    rows = tokens.batches([len(text.ids) for text in texts], budget)
    assert len(rows) > 1
    single = [activations._pool(tiny_model, [texts[r] for r in some], layers, ("last", "mean"), 10**6) for some in rows]
    for model in (tiny_model, there):
        whole = activations._pool(model, texts, layers, ("last", "mean"), budget)
        np.testing.assert_array_equal(whole, np.concatenate(single, axis=1))
    assert np.ptp(whole, axis=1).max() > 0.1


# -- parts -------------------------------------------------------------------------------------------------------------


def _refusing(limit, seen, error=TooLarge):
    def compute(rows):
        seen.append(len(rows))
        if len(rows) > limit:
            raise error("too large")
        return list(rows)

    return compute


@pytest.mark.parametrize("error", [TooLarge, torch.cuda.OutOfMemoryError])
def test_a_batch_that_is_refused_is_halved_and_nothing_is_lost_or_done_twice(tiny, error):
    model, seen = tiny("gpt2"), []
    model.parts = 1
    parts = tokens.in_parts(model, list(range(10)), _refusing(3, seen, error))
    assert [row for part in parts for row in part] == list(range(10))
    assert seen == [10, 5, 3, 3, 3, 1]
    seen.clear()
    tokens.in_parts(model, list(range(8)), _refusing(3, seen))
    assert seen == [2, 2, 2, 2]  # what was learnt is kept
    model.parts = 1


def test_two_refused_at_once_learn_the_same_and_not_twice_as_much(tiny):
    model, gate = tiny("gpt2"), threading.Barrier(2)
    model.parts = 1

    def compute(rows):
        if len(rows) == 8:
            gate.wait(5)
            raise TooLarge("too large")
        return list(rows)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: tokens.in_parts(model, list(range(8)), compute), range(2)))
    assert found == [[[0, 1, 2, 3], [4, 5, 6, 7]]] * 2
    assert model.parts == 2
    model.parts = 1


def test_one_row_that_is_too_large_is_an_error(tiny):
    model = tiny("gpt2")
    with pytest.raises(EmotraceError, match="one row alone is too large"):
        tokens.in_parts(model, [1, 2], _refusing(0, []))
    model.parts = 1


def test_activations_and_texts_in_parts_are_those_of_the_whole(tiny, monkeypatch):
    model = tiny("llama")
    rows = [steered_texts.Row(prompt, None, "", 0.0, seed) for seed, prompt in enumerate(PROMPTS, 1)]
    prompts = [tokens.encode(model, [prompt])[0].ids for prompt in PROMPTS]
    whole = activations.read_activations(model, TEXTS)["mean"]
    settings = (rows, prompts, _edit(model), Writing(5, 0.8), None)
    texts = steered_texts._write_batch(model, *settings)
    monkeypatch.setattr(model, "parts", 3)
    np.testing.assert_allclose(activations.read_activations(model, TEXTS)["mean"], whole, rtol=1e-4, atol=1e-5)
    assert steered_texts._write_batch(model, *settings) == texts


def test_the_key_is_in_nothing_that_is_kept(tiny_folder, monkeypatch):
    import nnsight

    monkeypatch.setattr(nnsight.CONFIG.API, "APIKEY", "very-secret")
    model = emotrace.load(str(tiny_folder("gpt2")), remote="local")
    assert "very-secret" not in repr((model.provenance, model.remote))
    assert "very-secret" not in diagnose(RemoteError("bad key very-secret"), HOST, patience.api_key()).reason
    assert diagnose(ValueError("x very-secret"), HOST, "very-secret").reason.count("secret") == 0
