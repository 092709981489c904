"""What names a model: equal content is equal identity wherever it lies, other content never is; names in one run."""

import json
import shutil

import hub_cache
import numpy as np
import pandas as pd
import pytest
import tiny_models
from typer.testing import CliRunner

import emotrace
from emotrace import EmotionVectors, EmotraceError, cli
from emotrace.hosts import checkpoints
from emotrace.hosts.sources import run_names
from emotrace.study import pipeline
from emotrace.whatif import text_reading
from emotrace.whatif.text_reading import cached_vectors


def identity(folder):
    return emotrace.load(str(folder)).identity


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EMOTRACE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """``hub(id, folder, commit)``: a model in an otherwise empty hub cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return lambda hub_id, folder, commit=hub_cache.COMMITS[0]: hub_cache.add(tmp_path / "hub", hub_id, folder, commit)


# -- folders --------------------------------------------------------------------------------------------------------


def test_a_renamed_copied_or_linked_folder_is_the_same_model(tiny_folder, tmp_path):
    folder = tiny_folder("llama")
    shutil.copytree(folder, tmp_path / "my-finetune")
    shutil.copytree(folder, tmp_path / "deep" / "other name")
    (tmp_path / "link").symlink_to(tmp_path / "my-finetune")
    (tmp_path / "my-finetune" / "README.md").write_text("words that no model reads")
    places = (folder, tmp_path / "my-finetune", tmp_path / "deep" / "other name", tmp_path / "link")
    assert len({identity(place) for place in places}) == 1


def change_json(name, **values):
    def change(folder):
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def swap_tokens(folder):
    words = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (folder / "tokenizer.json").write_text(json.dumps(words))


@pytest.mark.parametrize(
    "change",
    [
        swap_tokens,
        lambda folder: (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}"),
        change_json("tokenizer_config.json", model_max_length=128),
        change_json("generation_config.json", eos_token_id=[1, 7]),
        change_json("config.json", rms_norm_eps=1e-3),
        lambda folder: (folder / "generation_config.json").unlink(),
        lambda folder: (folder / "vocab.txt").write_text("a\n"),
    ],
    ids=["tokenizer", "template", "tokenizer settings", "ends", "config", "a file less", "a file more"],
)
def test_other_content_is_another_model(change, tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder("llama"), tmp_path / "model")
    assert (folder / "generation_config.json").is_file()
    before = checkpoints.folder_digest(folder)
    change(folder)
    assert checkpoints.folder_digest(folder) != before


def test_content_that_moves_from_one_file_to_another_is_other_content(tmp_path):
    for name, files in {
        "a": {"merges.txt": "xy", "vocab.txt": "z"},
        "b": {"merges.txt": "x", "vocab.txt": "yz"},
    }.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
    assert checkpoints.folder_digest(tmp_path / "a") != checkpoints.folder_digest(tmp_path / "b")


def test_after_renaming_a_folder_its_vectors_and_the_cache_are_taken(tiny_folder, tmp_path, cache):
    shutil.copytree(tiny_folder("llama"), tmp_path / "my-finetune")
    before = cached_vectors(emotrace.load(str(tmp_path / "my-finetune")))
    before.save(tmp_path / "v.safetensors")
    files = sorted(cache.iterdir())
    (tmp_path / "my-finetune").rename(tmp_path / "renamed")
    model = emotrace.load(str(tmp_path / "renamed"))
    np.testing.assert_array_equal(cached_vectors(model).values, before.values)
    assert EmotionVectors.load(tmp_path / "v.safetensors").check(model)
    assert sorted(cache.iterdir()) == files
    emotrace.read_emotions(model, "She laughed and ran down to the river.")


@pytest.mark.parametrize("damage", ["cut", "another model's", "empty"])
def test_a_cached_file_that_does_not_belong_is_made_again(damage, tiny, cache):
    right, other = cached_vectors(tiny("llama")), cached_vectors(tiny("qwen"))
    file = next(path for path in cache.iterdir() if tiny("llama").identity.split(":")[1][:12] in path.name)
    content = file.read_bytes()
    if damage == "another model's":
        other.save(file)
    else:
        file.write_bytes(content[:300] if damage == "cut" else b"")
    np.testing.assert_array_equal(cached_vectors(tiny("llama")).values, right.values)
    assert file.read_bytes() == content


def test_vectors_that_cannot_be_kept_are_kept_for_the_process(tiny, monkeypatch, capsys):
    monkeypatch.setenv("EMOTRACE_CACHE", "/proc/emotrace")
    monkeypatch.setattr(text_reading, "_UNSAVED", {})
    first, second = cached_vectors(tiny("llama")), cached_vectors(tiny("llama"))
    assert first is second
    assert capsys.readouterr().err.count("set EMOTRACE_CACHE") == 1


def test_vectors_of_a_packaged_model_as_older_versions_wrote_them_stay_valid():
    old = {"source": "HuggingFaceTB/SmolLM2-135M-Instruct", "weights_id": "sha256:b179"}
    assert checkpoints.identity(old) == "HuggingFaceTB/SmolLM2-135M-Instruct@sha256:b179"
    assert checkpoints.content(old) == checkpoints.content({"source": "my.gguf", "weights_id": "sha256:b179"})


# -- the hub ----------------------------------------------------------------------------------------------------------


def test_another_revision_of_a_hub_model_is_another_model(hub, tiny_folder, cache):
    hub("org/model", tiny_folder("qwen"))
    old = emotrace.load("org/model")
    assert old.identity == f"org/model@revision:{hub_cache.COMMITS[0]}"
    vectors = cached_vectors(old)
    hub("org/model", tiny_folder("qwen", seed=1), hub_cache.COMMITS[1])
    new = emotrace.load("org/model")
    assert new.identity == f"org/model@revision:{hub_cache.COMMITS[1]}"
    with pytest.raises(EmotraceError, match=r"these vectors belong to org/model .org/model@revision:1111"):
        vectors.check(new)
    assert np.abs(cached_vectors(new).values - vectors.values).max() > 0.01
    assert cached_vectors(old).values is not None


def test_two_hub_models_of_one_revision_are_two(hub, tiny_folder):
    hub("org/one", tiny_folder("qwen"))
    hub("org/two", tiny_folder("qwen"))
    assert emotrace.load("org/one").identity != emotrace.load("org/two").identity


def test_vectors_of_an_unknown_revision_are_refused_for_a_known_one(hub, tiny_folder):
    hub("org/model", tiny_folder("qwen"))
    model = emotrace.load("org/model")
    vectors = emotrace.extract(model, emotions=["happy", "sad"])
    vectors.provenance["weights_id"] = "revision:unknown"  # as older versions wrote of every hub model
    with pytest.raises(EmotraceError, match="revision:unknown"):
        vectors.check(model)


# -- instruct or base -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hub_id", "short", "instruct"),
    [
        ("Qwen/Qwen2.5-1.5B", "qwen2.5-1.5b", False),
        ("Qwen/Qwen2.5-1.5B-Instruct", "qwen2.5-1.5b-instruct", True),
        ("google/gemma-3-1b-pt", "gemma-3-1b", False),
        ("org/not-in-the-registry", None, True),
    ],
)
def test_the_registry_says_what_a_hub_id_is(hub_id, short, instruct, hub, tiny_folder):
    hub(hub_id, tiny_folder("qwen"))  # its tokenizer has a chat template
    for name in filter(None, (hub_id, short)):
        model = emotrace.load(name)
        assert (model.instruct, model.name) == (instruct, name)
        assert "kind" not in model.provenance


def test_instruct_or_base_can_be_said(tiny_folder):
    base = emotrace.load(str(tiny_folder("qwen")), instruct=False)
    assert (base.instruct, base.provenance["kind"]) == (False, "base")
    assert "kind" not in emotrace.load(str(tiny_folder("qwen")), instruct=True).provenance
    with pytest.raises(EmotraceError, match="has no chat template"):
        emotrace.load(str(tiny_folder("gpt2")), instruct=True)
    assert emotrace.load(str(tiny_folder("gpt2")), instruct=False).instruct is False


@pytest.mark.parametrize(("flag", "kind"), [("--base", "base"), ("--instruct", None), (None, None)])
def test_the_command_line_says_instruct_or_base(flag, kind, tiny_folder, tmp_path):
    out = tmp_path / "v.safetensors"
    arguments = ["extract", str(tiny_folder("qwen")), "--emotions", "happy,sad", "--out", str(out)]
    done = CliRunner().invoke(cli.app, [*arguments, flag] if flag else arguments)
    assert done.exit_code == 0, done.output
    assert EmotionVectors.load(out).provenance.get("kind") == kind


# -- two models of one run --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["ck/run1/checkpoint-500", "ck/run2/checkpoint-500"], ["run1/checkpoint-500", "run2/checkpoint-500"]),
        (["ck/run1/checkpoint-500", "ck/gpt2"], ["checkpoint-500", "ck/gpt2"]),
        (["gpt2", "ck/gpt2"], ["gpt2", "ck/gpt2"]),
        (["m/org/model", "org/model", "m/other/model"], ["m/org/model", "org/model", "other/model"]),
        (["ck/run1/checkpoint-500", "smollm2-135m-instruct"], ["checkpoint-500", "smollm2-135m-instruct"]),
        (["a/x.gguf", "b/x.gguf"], ["a/x.gguf", "b/x.gguf"]),
    ],
)
def test_models_of_one_run_have_names_of_their_own(given, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in given:
        if name not in ("gpt2", "org/model", "smollm2-135m-instruct"):
            (tmp_path / name).mkdir(parents=True)
    assert run_names(given) == names


@pytest.mark.parametrize(
    "given",
    [["a/m", "a/m"], ["a/m", "./a/../a/m/"], ["a/m", "link"], ["gpt2", "openai-community/gpt2"], ["x/y", "x/y"]],
)
def test_one_model_given_twice_is_refused(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "m").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "m")
    with pytest.raises(EmotraceError, match="is given twice"):
        pipeline.run(given, tmp_path / "run", quick=True)
    assert not (tmp_path / "run").exists()


def test_two_checkpoints_with_one_folder_name_are_two_models_of_a_run(tmp_path):
    folders = []
    for seed, run in enumerate(("run1", "run2")):
        folders.append(str(tiny_models.build("gpt2", tmp_path / run / "checkpoint-500", seed=seed, n_layers=2)))
    pipeline.run(folders, tmp_path / "out", chosen="anisotropy", quick=True)
    names = {"run1/checkpoint-500", "run2/checkpoint-500"}
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["complete"] is True
    assert set(manifest["models"]) == names
    table = pd.read_csv(tmp_path / "out" / "tables" / "anisotropy.csv")
    assert set(table["model"]) == names
    assert len(list((tmp_path / "out" / "vectors").glob("*-comprehension-mean.safetensors"))) == 2
    for folder, name in zip(folders, sorted(names), strict=True):
        file = f"{name.replace('/', '--')}-comprehension-mean.safetensors"
        assert EmotionVectors.load(tmp_path / "out" / "vectors" / file).check(emotrace.load(folder))


def test_a_folder_named_like_a_packaged_model_is_not_taken_for_it(tmp_path):
    folder = tiny_models.build("gpt2", tmp_path / "ck" / "smollm2-135m-instruct")
    model = emotrace.load(str(folder))
    assert (model.name, model.instruct) == ("ck/smollm2-135m-instruct", False)
