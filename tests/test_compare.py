"""Vectors of other tools: the same from every shape of file, bad files in one line; and sets of them compared."""

import json
import pickle
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file
from scipy import stats

import emotrace
from emotrace import cli
from emotrace.errors import EmotraceError
from emotrace.measures import geometry, statistics
from emotrace.measures.rdm_agreement import centred, rdm_agreement, rdm_reliability
from emotrace.vectors import EmotionVectors

NAMES, LAYERS = ["sad", "grief-stricken", "calm", "proud", "joy2"], [3, 8]
VALUES = np.random.default_rng(5).normal(size=(5, 2, 6)).astype(np.float32)
CELLS = [(name, layer, VALUES[at, index]) for at, name in enumerate(NAMES) for index, layer in enumerate(LAYERS)]
BY_EMOTION = {name: {layer: VALUES[at, index] for index, layer in enumerate(LAYERS)} for at, name in enumerate(NAMES)}


def tensors(content):
    if isinstance(content, dict):
        return {name: tensors(inside) for name, inside in content.items()}
    return torch.tensor(content) if isinstance(content, np.ndarray) else content


def torch_file(path, content):
    torch.save(tensors(content), path)


def npz(path, content):
    np.savez(path, **content)


def manifest(path, **said):
    path.with_suffix(".json").write_text(json.dumps(said))


def with_manifest(path, content):
    npz(path, content)
    manifest(path, emotions=NAMES, layers=LAYERS, model="theirs")


def safetensors(path, content, **said):
    save_file(content, path, metadata={name: json.dumps(value) for name, value in said.items()})


def half_precision(path, content):
    from safetensors.torch import save_file

    save_file({name: torch.tensor(value).bfloat16() for name, value in content.items()}, path)


def per_emotion(path, content):
    path.mkdir()
    for name, values in content.items():
        torch.save({layer: torch.tensor(vector) for layer, vector in values.items()}, path / f"{name}.pt")


AXES = {"emotions": np.array(NAMES), "layers": np.array(LAYERS)}
SHAPES = [
    ("v.npz", npz, {f"layer_{layer}__{name}": vector for name, layer, vector in CELLS}),
    ("v.npz", npz, {f"{name}.{layer}": vector for name, layer, vector in CELLS}),
    ("v.npz", npz, {"vectors": VALUES, **AXES}),
    ("v.npz", npz, {"values": VALUES, **AXES, "model": np.array("theirs")}),
    ("v.npz", with_manifest, {"arr_0": VALUES.astype(np.float64)}),
    ("v.npz", npz, {**dict(zip(NAMES, VALUES, strict=True)), "layers": np.array(LAYERS)}),
    ("v.npz", npz, {"layer_3": VALUES[:, 0], "layer_8": VALUES[:, 1], "names": np.array(NAMES)}),
    ("v.pt", torch_file, BY_EMOTION),
    ("v.pt", torch_file, {layer: {name: BY_EMOTION[name][layer][None] for name in NAMES} for layer in LAYERS}),
    ("v.pt", torch_file, {"vectors": BY_EMOTION, "model": "theirs"}),
    ("v.pt", torch_file, {"values": VALUES, "emotions": NAMES, "layers": LAYERS}),
    ("v.safetensors", safetensors, {f"{name}/layers.{layer}": vector.copy() for name, layer, vector in CELLS}),
    ("v.safetensors", half_precision, {f"{name}_layer_{layer}": vector for name, layer, vector in CELLS}),
    ("folder", per_emotion, BY_EMOTION),
]


@pytest.mark.parametrize(("file", "write", "content"), SHAPES)
def test_every_shape_of_file_gives_the_same_directions(file, write, content, tmp_path):
    write(tmp_path / file, content)
    found = EmotionVectors.load(tmp_path / file, layers_are="block-output")
    assert set(found.emotions) == set(NAMES)
    assert found.layers == (4, 9)  # the outputs of the decoder layers 3 and 8, counted from 0
    exact = 0.01 if write is half_precision else 0
    for name, layer, vector in CELLS:
        np.testing.assert_allclose(found[name, layer + 1], vector, rtol=exact)
    assert EmotionVectors.load(tmp_path / file, layers_are="hidden-states").layers == (3, 8)
    with pytest.raises(EmotraceError, match=r"does not say what its layer numbers are: .*block-output .*hidden-states"):
        EmotionVectors.load(tmp_path / file)


def ours(seed=0, emotions=NAMES, layers=(2, 3, 5), width=12, **provenance) -> EmotionVectors:
    values = np.random.default_rng(seed).normal(size=(len(emotions), len(layers), width)).astype(np.float32)
    means = [np.ones((len(layers), width), np.float32)] * 3
    return EmotionVectors(
        tuple(emotions), tuple(layers), values, *means, provenance={"centring": "grand", **provenance}
    )


def test_control_vectors_come_back_at_the_layers_that_they_were_exported_from(tmp_path):
    about = {"model": "toy", "source": "hub/toy", "weights_id": "abc", "class": "llama"}
    v = ours(**about)
    for name in v.emotions:
        v.export_gguf(tmp_path / f"{name}.gguf", name)
    back = EmotionVectors.load(tmp_path)
    assert back.layers == v.layers
    for name in v.emotions:
        np.testing.assert_array_equal(back[name], v[name])
    table = emotrace.compare(v, tmp_path)  # the same weights: by cosine, too
    cosines = table[table["metric"] == "cosine"]
    assert cosines["layer_a"].tolist() == cosines["layer_b"].tolist() == [2, 3, 5]
    np.testing.assert_allclose(cosines["value"], 1)
    with pytest.raises(
        EmotraceError, match=r"of another tool: GGUF control vectors, block-output\) say not whose weights"
    ):
        back._same_weights("toy", about)
    with pytest.raises(EmotraceError, match="cannot be centred anew"):
        back.recentre("none")


def test_tensors_of_repeng_are_read_under_their_own_names(tmp_path):
    """A control vector as repeng writes it: without a description, by the number of the decoder layer."""
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "honest.gguf", "controlvector")
    writer.add_string("controlvector.model_hint", "mistral")
    writer.add_uint32("controlvector.layer_count", 2)
    for layer in (7, 6):
        writer.add_tensor(f"direction.{layer}", np.full(4, layer, np.float32))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    found = EmotionVectors.load(tmp_path / "honest.gguf")
    assert (found.emotions, found.layers) == (("honest",), (7, 8))
    assert found["honest", 8].tolist() == [7] * 4


def broken(write, file="v.npz"):
    return lambda folder: (write(folder / file), folder / file)[1]


def unknown_gguf(path):
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()


class Code:
    def __reduce__(self):
        return print, ("run",)


def without(cell):
    return {f"{name}.{layer}": vector for name, layer, vector in CELLS if (name, layer) != cell}


def truncated(path):
    npz(path, {"sad.1": VALUES[0, 0]})
    path.write_bytes(path.read_bytes()[:-30])


def wrong_manifest(path, content='["sad"]'):
    npz(path, {"vectors": VALUES})
    path.with_suffix(".json").write_text(content)


def more_names(path):
    npz(path, {"vectors": VALUES})
    manifest(path, emotions=[*NAMES, "more"], layers=LAYERS)


def not_finite(path):
    npz(path, {"calm.4": np.array([1.0, np.inf])})


BAD = [
    (broken(truncated), r"is damaged or no file of tensors"),
    (broken(lambda path: path.write_bytes(b"PK\3\4 and no more")), "damaged or no"),
    (broken(lambda path: path.write_text("sad,1,2"), "v.pt"), "is damaged or no|holds more than tensors"),
    (broken(lambda path: path.write_text("sad,1,2"), "v.safetensors"), "is damaged or no vector file"),
    (broken(lambda path: path.write_bytes(b"GGUF" + bytes(40)), "v.gguf"), "is damaged or no file of tensors"),
    (broken(unknown_gguf, "v.gguf"), "is a GGUF file of architecture 'llama', no control vector"),
    (broken(lambda path: torch.save({"sad": Code()}, path), "v.pt"), "holds more than tensors .* never run"),
    (broken(lambda path: path.write_bytes(pickle.dumps(Code())), "v.pt"), "holds more than tensors .* never run"),
    (broken(lambda path: npz(path, {"sad.1": np.array([Code()], dtype=object)})), "holds pickled objects"),
    (broken(lambda path: npz(path, {"sad.1": np.arange(3)})), "holds no tensor of floats"),
    (
        broken(lambda path: npz(path, {"vectors": VALUES})),
        r'does not name its 5 emotions: put {"emotions": \[…\]} into',
    ),
    (broken(lambda path: npz(path, {"sad": VALUES[0]})), "does not name its 2 layers"),
    (broken(lambda path: npz(path, {"vectors": VALUES, "emotions": AXES["emotions"]})), "does not name its 2 layers"),
    (broken(more_names), "has 5 emotions, its names are 6: "),
    (broken(wrong_manifest), r"v.json is no manifest of vectors \(no object\)"),
    (broken(lambda path: wrong_manifest(path, "{")), r"v.json is no manifest of vectors \("),
    (broken(lambda path: npz(path, {"sad": VALUES[0, 0]})), r"'sad' of shape \(6,\) is not understood"),
    (broken(lambda path: npz(path, {"sad.1": VALUES})), r"'sad.1' of shape \(5, 2, 6\) is not understood"),
    (broken(lambda path: npz(path, without(("calm", 8)))), r"'calm' has no layer 9 \(by our counting\), others have"),
    (broken(lambda path: npz(path, {"a.1": VALUES[0, 0], "b.1": VALUES[0, 0, :3]})), "of different widths: 3, 6"),
    (broken(not_finite), "'calm' at layer 5 is not finite"),
    (broken(lambda path: npz(path, {"sad.1": VALUES[0, 0], "sad_1": VALUES[0, 0]})), "'sad' at layer 2 is there twice"),
    (broken(lambda path: torch_file(path, {"sad": {-1: VALUES[0, 0]}}), "v.pt"), "layer -1 counts from the end"),
    (broken(lambda path: manifest(path, layers=[-1, 2]) or npz(path, {"sad": VALUES[0]})), "layer -1 counts from the"),
    (broken(lambda path: npz(path, {"sad.1": np.zeros(0)})), "its vectors have no numbers"),
    (
        broken(lambda path: torch_file(path, {"a": {"b": {1: VALUES[0, 0]}}}), "v.pt"),
        "'a/b/1' names more than an emotion",
    ),
    (
        broken(lambda path: manifest(path, layers=[1]) or npz(path, {"v": VALUES[0]})),
        "'v' has 2 layers, its names are 1",
    ),
    (lambda folder: folder, "no file of vectors in .*: .npz, .pt"),
    (lambda folder: folder / "none", "no file .*none"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("make", "message"), BAD)
def test_a_bad_file_is_one_line(make, message, tmp_path, capfd):
    with pytest.raises(EmotraceError, match=message) as error:
        EmotionVectors.load(make(tmp_path), layers_are="block-output")
    assert "\n" not in str(error.value)
    assert "run" not in capfd.readouterr().out.split()


def test_a_wrong_word_for_the_layers_is_one_line(tmp_path):
    npz(tmp_path / "v.npz", {"sad.1": VALUES[0, 0]})
    with pytest.raises(EmotraceError, match="layer convention"):
        EmotionVectors.load(tmp_path / "v.npz", layers_are="from 1")


# -- compare -----------------------------------------------------------------------------------------------------------


def test_rho_of_every_pair_of_layers_is_spearmans_on_the_distances():
    a, b = ours(1, width=7).values, ours(2, layers=(1, 2), width=9).values
    found = rdm_agreement(a, b, 200, np.random.default_rng(0))
    assert found.value.shape == (3, 2)
    upper = np.triu_indices(len(NAMES), 1)
    for i in range(3):
        for j in range(2):
            rdms = [geometry.rdm(centred(values)[at]) for values, at in ((a, i), (b, j))]
            expected = stats.spearmanr(rdms[0][upper], rdms[1][upper]).statistic
            assert found.value[i, j] == pytest.approx(expected)
            rho, p = statistics.mantel(rdms[0], rdms[1], 2000, np.random.default_rng(1))
            assert rho == pytest.approx(expected)
            assert found.p[i, j] == pytest.approx(p, abs=0.12)
    assert (found.p_max >= found.p).all()
    assert found.p_max.max() > found.p.max()


def test_another_width_another_centre_and_another_order_do_not_matter():
    names = [f"e{number}" for number in range(8)]
    first = ours(3, names, width=6)
    turned = np.linalg.qr(np.random.default_rng(4).normal(size=(10, 10)))[0][:6]  # into a wider model
    moved = 5 * first.values @ turned.astype(np.float32) + np.arange(10, dtype=np.float32)
    means = [np.zeros((3, 10), np.float32)] * 3
    second = EmotionVectors(tuple(name.upper() for name in names[::-1]), (1, 2, 3), moved[::-1].copy(), *means)
    table = emotrace.compare(first, second)
    assert set(table["metric"]) == {"rdm_rho"}
    same = table[table["layer_a"].isin([2]) & table["layer_b"].isin([1])]
    assert same["value"].item() == pytest.approx(1, abs=1e-6)
    assert same["p_max"].item() <= 0.002
    others = table[~table["value"].between(0.999, 1.001)]
    assert len(others) == 6
    assert others["value"].abs().max() < 0.8
    assert table["n"].unique().tolist() == [8]
    assert table.groupby("metric")["best"].sum().tolist() == [1]


def test_chance_agreement_is_significant_no_more_often_than_it_may():
    names = [f"e{number}" for number in range(9)]
    p = [
        emotrace.compare(ours(2 * seed, names), ours(2 * seed + 1, names), permutations=99)
        .query("best")["p_max"]
        .item()
        for seed in range(40)
    ]
    assert np.mean(np.array(p) <= 0.1) <= 0.25  # the best of nine pairs; without the correction it would be 0.5


def test_cosines_are_of_one_model_alone_and_from_the_common_centre():
    a, b = ours(1, model="toy"), ours(2, model="toy")
    table = emotrace.compare(a, b).query("metric == 'cosine'")
    first, second = (centred(one.values)[1] for one in (a, b))
    cosines = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(first, second, strict=True)]
    assert table.set_index("layer_a").loc[3, "value"] == pytest.approx(np.mean(cosines))
    assert not len(emotrace.compare(a, ours(2, model="other")).query("metric == 'cosine'"))
    weights = {"source": "hub/toy", "model": "toy"}
    other = [ours(seed, weights_id=f"w{seed}", **weights) for seed in (1, 2)]
    assert not len(emotrace.compare(*other).query("metric == 'cosine'"))
    assert len(emotrace.compare(*other, same_model=True).query("metric == 'cosine'")) == 3
    with pytest.raises(EmotraceError, match=r"of different widths \(12 and 5\), so of different models"):
        emotrace.compare(a, ours(2, width=5), same_model=True)


def test_distances_are_as_reliable_as_halves_of_the_topics_agree(tmp_path):
    rng = np.random.default_rng(0)
    feeling = rng.normal(size=(5, 12))

    def kept(noise, counts=3):
        texts = feeling[None, :, None] + noise * rng.normal(size=(8, 5, counts, 12)) + 4  # [topic, emotion, text, d]
        return np.einsum("tend,sfmd->tesf", texts, texts), np.full((8, 5), counts), texts

    gram, counts, _ = kept(0.0)
    assert rdm_reliability(gram, counts, 20, rng) == pytest.approx(1)
    found = [rdm_reliability(*kept(noise)[:2], 50, rng) for noise in (1.0, 3.0)]
    assert 1 > found[0] > found[1] > 0
    gram, counts, texts = kept(2.0)
    rhos = []
    for _ in range(400):
        order = rng.permutation(8)
        means = [texts[half].mean(axis=(0, 2)) for half in (order[:4], order[4:])]
        rdms = [geometry.rdm(mean - mean.mean(axis=0))[np.triu_indices(5, 1)] for mean in means]
        rhos.append(stats.spearmanr(*rdms).statistic)
    expected = 2 * np.mean(rhos) / (1 + np.mean(rhos))
    assert rdm_reliability(gram, counts, 400, rng) == pytest.approx(expected, abs=0.05)
    assert np.isnan(rdm_reliability(gram, counts * (np.arange(8) == 0)[:, None], 20, rng))
    # Two of four topics hold a triangle of equal sides, whose distances have no order: such a half is not counted.
    tied = np.concatenate([np.stack([np.eye(3)] * 2), np.stack([feeling[:3, :3]] * 2)])
    found = rdm_reliability(np.einsum("ted,ufd->teuf", tied, tied), np.ones((4, 3)), 20, np.random.default_rng(0))
    assert found == pytest.approx(1)

    ours(0).save(tmp_path / "run.safetensors")
    np.savez(tmp_path / "run-topics.npz", gram=gram, counts=counts, emotions=NAMES, topics=list("abcdefgh"), layer=3)
    row = emotrace.compare(tmp_path / "run.safetensors", ours(1)).query("metric == 'rdm_ceiling'").iloc[0]
    assert (row["layer_a"], row["n"]) == (3, 5)
    assert np.isnan(row["layer_b"])
    assert row["value"] == pytest.approx(np.sqrt(expected), abs=0.05)
    assert not len(emotrace.compare(ours(0), ours(1)).query("metric == 'rdm_ceiling'"))


def test_too_little_to_compare_is_one_line(tmp_path):
    with pytest.raises(EmotraceError, match="name two or more, not 1"):
        emotrace.compare(ours())
    with pytest.raises(EmotraceError, match=r"have 1 emotions in common \(sad\): 4 are needed"):
        emotrace.compare(ours(), ours(1, ["sad", "x", "y", "z"]))
    with pytest.raises(EmotraceError, match="has 'sad' twice, but for case"):
        emotrace.compare(ours(), ours(1, ["sad", "Sad", "y", "z"]))
    with pytest.raises(EmotraceError, match="a seed is 0 or more, not -1"):
        emotrace.compare(ours(), ours(1), seed=-1)
    with pytest.raises(EmotraceError, match="or the path of a file or folder of them, are compared, not 3"):
        emotrace.compare(ours(), 3)
    ours().save(tmp_path / "v.safetensors")
    with pytest.raises(EmotraceError, match="the same file is named twice: "):
        emotrace.compare(tmp_path / "v.safetensors", tmp_path / "v.safetensors")


def test_the_command_says_what_the_layers_are_and_writes_every_pair(tmp_path, monkeypatch, capsys):
    for folder, seed in (("a", 0), ("b", 1)):
        (tmp_path / folder).mkdir()
        ours(seed).save(tmp_path / folder / "v.safetensors")
    npz(tmp_path / "theirs.npz", {f"layer_{layer}__{name}": vector for name, layer, vector in CELLS})
    out = tmp_path / "out.csv"
    files = [tmp_path / "a/v.safetensors", tmp_path / "b/v.safetensors", tmp_path / "theirs.npz"]

    def run(*more):
        monkeypatch.setattr(sys, "argv", ["emotrace", "compare", *map(str, files), "--out", str(out), *more])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code or 0

    assert run() == 2
    assert "theirs.npz does not say what its layer numbers are" in capsys.readouterr().err
    assert run("--layers-are", "block-output") == 0
    said = capsys.readouterr().out
    assert "5 emotions, layers 4, 9, width 6; of another tool: .npz file, block-output" in said
    table = pd.read_csv(out)
    assert table.groupby(["a", "b"]).size().to_dict() == {
        ("a/v.safetensors", "b/v.safetensors"): 9,
        ("a/v.safetensors", f"{tmp_path.name}/theirs.npz"): 6,
        ("b/v.safetensors", f"{tmp_path.name}/theirs.npz"): 6,
    }
