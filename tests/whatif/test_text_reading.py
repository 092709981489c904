"""A text's activation along vectors: of one's own that lack a pooling, and of an instrument whose norms change."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import emotrace
from emotrace import EmotraceError
from emotrace.activations import read_activations
from emotrace.instrument.instrument import norms_of
from emotrace.tokens import Writing
from emotrace.whatif.text_reading import cached_vectors, project_text

TEXT = "She walked along the river to the old house."


@pytest.fixture(scope="module")
def llama(tiny):
    return tiny("llama")


@pytest.fixture(scope="module")
def own(llama):
    """Random vectors with the model's provenance and no more, as of one's own method."""
    values = np.random.default_rng(0).normal(size=(3, 5, 32)).astype(np.float32)
    zero, about = np.zeros((5, 32), np.float32), {**llama.provenance, "model": llama.name}
    return emotrace.EmotionVectors(("happy", "sad", "calm"), range(5), values, zero, zero, zero, about)


@pytest.mark.parametrize("said", [None, "max"])
@pytest.mark.parametrize(
    "use",
    [
        lambda model, vectors: emotrace.read_emotions(model, TEXT, vectors=vectors),
        lambda model, vectors: project_text(model, TEXT, vectors=vectors),
        lambda model, vectors: emotrace.what_if(
            model, TEXT, "sad", 0.2, vectors=vectors, judge=False, writing=Writing(2)
        ),
    ],
    ids=["read_emotions", "project_text", "what_if"],
)
def test_vectors_that_name_no_pooling_are_refused_where_a_text_is_pooled(llama, own, use, said):
    about = own.provenance if said is None else {**own.provenance, "pooling": said}
    with pytest.raises(EmotraceError, match=rf'provenance\["pooling"\] is last or mean, not {said!r}$'):
        use(llama, replace(own, provenance=about))
    use(llama, replace(own, provenance={**own.provenance, "pooling": "mean"}))


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_text_is_pooled_as_the_provenance_says(llama, own, pooling):
    found = project_text(llama, TEXT, vectors=replace(own, provenance={**own.provenance, "pooling": pooling}), layer=3)
    (held,) = read_activations(llama, [TEXT], layers=[3], poolings=(pooling,))[pooling][:, 0]
    expected = own.at(3) @ held / np.linalg.norm(own.at(3), axis=1) / np.linalg.norm(held)
    np.testing.assert_allclose(found.set_index("emotion")["cosine"][list(own.emotions)], expected, rtol=1e-5)


def test_kept_vectors_of_an_instrument_have_its_norms_of_today(llama, monkeypatch, tmp_path):
    monkeypatch.setenv("EMOTRACE_CACHE", str(tmp_path))
    rows = [
        (emotion, topic, f"{who} {did} and went home at {hour}.")
        for emotion, who in (("glad", "Anna"), ("low", "Boris"), ("tense", "Clara"))
        for topic, did in (("bread", "baked"), ("trains", "rode"))
        for hour in ("six", "ten")
    ]
    texts = pd.DataFrame(rows, columns=["emotion", "topic", "text"])
    kept = []
    for valence in ([8.0, 2.0, 3.0], [1.0, 9.0, 9.0]):
        norms = pd.DataFrame({"emotion": ["glad", "low", "tense"], "valence": valence, "arousal": [5.0, 3.0, 7.0]})
        vectors = cached_vectors(llama, instrument=emotrace.load_instrument(texts, norms=norms))
        assert norms_of(vectors.provenance, vectors.emotions)["valence"].tolist() == valence
        kept.append(vectors.values)
    np.testing.assert_array_equal(*kept)
