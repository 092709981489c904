"""How the embedded judge is trained: wording, adapter, loss, calibration, measures; the same bytes twice; the card."""

import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from transformers import BertConfig, BertModel

from emotrace.errors import EmotraceError
from emotrace.instrument import corpus
from emotrace.judges import adapter, classifiers
from emotrace.judges.encoder import Head


@pytest.fixture(scope="module")
def scripts():
    """``scripts/train_classifier.py`` and the modules that it is made of."""
    folder = str(Path(__file__).parents[2] / "scripts")
    sys.path.insert(0, folder)
    try:
        names = ("data", "wording", "fitting", "evaluation", "card")
        modules = {name: importlib.import_module(f"classifier_training.{name}") for name in names}
        yield SimpleNamespace(train=importlib.import_module("train_classifier"), **modules)
    finally:
        sys.path.remove(folder)


# -- wording ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I'm glad my dog told me", {"she's glad her dog told her", "he's glad his dog told him"}),
        ("I love it and I've tried", {"she loves it and she has tried", "he loves it and he has tried"}),
        ("i miss that part of myself", {"she misses that part of herself", "he misses that part of himself"}),
        ("The train is late.", {"The train is late."}),
    ],
)
def test_the_third_person(scripts, text, expected):
    rng = np.random.default_rng(0)
    written = {scripts.wording.third_person(text, rng) for _ in range(60)}
    named = {
        one.replace(pronoun, name, 1)
        for one in expected
        for pronoun in ("she", "he")
        for name in scripts.wording.NAMES
        if one.startswith(pronoun)
    }
    assert expected <= written <= expected | named
    assert (written & named != set()) == ("train" not in text)


def test_plain_marks_and_cuts(scripts):
    assert scripts.wording.plain("No!!! Why?? “Stop” – it's 🎉 over, now...") == "No Why Stop – it's over, now"
    assert scripts.wording.plain("!?") == "!?"
    words = " ".join(map(str, range(20)))
    lengths = {len(scripts.wording.cut(words, np.random.default_rng(seed)).split()) for seed in range(200)}
    assert lengths == set(range(8, 20))
    assert scripts.wording.cut("one two three", np.random.default_rng(0)) == "one two three"


def test_an_epoch_keeps_labels_and_adds_neutral_company_alone(scripts):
    texts = [f"feeling{number}" for number in range(400)] + [f"nothing{number}" for number in range(400)]
    positive = np.zeros((800, 3), dtype=bool)
    positive[np.arange(800), np.where(np.arange(800) < 400, np.arange(800) % 2, 2)] = True
    wording = scripts.wording.Wording(third=0, plain=0, cut=0, company=0.5, neutral=0.25)
    written, truth = scripts.wording.epoch(texts, positive, 2, wording, np.random.default_rng(0))
    feeling = [text for text in written if "feeling" in text]
    assert len(feeling) == 400
    assert len(written) - 400 == pytest.approx(100, abs=35)
    for text, row in zip(written, truth, strict=True):
        told = [word for word in text.replace(".", " ").split() if word.startswith("feeling")]
        assert len(told) <= 1
        assert list(row) == ([i == int(told[0][7:]) % 2 for i in range(2)] + [False] if told else [False, False, True])
    accompanied = [text for text in feeling if "nothing" in text]
    assert len(accompanied) == pytest.approx(200, abs=40)
    assert {text.count("nothing") for text in accompanied} == {1, 2}
    before = sum(text.startswith("nothing") for text in accompanied if text.count("nothing") == 1)
    assert before / sum(text.count("nothing") == 1 for text in accompanied) == pytest.approx(0.7, abs=0.15)


# -- adapter ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny() -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32)
    return BertModel(config).eval().requires_grad_(False)


def hidden(module: BertModel) -> np.ndarray:
    return module(input_ids=torch.arange(24).reshape(2, 12)).last_hidden_state.detach().numpy()


def test_merged_is_unmerged(scripts, tiny):
    plain = hidden(tiny)
    adapted = scripts.fitting.attach(tiny, rank=3, layers=2, seed=0)
    assert list(adapted) == [f"encoder.layer.{layer}.{name}" for layer in (1, 2) for name in adapter.MATRICES]
    np.testing.assert_array_equal(hidden(tiny), plain)  # `up` starts at zero
    generator = torch.Generator().manual_seed(1)
    for low_rank in adapted.values():
        for half in (low_rank.down, low_rank.up):  # values that float16 holds
            half.data = (0.3 * torch.randn(half.shape, generator=generator)).half().float()
    unmerged = hidden(tiny)
    assert np.abs(unmerged - plain).max() > 0.1
    tensors = scripts.fitting.detach(tiny, adapted)
    np.testing.assert_array_equal(hidden(tiny), plain)
    assert {tensor.dtype for tensor in tensors.values()} == {np.dtype(np.float16)}
    adapter.merge(tiny, tensors)
    np.testing.assert_allclose(hidden(tiny), unmerged, rtol=0, atol=1e-6)


def test_an_adapter_that_does_not_fit(tiny):
    name = "encoder.layer.0.output.dense"  # 16 × 32
    down, up = np.ones((2, 32), np.float16), np.ones((16, 2), np.float16)
    for tensors in (
        {"encoder.layer.7.output.dense.down": down, "encoder.layer.7.output.dense.up": up},
        {f"{name}.down": down},
        {f"{name}.down": down[:1], f"{name}.up": up},
        {f"{name}.down": down[:, :16], f"{name}.up": up},
    ):
        with pytest.raises(EmotraceError, match=r"the adapter's encoder.layer.\d.output.dense"):
            adapter.merge(tiny, tensors)


# -- loss and calibration ---------------------------------------------------------------------------------------------


def test_focal_loss_in_closed_form(scripts):
    logits, truth = torch.tensor([[0.0, 2.0], [-1.0, 0.5]]), torch.tensor([[True, False], [False, True]])
    weights = torch.tensor([1.0, 3.0])
    chances = expit(logits.numpy().astype(np.float64))
    expected = [-np.log(0.5) / 4, -(chances[0, 1] ** 2) * np.log(1 - chances[0, 1])]
    expected += [
        -(chances[1, 0] ** 2) * np.log(1 - chances[1, 0]),
        -3 * (1 - chances[1, 1]) ** 2 * np.log(chances[1, 1]),
    ]
    assert float(scripts.fitting.loss(logits, truth, weights, 2.0)) == pytest.approx(np.mean(expected), rel=1e-6)


def test_calibration_finds_the_scale_and_the_balance(scripts):
    rng = np.random.default_rng(0)
    true = rng.normal(scale=2, size=(40_000, 2))  # log odds at the base rates below
    positive = rng.random(true.shape) < expit(true - [0, 3])
    logits = true / 0.4 + [1, -2]
    slope, offsets = scripts.fitting.calibrate(logits, positive)
    assert slope == pytest.approx(0.4, abs=0.02)
    base = positive.mean(axis=0)
    balanced = true - [0, 3] - np.log(base / (1 - base))
    np.testing.assert_allclose(slope * logits + offsets, balanced, atol=0.35)
    assert scripts.evaluation.calibration_error(expit(slope * logits + offsets), positive) < 0.02
    assert scripts.evaluation.calibration_error(expit(3 * (slope * logits + offsets)), positive) > 0.05


def test_calibration_error_in_closed_form(scripts):
    truth = np.array([[True], [True], [False], [False]])
    scores = np.array([[0.95], [0.55], [0.05], [0.05]])
    # Bins: 0.95 holds 0.25 of the weight, all positive; 0.55 the same; 0.05 a half, all negative.
    assert scripts.evaluation.calibration_error(scores, truth) == pytest.approx(0.25 * 0.05 + 0.25 * 0.45 + 0.5 * 0.05)


# -- measures ---------------------------------------------------------------------------------------------------------


def test_weighted_auc_is_sklearns(scripts):
    rng = np.random.default_rng(2)
    scores = rng.integers(0, 12, size=80) / 12  # with ties
    positive = rng.random(80) < scores
    weights = rng.multinomial(80, np.full(80, 1 / 80), size=5)
    expected = [roc_auc_score(positive, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(scripts.evaluation.weighted_auc(scores, positive, weights), expected, atol=1e-12)
    assert np.isnan(scripts.evaluation.weighted_auc(scores, positive, positive[None] * 0)).all()


def test_within_topics_is_the_mean_of_each_topics_auc(scripts):
    rng = np.random.default_rng(3)
    topics, own = np.repeat(np.arange(4), 6), np.tile(np.arange(6)[:, None] == np.arange(3), (4, 1))
    # A topic's own level: between topics it would hide the emotions.
    scores = own + rng.normal(size=(24, 3)) + 10 * topics[:, None]
    weights = np.array([[1, 1, 1, 1], [0, 3, 1, 0]])
    each = np.array([[roc_auc_score(own[topics == t, e], scores[topics == t, e]) for e in range(3)] for t in range(4)])
    found = scripts.evaluation.within_topics(scores, own, topics, weights)
    np.testing.assert_allclose(found, [each.mean(axis=0), (3 * each[1] + each[2]) / 4], atol=1e-12)


@pytest.mark.real
def test_passages_are_cut_to_24_tokens_behind_another_topics_prompt(scripts):
    judge, table = classifiers.load_classifier(), corpus.passages()
    found = scripts.evaluation.readings(judge, table)
    for whole, cut, prompted, topic in zip(*found.values(), table["topic"], strict=True):
        assert whole.startswith(cut)
        assert len(judge.encoder.tokenizer(cut, add_special_tokens=False)["input_ids"]) == 24
        prompt = prompted.removesuffix(cut)
        assert prompt.endswith(". ")
        source = table[table["text"].str.startswith(prompt[:-2])]
        assert list(source["emotion"]) == [corpus.NEUTRAL]
        assert source["topic"].iloc[0] != topic


# -- the shipped file -------------------------------------------------------------------------------------------------


def test_card_gives_the_figures_of_the_head(scripts):
    file = classifiers.head_file()
    assert (file.parent / "README.md").read_text() == scripts.card.card(Head.load(file), file)


@pytest.mark.real
def test_the_shipped_file_reproduces_its_card(scripts):
    judge = classifiers.load_classifier()
    for name, table in corpus.instruments().items():
        header = judge.head.header["passages"][name]
        assert header["fingerprint"] == corpus.fingerprint(table), f"{name} changed: measure the judge again"
        texts = scripts.evaluation.readings(judge, table)["24 tokens"]
        found = scripts.evaluation._reading(judge, table, texts)
        expected = header["lengths"]["24 tokens"]
        assert found["macro_auc"] == pytest.approx(expected["macro_auc"], abs=0.002)
        assert found["ceiling"] == pytest.approx(expected["ceiling"], abs=0.01)
        assert found["auc"] == pytest.approx(expected["auc"], abs=0.01)


# -- training ---------------------------------------------------------------------------------------------------------


def write_data(folder: Path) -> None:
    """A tiny data set of three labels."""
    folder.mkdir()
    (folder / "labels.txt").write_text("joy\nfear\nneutral\n")
    stems = {0: "I am happy and glad", 1: "I am scared of the dark", 2: "The train has nine coaches"}
    for split, n in (("train", 48), ("dev", 9), ("test", 9)):
        rows = [f'{stems[i % 3]} "{split} {i}"\t{i % 3}{",1" if i % 6 == 0 else ""}\tc{i}' for i in range(n)]
        (folder / f"{split}.tsv").write_text("\n".join(rows) + "\n")


def few_passages() -> dict[str, pd.DataFrame]:
    table = corpus.passages()
    return {"few": table[table["topic"].isin(sorted(set(table["topic"]))[:3])].reset_index(drop=True)}


@pytest.mark.real
def test_training_twice_gives_the_same_bytes(scripts, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "instruments", few_passages)
    monkeypatch.setattr(scripts.evaluation, "DRAWS", 20)
    write_data(tmp_path / "data")
    recipe = scripts.fitting.Recipe(rank=2, layers=1, epochs=3, batch=8)
    heads = [tmp_path / name / "head.safetensors" for name in "123"]
    for number, head in enumerate(heads):
        if number < 2:  # the second is trained anew, the third not
            monkeypatch.setenv("EMOTRACE_CACHE", str(tmp_path / f"cache {number}"))
        scripts.train.main([str(tmp_path / "data"), "--out", str(head)], recipe)
    assert len(list((tmp_path / "cache 1" / "judge").iterdir())) == 1
    assert heads[0].read_bytes() == heads[1].read_bytes() == heads[2].read_bytes()
    classifier = classifiers.load_embedded(heads[0])
    assert classifier.labels[classifier.scores(["I was scared in the dark night"])[0].argmax()] == "fear"
    assert any(np.abs(half).max() > 0 for name, half in classifier.head.adapter.items() if name.endswith(".up"))
    assert json.dumps(classifier.head.header["training"]["texts"]) == '{"dev": 9, "test": 9, "train": 48}'
    card = (heads[0].parent / "README.md").read_text()
    assert classifier.name in card
    scripts.train.main([str(tmp_path / "data"), "--out", str(heads[0]), "--measure"])
    assert heads[0].read_bytes() == heads[1].read_bytes()


def test_training_data_errors_are_one_line(scripts, tmp_path, capsys):
    write_data(tmp_path / "data")
    for name, content, message in (
        ("test.tsv", "a text\t7\tc\n", "label ids are 0 to 2"),
        ("test.tsv", "a text\tjoy\tc\n", "is not text, label ids, comment id"),
        ("test.tsv", "a text\t0\tc\n", "label 0 needs texts"),
        ("labels.txt", "joy\nfear\n", "must name the label neutral"),
        ("labels.txt", "joy\njoy\n", "name each label once"),
    ):
        (tmp_path / "data" / name).write_text(content)
        with pytest.raises(SystemExit, match="2"):
            scripts.train.main([str(tmp_path / "data"), "--out", str(tmp_path / "head")])
        told = capsys.readouterr().err
        assert message in told
        assert told.count("\n") == 1
    assert not (tmp_path / "head").exists()
