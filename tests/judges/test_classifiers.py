"""The external classifiers: the shipped head, what it says about plain sentences, its files, classifiers of others."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
)

from emotrace.errors import EmotraceError
from emotrace.hosts import gguf as gguf_weights
from emotrace.instrument import corpus
from emotrace.judges import adapter, classifiers
from emotrace.judges.classifiers import EmbeddedClassifier, emotion_scores, load_classifier
from emotrace.judges.encoder import Head, load_encoder, unit_mean

# Written for this test: (label, sentence, whether nothing but the first rank will do).
SENTENCES = [
    ("joy", "I am so happy that I keep dancing around the kitchen with a grin on my face.", True),
    ("joy", "What a delightful morning, everyone at the table was laughing and cheerful.", False),
    ("sadness", "She cried herself to sleep again because the house felt empty without him.", True),
    ("sadness", "I have been so sad since the dog died that I can hardly get out of bed.", True),
    ("grief", "We buried my grandmother last week and I still mourn her every hour.", False),
    ("anger", "I am furious, they lied to my face and I want to smash something!", True),
    ("anger", "How dare he talk to my sister like that, I hate that man!", False),
    ("fear", "I was terrified when the floorboards creaked and something breathed behind the door.", True),
    ("fear", "That cliff path scares me to death, I was frightened the whole way down.", True),
    ("gratitude", "Thank you so much for driving my mother to the hospital, I really appreciate it.", True),
    ("gratitude", "Thanks for lending us your ladder.", True),
    ("love", "I love my little brother more than anything in the world.", True),
    ("love", "She adores her husband and still loves to hold his hand on walks.", True),
    ("remorse", "I am so sorry that I broke your grandfather's watch, please forgive me.", True),
    ("remorse", "He regrets what he said at dinner and wants to apologise to her.", True),
    ("excitement", "I can't wait for the concert tomorrow, I'm so excited!", True),
    ("excitement", "Only two more sleeps until our trip to the coast, this is thrilling!", False),
    ("nervousness", "My hands shake and I feel anxious about the interview on Friday.", True),
    ("nervousness", "I'm a bit worried and nervous about meeting her parents tonight.", True),
    ("pride", "I am so proud of my daughter for finishing her first marathon.", True),
    ("pride", "We built that boat with our own hands and we take great pride in it.", False),
    ("optimism", "I hope things will get better soon, and I believe next year will be brighter.", True),
    ("optimism", "Hopefully the rain stops in time for the wedding.", True),
    ("annoyance", "It is so annoying that the neighbour's drill starts whenever I sit down.", False),
    ("annoyance", "Stop interrupting me, this endless tapping is getting on my nerves.", False),
    ("disgust", "The fridge stank of rotten meat and the maggots were revolting.", False),
    ("disgust", "That is gross, he spits chewing tobacco into a coffee cup.", True),
    ("caring", "Please take care of yourself and call me any time if you need someone to talk to.", True),
    ("caring", "I hope you feel better soon, get some rest and drink plenty of water.", False),
    ("disappointment", "We drove six hours and the museum was closed, what a letdown.", False),
    ("relief", "Phew, what a relief that the test results came back clear.", False),
    ("surprise", "Wow, I never expected to see you here!", True),
    ("amusement", "Haha, that joke about the penguin made me laugh out loud.", True),
    ("confusion", "I don't understand these instructions, I'm confused about which part goes where.", True),
    ("curiosity", "How do bees find their way back to the hive, does anyone know?", False),
    ("admiration", "What a brilliant painter, her portraits are amazing.", True),
    ("embarrassment", "I blushed with shame when my skirt tore in front of the whole class, so embarrassing.", True),
    ("desire", "I wish I had a garden, I really want one of those old walnut trees.", True),
    ("realization", "I just realised that I had been reading the map upside down.", False),
    ("neutral", "The bus to the station leaves at ten past four from the second stop.", False),
    ("neutral", "The recipe needs two eggs and a cup of flour.", False),
]
TEXTS = [text for _, text, _ in SENTENCES]


@pytest.fixture(scope="module")
def head() -> Head:
    return Head.load(classifiers.head_file())


@pytest.fixture(scope="module")
def embedded() -> EmbeddedClassifier:
    return load_classifier()


def small_head(labels: tuple[str, ...] = ("joy", "fear"), d: int = 4, encoder: str = "0" * 64) -> Head:
    rng = np.random.default_rng(0)
    header = {"labels": list(labels), "encoder": {"name": "none", "sha256": encoder}}
    halves = {"query.down": rng.normal(size=(1, d)).astype(np.float16), "query.up": np.ones((d, 1), np.float16)}
    weight = rng.normal(size=(len(labels), d)).astype(np.float32)
    return Head(weight, np.zeros(len(labels), np.float32), header, halves)


# -- the shipped head -------------------------------------------------------------------------------------------------


def test_shipped_head_keeps_its_promises(head):
    assert head.weight.shape == (28, 384)
    assert head.bias.shape == (28,)
    assert head.weight.dtype == head.bias.dtype == np.float32
    assert len(set(head.labels)) == 28
    assert head.header["test_macro_auc"] >= 0.92
    assert head.header["test_macro_auc"] == pytest.approx(np.mean(list(head.header["test_auc"].values())), abs=1e-3)
    low, high = head.header["test_macro_auc_95"]
    assert 0.91 < low < head.header["test_macro_auc"] < high
    assert head.header["training"]["licence"] == "Apache-2.0"
    assert set(head.header["passages"]) == set(corpus.INSTRUMENTS)
    for instrument in head.header["passages"].values():
        assert {len(found["auc"]) for found in instrument["lengths"].values()} == {20}


def test_shipped_head_covers_every_emotion(head):
    for labels in corpus.emotions()["goemotions"]:
        assert set(labels) <= set(head.labels)


def test_shipped_file_is_small_and_adapts_the_last_layers(head):
    assert classifiers.head_file().stat().st_size <= 3_000_000
    assert {tensor.dtype for tensor in head.adapter.values()} == {np.dtype(np.float16)}
    assert len(head.adapter) == 2 * len(adapter.MATRICES) * head.header["recipe"]["layers"]
    for name, up in head.adapter.items():
        assert np.isfinite(up).all(), name
        assert np.abs(up).max() > 0, name


# -- what it says -----------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_plain_sentences_are_recognised(embedded):
    order = np.argsort(-embedded.scores(TEXTS), axis=1)
    ranks = [
        int(np.flatnonzero(row == embedded.labels.index(label))[0]) + 1
        for row, (label, _, _) in zip(order, SENTENCES, strict=True)
    ]
    told = [
        f"{label} (rank {rank}, after {embedded.labels[row[0]]}): {text}"
        for rank, row, (label, text, _) in zip(ranks, order, SENTENCES, strict=True)
        if rank > 1
    ]
    assert np.mean(np.array(ranks) <= 3) >= 0.8, told
    missed = [label for rank, (label, _, first) in zip(ranks, SENTENCES, strict=True) if first and rank > 1]
    assert not missed, told


@pytest.mark.real
def test_scores_do_not_depend_on_the_batch(embedded):
    texts = [*TEXTS, "a", "", "\n\t ", "no " * 2000, "Ünïcödé 🎉 日本語"]
    together = embedded.scores(texts)
    assert together.shape == (len(texts), 28)
    assert np.isfinite(together).all()
    assert ((together >= 0) & (together <= 1)).all()
    alone = np.concatenate([embedded.scores([text]) for text in texts])
    np.testing.assert_allclose(alone, together, rtol=0, atol=1e-5)
    np.testing.assert_allclose(embedded.scores(texts[::-1])[::-1], together, rtol=0, atol=1e-5)


@pytest.mark.real
def test_encoder_gives_unit_vectors_and_reads_256_tokens(embedded):
    encoder = embedded.encoder
    vectors = encoder.embed(["one two", "red " * 254, "red " * 254 + "blue green", "red " * 200 + "blue"])
    assert vectors.shape == (4, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    # [CLS] + 254 words + [SEP] are 256: what follows is cut; and what stands after token 128 still counts.
    np.testing.assert_allclose(vectors[1], vectors[2], atol=1e-6)
    assert vectors[1] @ vectors[3] < 0.999


@pytest.mark.real
def test_the_judges_name_tells_what_was_fitted(embedded):
    assert embedded.name == f"minilm-goemotions-{embedded.head.fingerprint}"


@pytest.mark.real
def test_the_adapter_changes_what_is_said(embedded):
    bare = load_encoder(device="cpu")
    apart = (embedded.encoder.embed(TEXTS) * bare.embed(TEXTS)).sum(axis=1)
    assert apart.max() < 0.95
    assert np.abs(embedded.head.probabilities(bare.embed(TEXTS)) - embedded.scores(TEXTS)).max() > 0.2


@pytest.mark.real
def test_emotion_scores_take_the_highest_label(embedded):
    table = emotion_scores(embedded, TEXTS)
    assert list(table.columns) == list(corpus.emotions().index)
    assert len(table) == len(TEXTS)
    scores = embedded.scores(TEXTS)
    love, caring = (scores[:, embedded.labels.index(label)] for label in ("love", "caring"))
    np.testing.assert_array_equal(table["loving"], np.maximum(love, caring))
    np.testing.assert_array_equal(table["happy"], scores[:, embedded.labels.index("joy")])
    for label, emotion in (("gratitude", "grateful"), ("fear", "afraid"), ("remorse", "guilty"), ("pride", "proud")):
        own = [row for row, (expected, _, _) in enumerate(SENTENCES) if expected == label]
        other = [row for row in range(len(SENTENCES)) if row not in own]
        assert table[emotion][own].mean() > table[emotion][other].mean() + 0.3


@pytest.mark.real
def test_unknown_label_lists_the_known(embedded):
    with pytest.raises(EmotraceError, match=r"unknown emotion label .*'bliss': known are admiration, .*neutral$"):
        emotion_scores(embedded, ["a text"], {"blissful": ["joy", "bliss"]})
    with pytest.raises(EmotraceError, match="needs a list of labels"):
        emotion_scores(embedded, ["a text"], {"happy": "joy"})
    with pytest.raises(EmotraceError, match="not one string"):
        embedded.scores("one text")
    assert embedded.scores([]).shape == (0, 28)


# -- arithmetic -------------------------------------------------------------------------------------------------------


def test_mean_pooling_ignores_padding():
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [1e6, -1e6]], [[5.0, 0.0], [7.0, 2.0], [0.0, 4.0]]])
    pooled = unit_mean(hidden, torch.tensor([[1, 1, 0], [1, 1, 1]]))
    torch.testing.assert_close(pooled, torch.tensor([[2.0, 4.0], [4.0, 2.0]]) / 20**0.5)
    torch.testing.assert_close(unit_mean(torch.tensor([[[3.0, 4.0]]]), torch.tensor([[1]])), torch.tensor([[0.6, 0.8]]))


def test_head_is_sklearns_predict_proba():
    rng = np.random.default_rng(1)
    embeddings = rng.normal(size=(200, 6)).astype(np.float32)
    truth = embeddings @ rng.normal(size=(6, 3)) + rng.normal(size=(200, 3)) > 0.5
    fitted = [LogisticRegression(class_weight="balanced").fit(embeddings, column) for column in truth.T]
    weight = np.concatenate([model.coef_ for model in fitted]).astype(np.float32)
    bias = np.concatenate([model.intercept_ for model in fitted]).astype(np.float32)
    expected = np.stack([model.predict_proba(embeddings)[:, 1] for model in fitted], axis=1)
    np.testing.assert_allclose(Head(weight, bias, {}).probabilities(embeddings), expected, atol=1e-6)


# -- files ------------------------------------------------------------------------------------------------------------


def test_head_survives_a_file(tmp_path):
    head = small_head()
    for name in ("a", "b"):
        head.save(tmp_path / name)
    read = Head.load(tmp_path / "a")
    np.testing.assert_array_equal(read.weight, head.weight)
    assert set(read.adapter) == {"query.down", "query.up"}
    for name, half in head.adapter.items():
        np.testing.assert_array_equal(read.adapter[name], half)
    assert read.fingerprint == head.fingerprint
    assert (read.labels, read.header) == (("joy", "fear"), head.header)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_fingerprint_tells_what_was_fitted_and_no_figures():
    head = small_head()
    assert len(head.fingerprint) == 8
    assert Head(head.weight, head.bias, {**head.header, "test_macro_auc": 1.0}, head.adapter).fingerprint == (
        head.fingerprint
    )
    other = {**head.adapter, "query.up": head.adapter["query.up"] * 2}
    others = [
        Head(head.weight * 2, head.bias, head.header, head.adapter),
        Head(head.weight, head.bias, head.header, other),
        Head(head.weight, head.bias, head.header),
        small_head(labels=("fear", "joy")),
        small_head(encoder="1" * 64),
    ]
    assert len({head.fingerprint, *(one.fingerprint for one in others)}) == 6


def test_any_changed_byte_of_a_head_is_noticed(tmp_path):
    path = tmp_path / "head.safetensors"
    small_head().save(path)
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(EmotraceError, match="damaged or no classifier head") as caught:
            Head.load(path)
        assert "\n" not in str(caught.value)


def test_cut_missing_and_foreign_heads(tmp_path):
    path = tmp_path / "head.safetensors"
    content = classifiers.head_file().read_bytes()
    for length in (0, 4, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(EmotraceError, match="damaged or no classifier head"):
            Head.load(path)
    path.write_bytes(save({"weight": np.zeros((2, 2), np.float32)}, metadata={"format": "pt"}))
    with pytest.raises(EmotraceError, match="damaged or no classifier head"):
        Head.load(path)
    with pytest.raises(EmotraceError, match="no file"):
        Head.load(tmp_path / "none")
    with pytest.raises(EmotraceError, match="cannot be written"):
        small_head().save(path / "below" / "a file")


@pytest.mark.real
def test_an_adapter_of_another_encoder_is_refused(tmp_path, head):
    path = tmp_path / "head.safetensors"
    Head(head.weight, head.bias, head.header, small_head().adapter).save(path)
    with pytest.raises(EmotraceError, match="the adapter's query does not fit the encoder"):
        classifiers.load_embedded(path)


@pytest.mark.real
def test_a_head_of_another_encoder_is_refused(tmp_path):
    path = tmp_path / "head.safetensors"
    small_head(encoder="f" * 64, d=384).save(path)
    with pytest.raises(EmotraceError, match=r"fitted to an encoder with sha256 f{12}…, but .* here has [0-9a-f]{12}…"):
        classifiers.load_embedded(path)


def test_without_the_wheel_and_the_hub_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(gguf_weights, "package_files", lambda files: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EmotraceError, match="make setup installs it") as caught:
        load_classifier()
    assert "\n" not in str(caught.value)


# -- classifiers of transformers --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    words = ["[PAD]", "[UNK]", *"abcdef"]
    plain = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]")


def write_tiny(folder: Path, tokenizer: PreTrainedTokenizerFast, kind: type = BertForSequenceClassification, **more):
    torch.manual_seed(0)
    names = more.pop("names", ["good", "bad", "dull"])
    config = BertConfig(
        vocab_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=12,
        id2label=dict(enumerate(names)),
        initializer_range=1.0,
        **more,
    )
    module = kind(config)
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return module.eval()


@pytest.mark.parametrize("multi", [False, True])
def test_a_folder_with_a_classifier(tmp_path, tokenizer, multi):
    problem = "multi_label_classification" if multi else "single_label_classification"
    module = write_tiny(tmp_path / "judge", tokenizer, problem_type=problem)
    loaded = load_classifier(str(tmp_path / "judge"))
    assert (loaded.name, loaded.labels) == ("judge", ("good", "bad", "dull"))
    texts = ["a b c", "d", "f e d c b a f e", "a " * 40]
    found = loaded.scores(texts)
    for text, row in zip(texts, found, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"][:10]])
        with torch.no_grad():
            logits = module(input_ids=ids).logits[0]
        np.testing.assert_allclose(row, logits.sigmoid() if multi else logits.softmax(-1), atol=1e-5)
    assert multi == (not np.allclose(found.sum(axis=1), 1))
    table = emotion_scores(loaded, texts, {"happy": ["good"], "sad": ["bad", "dull"]})
    np.testing.assert_array_equal(table["sad"], found[:, 1:].max(axis=1))
    with pytest.raises(EmotraceError, match="unknown emotion label of judge 'joy': known are good, bad, dull"):
        emotion_scores(loaded, texts)


def test_models_that_are_no_classifiers(tmp_path, tokenizer):
    write_tiny(tmp_path / "base", tokenizer, BertModel)
    with pytest.raises(
        EmotraceError, match=r"no trained classifier: its weights are not whole, .* missing \(classifier\.b"
    ):
        load_classifier(str(tmp_path / "base"))
    write_tiny(tmp_path / "number", tokenizer, names=["score"])
    with pytest.raises(EmotraceError, match="two labels or more"):
        load_classifier(str(tmp_path / "number"))


def test_a_decoder_pads_as_its_tokenizer_does(tmp_path, tokenizer):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=8, n_embd=16, n_layer=1, n_head=2, n_positions=12, num_labels=3)
    module = GPT2ForSequenceClassification(config).eval()
    assert config.pad_token_id is None
    module.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, texts = load_classifier(str(tmp_path)), ["a b c", "d e"]
    with torch.no_grad():
        alone = [module(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).logits[0].softmax(-1) for text in texts]
    np.testing.assert_allclose(loaded.scores(texts), torch.stack(alone), atol=1e-5)


@pytest.mark.parametrize("device", ["banana", "balanced", "cuda:77"])
def test_a_device_that_is_not_there_is_named(tmp_path, tokenizer, device):
    write_tiny(tmp_path, tokenizer)
    with pytest.raises(EmotraceError, match=f"cannot be put on the device '{device}'"):
        load_classifier(str(tmp_path), device=device)


def test_what_is_no_text_is_named_and_any_iterable_of_texts_is_read(tmp_path, tokenizer):
    write_tiny(tmp_path, tokenizer)
    loaded, labels = load_classifier(str(tmp_path)), {"happy": ["good"]}
    for texts, words in ((["a", None], "text 2 is no text but None"), (["a\ud800"], "half of a surrogate pair")):
        with pytest.raises(EmotraceError, match=words):
            emotion_scores(loaded, texts, labels)
    read = emotion_scores(loaded, (text for text in ("a", "b")), labels)
    np.testing.assert_array_equal(read, emotion_scores(loaded, ["a", "b"], labels))


@pytest.mark.parametrize("name", ["nobody/has-this", None, "~nobody-of-this-name/x", "x" * 300])
def test_a_missing_hub_classifier_is_one_line(name):
    with pytest.raises(EmotraceError, match=f"no classifier {name!r}") as caught:
        load_classifier(name)
    assert "\n" not in str(caught.value)
    assert classifiers.DEFAULT_CLASSIFIER in str(caught.value)
