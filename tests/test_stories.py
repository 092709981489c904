"""Stories are asked for, sampled, judged and read as promised: the same from a seed, and never past their end."""

import zlib

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import emotrace
from emotrace import EmotraceError, activations, extraction, readings, steering, stories
from emotrace.instrument import corpus
from emotrace.instrument import stories as stored_stories
from emotrace.instrument.instrument import from_names
from emotrace.study.folder import RunFolder
from emotrace.study.methods.story_rates import story_rates
from emotrace.tokens import Tokens, Writing

SOME = {"topics": ["cooking", "pet"], "emotions": ["happy", "sad", "neutral"]}
LONG = Writing(100, temperature=0.8)


@pytest.fixture(scope="module")
def llama(tiny):
    return tiny("llama")


@pytest.fixture(scope="module")
def written(llama):
    """Two stories a cell of a model that writes random words, so that most fail and are asked for again."""
    return stories.write_stories(llama, **SOME, per_cell=2, writing=LONG, attempts=3)


# -- asking -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("continuation", [False, True])
def test_requests_differ_in_the_emotion_alone(continuation):
    for topic in corpus.topics().index:
        asked = {name: stories.request(topic, name, continuation=continuation) for name in corpus.emotions().index}
        frames = {text.replace(name, "…") for name, text in asked.items() if name != corpus.NEUTRAL}
        assert len(frames) == 1
        assert len(set(asked.values())) == 21
        assert len({stories.request(topic, name, named=False, continuation=continuation) for name in asked}) == 1


@pytest.mark.parametrize("continuation", [False, True])
def test_only_a_named_request_names_a_feeling_and_only_its_own(continuation):
    for topic, name in [("train", "happy"), ("clinic", "exasperated"), ("pet", "neutral")]:
        own = {name} - {corpus.NEUTRAL}
        assert set(corpus.leaks(stories.request(topic, name, continuation=continuation))) == own
        assert corpus.leaks(stories.request(topic, name, named=False, continuation=continuation)) == []


def test_a_prompt_is_the_chat_template_around_the_request(llama):
    ids = stories.request_ids(llama, "pet", "sad")
    assert llama.tokenizer.decode(ids).endswith(f"<user>\n{stories.request('pet', 'sad')}</user>\n<assistant>\n")
    continued = stories.request_ids(llama, "pet", "sad", continuation=True)
    assert llama.tokenizer.decode(continued, skip_special_tokens=True) == stories.request(
        "pet", "sad", continuation=True
    )


@pytest.mark.parametrize(
    ("scene", "asked"),
    [
        ("HIV test result", "HIV test result."),
        ("I lost my keys.", "I lost my keys."),
        ("A day at sea", "a day at sea."),
        (" Being late.. ", "being late."),
    ],
)
def test_a_scene_is_asked_for_as_it_is_written(scene, asked):
    assert stories.request(scene, "sad").split("scene: ")[1].startswith(f"{asked} The main character feels sad.")
    with pytest.raises(EmotraceError, match="not nothing"):
        stories.request(" . ", "sad")


def test_a_seed_depends_on_everything_that_names_the_attempt():
    cell = stories.Cell("pet", "sad", 1)
    variants = [
        (0, cell, 1),
        (1, cell, 1),
        (0, cell, 2),
        (0, cell._replace(story=2), 1),
        (0, cell._replace(topic="match"), 1),
        (0, cell._replace(emotion="happy"), 1),
    ]
    assert len({stories.seed_of(*variant) for variant in variants}) == len(variants)
    assert stories.seed_of(0, cell, 1) == zlib.crc32(b"(0, 'pet', 'sad', 1, 1)")


# -- judging ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("One. Two thr", "One."),
        ('He said "Go." And th', 'He said "Go."'),
        ("No end at all", ""),
        ("Wait... what? Yes!) but", "Wait... what? Yes!)"),
        ("It cost 3.50 at the", ""),
        ("All is well.", "All is well."),
        ("她推开门。他说:“走吧。”然后", "她推开门。他说:“走吧。”"),
        ("वह घर आया। फिर वह", "वह घर आया।"),
        ("„Geh.“ Er g", "„Geh.“"),
        ("« Va. » Il p", "« Va. »"),
    ],
)
def test_a_text_is_cut_back_to_its_last_sentence_end(text, cut):
    assert stored_stories.until_sentence_end(text) == cut


PLAIN = "She put the kettle on and looked out at the rain, then sat down by the window again."


@pytest.mark.parametrize(
    ("text", "status", "leaks", "others"),
    [
        (PLAIN, "kept", "", ""),
        (PLAIN + " She felt sad and unhappy.", "leaks", "sad|unhappy", ""),
        (PLAIN + " She felt happy.", "kept", "", "happy"),
        ("As an AI language model, I have no feelings and cannot be in a story like this one.", "refusal", "", ""),
        ("I'm sorry, but I can’t write this story for you today, as it is not something I do.", "refusal", "", ""),
        ("She sat down.", "empty", "", ""),
        ("", "empty", "", ""),
    ],
)
def test_a_story_is_judged_by_what_it_says(llama, text, status, leaks, others):
    tokens = llama.tokenizer(text, add_special_tokens=False)["input_ids"]
    judged = stories.judge(llama, tokens, "sad", limit=200)
    assert (judged["status"], judged["leaks"], judged["other_leaks"]) == (status, leaks, others)
    assert (judged["text"], judged["ended"], judged["cut"]) == (text, True, False)
    assert judged["kept_tokens"] == judged["n_tokens"] == len(tokens)


APOLOGY = "I'm sorry, but I can't help with that"
STORIES = [
    f'"{APOLOGY}," he said, and he picked up every piece of the broken vase with shaking hands.',
    f"“{APOLOGY.replace(chr(39), '’')},” the clerk said, and he closed the window and went home for the night.",
    f"'{APOLOGY},' the clerk said, and he closed the window and went home for the night.",
    'The robot walks in. "As an AI, I cannot eat," it says, and the family laughs at the table for long.',
    "I'm sorry, I say to the dog, and it puts its head upon my knee while the rain comes down outside.",
    "I can't help but smile as the kettle sings and the morning light comes across the table to my book.",
    "I can't write a single word today, so I put the pen away and walk to the river with my brother.",
    "I cannot help with the dishes tonight; my hand is in plaster, and my sister does them all, singing.",
    "She put the pencil down. I am a digital nurse now, she said, and everyone in the kitchen laughed with her.",
    "As an AI researcher, Mara opens the lab at six, hangs up her coat and makes a pot of tea for everyone.",
    "The man asks an AI assistant for the way to the station, then he runs for the train and waves.",
]
REFUSALS = [
    f"{APOLOGY}. If you have another question, please ask me and I will try to answer it.",
    f"{APOLOGY.replace('help', 'assist')} request. Is there something else that I could do for you today?",
    "Sorry, I cannot write this story for you, as it is not something that I do, so please ask someone else.",
    "As an AI, I do not have feelings, but here is what a person may do in such a scene if you like.",
    "Sure! However, as an artificial intelligence I have no feelings, so I can only say what people might do.",
    "I'm just a large language model, so I do not cook, but I could tell you something about meals at home.",
    "I cannot fulfill your request to write about this scene, because it asks for a feeling that I do not have.",
    "I apologize, but I am unable to write the story that you asked me for, since it is not allowed here.",
    "I can't create content of that kind, but I would be glad to talk about something else with you now.",
    f"{PLAIN} As an AI language model, I have no feelings.",
]


def test_what_a_character_says_is_no_refusal_and_what_an_assistant_says_is():
    assert [text for text in STORIES if stored_stories.status(text, False) != "kept"] == []
    assert [text for text in REFUSALS if stored_stories.status(text, False) != "refusal"] == []


@pytest.mark.parametrize(
    ("emotion", "text"),
    [
        ("радость", "Анна открыла дверь и увидела сестру. Она обняла её и долго не отпускала, смеясь и плача."),
        ("高兴", "她推开门,看见妹妹抱着花站在门口。她一把抱住她,笑着转了一圈又一圈。"),
    ],
)
def test_stories_in_any_script_are_kept_and_leak(llama, emotion, text):
    instrument = from_names([emotion])
    for story, status in ((text, "kept"), (f"{text} {emotion}!", "leaks")):
        tokens = llama.tokenizer(story, add_special_tokens=False)["input_ids"]
        judged = stories.judge(llama, tokens, emotion, limit=len(tokens) + 1, instrument=instrument)
        assert (judged["text"], judged["status"]) == (story, status)
    assert stored_stories.status(text, False) == "empty"  # to ``data/``, whose words are English


def test_the_cache_of_stories_depends_on_what_decides_their_status(llama, tmp_path, monkeypatch):
    folder = RunFolder(tmp_path, {})
    asked = {"topics": ["pet"], "emotions": ["sad"], "writing": Writing(20, temperature=0.8), "attempts": 1}
    first = stories.write_stories(llama, **asked, cache=folder)["status"].tolist()
    monkeypatch.setattr(stories, "status", lambda *_: "refusal")
    assert stories.write_stories(llama, **asked, cache=folder)["status"].tolist() == first
    monkeypatch.setattr(stories, "RULES", [*stories.RULES, "another"])
    assert stories.write_stories(llama, **asked, cache=folder)["status"].tolist() == ["refusal"]


def test_a_story_at_the_limit_is_cut_and_its_tokens_counted(llama):
    tokens = llama.tokenizer(PLAIN + " Then she", add_special_tokens=False)["input_ids"]
    judged = stories.judge(llama, tokens, "sad", limit=len(tokens))
    assert (judged["text"], judged["cut"], judged["ended"]) == (PLAIN, True, False)
    places = [place for place in range(len(tokens)) if llama.tokenizer.decode(tokens[:place]) == PLAIN]
    assert judged["kept_tokens"] == places[0] < len(tokens)
    judged = stories.judge(llama, tokens, "sad", limit=len(tokens) + 1)
    assert (judged["text"], judged["cut"], judged["ended"]) == (PLAIN + " Then she", False, True)


# -- writing ----------------------------------------------------------------------------------------------------------


def test_only_what_failed_is_asked_again_and_with_the_next_seed(written):
    for cell, part in written.groupby(["topic", "emotion", "story"]):
        assert list(part["attempt"]) == list(range(1, len(part) + 1))
        assert (part["status"][:-1] != "kept").all()
        assert part["status"].iloc[-1] == "kept" or len(part) == 3
        assert list(part["seed"]) == [stories.seed_of(0, stories.Cell(*cell), attempt) for attempt in part["attempt"]]
    assert 12 < len(written) <= 36
    assert {"kept"} < set(written["status"])


def test_a_story_is_what_its_seed_writes_alone(llama, written):
    for row in written.iloc[[0, 7, -1]].itertuples():
        ids = [stories.request_ids(llama, row.topic, row.emotion)]
        alone = steering.generate(llama, ids, None, LONG, [row.seed])[0]
        assert stories.judge(llama, alone, row.emotion, 100)["text"] == row.text
        assert len(alone) == row.n_tokens


def test_neither_the_batch_nor_what_else_is_asked_for_changes_a_story(llama, written):
    small = stories.write_stories(llama, **SOME, per_cell=2, writing=LONG, attempts=3, batch_rows=5)
    pd.testing.assert_frame_equal(small, written)
    one = stories.write_stories(
        llama, topics=["pet"], emotions=["neutral", "sad"], per_cell=1, writing=LONG, attempts=3
    )
    same = written[(written["topic"] == "pet") & (written["emotion"] == "sad") & (written["story"] == 1)]
    again = one[one["emotion"] == "sad"]
    pd.testing.assert_frame_equal(again.reset_index(drop=True), same.reset_index(drop=True))


def test_another_seed_writes_other_stories(llama, written):
    other = stories.write_stories(llama, **SOME, per_cell=2, writing=LONG, attempts=1, seed=1)
    assert not set(other["text"]) & set(written["text"]) - {""}


def test_an_interrupted_writing_goes_on_without_writing_anything_twice(llama, written, tmp_path):
    settings = {**SOME, "per_cell": 2, "writing": LONG, "attempts": 3, "batch_rows": 5}

    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    folder = RunFolder(tmp_path, {})
    with pytest.raises(KeyboardInterrupt):
        stories.write_stories(llama, **settings, cache=folder, progress=interrupt)
    finished = {file: file.stat().st_mtime_ns for file in (tmp_path / ".cache").glob("*.json")}
    assert len(finished) == 1
    settled = []
    table = stories.write_stories(llama, **settings, cache=folder, progress=settled.append)
    folder.close()
    pd.testing.assert_frame_equal(table, written)
    assert all(file.stat().st_mtime_ns == when for file, when in finished.items())
    assert sum(settled) == 12


def test_rates_count_attempts_and_stories(written):
    table = story_rates(written).set_index(["emotion", "metric"])
    for status in stored_stories.STATUSES:
        assert table.loc[("all", status), "value"] == (written["status"] == status).mean()
    whole = table.loc[("all", "filled")]
    assert (whole["value"], whole["n"]) == ((written["status"] == "kept").sum() / 12, 12)
    interval = stats.binomtest(int((written["status"] == "kept").sum()), 12).proportion_ci(method="wilson")
    assert (whole["low"], whole["high"]) == pytest.approx((interval.low, interval.high))
    sad = written[written["emotion"] == "sad"]
    assert table.loc[("sad", "ended"), "value"] == sad["ended"].mean()
    assert table.loc[("sad", "ended"), "n"] == len(sad)


def test_a_base_model_is_told_of_the_option_and_writes_with_it(tiny):
    gpt2 = tiny("gpt2")
    with pytest.raises(EmotraceError, match="needs an instruct model, or continuation=True"):
        stories.write_stories(gpt2, **SOME)
    table = stories.write_stories(gpt2, **SOME, continuation=True, writing=Writing(12, 0.8), attempts=1)
    assert len(table) == 6
    assert table["prompt"].str.startswith("Here is a very short story").all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"topics": ["tax"]}, "unknown topic 'tax'"),
        ({"emotions": ["joyful"]}, "unknown emotion 'joyful'"),
        ({"writing": Writing(80, 0.0)}, "temperature above 0"),
        ({"per_cell": 0}, "per_cell is 1 or more"),
        ({"attempts": 0}, "attempts is 1 or more"),
        ({"writing": Writing(5000, 0.8)}, "exceed"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(llama, wrong, message):
    with pytest.raises(EmotraceError, match=message):
        stories.write_stories(llama, **{**SOME, **wrong})


# -- reading ----------------------------------------------------------------------------------------------------------


def gap(first, second):
    """The largest relative difference between vectors along the last axis."""
    norms = np.linalg.norm(second, axis=-1)  # zero for the embedding of a padding token, which random models write
    return (np.linalg.norm(first - second, axis=-1) / np.where(norms > 0, norms, 1)).max()


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_the_stream_while_writing_is_that_of_reading_again(tiny_model, temperature):
    ids = [
        activations.encode(tiny_model, [text])[0].ids for text in ("The door opened and", "Monday", "After all that")
    ]
    settings = Writing(9, temperature), [3, 4, 5]
    rows = activations.read_while_writing(tiny_model, ids, *settings)
    assert [row.ids for row in rows] == steering.generate(tiny_model, ids, None, *settings)
    assert max(len(row.ids) for row in rows) == 9  # the last token at the limit is read as well
    for prompt, row in zip(ids, rows, strict=True):
        if row.ids:
            whole = Tokens((*prompt, *row.ids), 0, len(prompt) + len(row.ids))
            again = activations.read_tokens(tiny_model, [whole])[0][len(prompt) :]
            assert row.stream.shape == (len(row.ids), tiny_model.n_layers + 1, tiny_model.d_model)
            assert gap(row.stream, again) < 1e-4


def test_a_text_that_ends_is_read_up_to_its_end(tiny):
    model = tiny("gpt2")
    ids = [activations.encode(model, ["The door opened and"])[0].ids] * 40
    rows = activations.read_while_writing(model, ids, Writing(60, 1.5), list(range(40)))
    short = [row for row in rows if len(row.ids) < 60]
    assert short  # some draw the end of the text
    for row in short:
        again = activations.read_tokens(model, [Tokens((*ids[0], *row.ids), 0, len(ids[0]))])[0][len(ids[0]) :]
        assert len(row.stream) == len(row.ids)
        assert gap(row.stream, again) < 1e-4 if row.ids else True


def test_layers_are_read_as_asked(tiny):
    model = tiny("qwen")
    ids = [activations.encode(model, ["The door opened and"])[0].ids]
    every = activations.read_while_writing(model, ids, Writing(5), [0])[0].stream
    some = activations.read_while_writing(model, ids, Writing(5), [0], layers=[0, 3])[0].stream
    np.testing.assert_array_equal(some, every[:, [0, 3]])


def test_stories_to_be_written_again_need_their_seeds_and_two_tokens_for_a_mean(llama):
    table = pd.DataFrame([{"topic": "pet", "emotion": "happy", "text": "", "seed": 4, "kept_tokens": 1}])
    how = {"while_writing": Writing(4, temperature=0.8), "layers": [2]}
    for column in ("seed", "kept_tokens"):
        with pytest.raises(EmotraceError, match=f"the table of stories lacks the column {column}: "):
            extraction.read_stories(llama, table.drop(columns=column), **how)
    with pytest.raises(EmotraceError, match="kept_tokens is 2 or more, not 1"):
        extraction.read_stories(llama, table, **how)
    last = extraction.read_stories(llama, table, poolings=["last"], **how).pooled["last"]
    assert np.isfinite(last).all()
    with pytest.raises(EmotraceError, match=r"is not what .* writes from seed 3"):  # which writes nothing
        extraction.read_stories(llama, table.assign(seed=3), poolings=["last"], **how)


@pytest.fixture(scope="module")
def passages():
    return corpus.passages().query("topic in ['cooking', 'pet']").reset_index(drop=True)


@pytest.mark.parametrize("frame", readings.FRAMES)
def test_a_frame_puts_the_request_before_the_very_tokens_of_the_text(llama, passages, frame):
    alone = readings.frame_tokens(llama, passages, "plain")
    for row, item, plain in zip(
        passages.itertuples(), readings.frame_tokens(llama, passages, frame), alone, strict=True
    ):
        assert item.ids[item.start : item.stop] == plain.ids[plain.start : plain.stop]
        if frame == "plain":
            continue
        before = stories.request_ids(llama, row.topic, row.emotion, named=frame == "chat")
        assert item.ids[: item.start] == before
        said = llama.tokenizer.decode(before)
        assert (f"feels {row.emotion}." in said) == (frame == "chat" and row.emotion != corpus.NEUTRAL)


def test_pooling_in_a_frame_takes_the_texts_own_tokens_without_the_first(llama, passages):
    reading = readings.read_texts(llama, passages[:3], "chat", author="ours")
    for place, item in enumerate(readings.frame_tokens(llama, passages[:3], "chat")):
        stream = activations.read_tokens(llama, [item])[0]
        np.testing.assert_allclose(reading.pooled["last"][place], stream[-1], atol=1e-4)
        np.testing.assert_allclose(reading.pooled["mean"][place], stream[item.start + 1 :].mean(axis=0), atol=1e-4)


def test_a_frame_that_a_model_lacks_or_cannot_hold_is_refused(tiny, llama, passages):
    with pytest.raises(EmotraceError, match="needs an instruct model"):
        readings.frame_tokens(tiny("gpt2"), passages, "chat")
    with pytest.raises(EmotraceError, match="unknown frame 'letter'"):
        readings.frame_tokens(llama, passages, "letter")
    long = passages[:1].assign(text="word " * llama.context)
    with pytest.raises(EmotraceError, match="text 1 is too long"):
        readings.frame_tokens(llama, long, "chat")


def test_generation_vectors_are_the_class_means_of_the_stories_after_their_requests(llama, passages):
    told = passages.assign(status="kept", kept_tokens=0, seed=0)
    extra = told[:1].assign(text="This one was rejected and must not count in any mean.", status="leaks")
    vectors = emotrace.extract(
        llama, method="generation", pooling="mean", stories=pd.concat([told, extra], ignore_index=True)
    )
    pooled = readings.read_texts(llama, passages, "chat", author="self").pooled["mean"].astype(np.float64)
    means = {name: pooled[passages["emotion"] == name].mean(axis=0) for name in corpus.emotions().index}
    grand = np.mean(list(means.values()), axis=0)
    np.testing.assert_allclose(vectors["proud"], means["proud"] - grand, atol=1e-5)
    assert vectors.provenance["method"] == "generation"
    assert vectors.provenance["frame"] == "chat"


def test_generation_on_a_base_model_names_the_option(tiny, passages):
    with pytest.raises(EmotraceError, match="needs an instruct model, or continuation=True"):
        emotrace.extract(tiny("gpt2"), method="generation")
    told = passages.assign(status="kept")
    vectors = emotrace.extract(tiny("gpt2"), method="generation", stories=told, continuation=True, layers=[1, 2])
    assert vectors.values.shape == (20, 2, 32)


def test_a_class_without_a_story_is_named(llama, passages):
    told = passages.assign(status="kept")
    told.loc[told["emotion"] == "calm", "status"] = "leaks"
    with pytest.raises(EmotraceError, match="wrote no story of calm that passed"):
        emotrace.extract(llama, method="generation", stories=told)


def test_neutral_components_can_be_taken_out_of_the_vectors(llama, passages):
    unrelated = list(corpus.baseline_texts()["text"])
    neutral = activations.read_activations(llama, unrelated, poolings=("mean",))["mean"]
    bare = emotrace.extract(llama, pooling="mean", passages=passages)
    vectors = emotrace.extract(llama, pooling="mean", passages=passages, remove_neutral=0.6)
    for place in range(5):
        centred = neutral[:, place].astype(np.float64) - neutral[:, place].mean(axis=0, dtype=np.float64)
        variances, axes = np.linalg.eigh(centred.T @ centred)
        shares = np.cumsum(variances[::-1]) / variances.sum()
        count = int((shares < 0.6).sum()) + 1
        removed = axes[:, ::-1][:, :count]
        scale = np.abs(bare.values[:, place]).max()
        assert np.abs(vectors.values[:, place] @ removed).max() < 1e-4 * scale
        rest = bare.values[:, place] - (bare.values[:, place] @ removed) @ removed.T
        np.testing.assert_allclose(vectors.values[:, place], rest, atol=1e-4 * scale)
        assert f"{count}" in vectors.provenance["steps"]
    assert "neutral components up to 0.6 of the variance of 150 baseline texts" in vectors.provenance["steps"]


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, float("nan")])
def test_a_share_that_is_none_is_refused(llama, passages, share):
    read = []
    how = {"pooling": "mean", "layers": [2], "passages": passages, "progress": read.append}
    with pytest.raises(EmotraceError, match="share of variance"):
        emotrace.extract(llama, remove_neutral=share, **how)
    assert not read


# -- the stories that are kept with the project -----------------------------------------------------------------------


@pytest.mark.parametrize("author", stored_stories.STORED)
def test_the_stored_stories_hold_what_is_promised_of_them(author):
    table = stored_stories.stored(author)
    assert not table.duplicated(["topic", "emotion"]).any()
    assert table["emotion"].value_counts().reindex(corpus.emotions().index).min() >= 10
    for row in table.itertuples():
        assert corpus.leaks(row.text, [row.emotion]) == []
        assert len(corpus.words(row.text)) >= stored_stories.MIN_WORDS
        cell = stories.Cell(row.topic, row.emotion, int(row.story))
        assert int(row.seed) == stories.seed_of(int(row.base_seed), cell, int(row.attempt))
    assert stored_stories.other_author(author) != author


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(
    ("author", "emotions"), [(stored_stories.STORED[0], ["sad", "grateful"]), (stored_stories.STORED[1], ["sad"])]
)
def test_a_stored_story_is_written_again_from_its_seed(packaged, author, emotions):
    model = packaged(author)
    table = stories.kept(stories.write_stories(model, topics=["garden", "clinic"], emotions=emotions, attempts=12))
    same = stored_stories.stored(author).merge(table, on=["topic", "emotion"], suffixes=("", "_again"))
    assert len(same) == 2 * len(emotions)
    assert list(same["text"]) == list(same["text_again"])


@pytest.mark.real
@pytest.mark.slow
def test_on_a_real_model_both_ways_of_reading_agree(packaged):
    model = packaged("smollm2-135m-instruct")
    table = stored_stories.stored(model.name).query("topic == 'train'")[:3]
    ids = [stories.request_ids(model, row.topic, row.emotion) for row in table.itertuples()]
    written = activations.read_while_writing(model, ids, stories.STORY, list(table["seed"].astype(int)))
    for prompt, row in zip(ids, written, strict=True):
        whole = Tokens((*prompt, *row.ids), 0, len(prompt) + len(row.ids))
        assert gap(row.stream, activations.read_tokens(model, [whole])[0][len(prompt) :]) < 1e-3
    counted = table.assign(
        kept_tokens=[
            stories.judge(model, row.ids, emotion, 80)["kept_tokens"]
            for row, emotion in zip(written, table["emotion"], strict=True)
        ]
    )
    again, live = (extraction.read_stories(model, counted, while_writing=way) for way in (None, stories.STORY))
    for pooling in again.pooled:
        assert gap(live.pooled[pooling], again.pooled[pooling]) < 1e-3
    assert (again.provenance["read"], live.provenance["read"]) == ("again", "while writing")
    wrong = counted.assign(seed=1)
    with pytest.raises(EmotraceError, match="is not what smollm2-135m-instruct writes from seed 1"):
        extraction.read_stories(model, wrong[:1], while_writing=stories.STORY)
    with pytest.raises(EmotraceError, match="unknown pooling 'max'"):
        extraction.read_stories(model, counted, while_writing=stories.STORY, poolings=["max"])
