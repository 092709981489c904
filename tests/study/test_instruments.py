"""A run reads every set of passages: tables, claims, vectors and figures of each, none mixed with another."""

import pandas as pd
import pytest

from emotrace.instrument import corpus
from emotrace.study import experiments, pipeline
from emotrace.study.experiment import instruments, of_instrument, of_main_instrument
from emotrace.study.folder import read_manifest, read_tables

CHOSEN = "separation,geometry,localisation,anisotropy"


@pytest.fixture
def sets() -> dict[str, pd.DataFrame]:
    """Two sets of passages: ours, and the same with the words of each in the reverse order."""
    scenes = corpus.passages()
    other = scenes.assign(text=scenes["text"].map(lambda text: " ".join(text.rstrip(".").split()[::-1]) + "."))
    return {"scenes": scenes, "backwards": other}


def run(sets: dict[str, pd.DataFrame], folder, out, monkeypatch):
    monkeypatch.setattr(corpus, "instruments", lambda path=None: sets)
    pipeline.run([str(folder)], out, chosen=CHOSEN, quick=True)
    return read_tables(out)


@pytest.mark.slow
def test_two_sets_of_passages_in_one_run_give_what_each_gives_alone(sets, tiny_folder, tmp_path, monkeypatch):
    folder = tiny_folder("llama", n_layers=6)
    both = run(sets, folder, tmp_path / "both", monkeypatch)
    alone = {name: run({name: table}, folder, tmp_path / name, monkeypatch) for name, table in sets.items()}
    for table in ("separation", "localisation", "geometry"):
        assert instruments({table: both[table]}) == ["scenes", "backwards"]
        for name in sets:
            pd.testing.assert_frame_equal(
                of_instrument(both, name)[table].reset_index(drop=True), alone[name][table], check_dtype=False
            )
    differing = of_instrument(both, "scenes")["separation"]["value"].to_numpy()
    assert (differing != of_instrument(both, "backwards")["separation"]["value"].to_numpy()).mean() > 0.5
    # Unrelated texts are no set of passages: measured once.
    assert len(both["anisotropy"]) == len(alone["scenes"]["anisotropy"])
    claims = both["claims"]
    assert set(claims[claims["id"] == "C6.depth.last"]["instrument"]) == set(sets)
    assert (claims["id"] == "C7.gemma").sum() == 1
    vectors = {file.name.removeprefix(folder.name) for file in (tmp_path / "both" / "vectors").iterdir()}
    assert {"-comprehension-mean.safetensors", "-comprehension-mean-backwards.safetensors"} <= vectors
    figures = {file.name for file in (tmp_path / "both" / "figures").iterdir()}
    assert {f"separation_over_depth-{folder.name}{end}.png" for end in ("", "-backwards")} <= figures
    page = (tmp_path / "both" / "report.html").read_text()
    assert "Separation over depth (backwards)" in page
    assert set(read_manifest(tmp_path / "both")["settings"]["passages"]) == set(sets)


def test_a_table_without_an_instrument_stays_whole():
    tables = {
        "a": pd.DataFrame({"instrument": ["x", "y", "x"], "value": [1, 2, 3]}),
        "b": pd.DataFrame({"value": [4]}),
        "c": pd.DataFrame({"instrument": ["x"], "value": [5]}),
    }
    assert instruments(tables) == ["x", "y"]
    picked = of_instrument(tables, "y")
    assert {name: list(table["value"]) for name, table in picked.items()} == {"a": [2], "b": [4], "c": [5]}
    assert list(of_main_instrument(tables)["a"]["value"]) == [1, 3]


def test_what_runs_on_each_set_of_passages():
    assert {one.name for one in experiments.EXPERIMENTS if one.per_instrument} >= {
        "separation",
        "geometry",
        "localisation",
    }
