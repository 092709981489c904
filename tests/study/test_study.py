"""Units of work on several cores: the same rows in the same order, each on one thread, none begun after an error."""

import threading

import numpy as np
import pandas as pd
import pytest
import threadpoolctl
from threadpoolctl import threadpool_info, threadpool_limits

from emotrace.hosts import threads
from emotrace.measures import geometry
from emotrace.readings import Reading
from emotrace.study.folder import RunFolder
from emotrace.study.settings import Settings
from emotrace.study.study import Study, choose_layer

LAYERS = 3
LABELS = pd.DataFrame(
    [{"topic": t, "emotion": e, "text": f"{t} {e}"} for t in "abcdefgh" for e in ("happy", "sad", "calm", "angry")]
)


@pytest.fixture
def told():
    return []


@pytest.fixture
def study(tmp_path, told):
    """Noise, with each emotion's direction in it at the last layer alone."""
    rng = np.random.default_rng(0)
    streams = rng.normal(size=(len(LABELS), LAYERS + 1, 16)) + 2
    directions = dict(zip(LABELS["emotion"].unique(), 4 * np.eye(16), strict=False))
    streams[:, LAYERS] += np.stack([directions[name] for name in LABELS["emotion"]])
    pooled = {"last": streams.astype(np.float32), "mean": streams.astype(np.float32)}
    reading = Reading(LABELS, pooled, list(range(LAYERS + 1)), {"model": "noise"})
    run = RunFolder(tmp_path / "run", {"models": ["noise"]})
    yield Study(
        "noise", "llama", LAYERS, True, reading, {}, Settings.quick(), run, lambda *what: told.append(what), loaded=None
    )
    run.close()


def of_cores(monkeypatch, number):
    monkeypatch.setenv("OMP_NUM_THREADS", str(number))


def test_cores_are_what_the_environment_the_affinity_and_the_quota_leave(monkeypatch):
    of_cores(monkeypatch, 3)
    assert threads.cores() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "cpu_quota", lambda: None)
    assert threads.cores() == 8
    monkeypatch.setattr(threads, "cpu_quota", lambda: 2.5)
    assert threads.cores() == 2
    monkeypatch.setattr(threads, "cpu_quota", lambda: 0.5)
    assert threads.cores() == 1


def test_as_many_units_at_once_as_there_are_cores_in_order(study, told, monkeypatch):
    of_cores(monkeypatch, 2)
    meeting, late = threading.Barrier(2, timeout=20), threading.Event()

    def first():
        meeting.wait()  # broken, unless the second runs beside it
        assert late.wait(20)
        return [{"unit": 1}]

    def second():
        meeting.wait()
        late.set()  # ends first, and comes second
        return [{"unit": 2}, {"unit": 2}]

    rows = study.units("meeting", {"first": first, "second": second, "third": lambda: [{"unit": 3}]})
    assert [row["unit"] for row in rows] == [1, 2, 2, 3]
    assert told == [("meeting, scenes", 1, 3)] * 3
    assert study.units("meeting", dict.fromkeys(("first", "second", "third"), pytest.fail)) == rows  # kept


def test_one_unit_at_a_time_on_one_core(study, monkeypatch):
    of_cores(monkeypatch, 1)
    running, most = [], []

    def compute():
        running.append(1)
        most.append(len(running))
        threading.Event().wait(0.05)
        running.pop()
        return []

    study.units("alone", {str(number): compute for number in range(4)})
    assert most == [1, 1, 1, 1]


def test_each_unit_has_one_thread_and_torch_has_its_own_again(study, monkeypatch):
    of_cores(monkeypatch, 2)
    pools = {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()}
    with threadpool_limits(2):

        def counts():
            return [{"threads": pool["num_threads"]} for pool in threadpool_info()]

        inside = study.units("threads", {"a": counts, "b": counts})
        assert inside
        assert {row["threads"] for row in inside} == {1}
        assert {pool["num_threads"] for pool in threadpoolctl.threadpool_info()} == {2}
    assert {pool["filepath"]: pool["num_threads"] for pool in threadpool_info()} == pools


def test_an_error_stops_what_has_not_begun_and_keeps_what_was_finished(study, monkeypatch):
    of_cores(monkeypatch, 2)
    begun = []

    def fails():
        raise KeyboardInterrupt

    def counted(number):
        begun.append(number)
        return [{"number": number}]

    units = {"first": lambda: counted(0), "fails": fails}
    units |= {str(number): lambda number=number: counted(number) for number in range(1, 200)}
    with pytest.raises(KeyboardInterrupt):
        study.units("stopped", units)
    assert 0 in begun
    assert len(begun) < 200
    assert study.unit("first", pytest.fail) == [{"number": 0}]


def test_what_a_layer_decodes_is_computed_once_and_chooses_the_layer(study, monkeypatch):
    calls = []
    decode = geometry.decode
    monkeypatch.setattr(geometry, "decode", lambda *given: calls.append(given) or decode(*given))
    assert choose_layer(study, "mean", "nearest_centroid") == LAYERS
    assert len(calls) == LAYERS
    assert choose_layer(study, "mean", "nearest_centroid") == LAYERS
    assert len(calls) == LAYERS
    assert study.decoded("nearest_centroid", "mean", LAYERS).all()
    assert len(calls) == LAYERS + 1
    inside = study.in_half(study.halves[1])
    texts, emotions, topics = study.layer("mean", 1)[inside], study.emotions[inside], study.topics[inside]
    other = study.decoded("nearest_centroid", "mean", 1, half=1)
    np.testing.assert_array_equal(other, decode(texts, emotions, topics, "nearest_centroid"))
    study.release()
    assert choose_layer(study, "mean", "nearest_centroid") == LAYERS
    assert len(calls) == LAYERS + 2


def test_two_threads_that_need_the_same_compute_it_once_and_an_error_is_not_kept(study):
    calls, gate = [], threading.Event()

    def slow():
        calls.append(1)
        assert gate.wait(20)
        return object()

    found = []
    both = [threading.Thread(target=lambda: found.append(study.measured("slow", slow))) for _ in range(2)]
    for thread in both:
        thread.start()
    gate.set()
    for thread in both:
        thread.join(20)
    assert len(calls) == 1
    assert found[0] is found[1]
    with pytest.raises(ZeroDivisionError):
        study.measured("error", lambda: 1 / 0)
    assert study.measured("error", lambda: 3) == 3
