"""Speed as ratios within one run, memory as growth: generous bounds that a real regression breaks (see benchmarks/)."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from emotrace.instrument import corpus

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import busy  # noqa: E402
import demo as demo_benchmark  # noqa: E402
import extraction as benchmark  # noqa: E402
import limit  # noqa: E402
import scaling as scaling_benchmark  # noqa: E402
import startup as startup_benchmark  # noqa: E402
import steering as steering_benchmark  # noqa: E402
import timing  # noqa: E402

TEXTS = list(corpus.passages()["text"])[::40]
HEAVY = {"torch", "transformers", "nnsight", "pandas", "numpy", "scipy", "sklearn", "matplotlib"}


# -- what the benchmarks compute --------------------------------------------------------------------------------------


def test_the_limit_counts_two_operations_a_weight_and_token(tiny):
    model = tiny("llama", n_layers=3, d_model=64)
    maps = limit.matrices(model)
    # Attention: query and output d², keys and values d²/2 each (half the heads); three matrices of d × 2d.
    assert len(maps) == 3 * 7
    assert limit.operations(maps, 11) == 2 * 11 * 3 * (3 * 64**2 + 3 * 64 * 128)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.nn._module.base_model(input_ids=torch.zeros(1, 11, dtype=torch.long), use_cache=False)
    of_products = counter.get_flop_counts()["Global"]
    products = sum(count for name, count in of_products.items() if str(name) in ("aten.mm", "aten.addmm"))
    assert products == limit.operations(maps, 11)  # attention has batched products, which are not counted


def test_the_limit_multiplies_every_weight_once_a_batch(tiny):
    maps = limit.matrices(tiny("qwen"))
    with FlopCounterMode(display=False) as counter:
        seconds = limit.seconds(maps, [5, 3])
    assert counter.get_total_flops() == limit.operations(maps, 8)
    assert 0 < seconds < 60


def test_slope_of_a_power_law_and_of_a_flat_line():
    sizes = [100, 300, 1000, 3000, 10000]
    assert timing.slope(sizes, [3 * size**1.2 for size in sizes]) == pytest.approx((1.2, 1.2, 1.2))
    assert timing.slope(sizes, [7.0] * 5) == pytest.approx((0, 0, 0))


def test_slope_interval_is_that_of_least_squares():
    sizes = np.array([16, 32, 64, 128, 256, 512])
    costs = sizes * np.exp(np.random.default_rng(0).normal(0, 0.1, 6))
    slope, low, high = timing.slope(sizes, costs)
    x = np.log(sizes) - np.log(sizes).mean()
    by_hand = (x @ np.log(costs)) / (x @ x)
    left = np.log(costs) - np.log(costs).mean() - by_hand * x
    half = 2.7764451 * np.sqrt(left @ left / 4 / (x @ x))  # Student's t, 4 degrees of freedom, 97.5%
    assert (slope, low, high) == pytest.approx((by_hand, by_hand - half, by_hand + half))
    assert low < 1 < high


def test_contenders_take_turns_and_may_time_themselves():
    calls = []
    contenders = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b") or 123.0}
    seconds, peaks = timing.taking_turns(contenders, 3)
    assert calls == ["a", "b"] * 3
    assert seconds["b"] == [123.0] * 3
    assert len(seconds["a"]) == 3
    assert max(seconds["a"]) < 5
    assert peaks["a"] > 10e6


def test_mixed_texts_are_seeded_and_spread_evenly_on_a_log_scale():
    texts = benchmark.mixed(400)
    words = np.array([len(text.split()) for text in texts])
    assert texts == benchmark.mixed(400)
    assert texts != benchmark.mixed(400, seed=1)
    assert (words.min(), words.max()) == (pytest.approx(7, abs=1), pytest.approx(330, abs=10))
    assert np.median(words) == pytest.approx(np.sqrt(7 * 331), rel=0.2)


@pytest.mark.parametrize("contender", [*benchmark.PEERS, "emotrace, torch as it comes"])
def test_contenders_compute_what_we_compute(tiny, contender):
    for package in ("repeng", "steering-vectors"):
        if contender.startswith(package) and not importlib.util.find_spec(package.replace("-", "_")):
            pytest.skip(f"{package} is not installed (make bench installs it)")
    assert len(TEXTS) % 2  # steering-vectors takes pairs: the odd one out must not be lost
    assert benchmark.disagreement(tiny("llama"), TEXTS, contender) < 1e-5


@pytest.mark.parametrize(
    "wrong", [lambda a: np.roll(a, 1, axis=0), lambda a: np.roll(a, 1, axis=1), lambda a: 1.01 * a]
)
def test_a_contender_that_computes_something_else_is_found(tiny, monkeypatch, wrong):
    read = lambda model, texts: {"last": wrong(benchmark.ours(model, texts)["last"])}  # noqa: E731
    monkeypatch.setitem(benchmark.CONTENDERS, "wrong", benchmark.Contender(read))
    assert benchmark.disagreement(tiny("llama"), TEXTS, "wrong") > 5e-3


def test_scaling_points_have_the_sizes_they_say(tiny):
    model = tiny("llama")
    assert [len(item.ids) for item in scaling_benchmark.of_length(model, 48)] == [48] * 16
    assert [len(text.split()) for text in scaling_benchmark.texts("texts", 30)] == [scaling_benchmark.WORDS] * 30


def test_stages_of_a_run_add_up(tmp_path):
    manifest = {"settings": {}, "models": {}, "seconds": {"m: read": 10.0, "m: steer": 30.0}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    table = demo_benchmark.stages(tmp_path)
    assert list(table["stage"]) == ["m: steer", "m: read", "all"]
    assert list(table["seconds"]) == [30, 10, 40]
    assert list(table["share"]) == [0.75, 0.25, 1]


# -- start-up ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["emotrace", "emotrace.cli", "emotrace.errors"])
def test_importing_loads_nothing_heavy(what):
    loaded = json.loads(startup_benchmark.fresh(f"import json, sys, {what}; print(json.dumps(list(sys.modules)))"))
    assert what in loaded
    assert HEAVY.isdisjoint(loaded)


def test_importing_costs_little_more_than_starting_python():
    imported, bare = zip(
        *[(startup_benchmark.wall("import emotrace"), startup_benchmark.wall("pass")) for _ in range(5)], strict=True
    )
    assert min(imported) < 3 * min(bare)  # measured 1.1; torch alone is 60


# -- speed ------------------------------------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.slow
def test_reading_keeps_up_with_the_bare_body_and_beats_one_text_at_a_time():
    texts = list(corpus.passages()["text"])[::8]
    sides = ("emotrace", "bare body", "machine's limit", "one at a time")
    table = benchmark.measure("qwen2.5-coder-0.5b-instruct", texts, repetitions=2, contenders=sides)
    table = table.set_index("contender")
    # Measured on a quiet machine with all passages: 1.0 and 2.3 (docs/performance.md).
    assert table.loc["bare body", "highest_ratio"] > 0.8
    assert table.loc["one at a time", "highest_ratio"] > 1.3
    assert table.loc["machine's limit", "highest_ratio"] > 0.4
    assert table.loc["machine's limit", "lowest_ratio"] < 1.1  # no program can be above it


@pytest.mark.real
@pytest.mark.slow
def test_a_steered_batch_keeps_up_with_unsteered_generate_and_beats_one_text_at_a_time():
    sides = steering_benchmark.Sides("smollm2-135m-instruct", strengths=[0.2])
    sides.rows = sides.rows[::2]
    same, checked = steering_benchmark.agree(sides, 6)
    assert same >= checked - 1  # a tie of two logits may fall either way in another batch
    table = steering_benchmark.measure(sides, repetitions=2, sample=4, few=1).set_index("way")
    # Measured on a quiet machine with the whole sweep: see docs/performance.md.
    assert table.loc["unsteered, batched", "highest_ratio"] > 0.7
    assert table.loc["one at a time", "highest_ratio"] > 3
    assert table.loc["no cache", "highest_ratio"] > 5


@pytest.mark.real
@pytest.mark.slow
def test_beside_a_busy_process_reading_takes_what_its_share_of_the_cores_gives():
    """Threads that spin while they wait for each other take longer than that, and this is how it is noticed."""
    if busy.cores() < 2:
        pytest.skip("one core: no thread waits for another")
    for _ in range(2):
        if (taken := busy.others()) > 0.15:
            pytest.skip(f"others have {taken:.0%} of this machine already")
        with busy.worker(["read"]) as process:
            found = busy.ratios(process, "read", 1)
        if min(found) <= 1.2 * busy.fair(1):
            return
    pytest.fail(f"reading beside one busy process takes {min(found):.2f} times as long at least: {found}")


def test_the_fair_share_is_that_of_the_thread_with_the_most_company(monkeypatch):
    shares = {1: [2, 3, 4], 2: [2, 2, 3], 4: [2, 2, 2]}
    for cores, fair in shares.items():
        monkeypatch.setattr(busy, "cores", lambda cores=cores: cores)
        assert [busy.fair(processes) for processes in (1, 2, 3)] == fair


def test_what_others_take_is_seen():
    with busy.beside(busy.cores()):
        assert busy.others(0.3) > 0.8


def memory(model: str, texts: int, *options: str) -> tuple[float, float]:
    """Peak over the weights, and the size of the result in memory, in gigabytes."""
    command = [sys.executable, str(BENCHMARKS / "memory.py"), model, "--texts", str(texts), *options]
    line = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    over, result = re.search(r"over the weights ([\d.]+) GB, of which the result ([\d.]+) GB", line).groups()
    return float(over), float(result)


@pytest.mark.slow
def test_memory_grows_by_the_result_alone(tiny_folder):
    folder = str(tiny_folder("llama", n_layers=6, d_model=64))
    (few, small), (many, large) = memory(folder, 252), memory(folder, 6048)
    # Kept hidden states of 5,796 more texts would take 0.55 GB; what the allocator holds varies by 0.15 GB.
    assert many - few < (large - small) + 0.3


@pytest.mark.slow
def test_a_result_on_disk_takes_no_memory(tiny_folder, tmp_path):
    folder = str(tiny_folder("llama", n_layers=32, d_model=128))  # a large result of little work
    short = ("--words", "6")
    (few, _), (kept, size) = memory(folder, 252, *short), memory(folder, 8000, *short)
    written, left = memory(folder, 8000, *short, "--out", str(tmp_path))
    assert size == pytest.approx(8000 * 33 * 128 * 2 * 4 / 1e9, abs=0.006)
    assert left == 0
    assert kept - few > 0.8 * size  # what it would take
    assert written - few < 0.25 * size
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == pytest.approx(size * 1e9, rel=0.02)


@pytest.mark.real
@pytest.mark.slow
def test_reading_a_real_model_stays_within_a_gigabyte_and_a_half_over_its_weights():
    over, result = memory("smollm2-135m-instruct", 252)
    assert over < 1.5
    assert result == pytest.approx(0.04, abs=0.01)  # 252 texts × 31 layers × 576 × 2 poolings × 4 bytes
