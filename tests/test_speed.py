"""Speed as ratios within one run, memory as growth: generous bounds that a real regression breaks (see benchmarks/)."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from emotrace import corpus

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import extraction as benchmark  # noqa: E402
import steering as steering_benchmark  # noqa: E402


@pytest.mark.real
@pytest.mark.slow
def test_reading_keeps_up_with_the_bare_body_and_beats_one_text_at_a_time():
    texts = list(corpus.passages()["text"])[::8]
    table = benchmark.measure("qwen2.5-coder-0.5b-instruct", texts, repetitions=2).set_index("contender")
    # Measured on a quiet machine with all passages: 1.0 and 2.3 (docs/performance.md).
    assert table.loc["bare body", "highest_ratio"] > 0.8
    assert table.loc["one at a time", "highest_ratio"] > 1.3


@pytest.mark.real
@pytest.mark.slow
def test_a_steered_batch_keeps_up_with_unsteered_generate_and_beats_one_text_at_a_time():
    sides = steering_benchmark.Sides("smollm2-135m-instruct", strengths=[0.2])
    same, checked = steering_benchmark.agree(sides, 6)
    assert same >= checked - 1  # a tie of two logits may fall either way in another batch
    table = steering_benchmark.measure(sides, repetitions=2, sample=4, few=1).set_index("way")
    # Measured on a quiet machine with the whole sweep: see docs/performance.md.
    assert table.loc["unsteered, batched", "highest_ratio"] > 0.7
    assert table.loc["one at a time", "highest_ratio"] > 3
    assert table.loc["no cache", "highest_ratio"] > 5


def memory(model: str, times: int) -> tuple[float, float]:
    """Peak over the weights, and the size of the result, in gigabytes."""
    command = [sys.executable, str(BENCHMARKS / "memory.py"), model, str(times)]
    line = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    over, result = re.search(r"over the weights ([\d.]+) GB, of which the result ([\d.]+) GB", line).groups()
    return float(over), float(result)


@pytest.mark.slow
def test_memory_grows_by_the_result_alone(tiny_folder):
    folder = str(tiny_folder("llama", n_layers=6, d_model=64))
    (few, small), (many, large) = memory(folder, 1), memory(folder, 24)
    # Kept hidden states of 5,796 more texts would take 0.55 GB; what the allocator holds varies by 0.15 GB between machines.
    assert many - few < (large - small) + 0.3


@pytest.mark.real
@pytest.mark.slow
def test_reading_a_real_model_stays_within_a_gigabyte_and_a_half_over_its_weights():
    over, result = memory("smollm2-135m-instruct", 1)
    assert over < 1.5
    assert result == pytest.approx(0.04, abs=0.01)  # 252 texts × 31 layers × 576 × 2 poolings × 4 bytes
