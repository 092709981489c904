"""Messages read by models whose truth is known: where they are read, in which frame, and what becomes of it."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny_models
from planted_messages import NAMES, doses, passages

import emotrace
from emotrace.activations import read_activations, read_tokens
from emotrace.instrument import corpus
from emotrace.instrument.instrument import default
from emotrace.readings import Reading
from emotrace.study.experiment import of_instrument
from emotrace.study.folder import RunFolder, select
from emotrace.study.reading import claims, measure
from emotrace.study.reading.experiments import EXPERIMENTS
from emotrace.study.settings import Settings
from emotrace.study.study import Study, read
from emotrace.study.verdicts import NOT_REPRODUCED, REPRODUCED, claims_table
from emotrace.tokens import chat_ids

SETTINGS = replace(Settings.quick(), topics=12, permutations=99, bootstrap=100)
L, LAYER = 4, 2


def ignored(*args, **named) -> None:
    """Progress that nobody watches."""


def test_a_message_is_read_at_the_last_token_before_the_reply(tiny_model):
    tokens = measure.before_reply(tiny_model, "The river rose in the night.")
    text = tiny_model.tokenizer.decode(tokens.ids)
    if tiny_model.instruct:
        assert tokens.ids == chat_ids(tiny_model, "The river rose in the night.")
        assert text.rstrip("\n").endswith("<assistant>")
    else:
        assert text.endswith("Message: The river rose in the night.\n\nReply:")
    last = read_activations(tiny_model, [tokens], poolings=("last",))["last"][0]
    (stream,) = read_tokens(tiny_model, [tokens])
    assert np.allclose(last, stream[-1], atol=1e-5)
    assert not np.allclose(last, stream[-2], atol=1e-2)


def test_both_kinds_of_frame_are_tried(tiny):
    assert {tiny(name).instruct for name in tiny_models.FAMILY_OF} == {True, False}


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    """A model that holds an emotion where it reads the emotion's marker, read as a base model."""
    folder = tmp_path_factory.mktemp("marked")
    tiny_models.plant(folder)
    return emotrace.load(str(folder), instruct=False)


def scenarios(monkeypatch, template: str) -> pd.DataFrame:
    rows = [(f"s{at}", name, template.format(tiny_models.marker(name))) for at, name in enumerate(tiny_models.PLANTED)]
    table = pd.DataFrame(rows, columns=["id", "emotion", "prompt"])
    monkeypatch.setattr(corpus, "implicit_scenarios", lambda: table)
    return table


def marked_study(marked, tmp_path) -> Study:
    run = RunFolder(tmp_path / "run", {"models": ["marked"]})
    planted = replace(default(), name="planted", passages=tiny_models.planted_passages())
    return read(marked, SETTINGS, run, ignored, {"planted": planted})


def test_a_feeling_that_the_last_token_holds_is_found_and_no_other(marked, tmp_path, monkeypatch):
    study = marked_study(marked, tmp_path)
    monkeypatch.setattr(measure, "FRAME", "{message}")
    scenarios(monkeypatch, "Something fell near the {}")
    table = measure.implicit_scenarios(study).tables["implicit"]
    own = select(table, reader="vectors", pooling="mean")
    assert (own["rank"] == 1).all()
    assert list(own["first"]) == list(tiny_models.PLANTED)
    assert (select(table, reader="embeddings")["rank"] == 1).all()  # the marker is a word of the passages
    assert (select(table, reader="tfidf")["rank"] == 1).all()
    # The same words: of a feeling that the last token, a full stop, does not hold the vectors know less.
    monkeypatch.setattr(measure, "FRAME", "{message} They went home.")
    other = marked_study(marked, tmp_path / "other")  # what the first one read is kept
    away = select(measure.implicit_scenarios(other).tables["implicit"], reader="vectors", pooling="mean")
    assert away["rank"].mean() > 2.5


def test_units_are_kept_and_read_nothing_again(marked, tmp_path, monkeypatch):
    study = marked_study(marked, tmp_path)
    first = [measure.implicit_scenarios(study).tables, measure.graded_prompts(study).tables]
    assert len(first[0]["implicit"])
    monkeypatch.setattr(measure, "read_activations", None)
    again = [measure.implicit_scenarios(study).tables, measure.graded_prompts(study).tables]
    for before, after in zip(first, again, strict=True):
        for name, table in before.items():
            pd.testing.assert_frame_equal(table, after[name])


def test_scenarios_of_emotions_that_were_not_read_are_left_out(marked, tmp_path):
    study = marked_study(marked, tmp_path)
    tables = measure.implicit_scenarios(study).tables
    assert set(tables["implicit"]["emotion"]) == set(tiny_models.PLANTED)
    chance = select(tables["implicit_rates"], metric="top3")["chance"]
    assert np.allclose(chance, 3 / len(tiny_models.PLANTED))
    graded = measure.graded_prompts(study).tables
    assert set(graded["graded"]["scale"]) == {"ledge", "cat"}  # both emotions of no other scale were read
    assert set(graded["graded_scales"]["scale"]) == {"ledge", "cat", "all"}


def test_without_rows_there_are_no_claims():
    assert claims.implicit_claims({"implicit_rates": pd.DataFrame()}, "llama") == []
    assert claims.graded_claims({"graded_scales": pd.DataFrame()}, "llama") == []


# -- from vectors of known direction to verdicts ----------------------------------------------------------------------


def planted_study(tmp_path, monkeypatch, states) -> Study:
    """A study of planted passages at every layer; ``states``, a function of the table, stands for what is read."""
    texts = passages()
    labels = pd.DataFrame({"topic": texts.topics, "emotion": texts.emotions})
    labels["text"] = [f"{topic} {emotion} text" for topic, emotion in zip(texts.topics, texts.emotions, strict=True)]
    features = np.repeat(texts.features[:, None], L + 1, axis=1).astype(np.float32)
    reading = Reading(labels, {"last": features, "mean": features}, list(range(L + 1)), {"model": "planted"})
    run = RunFolder(tmp_path / "run", {"models": ["planted"]})
    monkeypatch.setattr(measure, "_read", lambda study, messages, layer: states(messages))
    return Study("planted", "llama", L, True, reading, {}, SETTINGS, run, ignored)


def graded_verdicts(tmp_path, monkeypatch, **planted: float) -> dict[str, str]:
    table = corpus.graded_prompts()
    study = planted_study(tmp_path, monkeypatch, lambda messages: doses(table, **planted))
    tables = measure.graded_prompts(study).tables
    assert set(tables["graded"]["pooling"]) == {"last", "mean"}
    stated = claims_table("planted", claims.graded_claims(of_instrument(tables, "scenes"), "llama"))
    json.loads(stated.to_json())
    return dict(zip(stated["id"], stated["verdict"], strict=True))


@pytest.mark.parametrize(
    ("planted", "verdict"),
    [
        ({"own": 3.0}, REPRODUCED),
        ({"own": -3.0}, NOT_REPRODUCED),
        ({"own": 3.0, "number": 3.0}, NOT_REPRODUCED),
        ({"own": 3.0, "other": 3.0}, NOT_REPRODUCED),
    ],
)
def test_a_dose_is_reproduced_only_beyond_both_controls(tmp_path, monkeypatch, planted, verdict):
    found = graded_verdicts(tmp_path, monkeypatch, noise=0.3, **planted)
    assert found == {"neighbour.graded.last": verdict, "neighbour.graded.mean": verdict}


def test_every_claim_is_listed():
    listed = [id for experiment in EXPERIMENTS for id in experiment.claim_ids]
    assert len(listed) == len(set(listed)) == 6
    assert all(experiment.per_instrument and experiment.uses_model for experiment in EXPERIMENTS)
    assert len(NAMES) == 20
