"""What a run says beforehand, shows early, and prints in a log."""

import re

import pandas as pd
import pytest

from emotrace import progress
from emotrace.errors import EmotraceError
from emotrace.instrument import corpus
from emotrace.study import pace, pipeline
from emotrace.study.experiment import Results
from emotrace.study.experiments import by_name, names_in, planned
from emotrace.study.folder import RunFolder, read_tables
from emotrace.study.pace import Pace, Work, in_words, work
from emotrace.study.settings import Settings

ALL = [experiment.name for experiment in planned([by_name(name) for name in names_in("all")])]


def test_the_work_is_that_of_the_published_runs_texts():
    # Rows of texts/steered.csv of a full run: under own vectors in both arms, permuted labels, Gaussian, unsteered.
    assert pace._dose_texts(Settings(), 20) == 2240 + 2080 + 576 + 320 + 192 + 64
    # Scenarios: 80 × (plain, target, 19 permuted, 1 held out, 3 Gaussian, 2 wrong, asked for it and not), 40 × 21.
    assert pace._scenario_texts(Settings(), 40) == 80 * 29 + 40 * 21
    whole, base = work(Settings(), ALL, True), work(Settings(), ALL, False)
    texts = 5472 + 3160 + 16 * 40
    assert (whole.measured, whole.written) == (texts, 21 * 8 * 80 + texts * 24)
    assert base.written == texts * 24
    words = [
        len(" ".join(table["text"]).split()) for table in (*corpus.instruments().values(), corpus.baseline_texts())
    ]
    alone = work(Settings(), ["separation"], True)
    assert (alone.written, alone.measured) == (0, 0)
    assert alone.read == pytest.approx(sum(words) / (words[0] / 252))


# Seconds between the first and the last line of a log, of SmolLM2 on two cores, at full and at quick settings.
RECORDED = {
    False: {"scenes": 14, "accounts": 35, "baseline texts": 9, "factorial": 181, "its stories": 17},
    True: {"scenes": 7, "accounts": 14, "baseline texts": 4, "factorial": 75, "its stories": 6},
}


@pytest.mark.parametrize("quick", RECORDED)
def test_reading_takes_what_its_length_says(quick):
    """By the pace of the passages, which is what the trial measures, the longer texts of the same run.

    Counted as so many passages, the factorial was said to take less than half of what it took.
    """
    settings, seconds = Settings.quick() if quick else Settings(), RECORDED[quick]
    parts = pace.reading(settings, ALL, True)
    assert set(parts) == set(seconds)
    said = {name: parts[name] * seconds["scenes"] / parts["scenes"] for name in parts}
    assert said["factorial"] == pytest.approx(seconds["factorial"], rel=0.2)
    assert said["accounts"] == pytest.approx(seconds["accounts"], rel=0.25)
    assert sum(said.values()) == pytest.approx(sum(seconds.values()), rel=0.15)
    cells = 20 * settings.story_topics * 9
    assert cells * seconds["scenes"] / parts["scenes"] < 0.6 * seconds["factorial"]


def test_less_work_is_told_for_a_quick_run():
    pace_here = Pace(read=0.1, written=0.01, measured=0.05)
    assert pace_here.seconds(Work(10, 100, 20)) == pytest.approx(3)
    assert pace_here.seconds(work(Settings.quick(), ALL, True)) < pace_here.seconds(work(Settings(), ALL, True)) / 3


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(3, "about 10 seconds"), (74, "about 70 seconds"), (1500, "about 25 minutes"), (9000, "about 2.5 hours")],
)
def test_durations_in_words(seconds, words):
    assert in_words(seconds) == words


def test_the_trial_times_what_it_says(tiny):
    found = pace.trial(tiny("llama", n_layers=4))
    assert min(found.read, found.written, found.measured) > 0


def test_a_run_shows_its_first_figures_before_it_is_complete_and_takes_them_back_if_the_model_fails(
    tiny_folder, tmp_path, monkeypatch, capsys
):
    seen = {}

    def fail(loaded, plan, settings, instruments):
        if loaded.name == model.name:
            raise ValueError("at once")

    def failing(stages, study, results, finished=lambda experiment: None):
        measure(stages, study, results, finished)
        if any(one.name == "separation" for one in stages):
            folder = study.run.path
            seen.update(read_tables(folder), page=(folder / "report.html").read_text())
            raise ValueError("no more")

    measure = pipeline.experiments.measure
    monkeypatch.setattr(pipeline, "_say_how_long", fail)
    monkeypatch.setattr(pipeline.experiments, "measure", failing)
    model, other = tiny_folder("gpt2"), tiny_folder("llama", n_layers=2)
    with pytest.raises(EmotraceError, match="failed: ValueError: no more"):
        pipeline.run([str(model), str(other)], tmp_path / "run", chosen="separation,localisation", quick=True)
    assert set(seen["separation"]["model"]) == {other.name}
    assert "This run is not complete." in seen["page"]
    assert "Not measured yet" in seen["page"]
    assert re.search(r'<figure id="overview-', seen["page"])
    assert "first figures in" in capsys.readouterr().err
    assert read_tables(tmp_path / "run") == {}


def test_what_is_shown_early_has_the_models_before_it(tmp_path):
    folder = RunFolder(tmp_path / "run", {"experiments": ["anisotropy"], "models": ["a", "b"]})
    table = pd.DataFrame({"model": ["a"], "x": [1]})
    pipeline._write(folder, [Results({"t": table}), Results({"t": table.assign(model="b")})])
    assert list(read_tables(folder.path)["t"]["model"]) == ["a", "b"]
    pipeline._forget(folder, [], [])
    folder.close()


def test_a_log_has_a_line_at_the_start_and_the_end_of_each_kind_of_work_and_one_a_minute(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.bars() as told:
        for _ in range(200):
            told("reading", 1, 200)
            now[0] += 1.0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "  0:00  reading: 1 of 200"
    assert lines[-1] == "  3:19  reading: 200 of 200"
    assert [line.split()[0] for line in lines] == ["0:00", "1:00", "2:00", "3:00", "3:19"]
