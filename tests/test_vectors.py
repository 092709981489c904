"""The algebra, the files and the export of emotion vectors."""

import json
from dataclasses import replace
from types import MappingProxyType

import gguf
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from emotrace.errors import EmotraceError
from emotrace.instrument import corpus
from emotrace.models import Model
from emotrace.readings import Reading, class_means
from emotrace.vectors import EmotionVectors

LAYERS = [0, 1, 2, 5]
PROVENANCE = {"model": "toy", "source": "hub/toy", "weights_id": "abc", "class": "llama", "texts": "0123"}


def reading(classes=None, seed=0):
    """Three texts a class with random activations ``[text, 4 layers, 6]``, in an order that is not the classes'."""
    classes = list(corpus.emotions().index) if classes is None else classes
    emotion = [*classes, *reversed(classes), *classes]
    labels = pd.DataFrame({"topic": "t", "emotion": emotion, "text": [f"text {n}" for n in range(len(emotion))]})
    rng = np.random.default_rng(seed)
    pooled = {name: rng.normal(3, 2, size=(len(emotion), 4, 6)).astype(np.float32) for name in ("last", "mean")}
    return Reading(labels, pooled, LAYERS, PROVENANCE)


def naive_mean(read, name, pooling="last"):
    rows = [row for row, emotion in enumerate(read.labels["emotion"]) if emotion == name]
    return sum(read.pooled[pooling][row].astype(np.float64) for row in rows) / len(rows)


def same(one, other):
    names = ("values", "neutral_mean", "grand_mean", "emotions_mean")
    return (
        (one.emotions, one.layers, one.provenance) == (other.emotions, other.layers, other.provenance)
        and all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)
        and all(getattr(other, name).dtype == np.float32 for name in names)
    )


def of_other_model(vectors):
    return replace(vectors, provenance={**vectors.provenance, "model": "giant", "weights_id": "xyz"})


def refused(action):
    """The message of the one-line error that ``action`` raises."""
    with pytest.raises(EmotraceError) as error:
        action()
    assert "\n" not in str(error.value)
    return str(error.value)


# -- from activations -----------------------------------------------------------------------------------------------


def test_class_means_accumulate_in_float64():
    pooled = np.array([[2**24], *[[1]] * 100, [7]], dtype=np.float32)
    means = class_means(pooled, ["sad"] * 101 + ["calm"], ["calm", "sad"])
    assert means.dtype == np.float64
    assert means.ravel().tolist() == [7, (2**24 + 100) / 101]


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_vectors_are_class_means_minus_the_mean_of_all_21(pooling):
    read = reading()
    vectors = read.vectors(pooling)
    classes = list(corpus.emotions().index)
    means = {name: naive_mean(read, name, pooling) for name in classes}
    grand = sum(means.values()) / 21
    assert vectors.emotions == tuple(classes[:20])
    assert vectors.layers == tuple(LAYERS)
    np.testing.assert_allclose(vectors.values, [means[name] - grand for name in classes[:20]], atol=1e-6)
    np.testing.assert_allclose(vectors.grand_mean, grand, rtol=1e-6)
    np.testing.assert_allclose(vectors.neutral_mean, means["neutral"], rtol=1e-6)
    np.testing.assert_allclose(vectors.emotions_mean, sum(means[name] for name in classes[:20]) / 20, rtol=1e-6)
    assert vectors.provenance == {**PROVENANCE, "pooling": pooling, "centring": "grand"}


def test_the_grand_mean_weighs_classes_alike_however_many_texts_they_have():
    read = reading(["happy", "sad", "neutral"])
    read.labels.loc[0, "emotion"] = "sad"  # two happy texts, four sad ones
    expected = (naive_mean(read, "happy") + naive_mean(read, "sad") + naive_mean(read, "neutral")) / 3
    np.testing.assert_allclose(read.vectors().grand_mean, expected, rtol=1e-6)


def test_a_subset_of_emotions_is_measured_from_the_same_centres_in_the_order_asked():
    every, some = reading().vectors(), reading().vectors(emotions=["sad", "happy"])
    assert some.emotions == ("sad", "happy")
    for centring in ("grand", "emotions", "neutral", "none"):
        for name in some.emotions:
            np.testing.assert_array_equal(some.recentre(centring)[name], every.recentre(centring)[name])


def test_unknown_poolings_and_emotions_are_refused_with_the_known():
    assert refused(lambda: reading().vectors("max")) == "unknown pooling 'max': known are last, mean"
    message = refused(lambda: reading().vectors(emotions=["sad", "merry"]))
    assert message == f"unknown emotion 'merry': known are {', '.join(corpus.emotion_names())}"


def test_an_emotion_without_a_text_is_refused_by_name():
    assert "'calm'" in refused(lambda: reading(["happy", "sad", "neutral"]).vectors(emotions=["calm"]))


# -- looking things up ----------------------------------------------------------------------------------------------


def test_vectors_are_looked_up_by_emotion_and_layer_index():
    vectors = reading().vectors()
    sad = vectors.emotions.index("sad")
    np.testing.assert_array_equal(vectors["sad"], vectors.values[sad])
    np.testing.assert_array_equal(vectors["sad", 5], vectors.values[sad, 3])
    np.testing.assert_array_equal(vectors.at(2), vectors.values[:, 2])
    frame = vectors.to_frame()
    assert frame.shape == (20 * 4, 6)
    np.testing.assert_array_equal(frame.loc[("sad", 5)], vectors.values[sad, 3])


def test_unknown_emotions_and_layers_are_refused_with_the_known():
    vectors = reading().vectors(emotions=["sad", "calm"])
    assert refused(lambda: vectors["happy"]) == "unknown emotion 'happy': known are sad, calm"
    assert refused(lambda: vectors["happy", 5]) == "unknown emotion 'happy': known are sad, calm"
    for look in (lambda: vectors["sad", 3], lambda: vectors.at(3), lambda: vectors.index(3)):
        assert refused(look) == "unknown layer '3': known are 0, 1, 2, 5"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"emotions": ("sad",)}, "(2, 4, 6) do not fit 1 emotions and 4 layers"),
        ({"layers": (0, 1, 2)}, "(2, 4, 6) do not fit 2 emotions and 3 layers"),
        ({"values": np.zeros((2, 4))}, "(2, 4) do not fit"),
        ({"neutral_mean": np.zeros((4, 5))}, "neutral_mean of shape (4, 5) does not fit (4, 6)"),
        ({"grand_mean": np.zeros((3, 6))}, "grand_mean of shape (3, 6) does not fit (4, 6)"),
        ({"emotions_mean": np.zeros(6)}, "emotions_mean of shape (6,) does not fit (4, 6)"),
    ],
)
def test_arrays_that_do_not_fit_the_names_are_refused(change, message):
    vectors = reading().vectors(emotions=["sad", "calm"])
    assert message in refused(lambda: replace(vectors, **change))


@pytest.mark.parametrize(
    "change",
    [
        {"values": lambda own: own.tolist()},
        {"values": lambda own: torch.from_numpy(own).double().requires_grad_()},
        {"values": lambda own: own.astype(np.float64), "grand_mean": torch.from_numpy},
        {"neutral_mean": lambda own: own.tolist(), "emotions_mean": torch.from_numpy},
        {"emotions": list, "layers": np.array},
        {"emotions": np.array, "layers": torch.tensor},
        {"emotions": pd.Series, "layers": lambda own: tuple(map(np.int64, own))},
        {"provenance": MappingProxyType},
    ],
    ids="-".join,
)
def test_lists_tensors_and_numpys_own_make_the_same_vectors(change, tmp_path):
    plain = reading().vectors(emotions=["sad", "calm"])
    made = replace(plain, **{name: kind(getattr(plain, name)) for name, kind in change.items()})
    assert same(made, plain)
    assert {type(one) for one in (*made.emotions, *made.layers)} == {str, int}
    assert same(plain + made, plain + plain)
    assert same(-made, -plain)
    for name, vectors in (("made", made), ("plain", plain)):
        vectors.save(tmp_path / name)
    assert (tmp_path / "made").read_bytes() == (tmp_path / "plain").read_bytes()


def test_what_is_narrower_than_float32_is_widened_and_float32_is_not_copied():
    plain = reading().vectors(emotions=["sad"])
    assert replace(plain).values is plain.values
    half = torch.from_numpy(plain.values).bfloat16()
    made = replace(plain, values=half)
    assert made.values.dtype == np.float32
    np.testing.assert_array_equal(made.values, half.float().numpy())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"emotions": ("sad", "sad")}, "each emotion once: 'sad' is there twice"),
        ({"layers": (0, 1, 5, 1.0)}, "each layer once: 1 is there twice"),
        ({"layers": (0, 1, 2, -1)}, "a layer is 0 or more, not -1"),
        ({"layers": (0, 1, 2, 2.5)}, "a layer is a whole number, not 2.5"),
        ({"layers": 3}, "a layer or a list of them is wanted, not 3"),
        ({"emotions": {"sad", "calm"}}, "which has no order"),
        ({"emotions": ("sad", 3)}, "the name of an emotion is text, not 3"),
        ({"provenance": None}, "a provenance is {name: text}, not None"),
        ({"provenance": {"seed": 3}}, "a provenance is {name: text}, not {'seed': 3}"),
        ({"values": [[1, 2], [3]]}, "values: finite numbers of the shape [any, any, any] are wanted"),
        ({"values": "happy"}, "values: finite numbers of the shape"),
        ({"values": np.full((2, 4, 6), 1e39)}, "vectors of NaN or infinity are none"),
        ({"grand_mean": [0.0] * 6}, "grand_mean: finite numbers of the shape [any, any] are wanted"),
    ],
)
def test_what_would_fail_later_is_refused_when_vectors_are_made(change, message):
    vectors = reading().vectors(emotions=["sad", "calm"])
    assert message in refused(lambda: replace(vectors, **change))


# -- algebra --------------------------------------------------------------------------------------------------------


def test_the_algebra_keeps_its_identities():
    v, w = reading().vectors(), reading(seed=1).vectors()
    assert not (v - v).values.any()
    np.testing.assert_array_equal(((v + v) / 2).values, v.values)
    opposite = -v
    np.testing.assert_array_equal(opposite.values, 0 - v.values)
    np.testing.assert_array_equal((-opposite).values, v.values)
    np.testing.assert_array_equal((0.5 * v).values, (v / 2).values)
    np.testing.assert_array_equal((v * 3).values, 3 * v.values)
    np.testing.assert_allclose((v + w).values, v.values + w.values)
    np.testing.assert_allclose((v - w).values, (v + -w).values)
    assert (v + w).values.dtype == (v * 0.1).values.dtype == v.unit().values.dtype == np.float32


def test_a_mix_is_the_weighted_sum():
    v = reading().vectors()
    mixed = v.mix({"sad": 0.25, "calm": -2, "proud": 1})
    np.testing.assert_allclose(mixed, 0.25 * v["sad"] - 2 * v["calm"] + v["proud"], rtol=1e-6)
    assert "unknown emotion 'merry'" in refused(lambda: v.mix({"sad": 1, "merry": 1}))


def test_unit_vectors_have_norm_one_and_keep_their_direction():
    v = reading().vectors()
    v = replace(v, values=v.values * np.float32(1e30))  # squares overflow float32
    unit = v.unit().values.astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=-1), 1, atol=1e-6)
    dots = (unit * v.values).sum(axis=-1)
    np.testing.assert_allclose(dots, np.linalg.norm(v.values.astype(np.float64), axis=-1), rtol=1e-6)


def test_a_zero_vector_has_no_direction():
    v = reading().vectors(emotions=["sad", "calm"])
    v.values[1, 2] = 0
    assert refused(v.unit) == "the vector of calm at layer 2 is zero"


def test_a_layer_that_holds_rounding_alone_stays_zero():
    v = reading().vectors()
    whole = v.unit()
    v.values[:, 0] = 1e-9 * np.random.default_rng(0).standard_normal(v.values[:, 0].shape)
    unit = v.unit()
    assert not unit.values[:, 0].any()
    np.testing.assert_array_equal(unit.values[:, 1:], whole.values[:, 1:])


def test_recentring_without_a_centre_gives_the_class_means_and_the_others_their_differences():
    read = reading()
    v = read.vectors()
    means = np.stack([naive_mean(read, name) for name in v.emotions])
    np.testing.assert_allclose(v.recentre("none").values, means, atol=1e-5)
    np.testing.assert_allclose(v.recentre("neutral").values, means - naive_mean(read, "neutral"), atol=1e-5)
    np.testing.assert_allclose(v.recentre("emotions").values, means - means.mean(axis=0), atol=1e-5)


def test_recentring_round_about_returns_to_the_start():
    v = w = reading().vectors()
    for centring in ("neutral", "emotions", "none", "grand"):
        w = w.recentre(centring)
        assert w.provenance == {**v.provenance, "centring": centring}
        if centring != "grand":
            assert np.abs(w.values - v.values).max() > 0.01
    np.testing.assert_allclose(w.values, v.values, atol=2e-6)


def test_recentring_is_refused_after_arithmetic_and_to_an_unknown_centre():
    v = reading().vectors()
    for changed in (v + v, v - v, v * 2, v / 2, -v, v.unit()):
        assert "cannot be centred anew" in refused(lambda changed=changed: changed.recentre("neutral"))
    assert "(times 2; unit norm)" in refused(lambda: (v * 2).unit().recentre("none"))
    message = "unknown centring 'mean': known are grand, emotions, neutral, none"
    assert refused(lambda: v.recentre("mean")) == message


# -- belonging ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("combine", [lambda v, w: v + w, lambda v, w: v - w])
def test_vectors_of_two_models_cannot_be_combined_and_both_are_named(combine):
    v = reading().vectors()
    message = refused(lambda: combine(v, of_other_model(v)))
    assert message == "these vectors belong to toy (hub/toy@abc), not to giant (hub/toy@xyz)"


@pytest.mark.parametrize("other", [{"layers": (0, 1, 2, 6)}, {"emotions": ("calm", "sad")}])
def test_vectors_of_other_emotions_or_layers_cannot_be_combined(other):
    v = reading().vectors(emotions=["sad", "calm"])
    assert "different emotions, layers or widths" in refused(lambda: v + replace(v, **other))


def test_check_passes_the_same_weights_and_names_both_models_otherwise():
    v = reading().vectors()
    same, other = ({"source": "hub/toy", "weights_id": "abc"}, {"source": "openai/gpt2", "weights_id": "def"})
    model = Model("alias", None, None, [], 6, 6, 512, False, same)
    assert v.check(model) is v
    message = refused(lambda: v.check(replace(model, name="gpt2", provenance=other)))
    assert message == "these vectors belong to toy (hub/toy@abc), not to gpt2 (openai/gpt2@def)"
    message = refused(lambda: v.check(replace(model, n_layers=4)))
    assert message == "layer 5 is out of range: alias has layers 0 (embeddings) to 4"
    assert refused(lambda: v.check(replace(model, d_model=8))) == "vectors of width 6 do not fit alias, which has 8"


# -- files ----------------------------------------------------------------------------------------------------------


def test_saving_and_loading_returns_every_bit_and_leaves_nothing_beside(tmp_path):
    v = reading().vectors(emotions=["sad", "calm"])
    v.values[0, 0, :3] = [np.float32(1e-42), -0.0, np.float32(3e38)]
    for vectors in (v, v.unit() * 2):
        vectors.save(tmp_path / "new" / "v.safetensors")
        loaded = EmotionVectors.load(tmp_path / "new" / "v.safetensors")
        assert same(vectors, loaded)
        assert loaded.values.tobytes() == vectors.values.tobytes()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["v.safetensors"]


def test_the_same_vectors_give_the_same_bytes(tmp_path):
    contents = set()
    for number in range(8):
        reading().vectors().save(tmp_path / f"{number}")
        contents.add((tmp_path / f"{number}").read_bytes())
    assert len(contents) == 1


@pytest.mark.parametrize("suffix", ["pt", "pth", "bin", "npz", "gguf", "vec"])
def test_a_file_of_any_name_is_read_by_what_it_holds(tmp_path, suffix):
    v, path = reading().vectors(emotions=["sad", "calm"]), tmp_path / f"v.{suffix}"
    v.save(path)
    assert same(v, EmotionVectors.load(path))
    path.write_bytes(path.read_bytes()[:-1])
    assert refused(lambda: EmotionVectors.load(path)).startswith(f"{path} is damaged or no vector file (")


def test_a_file_with_its_header_in_another_order_loads(tmp_path):
    """As versions before this one wrote it."""
    v = reading().vectors()
    v.save(tmp_path / "v.safetensors")
    with safe_open(tmp_path / "v.safetensors", framework="numpy") as file:
        header = file.metadata()
    for number in range(4):
        path = tmp_path / f"{number}.safetensors"
        save_file(load_file(tmp_path / "v.safetensors"), path, metadata=header)
        assert same(v, EmotionVectors.load(path))


def test_the_header_tells_the_layer_convention_and_the_provenance(tmp_path):
    v = reading().vectors(emotions=["sad", "calm"])
    v.save(tmp_path / "v.safetensors")
    with safe_open(tmp_path / "v.safetensors", framework="numpy") as file:
        header = file.metadata()
    assert header["layer_convention"] == "0 = embedding output, i = output of decoder layer i"
    assert header["format"] == "emotrace-vectors-1"
    assert json.loads(header["emotions"]) == ["sad", "calm"]
    assert json.loads(header["layers"]) == LAYERS
    assert json.loads(header["provenance"]) == {**PROVENANCE, "pooling": "last", "centring": "grand"}


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    path = tmp_path / "v.safetensors"
    reading().vectors().save(path)
    content = path.read_bytes()
    for length in [*range(0, 40, 3), len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:length])
        assert refused(lambda: EmotionVectors.load(path)).startswith(f"{path} is damaged or no vector file (")


def test_any_flipped_byte_of_the_header_is_refused(tmp_path):
    path = tmp_path / "v.safetensors"
    reading().vectors(emotions=["sad"]).save(path)
    content = path.read_bytes()
    for place in range(8 + int.from_bytes(content[:8], "little")):
        flipped = bytearray(content)
        flipped[place] ^= 0xFF
        path.write_bytes(flipped)
        assert str(path) in refused(lambda: EmotionVectors.load(path))


@pytest.mark.parametrize("metadata", [None, {"format": "emotrace-vectors-0"}, {"format": "pt"}])
def test_a_file_of_another_format_is_refused(tmp_path, metadata):
    path = tmp_path / "v.safetensors"
    reading().vectors(emotions=["sad"]).save(path)
    save_file(load_file(path), path, metadata=metadata)
    assert refused(lambda: EmotionVectors.load(path)) == f"{path} is no file of emotion vectors (emotrace-vectors-1)"


@pytest.mark.parametrize("lacking", ["emotions", "layers", "provenance", "values"])
def test_a_file_that_lacks_a_part_is_refused(tmp_path, lacking):
    path = tmp_path / "v.safetensors"
    reading().vectors(emotions=["sad"]).save(path)
    with safe_open(path, framework="numpy") as file:
        header = file.metadata()
    tensors = load_file(path)
    header.pop(lacking, None)
    tensors.pop(lacking, None)
    save_file(tensors, path, metadata=header)
    assert lacking in refused(lambda: EmotionVectors.load(path))


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert refused(lambda: EmotionVectors.load(tmp_path / "none")) == f"no file {tmp_path / 'none'}"
    assert refused(lambda: EmotionVectors.load(tmp_path)).startswith(f"no file of vectors in {tmp_path}: ")


def write_safetensors(vectors, path):
    vectors.save(path)


def write_gguf(vectors, path):
    vectors.export_gguf(path, "sad")


@pytest.mark.parametrize("write", [write_safetensors, write_gguf])
@pytest.mark.parametrize("inside", ["v", "deeper/v"])
def test_writing_below_a_file_is_refused(tmp_path, write, inside):
    (tmp_path / "file").write_text("kept")
    path = tmp_path / "file" / inside
    assert refused(lambda: write(reading().vectors(), path)).startswith(f"{path} cannot be written: ")
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("write", [write_safetensors, write_gguf])
def test_writing_onto_a_folder_is_refused_and_leaves_nothing_beside(tmp_path, write):
    (tmp_path / "v").mkdir()
    assert "v cannot be written: " in refused(lambda: write(reading().vectors(), tmp_path / "v"))
    assert [path.name for path in tmp_path.iterdir()] == ["v"]


# -- llama.cpp ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "expected"), [(None, [2, 5]), ([5], [5])])
def test_an_exported_control_vector_reads_back_one_layer_lower(tmp_path, layers, expected):
    v = reading().vectors()
    v.export_gguf(tmp_path / "new" / "sad.gguf", "sad", layers)
    reader = gguf.GGUFReader(tmp_path / "new" / "sad.gguf")
    assert [tensor.name for tensor in reader.tensors] == [f"direction.{layer - 1}" for layer in expected]
    for tensor, layer in zip(reader.tensors, expected, strict=True):
        np.testing.assert_array_equal(tensor.data, v["sad", layer])
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert reader.fields["controlvector.model_hint"].contents() == "llama"
    assert reader.fields["controlvector.layer_count"].contents() == len(expected)
    assert json.loads(reader.fields["emotrace.provenance"].contents()) == v.provenance
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sad.gguf"]


@pytest.mark.parametrize(
    ("emotion", "layers", "message"),
    [
        ("sad", [1], "layer 1 cannot be exported"),
        ("sad", [5, 0], "layer 0 cannot be exported"),
        ("sad", [], "no layer to export"),
        ("sad", [4], "unknown layer '4': known are 0, 1, 2, 5"),
        ("merry", None, "unknown emotion 'merry': known are happy, sad"),
    ],
)
def test_what_llama_cpp_cannot_take_is_refused_and_nothing_is_written(tmp_path, emotion, layers, message):
    assert message in refused(lambda: reading().vectors().export_gguf(tmp_path / "x.gguf", emotion, layers))
    assert not list(tmp_path.iterdir())
