"""Defaults that mean the same everywhere, numbers that are none, and what small calls are given wrong."""

import copy
import dataclasses
import importlib
import pkgutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny_models
import torch
from nnsight.intervention.backends.remote import RemoteError

import emotrace
from emotrace import activations, in_trace, readings, scoring, steered_texts, steering, stories, tokens
from emotrace.errors import EmotraceError
from emotrace.hosts import checkpoints
from emotrace.hosts.faults import diagnose
from emotrace.hosts.turns import loop_to_the_end
from emotrace.instrument import corpus
from emotrace.judges import calibration
from emotrace.study import experiments, pipeline
from emotrace.study.folder import read_manifest
from emotrace.tokens import Writing
from emotrace.whatif import text_reading

TEXT, PROMPT = "The rain fell on the roof all night.", "The door opened, and she"
SHORT = Writing(5)


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("llama", n_layers=6)


@pytest.fixture(scope="module")
def vectors(model):
    return emotrace.extract(model, pooling="mean", emotions=["happy", "sad", "calm"])


def calibrated(vectors, layers=(2, 3, 5), positions="all"):
    window = (-0.4, 0.4)
    return calibration.Calibration(list(layers), window, 0.9, 40, positions, 0.7).onto(vectors)


# -- calibrated layers and positions are the defaults everywhere -------------------------------------------------------


@pytest.mark.parametrize("positions", tokens.POSITIONS)
@pytest.mark.parametrize("layers", [(2, 3, 5), (4,), (1, 6)])
def test_what_is_calibrated_is_the_default_of_every_function(model, vectors, layers, positions):
    ours = calibrated(vectors, layers, positions)
    said = {"layers": list(layers), "writing": Writing(5, 0.7, positions)}  # as the calibration wrote
    expected = steered_texts.steer(model, PROMPT, vectors, 0.4, emotions="sad", **said)
    assert steered_texts.steer(model, PROMPT, ours, emotions="sad", writing=SHORT).equals(expected)
    row = steered_texts.Row(PROMPT, ours, "sad", 0.4)
    assert list(steered_texts.write(model, [row], layers, SHORT)["tokens"]) == list(expected["tokens"])
    result = emotrace.what_if(model, PROMPT, "sad", vectors=ours, writing=SHORT, judge=False)
    assert result.steered == expected["text"].iloc[0]
    nearest = min(layers, key=lambda layer: abs(layer - 3))
    assert (result.layer, result.layers) == (nearest, layers)
    assert ("others" in result.settings()) == (len(layers) > 1)
    assert emotrace.read_emotions(model, TEXT, vectors=ours).layers == (nearest,)
    assert set(text_reading.project_text(model, TEXT, vectors=ours)["layer"]) == {nearest}
    # What is said goes before what is calibrated.
    other = "all" if positions == "generated" else "generated"
    own = steered_texts.steer(model, PROMPT, ours, emotions="sad", layers=6, writing=Writing(5, positions=other))
    plain = steered_texts.steer(
        model, PROMPT, vectors, 0.4, emotions="sad", layers=6, writing=Writing(5, 0.7, positions=other)
    )
    assert own.equals(plain)


def test_calibrating_keeps_what_it_was_told(model, vectors):
    for writing, positions in ((Writing(4, 0.7, "all"), "all"), (calibration.WRITING, "generated")):
        found, _ = calibration.calibrate(model, vectors, layers=[3], texts=2, writing=writing)
        assert found.positions == positions
    again, _ = calibration.calibrate(model, calibrated(vectors), texts=2, writing=Writing(4, 0.7))
    assert (again.layers, again.positions) == ([2, 3, 5], "all")


def test_rows_calibrated_at_different_positions_are_not_mixed(model, vectors):
    rows = [steered_texts.Row(PROMPT, calibrated(vectors, positions=one), "sad", 0.3) for one in tokens.POSITIONS]
    with pytest.raises(EmotraceError, match="calibrated at different positions"):
        steered_texts.write(model, rows, [3], SHORT)
    assert len(steered_texts.write(model, rows, [3], Writing(5, positions="all"))) == 2


@pytest.mark.parametrize(
    ("kept", "default"), [([2], 2), ([1, 4, 6], 4), ([1, 5], 1), ([0, 1], 1), ([0, 4], 4), (None, 3)]
)
def test_vectors_without_the_default_depth_are_used_at_their_nearest(model, kept, default):
    some = emotrace.extract(model, pooling="mean", emotions=["happy", "sad"], layers=kept)
    assert steered_texts.steered_layers(model, some, None) == [default]
    table = steered_texts.steer(model, PROMPT, some, 0.3, emotions="sad", writing=SHORT)
    assert table.equals(steered_texts.steer(model, PROMPT, some, 0.3, emotions="sad", layers=default, writing=SHORT))
    assert emotrace.read_emotions(model, TEXT, vectors=some).layers == (default,)
    assert emotrace.what_if(model, PROMPT, "sad", vectors=some, writing=SHORT, judge=False).layer == default


def test_vectors_of_the_embeddings_alone_steer_nothing(model):
    bare = emotrace.extract(model, pooling="mean", emotions=["happy", "sad"], layers=[0])
    with pytest.raises(EmotraceError, match="layer 0 is the embedding output, which is not steered"):
        steered_texts.steer(model, PROMPT, bare, 0.3)


# -- an edit is computed in float32 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["ablate", "add", "on the fly"])
def test_an_edit_is_rounded_once_whatever_the_models_dtype(dtype, kind):
    generator = torch.Generator().manual_seed(0)
    hidden = (torch.randn(2, 5, 256, generator=generator) * 20).to(dtype)
    direction = torch.randn(2, 256, generator=generator)
    direction /= direction.norm(dim=1, keepdim=True)
    exact, unit = hidden.double(), direction.double()[:, None, :]
    if kind == "ablate":
        right = exact - (exact * unit).sum(dim=-1, keepdim=True) * unit
    else:
        right = exact + unit * (exact.norm(dim=-1, keepdim=True) if kind == "on the fly" else 1)
    ours = in_trace.edited(hidden, direction, ablate=kind == "ablate", on_the_fly=kind == "on the fly")
    assert ours.dtype == dtype
    rounding = torch.finfo(torch.float32 if dtype == torch.float64 else dtype).eps
    assert ((ours.double() - right).abs() <= 0.51 * rounding * right.abs() + 1e-5).all()


def test_a_direction_is_projected_out_whole_in_bfloat16(tiny_folder):
    model = emotrace.load(str(tiny_folder("llama", n_layers=6)), dtype="bfloat16")
    vectors = emotrace.extract(model, pooling="mean", emotions=["happy", "sad"])
    edit = steering.ablation(vectors, ["happy", "sad"], [3])
    prompts = [TEXT, PROMPT]
    left, stream = (scoring.score(model, prompts, one, read_layers=[3])["stream"][:, 0] for one in (edit, None))
    unit = np.stack([vectors.direction(name, 3) for name in ("happy", "sad")])
    before, after = np.abs((stream * unit).sum(axis=1)), np.abs((left * unit).sum(axis=1))
    # What is left is the rounding of 32 numbers to bfloat16, not that of a direction of 32 rounded numbers.
    assert (after < 2**-9 * np.linalg.norm(stream, axis=1)).all(), (before, after)


# -- a batch that is too large is halved, whatever reads or writes it --------------------------------------------------


MEMORY = {
    "a GPU's": torch.cuda.OutOfMemoryError("CUDA out of memory"),
    "torch's on Linux": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 9000000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "torch's on Windows": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9000 bytes."),
    "Apple's": RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
    "numpy's": MemoryError("Unable to allocate 9. GiB for an array"),
}


def refusing(monkeypatch, model, largest, error=MEMORY["a GPU's"]):
    """A machine that holds ``largest`` rows: any larger batch runs out of memory."""
    module, forward, sizes = model.nn._module, model.nn._module.forward, []

    def limited(*args, **kwargs):
        rows = len(kwargs["input_ids"] if "input_ids" in kwargs else args[0])
        if rows > largest:
            raise error
        sizes.append(rows)
        return forward(*args, **kwargs)

    monkeypatch.setattr(module, "forward", limited)
    return sizes


TEXTS = [TEXT, PROMPT, "She laughed.", "He waited for the last train home.", "Nobody spoke."]


def halved_calls(model, edit):
    ids = [tokens.encode(model, [text])[0].ids for text in TEXTS]
    groups = np.eye(600, 2, dtype=np.float32)
    return {
        "read_activations": lambda: list(activations.read_activations(model, TEXTS)["mean"]),
        "read_tokens": lambda: activations.read_tokens(model, TEXTS),
        "residual_norms": lambda: [activations.residual_norms(model, TEXTS)],
        "read_while_writing": lambda: [
            row.stream for row in activations.read_while_writing(model, ids, Writing(4, 0.7), [1, 2, 3, 4, 5])
        ],
        "score": lambda: list(scoring.score(model, TEXTS, edit)["log_probabilities"]),
        "reread": lambda: scoring.reread(model, ids, [[7, 8, 9]] * 5, edit, groups),
        "log_likelihoods": lambda: scoring.log_likelihoods(model, ids, [[7, 8], [9], [10, 11, 12], [5], [6]]),
    }


@pytest.mark.parametrize("largest", [1, 2])
@pytest.mark.parametrize(
    "name",
    [
        *("read_activations", "read_tokens", "residual_norms", "read_while_writing"),
        *("score", "reread", "log_likelihoods"),
    ],
)
def test_out_of_memory_halves_the_batch_and_changes_no_number(tiny_folder, monkeypatch, name, largest):
    model = emotrace.load(str(tiny_folder("llama")))
    rows = torch.randn(5, model.d_model, generator=torch.Generator().manual_seed(1))
    call = halved_calls(model, steering.Edit({2: rows}))[name]
    whole = call()
    sizes = refusing(monkeypatch, model, largest)
    for ours, right in zip(call(), whole, strict=True):
        np.testing.assert_allclose(ours, right, rtol=1e-4, atol=1e-5)
    assert max(sizes) <= largest
    assert model.parts > 1


@pytest.mark.parametrize("error", MEMORY.values(), ids=MEMORY)
def test_whatever_memory_runs_out_the_batch_is_halved(tiny_folder, monkeypatch, error):
    model = emotrace.load(str(tiny_folder("llama")))
    whole = activations.read_activations(model, TEXTS)["mean"]
    sizes = refusing(monkeypatch, model, 2, error)
    np.testing.assert_allclose(activations.read_activations(model, TEXTS)["mean"], whole, rtol=1e-4, atol=1e-5)
    assert max(sizes) <= 2
    assert model.parts > 1


def test_another_error_of_the_runtime_is_no_lack_of_memory(tiny_folder, monkeypatch):
    model = emotrace.load(str(tiny_folder("llama")))
    refusing(monkeypatch, model, 2, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        activations.read_activations(model, TEXTS)
    assert model.parts == 1


def test_one_row_that_is_too_large_says_so(tiny_folder, monkeypatch):
    model = emotrace.load(str(tiny_folder("llama")))
    refusing(monkeypatch, model, 0)
    with pytest.raises(EmotraceError, match="one row alone is too large"):
        activations.read_tokens(model, TEXTS)


def test_long_prompts_part_a_batch_of_short_continuations(model, monkeypatch):
    """By logits alone, a thousand prompts of 2,000 tokens would be one batch."""
    monkeypatch.setattr(scoring, "SCORED_TOKENS", 40)
    sizes, one_batch = [], scoring._log_likelihoods_batch
    monkeypatch.setattr(
        scoring,
        "_log_likelihoods_batch",
        lambda m, texts, widths: sizes.append(len(texts)) or one_batch(m, texts, widths),
    )
    prompts = [list(range(5, 5 + length)) for length in (18, 3, 17, 4, 19, 2)]
    values = scoring.log_likelihoods(model, prompts, [[7]] * 6)
    assert max(sizes) == 2
    assert sum(sizes) == 6
    monkeypatch.setattr(scoring, "SCORED_TOKENS", 1 << 15)
    np.testing.assert_allclose(values, scoring.log_likelihoods(model, prompts, [[7]] * 6), rtol=1e-5)
    assert sizes[-1] == 6


# -- past the context ---


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral"])
def test_nothing_runs_past_the_context(tiny, family):
    """GPT-2 has no position for it, a llama would go on with numbers that mean nothing."""
    model, groups = tiny(family), np.ones((600, 1))
    whole, prompt, rest = [5] * 513, [5] * 505, [6] * 8
    vectors = emotrace.extract(model, pooling="mean", emotions=["happy", "sad"])
    long = "word " * 500
    for call in (
        lambda: scoring.log_likelihoods(model, [prompt], [rest]),
        lambda: scoring.reread(model, [[7], prompt], [[8], rest], None, groups),
        lambda: steering.generate(model, [prompt], None, Writing(8)),
        lambda: activations.read_while_writing(model, [prompt], Writing(8), [0]),
        lambda: activations.read_activations(model, [tokens.Tokens(tuple(whole), 0, 513)]),
        lambda: scoring.score(model, [tokens.Tokens(tuple(whole), 0, 513)], None),
        lambda: steered_texts.steer(model, long, vectors, 0.1, writing=Writing(8)),
        lambda: emotrace.what_if(model, long, "sad", vectors=vectors, writing=Writing(8), judge=False),
    ):
        with pytest.raises(
            EmotraceError, match=rf"(prompt|text) [12] is too long \(.*\): {model.name} takes up to 512"
        ):
            call()
    assert len(scoring.log_likelihoods(model, [prompt], [rest[:7]])[0]) == 7
    assert len(steering.generate(model, [prompt], None, Writing(7))[0]) <= 7


# -- small calls given wrong -------------------------------------------------------------------------------------------


def low_level(model):
    """What is called in the wrong way → words of the one line."""
    row, two = torch.ones(1, model.d_model), torch.ones(2, model.d_model)
    ids, groups = [[5, 6], [7, 8]], np.eye(600, 2, dtype=np.float32)
    edit = steering.Edit
    return [
        (lambda: steering.generate(model, []), "nothing to read"),
        (lambda: steering.generate(model, [[]]), "nothing to read"),
        (lambda: steering.generate(model, [[5], []]), "nothing to read"),
        (lambda: activations.read_while_writing(model, [], SHORT, []), None),
        (lambda: activations.read_while_writing(model, ids, Writing(3, 0.7), [1]), "needs a seed of its own: 1 are"),
        (lambda: scoring.score(model, [], None), "no prompts to read"),
        (lambda: scoring.score(model, [TEXT], None, groups=[]), "no group of tokens is asked for"),
        (
            lambda: scoring.score(model, [TEXT], None, groups=[[600]]),
            "a token of group 1 is 600: those of the model are 0 to 599",
        ),
        (
            lambda: scoring.score(model, [TEXT], None, groups=[[3], [-1]]),
            "a token of group 2 is -1: those of the model are 0 to 599",
        ),
        (lambda: scoring.log_likelihoods(model, [[], [5]], [[6], [7]]), "continuation 1 has no token before it"),
        (lambda: steering.generate(model, ids, edit({2: row})), r"the edit at layer 2 is \(1, 32\), not \(2, 32\)"),
        (lambda: steering.generate(model, ids, edit({2: two[:, :1]})), r"is \(2, 1\), not \(2, 32\)"),
        (lambda: steering.generate(model, ids, edit({9: two})), "layer 9 is out of range"),
        (lambda: scoring.score(model, [TEXT, PROMPT], edit({2: row})), r"is \(1, 32\), not \(2, 32\)"),
        (lambda: scoring.score(model, [TEXT, PROMPT], edit({9: two})), "layer 9 is out of range"),
        (lambda: scoring.reread(model, ids, [[9], [9]], edit({2: row}), groups), r"is \(1, 32\), not \(2, 32\)"),
        (lambda: scoring.reread(model, ids, [[9], [9]], edit({0: two, 7: two}), groups), "layer 7 is out of range"),
    ]


@pytest.mark.parametrize("number", range(17))
def test_what_small_calls_are_given_wrong_is_one_line(model, number):
    call, words = low_level(model)[number]
    if words is None:  # it means what it obviously means
        assert len(call()) in (0, 2)
        return
    with pytest.raises(EmotraceError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)


WRONG_MODELS = ["smollm2-135m-instruct", None, 3, SimpleNamespace(name="model"), emotrace]
WRONG_VECTORS = ["vectors.safetensors", {"happy": 1}, np.ones((3, 32)), 3]


@pytest.mark.parametrize("wrong", WRONG_MODELS, ids=lambda value: type(value).__name__)
def test_what_is_no_model_is_named(vectors, wrong):
    calls = [
        lambda: emotrace.extract(wrong),
        lambda: emotrace.steer(wrong, PROMPT, vectors, 0.1),
        lambda: emotrace.what_if(wrong, PROMPT, "sad"),
        lambda: emotrace.read_emotions(model=wrong, text=TEXT),
        lambda: text_reading.project_text(wrong, TEXT),
        lambda: activations.read_activations(wrong, [TEXT]),
        lambda: activations.read_tokens(wrong, [TEXT]),
        lambda: activations.residual_norms(wrong),
        lambda: steering.generate(wrong, [[5]]),
        lambda: scoring.score(wrong, [TEXT], None),
        lambda: calibration.calibrate(wrong, vectors),
        lambda: stories.write_stories(wrong),
        lambda: vectors.check(wrong),
    ]
    for call in calls:
        with pytest.raises(EmotraceError, match=r"^model: a model that emotrace.load returns is wanted, not "):
            call()


@pytest.mark.parametrize("wrong", WRONG_VECTORS, ids=lambda value: type(value).__name__)
def test_what_are_no_vectors_is_named(model, wrong):
    for call in (
        lambda: emotrace.steer(model, PROMPT, wrong, 0.1),
        lambda: emotrace.what_if(model, PROMPT, "sad", vectors=wrong),
        lambda: emotrace.read_emotions(model, TEXT, vectors=wrong),
        lambda: text_reading.project_text(model, TEXT, vectors=wrong),
        lambda: calibration.calibrate(model, wrong),
    ):
        with pytest.raises(EmotraceError, match=r"^vectors: emotion vectors, .* is wanted, not "):
            call()


@pytest.mark.parametrize("wrong", [40, None, {"max_new_tokens": 4}, "greedy"])
def test_what_is_no_writing_is_named(model, vectors, wrong):
    for call in (
        lambda: emotrace.steer(model, PROMPT, vectors, 0.1, writing=wrong),
        lambda: emotrace.what_if(model, PROMPT, "sad", vectors=vectors, writing=wrong),
        lambda: steering.generate(model, [[5]], None, wrong),
        lambda: stories.write_stories(model, writing=wrong),
    ):
        with pytest.raises(EmotraceError, match=r"^writing: an emotrace.Writing is wanted, not "):
            call()


@pytest.mark.parametrize("wrong", ["no", "false", 0, 1, None, []])
def test_what_is_no_flag_is_named(model, vectors, tiny_folder, wrong):
    with pytest.raises(EmotraceError, match=r"^chat is True or False, not "):
        Writing(chat=wrong)
    with pytest.raises(EmotraceError, match=r"^on_the_fly: True or False is wanted, not "):
        emotrace.steer(model, PROMPT, vectors, 0.1, on_the_fly=wrong)
    with pytest.raises(EmotraceError, match=r"^continuation: True or False is wanted, not "):
        emotrace.extract(model, method="generation", continuation=wrong)
    if wrong is not None:
        with pytest.raises(EmotraceError, match=r"^instruct: True or False is wanted, not "):
            emotrace.load(str(tiny_folder("llama")), instruct=wrong)


# -- equality, copies --------------------------------------------------------------------------------------------------


def test_vectors_are_equal_if_their_files_are(vectors, tmp_path):
    vectors.save(tmp_path / "v.safetensors")
    again = emotrace.EmotionVectors.load(tmp_path / "v.safetensors")
    assert vectors == again
    assert hash(vectors) == hash(again)
    assert {vectors: 1}[again] == 1
    others = [vectors * 2, -vectors, vectors.unit(), vectors.recentre("none"), calibrated(vectors), vectors * 1]
    others.append(dataclasses.replace(vectors, emotions=("a", "b", "c")))
    assert all(other != vectors for other in others)
    assert len({vectors, again, *others}) == 1 + len(others)
    assert vectors != "vectors"


def test_nothing_with_arrays_that_public_functions_take_or_give_is_compared_field_by_field():
    """A dataclass compares arrays as if they were numbers, and raises."""
    inner = ("emotrace.study", "emotrace.measures", "emotrace.judges")
    kinds = set()
    for module in pkgutil.walk_packages(emotrace.__path__, "emotrace."):
        if "__main__" not in module.name and not module.name.startswith(inner):
            kinds |= {
                kind
                for kind in vars(importlib.import_module(module.name)).values()
                if dataclasses.is_dataclass(kind) and isinstance(kind, type) and not kind.__module__.startswith(inner)
            }
    kinds = {kind for kind in kinds if not kind.__name__.startswith("_")}
    arrays = ("ndarray", "DataFrame", "Tensor", "EmotionVectors", "Module", "TokenReading")
    holding = {
        kind for kind in kinds if any(word in str(one.type) for one in dataclasses.fields(kind) for word in arrays)
    }
    assert len(holding) > 5
    assert {kind.__qualname__ for kind in holding if kind.__dataclass_params__.eq} == set()


def test_a_reading_and_a_what_if_can_be_compared_and_kept_in_a_set(model, vectors):
    result = emotrace.what_if(model, PROMPT, "sad", 0.2, vectors=vectors, writing=SHORT, judge=False)
    reading = result.sides[0].reading
    edit = steering.Edit({2: torch.ones(1, 32)})
    held = readings.read_texts(model, pd.DataFrame({"emotion": ["happy", "sad"], "text": TEXTS[:2]}))
    for value in (result, reading, result.sides[0], edit, held, model):
        assert value == value
        assert len({value, value}) == 1


def test_a_copy_of_a_model_is_the_model_and_a_deep_one_is_refused(model):
    other = copy.copy(model)
    assert type(other) is type(model)
    assert other.nn is model.nn
    other.name = "other"
    assert model.name != "other"
    assert other.lock is model.lock  # one model in memory, one thread in it
    read = [activations.read_activations(one, [TEXT])["mean"] for one in (model, other, dataclasses.replace(model))]
    np.testing.assert_array_equal(read[0], read[1])
    with pytest.raises(EmotraceError, match="is loaded, not copied"):
        copy.deepcopy(model)
    with pytest.raises(EmotraceError, match="is loaded, not copied"):
        copy.deepcopy({"kept": [model]})


# -- files beside a checkpoint -----------------------------------------------------------------------------------------


def test_vectors_written_into_a_models_folder_leave_it_the_same_model(tmp_path):
    folder = tiny_models.build("gpt2", tmp_path / "m")
    before = checkpoints.folder_digest(folder)
    vectors = emotrace.extract(emotrace.load(str(folder)), pooling="mean")
    vectors.save(folder / "vectors.safetensors")  # `emotrace extract .` in it
    vectors.save(folder / "vectors.safetensors")  # and once more
    (folder / "optimizer.bin").write_bytes(b"what training left")
    assert checkpoints.folder_digest(folder) == before
    assert vectors.check(emotrace.load(str(folder))) is vectors
    with pytest.raises(EmotraceError, match="lies in the model's own folder"):  # a run writes too much to go there
        pipeline.run([str(folder)], folder, chosen="anisotropy", quick=True)
    assert checkpoints.folder_digest(folder) == before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_vectors_replace_no_file_of_a_model(tmp_path, vectors, name):
    folder = tiny_models.build("gpt2", tmp_path / "m")
    content = (folder / name).read_bytes()
    with pytest.raises(EmotraceError, match=f"{name} is a file of a model, which vectors do not replace"):
        vectors.save(folder / name)
    assert (folder / name).read_bytes() == content
    vectors.save(tmp_path / name)  # no model lies there


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelt", ["m/llama/", "./m/llama", "m/../m/llama", "absolute", "linked"])
def test_a_run_goes_on_however_its_models_folder_is_spelt(tmp_path, monkeypatch, tiny_folder, spelt):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "llama").symlink_to(tiny_folder("llama"))
    if spelt == "linked":
        (tmp_path / "linked").symlink_to(tmp_path / "m" / "llama")
    pipeline.run(["m/llama"], tmp_path / "r", chosen="anisotropy", quick=True)
    table = (tmp_path / "r" / "tables" / "anisotropy.csv").read_bytes()
    given = str(tmp_path / "m" / "llama") if spelt == "absolute" else spelt
    pipeline.run([given], tmp_path / "r", chosen="anisotropy", quick=True, resume=True)
    assert (tmp_path / "r" / "tables" / "anisotropy.csv").read_bytes() == table
    assert str(tmp_path) not in (tmp_path / "r" / "manifest.json").read_text()


def test_a_run_to_resume_that_is_not_there_starts_afresh_and_says_so(tmp_path, tiny_folder, capsys):
    run = {"chosen": "anisotropy", "quick": True, "resume": True}
    pipeline.run([str(tiny_folder("llama"))], tmp_path / "r", **run)
    said = f"emotrace: there is no run in {tmp_path / 'r'} to go on with: it starts afresh"
    assert said in capsys.readouterr().err.splitlines()
    pipeline.run([str(tiny_folder("llama"))], tmp_path / "r", **run)
    assert "afresh" not in capsys.readouterr().err


def test_a_run_does_not_go_on_with_other_weights_of_the_same_name(tmp_path):
    for seed, parent in enumerate(("a", "b")):
        tiny_models.build("gpt2", tmp_path / parent / "m", seed=seed)
    pipeline.run([str(tmp_path / "a" / "m")], tmp_path / "r", chosen="anisotropy", quick=True)
    with pytest.raises(EmotraceError, match="holds a run of other weights of m: name another --out"):
        pipeline.run([str(tmp_path / "b" / "m")], tmp_path / "r", chosen="anisotropy", quick=True, resume=True)
    with pytest.raises(EmotraceError, match="holds a run with other settings"):
        pipeline.run(["gpt2"], tmp_path / "r", chosen="anisotropy", quick=True, resume=True)


def test_a_model_that_fails_late_is_no_model_of_the_run(tmp_path, tiny_folder, monkeypatch):
    folders = [str(tiny_folder("llama")), str(tiny_folder("gpt2"))]
    real = pipeline.claims_table
    failing = lambda name, claims: real(name, claims) if name == names[0] else 1 / 0  # noqa: E731
    names = pipeline.run_names(folders)
    monkeypatch.setattr(pipeline, "claims_table", failing)
    pipeline.run(folders, tmp_path / "r", chosen="anisotropy", quick=True)
    manifest = read_manifest(tmp_path / "r")
    assert list(manifest["models"]) == names[:1]
    assert list(manifest["failures"]) == names[1:]
    assert set(pd.read_csv(tmp_path / "r" / "tables" / "anisotropy.csv")["model"]) == {names[0]}
    assert not [key for key in manifest["seconds"] if folders[0] in key]


def test_a_plan_that_would_run_a_need_too_late_is_refused(monkeypatch):
    first = experiments.by_name("localisation")
    late = dataclasses.replace(first, name="late", stage="generate", needs=("reliability",))
    circle = dataclasses.replace(first, name="circle", needs=("late", "reliability"))
    monkeypatch.setattr(experiments, "_BY_NAME", {**experiments._BY_NAME, "late": late, "circle": circle})
    for one in (late, circle):
        with pytest.raises(RuntimeError, match="late needs reliability, which would run after it"):
            experiments.planned([one])


# -- topics of one's own -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("continuation", [False, True])
def test_stories_on_topics_of_ones_own_are_read_after_a_request_for_that_scene(model, continuation):
    passages = corpus.passages()
    table = passages[passages["topic"] == passages["topic"].iloc[0]].assign(topic="A first day at sea")
    own = emotrace.extract(model, method="generation", stories=table, pooling="mean", continuation=continuation)
    request = stories.request("A first day at sea", "sad", continuation=continuation)
    assert "about this everyday scene: a first day at sea. The main character feels sad" in request
    row = table[table["emotion"] == "sad"].iloc[0]
    before = stories.request_ids(model, row["topic"], "sad", continuation=continuation)
    item = tokens.encode(model, [row["text"]])[0]
    ids = before + item.ids[item.start : item.stop]
    stream = activations.read_tokens(model, [tokens.Tokens(ids, len(before), len(ids))])[0]
    expected = stream[len(before) + 1 :].mean(axis=0) - own.grand_mean
    np.testing.assert_allclose(own["sad"], expected, atol=1e-4)
    with pytest.raises(EmotraceError, match="unknown topic 'A first day at sea': known are"):
        stories.write_stories(model, topics=["A first day at sea"])


# -- special tokens that a message spells ------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen", "llama"])
def test_a_special_token_in_a_chats_message_ends_no_turn(tiny, family):
    model = tiny(family)
    eos, words = model.tokenizer.eos_token_id, model.tokenizer.eos_token
    plain, spelt = tokens.chat_ids(model, "Good morning."), tokens.chat_ids(model, f"Good {words} morning.")
    assert spelt.count(eos) == plain.count(eos)
    assert model.tokenizer.decode(spelt) == model.tokenizer.decode(plain).replace("Good", f"Good {words}")


@pytest.mark.parametrize("family", ["qwen", "llama"])
def test_a_what_if_reads_special_tokens_of_a_prompt_as_it_wrote_after_them(tiny, family):
    model = tiny(family)
    words, end = model.tokenizer.eos_token, model.tokenizer.eos_token_id
    vectors = emotrace.extract(model, pooling="mean", emotions=["happy", "sad"])
    settings = {"vectors": vectors, "layer": 2, "writing": SHORT, "judge": False}
    prompt = f"Good morning.{words} After that she"
    side = emotrace.what_if(model, prompt, "sad", 0.3, **settings).sides[0]
    before, whole = tokens.encode(model, [prompt, prompt + side.text], prompts=True)
    ids = whole.ids
    assert len(side.reading.tokens) == len(ids)
    assert before.ids.count(end) == ids.count(end) == 1
    stream = activations.read_tokens(model, [whole], layers=2)[0][:, 0]
    counted = [index for index, token in enumerate(ids) if index > before.start and token != end]
    assert list(np.flatnonzero(side.reading.tokens["counted"])) == counted
    np.testing.assert_allclose(side.reading.activation[0], stream[counted].mean(axis=0), atol=1e-5)
    # A text that is read is its characters, and so are a user's words in a chat.
    assert words in set(side.reading.tokens["text"])
    assert words not in set(emotrace.read_emotions(model, prompt, layer=2, vectors=vectors).tokens["text"])
    chat = emotrace.what_if(model, prompt, "sad", 0.3, **{**settings, "writing": Writing(5, chat=True)}).sides[0]
    assert words not in set(chat.reading.tokens["text"])


@pytest.mark.parametrize(
    "template", ["{{ unfinished(", "{{ raise_exception('no such turn') }}", "{{ messages[9].content }}"]
)
def test_a_chat_template_that_cannot_be_applied_is_one_line(tmp_path, template):
    folder = tiny_models.build("llama", tmp_path / "m")
    model = emotrace.load(str(folder))
    model.tokenizer.chat_template = template
    with pytest.raises(EmotraceError, match="the chat template of m cannot be applied") as caught:
        tokens.chat_ids(model, "Hello.")
    assert "\n" not in str(caught.value)


# -- logits that are no numbers, on a server ---------------------------------------------------------------------------


def test_what_a_server_says_of_logits_that_are_no_numbers_is_the_same_line(model):
    said = "Traceback (most recent call last):\n  File …\nFloatingPointError: logits that are NaN or infinite"
    with (
        pytest.raises(EmotraceError, match=r"^llama.* in float32 gives logits that are NaN or infinite \(are its weig"),
        loop_to_the_end(model),
    ):
        raise diagnose(RemoteError(said), "https://host").error()
    with pytest.raises(EmotraceError, match="the job failed on https://host: KeyError: 'x'"), loop_to_the_end(model):
        raise diagnose(RemoteError("KeyError: 'x'"), "https://host").error()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_one_row_of_logits_that_are_no_numbers_stops_the_batch(value, temperature):
    scores = torch.randn(3, 50)
    chooser = in_trace.SeededSampling([1, 2, 3], temperature) if temperature else in_trace.Greedy()
    assert chooser(torch.zeros(3, 1), scores.clone()).argmax(dim=-1).shape == (3,)
    scores[1, 7] = value
    with pytest.raises(FloatingPointError, match="logits that are NaN or infinite"):
        chooser(torch.zeros(3, 1), scores)
