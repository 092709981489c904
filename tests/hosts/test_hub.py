"""Vectors on the hub, against a stand-in of its API: the same file comes back, with a card; nothing else is sent."""

from __future__ import annotations

import hub_server
import numpy as np
import pandas as pd
import pytest
from huggingface_hub import ModelCard, constants
from typer.testing import CliRunner

from emotrace import EmotionVectors, EmotraceError, cli
from emotrace.judges.calibration import Calibration

KEY, REPO = "hf_s3cretS3cretS3cret", "someone/vectors-of-a-model"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with hub_server.running() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", KEY)
        yield server


@pytest.fixture
def vectors():
    rng, zero = np.random.default_rng(0), np.zeros((3, 4), np.float32)
    provenance = {
        **{"model": "smollm2-135m-instruct", "source": "HuggingFaceTB/SmolLM2-135M-Instruct"},
        **{"weights_id": "sha256:00ff", "dtype": "float32", "quantisation": "GGUF Q4_1", "method": "comprehension"},
        **{"pooling": "mean", "texts": "0a1b2c", "centring": "grand"},
    }
    values = rng.normal(size=(2, 3, 4)).astype(np.float32)
    return EmotionVectors(("afraid", "calm"), (0, 1, 2), values, zero, zero, zero, provenance)


def card_of(server) -> ModelCard:
    return ModelCard(server.repos[REPO]["README.md"].decode())


def test_what_is_put_there_comes_back_and_nothing_else_is_there(hub, vectors, tmp_path):
    address = vectors.push_to_hub(REPO)
    assert address == f"{hub.address}/{REPO}/commit/{hub_server.COMMIT}"
    assert set(hub.repos) == hub.private == {REPO}
    assert set(hub.repos[REPO]) == {"vectors.safetensors", "README.md"}
    assert EmotionVectors.from_hub(REPO) == vectors
    vectors.save(tmp_path / "v.safetensors")
    assert hub.repos[REPO]["vectors.safetensors"] == (tmp_path / "v.safetensors").read_bytes()
    assert EmotionVectors.from_hub(REPO, revision="main") == vectors
    assert {key for _, path, key in hub.seen if REPO in path or "create" in path} == {f"Bearer {KEY}"}
    (vectors * 2).push_to_hub(REPO)  # again, into the same one
    assert len(hub.messages) == 2


def test_a_repository_is_public_only_if_that_is_asked_for(hub, vectors):
    vectors.push_to_hub(REPO, private=False)
    assert hub.private == set()


def test_nothing_is_sent_without_being_asked_for(hub, vectors, tmp_path):
    vectors.save(tmp_path / "v.safetensors")
    EmotionVectors.load(tmp_path / "v.safetensors").unit()
    assert hub.seen == []


def test_the_card_says_what_the_vectors_are(hub, vectors):
    reliability = pd.DataFrame(
        {"emotion": ["afraid", "calm"], "split_half": [0.71234, np.nan], "p": [0.005, 0.25], "unrelated": [1, 2]}
    )
    calibrated = Calibration([1], (-0.31, 0.22), 0.9, 40, "generated", 0.7).onto(vectors)
    calibrated.push_to_hub(REPO, reliability=reliability)
    card = card_of(hub)
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "emotrace"
    assert {"emotrace", "emotion", "steering-vectors"} <= set(card.data.tags)
    for words in (
        *("`[emotion, layer, d_model]` = [2, 3, 4]: afraid, calm.", "sha256:00ff", "GGUF Q4_1", "0a1b2c", "| grand |"),
        *("0.9 of 40 texts", "from -0.31 to 0.22", "layers [1]", "Default strength: 0.22"),
        *("Split-half", "| afraid | 0.712 | 0.005 |", "| calm | – | 0.25 |"),
    ):
        assert words in card.text
    assert "unrelated" not in card.text
    assert f"from_hub({REPO!r})" in card.text


@pytest.mark.parametrize(
    ("source", "licence", "expected"),
    [
        ("google/gemma-3-270m", None, ("gemma", None)),
        ("meta-llama/Llama-3.1-8B-Instruct", None, ("llama3.1", None)),
        ("google/gemma-3-270m", "MIT", ("mit", None)),
        ("my-folder", "Our own terms", ("other", "Our own terms")),
        ("my-folder", None, (None, None)),
    ],
)
def test_base_model_and_licence(hub, vectors, source, licence, expected):
    made = EmotionVectors(
        vectors.emotions,
        vectors.layers,
        vectors.values,
        *[vectors.neutral_mean] * 3,
        {**vectors.provenance, "source": source},
    )
    made.push_to_hub(REPO, licence=licence)
    card = card_of(hub)
    assert (card.data.license, card.data.license_name) == expected
    assert card.data.base_model == (source if "/" in source else None)
    assert ("bound by the base model's licence" in card.text) == (expected == (None, None))
    assert "Not calibrated" in card.text


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_refusal_is_one_line_without_the_key(hub, vectors, status, monkeypatch):
    hub.refusal = status, f"the key {KEY} may not do this"
    with pytest.raises(EmotraceError, match=f"were not put into {REPO}: .*{status}") as caught:
        vectors.push_to_hub(REPO)
    assert "\n" not in str(caught.value)
    assert KEY[3:] not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_key_that_was_stored_by_a_log_in_is_not_shown_either(hub, vectors, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "token").write_text(KEY)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    hub.refusal = 403, f"the key {KEY} may not do this"
    with pytest.raises(EmotraceError) as caught:
        vectors.push_to_hub(REPO)
    assert hub.seen[0][2] == f"Bearer {KEY}"
    assert KEY[3:] not in str(caught.value)


def test_vectors_of_another_tool_are_not_put_there(hub, tmp_path):
    np.savez(tmp_path / "v.npz", **{"sad.1": np.ones(4, np.float32)})
    theirs = EmotionVectors.load(tmp_path / "v.npz", layers_are="hidden-states")
    with pytest.raises(EmotraceError, match="these vectors are of another tool"):
        theirs.push_to_hub(REPO)
    assert not hub.repos


def test_what_is_not_there_is_named(hub, vectors):
    with pytest.raises(EmotraceError, match="no model someone/nothing for this user"):
        EmotionVectors.from_hub("someone/nothing")
    hub.repos["someone/else"] = {"README.md": b""}
    with pytest.raises(EmotraceError, match=r"someone/else has no emotion vectors: there is no vectors\.safetensors"):
        EmotionVectors.from_hub("someone/else")
    hub.repos["someone/else"] = {"vectors.safetensors": b"12345678"}
    with pytest.raises(EmotraceError, match="is damaged or no vector file"):
        EmotionVectors.from_hub("someone/else")


@pytest.mark.parametrize("repo", ["vectors", "https://huggingface.co/a/b", "a/b/c", "", "../x", None, 3])
def test_names_that_are_none_are_refused_before_anything_is_sent(hub, vectors, repo):
    for call in (vectors.push_to_hub, EmotionVectors.from_hub):
        with pytest.raises(EmotraceError, match="USER/NAME"):
            call(repo)
    assert hub.seen == []


def test_without_the_hub_what_was_fetched_is_still_there(hub, vectors, monkeypatch):
    vectors.push_to_hub(REPO)
    assert EmotionVectors.from_hub(REPO) == vectors
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert EmotionVectors.from_hub(REPO) == vectors
    with pytest.raises(EmotraceError, match="were not put into") as caught:
        vectors.push_to_hub(REPO)
    assert "\n" not in str(caught.value)


# -- from the shell ---------------------------------------------------------------------------------------------------


def shell(*given: object, answer: str = "") -> tuple[int, str]:
    """Exit code and all that is printed, of ``emotrace vectors …`` with an answer typed."""
    result = CliRunner().invoke(cli.app, ["vectors", *map(str, given)], input=answer)
    if isinstance(result.exception, EmotraceError):
        raise result.exception
    assert KEY not in result.output
    return result.exit_code, result.output


def test_the_shell_asks_before_it_uploads_and_brings_the_same_vectors_back(hub, vectors, tmp_path):
    file, back = tmp_path / "v.safetensors", tmp_path / "back.safetensors"
    vectors.save(file)
    for answer in ("n\n", ""):  # no, and nobody there who could answer
        code, printed = shell("push", REPO, file, answer=answer)
        assert code == 1
        assert REPO in printed
        assert hub.seen == []
    code, printed = shell("push", REPO, file, answer="y\n")
    assert code == 0
    assert f"{hub.address}/{REPO}/commit/{hub_server.COMMIT}" in printed
    assert hub.private == {REPO}
    assert hub.repos[REPO]["vectors.safetensors"] == file.read_bytes()
    assert shell("pull", REPO, "--out", back)[0] == 0
    assert EmotionVectors.load(back) == vectors
    assert shell("push", f"{REPO}-2", file, "--public", "--yes")[0] == 0
    assert hub.private == {REPO}


def test_of_a_runs_table_the_rows_of_these_vectors_go_onto_the_card(hub, vectors, tmp_path):
    file, table = tmp_path / "v.safetensors", tmp_path / "reliability.csv"
    vectors.save(file)
    rows = [("smollm2-135m-instruct", "mean", 0.625), ("smollm2-135m-instruct", "last", 0.5), ("other", "mean", 0.25)]
    pd.DataFrame(
        [{"model": model, "pooling": pooling, "emotion": "afraid", "split_half": r} for model, pooling, r in rows]
    ).to_csv(table, index=False)
    assert shell("push", REPO, file, "--yes", "--reliability", table, "--licence", "mit")[0] == 0
    card = card_of(hub)
    assert card.data.license == "mit"
    assert "| afraid | 0.625 |" in card.content
    assert "| afraid | 0.5 |" not in card.content
    assert "| afraid | 0.25 |" not in card.content
    table.write_text(table.read_text().replace("smollm2", "another"))
    hub.seen.clear()
    with pytest.raises(EmotraceError, match="no split-half reliability of smollm2"):
        shell("push", REPO, file, "--yes", "--reliability", table)
    with pytest.raises(EmotraceError, match="cannot be read as a table"):
        shell("push", REPO, file, "--yes", "--reliability", tmp_path / "none.csv")
    assert hub.seen == []


def test_what_the_hub_refuses_is_one_line_without_the_key_in_the_shell_too(hub, vectors, tmp_path):
    file = tmp_path / "v.safetensors"
    vectors.save(file)
    hub.refusal = 403, f"the key {KEY} may not do this"
    with pytest.raises(EmotraceError, match="were not put into") as caught:
        shell("push", REPO, file, "--yes")
    assert KEY[3:] not in str(caught.value)
