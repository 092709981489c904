"""What comes with emotrace for a packaged model: as its weights give it, taken where it fits, and nothing read then."""

import importlib.util
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emotrace import activations
from emotrace.activations import read_activations, residual_norms
from emotrace.errors import EmotraceError
from emotrace.instrument import corpus
from emotrace.measures.randomness import generator
from emotrace.readings import read_texts
from emotrace.tokens import Writing
from emotrace.whatif import shipped, text_reading, token_reading
from emotrace.whatif.compare import what_if
from emotrace.whatif.text_reading import cached_vectors
from emotrace.whatif.token_reading import neutral_dots

ROOT = Path(__file__).parents[2]
LAYER = 3
PROMPT = "The door opened and"
ROWS = corpus.calibrations()


def script() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("ship_vectors", ROOT / "scripts" / "ship_vectors.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- the files in data/ -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ROWS.index)
def test_every_calibrated_model_has_a_small_file_of_todays_passages_at_its_layer(weights):
    row = ROWS.loc[weights]
    path = shipped.path_of(row["model"])
    assert path.stat().st_size <= 300_000
    found = shipped.load(path)
    made = found.vectors.provenance
    assert (made["weights_id"], made["dtype"], made["pooling"]) == (weights, "float32", "mean")
    assert (made["texts"], made["shipped"]) == (corpus.fingerprint(corpus.passages()), "with emotrace")
    assert found.layer == int(row["layer"]) in found.vectors.layers
    assert len(found.vectors.layers) >= 2
    assert found.vectors.emotions == tuple(corpus.emotion_names())
    assert found.permuted.shape == (19, found.vectors.d_model)
    assert found.dots.shape == (len(found.token_norms), 20)
    assert shipped.load(path).content() == path.read_bytes()


def test_a_damaged_file_is_named(tmp_path):
    content = bytearray(shipped.path_of("smollm2-135m-instruct").read_bytes())
    content[-1] ^= 1
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(EmotraceError, match=r"^[^\n]*x\.safetensors is damaged[^\n]*sha256[^\n]*$"):
        shipped.load(tmp_path / "x.safetensors")


# -- where they are taken ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama(tiny):
    return tiny("llama", n_layers=6)


@pytest.fixture
def calibrated(llama, monkeypatch, tmp_path):
    """The tiny model as a packaged one that is calibrated, but for its file, whose path this is."""
    row = {"model": "tiny", "weights_id": llama.provenance["weights_id"], "layer": str(LAYER), "n": "40"}
    table = pd.DataFrame([{**row, "strength": "0.8", "window_low": "-0.9", "window_high": "0.8"}])
    monkeypatch.setattr(corpus, "calibrations", lambda: table.set_index("weights_id"))
    monkeypatch.setattr(shipped, "path_of", lambda name: tmp_path / f"{name}.safetensors")
    return tmp_path / "tiny.safetensors"


def test_with_them_a_what_if_reads_nothing_but_its_texts_and_says_the_same(llama, calibrated, monkeypatch):
    options = {"control": 3, "writing": Writing(8), "judge": False}
    extracted = cached_vectors(llama)
    assert extracted.layers == tuple(range(7))
    expected = what_if(llama, PROMPT, "sad", **options)
    calibrated.write_bytes(script().shipped_of(llama).content())
    monkeypatch.setattr(token_reading, "_remembered", {})
    monkeypatch.setattr(llama, "norms", None)
    for module, name in ((text_reading, "read_texts"), (activations, "_norms_batch")):
        monkeypatch.setattr(module, name, None)
    read, reads = token_reading.read_tokens, []
    monkeypatch.setattr(
        token_reading, "read_tokens", lambda *args, **how: reads.append(len(args[1])) or read(*args, **how)
    )
    result = what_if(llama, PROMPT, "sad", **options)
    assert reads == [1] * 5  # plain, steered and three controls
    assert (result.plain, result.steered, result.strength) == (expected.plain, expected.steered, 0.8)
    assert result.plain != result.steered
    pd.testing.assert_frame_equal(result.changes, expected.changes, atol=1e-6)
    for side, other in zip(result.sides, expected.sides, strict=True):
        np.testing.assert_allclose(side.reading.score, other.reading.score, atol=1e-4)
    some = cached_vectors(llama, needed=None)
    assert (some.layers, some.provenance["shipped"]) == ((2, 3, 4), "with emotrace")
    assert some.calibration["layers"] == [LAYER]
    np.testing.assert_allclose(some.values, extracted.values[:, 2:5], atol=1e-6)
    assert "shipped" not in cached_vectors(llama).provenance  # all layers: those of the cache


def test_a_layer_that_is_not_among_them_is_extracted(llama, calibrated):
    calibrated.write_bytes(script().shipped_of(llama).content())
    found = shipped.of(llama)
    assert [found.covers(llama, needed) for needed in (None, 2, [None, 4], "all", 5, [3, "all"])] == [
        *(True, True, True, False, False, False)
    ]
    assert cached_vectors(llama, needed=5).layers == tuple(range(7))
    with pytest.raises(EmotraceError, match="layer 9 is out of range"):
        cached_vectors(llama, needed=9)
    assert "shipped" not in cached_vectors(llama, "last").provenance


@pytest.mark.parametrize("name", ["weights_id", "dtype", "texts"])
def test_of_other_weights_another_dtype_or_other_passages_nothing_is_taken(llama, calibrated, name):
    found = script().shipped_of(llama)
    calibrated.write_bytes(found.content())
    assert shipped.of(llama) is not None
    shipped.load.cache_clear()
    vectors = replace(found.vectors, provenance={**found.vectors.provenance, name: "other"})
    calibrated.write_bytes(replace(found, vectors=vectors).content())
    assert shipped.of(llama) is None
    assert "shipped" not in cached_vectors(llama, needed=None).provenance


# -- real models ------------------------------------------------------------------------------------------------------


def near(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """To a thousandth of each vector's length: float32 products differ in their last digits between machines."""
    return bool((np.linalg.norm(ours - theirs, axis=-1) < 1e-3 * np.linalg.norm(theirs, axis=-1)).all())


@pytest.mark.real
@pytest.mark.parametrize("name", ROWS["model"])
def test_one_emotion_and_the_norms_are_what_the_weights_give(packaged, name, monkeypatch):
    model = packaged(name)
    vectors, norms = shipped.of(model).vectors, shipped.of(model).norms
    texts = corpus.passages().set_index("emotion")["text"]["afraid"]
    read = read_activations(model, list(texts), layers=list(vectors.layers), poolings=("mean",))["mean"]
    assert near(vectors["afraid"], read.mean(axis=0, dtype=np.float64) - vectors.grand_mean)
    monkeypatch.setattr(model, "norms", None)
    np.testing.assert_allclose(residual_norms(model), norms, rtol=1e-4)
    # The grand mean is of 21 classes: the vectors and what is left of the neutral mean sum to zero.
    assert near(vectors.values.sum(axis=0), vectors.grand_mean - vectors.neutral_mean)
    assert near((20 * vectors.emotions_mean + vectors.neutral_mean) / 21, vectors.grand_mean)


@pytest.mark.real
@pytest.mark.slow
def test_every_number_of_the_embedded_model_is_what_its_passages_give(packaged, monkeypatch):
    model = packaged("smollm2-135m-instruct")
    found = shipped.of(model)
    reading = read_texts(model, corpus.passages(), layers=list(found.vectors.layers), poolings=("mean",))
    own, index = reading.vectors("mean"), found.vectors.index(found.layer)
    for part in ("values", "neutral_mean", "grand_mean", "emotions_mean"):
        assert near(getattr(found.vectors, part), getattr(own, part))
    drawn = reading.permuted("mean", 19, generator(0, "permuted labels", "mean"))
    assert near(found.permuted, drawn.values[:, index])
    monkeypatch.setattr(shipped, "of", lambda model: None)
    dots, norms = neutral_dots(model, found.vectors, [found.layer])
    np.testing.assert_allclose(dots[:, 0], found.dots, atol=1e-3 * np.abs(found.dots).max())
    np.testing.assert_allclose(norms[:, 0], found.token_norms, rtol=1e-4)
