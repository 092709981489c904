"""Watching: the text of ``steer``, and at each token what is found by reading the finished text again."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import every_class
import numpy as np
import pandas as pd
import pytest
import tiny_models
import torch

import emotrace
from emotrace import EmotraceError, Writing
from emotrace.activations import read_tokens, residual_norms
from emotrace.extraction import read_texts
from emotrace.instrument import corpus
from emotrace.judges.calibration import Calibration
from emotrace.tokens import Tokens
from emotrace.whatif import live, token_reading, watching
from emotrace.whatif.shading import pleasantness
from emotrace.whatif.token_reading import read_emotions

PROMPT, NEW = "The kettle had begun to sing, and", 8
WRITING = Writing(NEW)


def vectors_of(model):
    return read_texts(model, corpus.quick_subset(corpus.passages(), 2)).vectors("mean")


def hooks(model) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.nn._module.modules())


def by_hand(vectors, stream: np.ndarray, layer: int, emotion) -> np.ndarray:
    """Each token's projection in class gaps, from a stream ``[token, d_model]``."""
    vector = (vectors[emotion] if isinstance(emotion, str) else vectors.mix(emotion))[vectors.index(layer)]
    vector = vector.astype(np.float64)
    return (stream.astype(np.float64) - vectors.grand_mean[vectors.index(layer)]) @ vector / (vector @ vector)


def ids_of(table: pd.DataFrame) -> tuple[list[int], list[int]]:
    """Of the prompt, and of the text."""
    rows = table.drop_duplicates("token")
    return rows[~rows["written"]]["id"].tolist(), rows[rows["written"]]["id"].tolist()


@pytest.mark.parametrize("steer", [None, "afraid"])
def test_text_and_values_are_those_of_steer_and_of_reading_the_text_again(tiny_model, steer):
    model, vectors = tiny_model, vectors_of(tiny_model)
    before = hooks(model)
    edit = {"steer": steer, "strength": 0.6} if steer else {}
    table = emotrace.watch(model, PROMPT, ["happy", "afraid"], vectors=vectors, **edit, writing=WRITING, show=False)
    assert hooks(model) == before
    strength = 0.6 if steer else 0.0
    expected = emotrace.steer(model, PROMPT, vectors, strength, emotions="afraid", writing=WRITING).iloc[0]
    prompt, written = ids_of(table)
    assert written == expected["tokens"]
    assert table.attrs == {"prompt": PROMPT, "text": expected["text"]}
    told = "".join(table[table["written"]].drop_duplicates("token")["text"])
    assert expected["text"].startswith(told)
    assert not expected["text"][len(told) :].strip("\ufffd")  # it may end within a character
    layer = model.n_layers // 2
    assert set(table["layer"]) == {layer}
    # The edit is added after what is watched: reading again needs none.
    (stream,) = read_tokens(model, [Tokens((*prompt, *written), 0, len(prompt) + len(written))], layers=[layer])
    special = set(model.tokenizer.all_special_ids)
    ordinary = np.flatnonzero([token not in special for token in (*prompt, *written)])[1:]
    for emotion, rows in table.groupby("emotion"):
        values = by_hand(vectors, stream[:, 0], layer, emotion)
        np.testing.assert_allclose(rows["projection"].to_numpy()[ordinary], values[ordinary], rtol=1e-3, atol=1e-3)
        assert rows["projection"].notna().sum() == len(ordinary)


def test_scores_are_those_of_a_reading_of_the_whole_text(tiny):
    model = tiny("llama")
    vectors, mixture = vectors_of(model), {"sad": 1.0, "calm": -0.5}
    shown = []
    table = emotrace.watch(model, PROMPT, mixture, vectors=vectors, layer=3, writing=WRITING, show=shown.append)
    reading = read_emotions(model, PROMPT + table.attrs["text"], mixture, layer=3, vectors=vectors)
    again = reading.to_frame()
    again = again[again["emotion"] == reading.shown].reset_index(drop=True)
    assert reading.tokens["text"].tolist() == table["text"].tolist()
    for column in ("score", "projection"):
        np.testing.assert_allclose(table[column], again[column], rtol=1e-4, atol=1e-4)
    assert [token.id for token in shown] == table["id"].tolist()
    assert [token.written for token in shown] == table["written"].tolist()
    np.testing.assert_array_equal([token.score[0] for token in shown], table["score"])


class AsItIs:
    """In place of a scale: each token's stream itself."""

    layers = (2,)

    @staticmethod
    def measure(stream: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return stream.copy(), stream.copy()


@pytest.mark.parametrize("kind", ["gpt_neox", "bloom", "mpt", "gemma4_text", "gpt_oss", "jamba", "falcon_h1", "lfm2"])
def test_the_stream_of_other_decoders_is_that_of_reading_the_text_again(kind):
    module = every_class.build(kind)
    model = emotrace.attach(module, tiny_models.tokenizer("llama"), name=kind)
    ids, seen = model.tokenizer(PROMPT)["input_ids"], []
    watching._stream(model, ids, AsItIs(), Writing(5), seen.append)
    read, rows = torch.tensor([[token.id for token in seen]]), np.stack([token.projection for token in seen])
    assert read[0, : len(ids)].tolist() == ids
    assert len(seen) > len(ids)
    with torch.no_grad():
        stream = module(input_ids=read, output_hidden_states=True, use_cache=False).hidden_states[2][0].numpy()
    counted = ~np.isnan(rows).all(axis=1)
    assert counted.sum() == len(seen) - 2
    np.testing.assert_allclose(rows[counted], stream[counted], atol=1e-5 * np.abs(stream).max())


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_above_the_edit_its_trace_is_seen_and_embeddings_are_what_enters(tiny, family):
    model = tiny(family)
    vectors, layer = vectors_of(model), model.n_layers // 2
    add = torch.from_numpy(vectors.direction("afraid", layer) * 0.6 * residual_norms(model)[layer]).float()
    for read in (0, layer + 1):
        with emotrace.steered(model, vectors, "afraid", 0.6):  # the context of one's own
            table = emotrace.watch(model, PROMPT, ["afraid"], vectors=vectors, layer=read, writing=WRITING, show=False)
        prompt, written = ids_of(table)

        def edit(_, args, output, start=tuple(prompt)):
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            hidden[:, len(start) - 1 :] += add
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        handle = model.layers[layer - 1]._module.register_forward_hook(edit)
        with torch.no_grad():
            ids = torch.tensor([[*prompt, *written]])
            stream = model.nn._module(ids, output_hidden_states=True).hidden_states[read][0].numpy()
        handle.remove()
        values = by_hand(vectors, stream, read, "afraid")
        counted = table["projection"].notna().to_numpy()
        np.testing.assert_allclose(table["projection"].to_numpy()[counted], values[counted], rtol=1e-3, atol=1e-3)


def test_the_unit_of_a_score_is_the_same_whether_first_asked_for_within_a_steered_block(tiny, monkeypatch):
    model = tiny("llama", seed=6)
    vectors = vectors_of(model)

    def watched() -> pd.Series:
        given = {"vectors": vectors, "layer": 3, "writing": WRITING, "show": False}
        return emotrace.watch(model, PROMPT, ["happy"], **given)["score"]

    def felt() -> pd.Series:
        with emotrace.steered(model, vectors, "happy", 1.0, layers=[1, 2, 3], tokens="all"):
            return watched()

    def read() -> pd.Series:
        return read_emotions(model, PROMPT, vectors=vectors, layer=3).to_frame()["score"]

    monkeypatch.setattr(token_reading, "_remembered", {})
    first, later = felt(), read()
    monkeypatch.setattr(token_reading, "_remembered", {})
    np.testing.assert_array_equal(later, read())
    np.testing.assert_array_equal(first, felt())
    n_prompt = len(model.tokenizer(PROMPT)["input_ids"])
    assert np.nanmax(np.abs(first - watched())[:n_prompt]) > 0.1  # the edit itself is watched


def test_a_sampled_text_a_chat_and_an_end_are_those_of_steer(tiny):
    model = tiny("llama")
    vectors = vectors_of(model)
    drawn = Writing(12, temperature=1.5, seeds=(7, 8))
    calibrated = Calibration([2], (-0.2, 0.2), 0.9, 40, "generated", 1.5).onto(vectors)
    by_default = emotrace.watch(
        model, PROMPT, "sad", vectors=calibrated, writing=replace(drawn, temperature=None), show=False
    )
    for writing in (Writing(12, chat=True), Writing(1), drawn):
        table = emotrace.watch(model, PROMPT, "sad", vectors=vectors, writing=writing, show=False)
        first = Writing(writing.max_new_tokens, writing.temperature, chat=writing.chat, seeds=writing.seeds[:1])
        expected = emotrace.steer(model, PROMPT, vectors, 0.0, emotions="sad", writing=first).iloc[0]
        assert ids_of(table)[1] == expected["tokens"]
        assert table.attrs["text"] == expected["text"]
    assert ids_of(by_default)[1] == expected["tokens"]


def test_an_end_of_text_is_not_watched(tiny, monkeypatch):
    model = tiny("llama")
    vectors = vectors_of(model)
    sampled = Writing(12, temperature=1.5, seeds=(7,))
    whole = ids_of(emotrace.watch(model, PROMPT, "sad", vectors=vectors, writing=sampled, show=False))[1]
    end = whole[5]
    monkeypatch.setattr(model.nn._module.generation_config, "eos_token_id", end)
    table = emotrace.watch(model, PROMPT, "sad", vectors=vectors, writing=sampled, show=False)
    assert 0 < whole.index(end) <= 5
    assert ids_of(table)[1] == whole[: whole.index(end)]


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_a_character_of_several_tokens_is_told_of_when_it_is_whole(tiny, family, monkeypatch):
    model, decode, at_once = tiny(family), watching._Listener._decoded, []
    monkeypatch.setattr(watching._Listener, "_decoded", lambda self: at_once.append(len(self.recent)) or decode(self))
    prompt = "The door 😀 opened" + " and 😀 then, 😀😀 it\nshut." * 8
    table = emotrace.watch(model, prompt, "sad", vectors=vectors_of(model), writing=WRITING, show=False)
    texts = table["text"][~table["written"]]
    assert "".join(texts) == prompt
    assert sum("😀" in text for text in texts) == 25
    assert not any("\ufffd" in text for text in texts)
    assert len(table) > 3 * watching.LONGEST  # a long text is not decoded as a whole for each of its tokens
    assert max(at_once) <= watching.LONGEST + 3


def test_an_exception_in_what_shows_leaves_nothing_behind(tiny):
    model = tiny("llama")
    vectors, before = vectors_of(model), hooks(model)

    def fail(token):
        raise ZeroDivisionError

    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            emotrace.watch(model, PROMPT, "sad", vectors=vectors, steer="sad", writing=WRITING, show=fail)
    assert hooks(model) == before
    assert not emotrace.watch(model, PROMPT, "sad", vectors=vectors, writing=WRITING, show=False).empty


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"emotions": []}, "no emotion is to be watched"),
        ({"emotions": "smug"}, "unknown emotion 'smug'"),
        ({"layer": 99}, "layer 99 is out of range"),
        ({"layer": "all"}, "a layer is a whole number"),
        ({"prompt": ""}, "is empty"),
        ({"vectors": 3}, "vectors: emotion vectors"),
        ({"steer": "smug"}, "unknown emotion 'smug'"),
        ({"strength": 0.5}, "name it as steer"),
        ({"steer_layers": 2}, "name it as steer"),
    ],
)
def test_mistakes_are_one_line(tiny, settings, message):
    model = tiny("llama")
    given = {"prompt": PROMPT, "emotions": "sad", "vectors": vectors_of(model), "show": False, **settings}
    with pytest.raises(EmotraceError, match=message) as caught:
        emotrace.watch(model, **given)
    assert "\n" not in str(caught.value)


def test_a_server_streams_nothing(tiny_folder):
    model = emotrace.load(str(tiny_folder("llama")), remote="local")
    with pytest.raises(EmotraceError, match="a server sends nothing before the text ends"):
        emotrace.watch(model, PROMPT, "sad", vectors=vectors_of(model))


# -- what is shown ----------------------------------------------------------------------------------------------------


class Display:
    """IPython's handle of one output, and what it was updated with."""

    def __init__(self) -> None:
        self.pages: list[str] = []

    def update(self, page) -> None:
        self.pages.append(page.data)


def bar_widths(page: str) -> dict[str, float]:
    rows = [row for row in page.split("<tr>") if 'class="bar"' in row]
    return {row.split("</th>")[0].split(">")[-1]: float(row.split("width:")[1].split("%")[0]) for row in rows}


def test_in_a_notebook_a_page_grows_with_the_text_and_its_bars(tiny, monkeypatch):
    import IPython.display

    model, display = tiny("llama"), Display()
    monkeypatch.setattr(live, "in_notebook", lambda: True)
    monkeypatch.setattr(live, "INTERVAL", 0.0)
    monkeypatch.setattr(live, "SHARE", math.inf)
    monkeypatch.setattr(IPython.display, "display", lambda *_, **__: display)
    prompt = "One <b> & two"
    table = emotrace.watch(model, prompt, ["sad", "calm"], vectors=vectors_of(model), writing=WRITING)
    n_written = table[table["written"]]["token"].nunique()
    assert len(display.pages) == n_written + 1  # each token as it comes, and the whole at last
    assert "<b>" not in display.pages[-1]
    assert "&lt;" in display.pages[-1]
    scores = table.pivot(index="token", columns="emotion", values="score").fillna(0)
    longest = [max(1.0, scores.iloc[: index + 1].abs().max(axis=None)) for index in range(len(scores))]
    for back, page in enumerate(reversed(display.pages[:-1])):
        last = len(scores) - 1 - back
        for emotion, width in bar_widths(page).items():
            assert math.isclose(width, 48 * abs(scores[emotion].iloc[last]) / longest[last], abs_tol=0.006)


def test_drawing_takes_its_share_of_the_time_and_no_more(monkeypatch):
    clock, drawn = [0.0], []

    def draw(self):
        drawn.append(clock[0])
        clock[0] += 0.5  # a slow page

    monkeypatch.setattr(live.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(live.Live, "_draw", draw)
    tell = live.Live(["sad"], 1.0)
    for _ in range(1000):
        clock[0] += 0.1
        tell(type("Token", (), {"text": "x", "written": True, "score": np.array([0.2])}))
    assert drawn[0] == pytest.approx(0.1)
    assert 0.9 * live.SHARE < 0.5 * len(drawn) / clock[0] <= 1.1 * live.SHARE


def test_in_a_terminal_text_and_bars_stand_at_the_end(tiny, monkeypatch, capsys):
    model = tiny("llama")
    table = emotrace.watch(model, PROMPT, ["sad", "calm"], vectors=vectors_of(model), steer="calm", writing=WRITING)
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if "│" in line]
    last = table[table["token"] == table["token"].max()].set_index("emotion")["score"].fillna(0)
    for line, (emotion, score) in zip(lines, last.items(), strict=True):
        assert f"{emotion} {score:+.3f}" in line
        assert line.startswith("▸") == (emotion == "calm")
    assert PROMPT.split()[0] in printed


def test_a_long_text_leaves_room_for_the_bars(monkeypatch):
    from rich.console import Console

    tell = live.Live(["sad"], 1.0)
    for number in range(200):
        tell.tokens.append(type("Token", (), {"text": f"word{number} ", "written": True, "score": np.array([0.2])}))
    shown = tell.on_terminal(Console(width=60, height=12, file=io.StringIO()))
    lines = str(shown).splitlines()
    assert len(lines) <= 12
    assert "word199" in str(shown)
    assert "word0 " not in str(shown)
    assert "sad +0.200" in lines[-1]
    assert "word0 " in str(tell.on_terminal(None))


def test_one_emotion_colours_by_its_sign_and_of_several_the_strongest(monkeypatch):
    def token(*score):
        return type("Token", (), {"text": "x", "written": True, "score": np.array(score)})

    one = live.Live(["sad"], 1.0)
    one.tokens += [token(2.5), token(-2.5), token(0.0), token(np.nan)]
    assert [cell.style for cell in one._cells()] == ["up4", "down4", "", ""]
    two = live.Live(["sad", "happy"], 1.0)
    two.tokens += [token(0.2, 3.0), token(0.2, 0.3)]
    assert [cell.name for cell in two._cells()] == ["happy", ""]
    assert two._cells()[0].style.startswith(pleasantness("happy"))
