"""Tables of one's own: honest statistics of texts that are not crossed, a clear line for what cannot be used."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from shuffled_labels import shuffled_cosine

import emotrace
from emotrace.errors import EmotraceError
from emotrace.instrument import corpus
from emotrace.measures import geometry, grams, groups
from emotrace.measures.statistics import permutation_p
from emotrace.readings import Reading, read_texts
from emotrace.study import experiments, pipeline
from emotrace.study.experiment import Results
from emotrace.study.folder import RunFolder, read_manifest, select
from emotrace.study.methods.intraclass import shares
from emotrace.study.separation import localisation, measure, spreads
from emotrace.study.separation.experiments import EXPERIMENTS
from emotrace.study.settings import Settings
from emotrace.study.study import Study

FIRST, LATER = corpus.topics().index[[0, 8]]
LAST = corpus.emotion_names()[-1]
CLASSES, TOPICS, WIDTH = 20, 6, 12
CROSSED = np.ones((TOPICS, CLASSES), dtype=int)


def thinned(classes):
    """One text instead of six for the first ``classes``, each on another topic."""
    counts = CROSSED.copy()
    counts[:, :classes] = 0
    counts[np.arange(classes) % TOPICS, np.arange(classes)] = 1
    return counts


def owned():
    """The first class has the first topic for itself, two texts, and none elsewhere."""
    counts = CROSSED.copy()
    counts[:, 0], counts[0] = 0, 0
    counts[0, 0] = 2
    return counts


def doubled(cells):
    """Two texts in the first ``cells`` cells of each topic."""
    counts = CROSSED.copy()
    counts[:, :cells] = 2
    return counts


DESIGNS = {
    "crossed": CROSSED,
    "one thinned": thinned(1),
    "three thinned": thinned(3),
    "eight thinned": thinned(8),
    "a topic owned": owned(),
    "two texts in some cells": doubled(4),
    "two texts in every cell": doubled(CLASSES),
    "any counts": np.random.default_rng(0).integers(0, 4, size=(TOPICS, CLASSES)) + np.eye(TOPICS, CLASSES, dtype=int),
}


def noise(counts, rng, signal=0.0):
    """Texts with a common offset and their topic's direction, and ``signal`` × their class's; topics, classes."""
    topics, classes = (np.repeat(index.ravel(), counts.ravel()) for index in np.indices(counts.shape))
    parts = rng.normal(size=(TOPICS, WIDTH))[topics] + signal * rng.normal(size=(CLASSES, WIDTH))[classes]
    return 3 + parts + rng.normal(size=parts.shape), topics, classes


def p_of(texts, rng, permutations=39):
    names = np.unique(texts[2])
    value = geometry.mean_pairwise_cosine(geometry.cells(*texts, names).centroids())
    return permutation_p(float(value), shuffled_cosine(*texts, names, permutations, rng), "less")


# -- the null of the separation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("design", DESIGNS)
def test_noise_is_significant_as_often_as_the_level_says_whatever_the_counts(design):
    rng = np.random.default_rng(11)
    false = sum(p_of(noise(DESIGNS[design], rng), rng) <= 0.05 for _ in range(200))
    low, high = stats.binom.interval(0.998, 200, 0.05)
    assert low <= false <= high


@pytest.mark.parametrize("design", DESIGNS)
def test_planted_classes_are_found_whatever_the_counts(design):
    rng = np.random.default_rng(12)
    assert np.mean([p_of(noise(DESIGNS[design], rng, 1.0), rng) for _ in range(10)]) < 0.05


def test_the_null_of_uneven_cells_is_every_way_to_deal_out_the_texts():
    texts = np.random.default_rng(9).normal(1, 1, size=(7, 4))
    topics, emotions = list("aaaabbb"), ["sad", "sad", "calm", "proud", "calm", "calm", "sad"]
    exact = []
    for first, second in itertools.product(itertools.permutations(range(4)), itertools.permutations(range(4, 7))):
        labels = [emotions[row] for row in (*first, *second)]
        cells = geometry.cells(texts, topics, labels, ["sad", "calm", "proud"])
        exact.append(geometry.mean_pairwise_cosine(cells.centroids()))
    null = shuffled_cosine(texts, topics, emotions, ["sad", "calm", "proud"], 4000, np.random.default_rng(0))
    assert set(np.round(null, 9)) == set(np.round(exact, 9))
    assert null.mean() == pytest.approx(np.mean(exact), abs=5 * np.std(exact) / np.sqrt(4000))


def test_classes_that_are_not_asked_for_are_not_shuffled_in():
    rng = np.random.default_rng(10)
    texts = noise(thinned(3), rng)
    asked = texts[2] < 10
    expected = shuffled_cosine(*(part[asked] for part in texts), range(10), 9, np.random.default_rng(1))
    found = shuffled_cosine(*texts, range(10), 9, np.random.default_rng(1))
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("design", ["one thinned", "eight thinned", "a topic owned"])
def test_the_emotions_share_in_the_factorial_is_zero_in_noise(design):
    """It averages to zero whichever texts are missing, with topics that differ far more than texts on one do."""
    rng, present = np.random.default_rng(13), DESIGNS[design] > 0
    found = []
    for _ in range(100):
        texts = 3 + rng.normal(size=(TOPICS, CLASSES, 1, WIDTH)) + 5 * rng.normal(size=(TOPICS, 1, 1, WIDTH))
        products = grams.gram(texts * present[..., None, None])
        found.append(shares(products, present, np.ones((1, TOPICS)))[0, 0])
    assert abs(np.mean(found)) < 4 * np.std(found) / 10


# -- its siblings -----------------------------------------------------------------------------------------------------


def test_groups_of_unrelated_texts_are_as_large_as_the_classes():
    """Cosine of two means of m and n texts: 1 / sqrt((1 + s/m)(1 + s/n)), with noise of squared norm s = 4."""
    rng, sizes = np.random.default_rng(14), [1, 4, 16]
    vectors = 1 + rng.normal(0, 2, size=(60, 3000)).astype(np.float32)
    expected = np.mean([1 / np.sqrt((1 + 4 / m) * (1 + 4 / n)) for m, n in itertools.combinations(sizes, 2)])
    assert groups.group_count(60, sizes) == 3
    assert groups.group_cosine(vectors, sizes, 5, rng) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("n", "sizes", "expected"), [(75, [6] * 20, 12), (75, [6] * 19 + [1], 12), (10, [4, 4, 1], 3), (9, [4, 5, 1], 2)]
)
def test_as_many_groups_as_find_room_whichever_are_drawn(n, sizes, expected):
    assert groups.group_count(n, sizes) == expected
    assert np.isfinite(
        groups.group_cosine(np.random.default_rng(0).normal(size=(n, 3)), sizes, 50, np.random.default_rng(1))
    )


def test_unequal_groups_without_room_are_refused():
    with pytest.raises(EmotraceError, match="9 vectors do not make two groups of 8"):
        groups.group_count(9, [8, 2, 2])


def test_silhouettes_of_classes_of_one_text():
    texts = np.random.default_rng(15).normal(size=(5, 3))
    assert geometry.silhouettes(texts, ["sad", "sad", "calm", "calm", "proud"])[4] == 0
    assert np.isnan(geometry.silhouettes(texts, ["sad", "calm", "proud", "happy", "angry"])).all()
    assert np.isnan(geometry.silhouettes(texts, ["sad"] * 5)).all()


@pytest.mark.parametrize("decoder", geometry.DECODERS)
def test_a_decoder_that_saw_one_class_names_it(decoder):
    texts = np.random.default_rng(16).normal(size=(6, 3))
    correct = geometry.decode(texts, ["sad"] * 3 + ["calm"] * 3, ["a"] * 3 + ["b"] * 3, decoder)
    assert not correct.any()


# -- the study of texts that are not crossed --------------------------------------------------------------------------


def crossed(topics=6, emotions=8):
    """Texts of the first emotions and *neutral* on the first topics, one a cell."""
    names = [*corpus.emotion_names()[:emotions], corpus.NEUTRAL]
    cells = itertools.product(corpus.topics().index[:topics], names)
    return pd.DataFrame([{"topic": t, "emotion": e, "text": f"She talked about {t} and {e}."} for t, e in cells])


def without(table, emotion, topics):
    """Without an emotion's texts on all topics but the first so many."""
    return table[(table["emotion"] != emotion) | table["topic"].isin(table["topic"].unique()[:topics])]


def unbalanced():
    table = without(without(crossed(), "happy", 1), "sad", 2)
    more = crossed().query("emotion == 'calm'").assign(text=lambda rows: rows["text"] + " It rained.")
    return pd.concat([table, more], ignore_index=True)


def study_of(tmp_path, labels, signal=0.0, seed=0, settings=None):
    """Noise of four layers, with ``signal`` × a direction of each emotion's own."""
    rng = np.random.default_rng(seed)
    direction = {name: rng.normal(size=(4, WIDTH)) for name in labels["emotion"].unique()}
    topic = {name: rng.normal(size=(4, WIDTH)) for name in labels["topic"].unique()}
    rows = [
        3 + rng.normal(size=(4, WIDTH)) + topic[row.topic] + signal * direction[row.emotion]
        for row in labels.itertuples()
    ]
    baseline = {"last": 3 + rng.normal(size=(60, 4, WIDTH)).astype(np.float32)}
    reading = Reading(labels, {"last": np.stack(rows).astype(np.float32)}, [0, 1, 2, 3], {"model": f"noise {seed}"})
    settings = settings or replace(Settings.quick(), bootstrap=50, permutations=39, decoder_permutations=39)
    run = RunFolder(tmp_path / f"run{seed}", {"models": ["noise"]})
    return Study("noise", "llama", 3, True, reading, baseline, settings, run, lambda what, done, of: None)


def tables_of(study):
    results = Results()
    experiments.measure(list(EXPERIMENTS), study, results)
    return results.tables


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_all_tables_of_texts_that_are_not_crossed_are_whole(tmp_path):
    tables = tables_of(study_of(tmp_path, unbalanced(), signal=1.5))
    cosines = select(tables["separation"], metric="cosine")
    assert (cosines["p"] <= 2 / 40).all()
    assert tables["separation"]["value"].notna().all()
    assert tables["anisotropy"]["value"].notna().all()
    assert tables["localisation"][["layer", "chosen_layer", "held_out"]].notna().all(axis=None)
    assert set(tables["geometry"]["split"]) == {"all", "held_out"}


def test_the_separation_of_noise_has_honest_p_in_the_study(tmp_path):
    """As ``emotrace run`` computes it: the input of the report, 'happy' on one topic only, 'sad' on two."""
    ps = []
    for seed in range(30):
        table = measure.separation(study_of(tmp_path, unbalanced(), seed=seed, settings=QUICK))
        ps.append(select(table, metric="cosine", layer=2).iloc[0]["p"])
    assert np.sum(np.array(ps) <= 0.05) <= stats.binom.ppf(0.999, 30, 0.05)


QUICK = replace(Settings.quick(), bootstrap=5, permutations=19)


def test_its_siblings_are_honest_as_well(tmp_path):
    """The decoder's p on the held-out half, and the two excesses of half the topics, over noise."""
    ps, excesses = [], []
    for seed in range(60):
        study = study_of(tmp_path, unbalanced(), seed=seed, settings=replace(QUICK, decoder_permutations=19))
        ps.append(localisation._decoding_held_out(study, "last", "nearest_centroid", 2)["p"])
        half = study.halves[0]
        excesses.append(spreads.half_value(study, "last", 2, half, "shuffle_excess"))
        assert np.isfinite(spreads.half_value(study, "last", 2, half, "anisotropy_excess"))
    assert np.sum(np.array(ps) <= 0.05) <= stats.binom.ppf(0.999, 60, 0.05)
    assert abs(np.mean(excesses)) < 4 * np.std(excesses) / np.sqrt(60)


def test_chance_and_group_sizes_are_those_of_the_texts(tmp_path):
    study = study_of(tmp_path, unbalanced())
    counts = unbalanced().query("emotion != 'neutral'")["emotion"].value_counts()
    table = select(measure.separation(study), metric="nearest_centroid")
    assert (table["null"] == counts.max() / counts.sum()).all()
    assert study.group_sizes() == [counts[name] for name in study.names]
    first = study.halves[0]
    inside = pd.Series(study.emotions[study.in_half(first)]).value_counts()
    assert study.group_sizes(first) == [inside[name] for name in study.names_in(first)]


def test_accuracy_and_its_resamples_weigh_every_text_alike(tmp_path):
    """A resample that draws each topic once is the value itself, however many texts each has."""
    labels = np.array(list("aaabbc"))
    correct = np.array([1.0, 0, 0, 1, 1, 1])
    sums, sizes = measure._by_topic(correct, labels)
    assert sums.sum() / sizes.sum() == pytest.approx(correct.mean())
    np.testing.assert_allclose(sums / sizes, [1 / 3, 1, 1])


def test_crossed_texts_draw_as_before(tmp_path):
    """Whole cells change places where all hold as many: the numbers of the tables that are published."""
    texts = noise(doubled(CLASSES), np.random.default_rng(17))
    summed, rng = geometry.cells(*texts, range(CLASSES)), np.random.default_rng(18)
    expected = []
    for _ in range(5):
        columns = rng.permuted(np.tile(np.arange(CLASSES), (TOPICS, 1)), axis=1)
        sums = np.take_along_axis(summed.sums, columns[..., None], axis=1).sum(axis=0)
        expected.append(geometry.mean_pairwise_cosine(sums / (2 * TOPICS)))
    found = shuffled_cosine(*texts, range(CLASSES), 5, np.random.default_rng(18))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("table", "notes"),
    [
        (crossed(), []),
        (
            without(crossed(), "happy", 1),
            ["1 to 6 passages (happy to ", f"happy has passages on one topic only ({FIRST})"],
        ),
        (
            crossed().query(f"topic != '{FIRST}' or emotion == 'sad'"),
            [f"the topic {FIRST} has passages of one emotion"],
        ),
        (
            pd.concat([crossed(), crossed(12).query(f"topic == '{LATER}' and emotion == 'sad'").assign(emotion=LAST)]),
            [f"no passage of {LAST} on the 6 topics"],
        ),
    ],
)
def test_what_is_not_crossed_is_said(table, notes):
    said = corpus.imbalances(table, 6)
    assert bool(said) == bool(notes)
    for note in notes:
        assert any(note in line for line in said)


@pytest.mark.parametrize("table", [crossed(1), crossed(6, 1)])
def test_too_few_topics_or_emotions_are_refused(table):
    with pytest.raises(EmotraceError, match="two emotions or more on two topics or more"):
        corpus.imbalances(table, 6)


def test_a_run_says_what_is_not_crossed(tiny_folder, tmp_path, capsys):
    file = tmp_path / "own.csv"
    unbalanced().to_csv(file, index=False)
    pipeline.run(
        [str(tiny_folder("llama", n_layers=6))], tmp_path / "run", chosen="separation", passages=file, quick=True
    )
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("emotrace: ")]
    assert len(said) == 2
    assert "happy has passages on one topic only" in said[1]
    assert read_manifest(tmp_path / "run")["passages"] == [line.removeprefix("emotrace: ") for line in said]


# -- tables and files of one's own ------------------------------------------------------------------------------------


def changed(column, value, row=2):
    """The crossed table with one cell changed."""
    table = crossed().astype(object)
    table.loc[row, column] = value
    return table


FAULTS = {
    "no emotion": (crossed().drop(columns="emotion"), "lacks the column emotion: it needs emotion, text"),
    "no text": (crossed().drop(columns="text"), "lacks the column text"),
    "own emotion": (crossed().replace("happy", "nostalgia"), "row 1: unknown emotion 'nostalgia': known are happy,"),
    "capital": (crossed().replace("sad", "Sad"), "unknown emotion 'Sad'"),
    "two classes": (crossed().query("emotion == 'neutral'"), "'neutral' alone"),
    "no neutral": (crossed().query("emotion != 'neutral'"), "no passage of the class 'neutral'"),
    "empty": (crossed()[:0], "has no rows"),
    "blank": (changed("text", " \n"), "row 3: the text is empty"),
    "nan": (changed("text", float("nan")), "row 3: the text is no string: nan (float)"),
    "none": (changed("text", None), "row 3: the text is no string"),
    "number": (changed("text", 7), "row 3: the text is no string: 7 (int)"),
    "label nan": (changed("emotion", np.nan), "row 3: the emotion is no string: nan"),
    "label number": (changed("emotion", 3.0), "row 3: the emotion is no string: 3.0 (float)"),
    "surrogate": (changed("text", "half \ud83d here"), "row 3: the text has half a character"),
    "two emotions": (changed("text", crossed()["text"][0]), "row 3: the same text stands there with another emotion"),
    "id twice": (crossed().assign(id="a"), "passage a: the same id stands there twice"),
    "text twice": (changed("text", crossed()["text"][0]).assign(id=lambda t: t.index.map(str)), "the same text stands"),
    "column twice": (crossed().pipe(lambda t: pd.concat([t, t[["text"]]], axis=1)), "has the column text twice"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_table_is_refused_in_one_line(name, tiny):
    table, message = FAULTS[name]
    for refused in (corpus.check_passages, lambda table: emotrace.extract(tiny("llama"), passages=table)):
        with pytest.raises(EmotraceError) as error:
            refused(table)
        assert message in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrong", [[], ["a text"], {"text": ["a"]}, crossed()["text"], 3])
def test_what_is_no_table_is_refused(wrong, tiny):
    for given in ({"passages": wrong}, {"method": "generation", "stories": wrong}):
        with pytest.raises(EmotraceError, match="pandas DataFrame"):
            emotrace.extract(tiny("llama"), **given)


def test_a_table_as_people_have_it_gives_the_same_vectors(tiny, tmp_path):
    """Two columns, another index, categories, spaces around labels, a path in place of a table."""
    model, table = tiny("llama"), crossed()[["emotion", "text"]]
    expected = emotrace.extract(model, passages=table)
    table.to_csv(tmp_path / "own.csv", index=False)
    same = [
        table.set_axis(range(100, 100 + len(table))),
        table.set_axis([0] * len(table)),
        table.set_index("text", drop=False),
        table.astype({"emotion": "category"}),
        table.assign(emotion=" " + table["emotion"] + " "),
        table[["text", "emotion"]],
        tmp_path / "own.csv",
        str(tmp_path / "own.csv"),
    ]
    for other in same:
        vectors = emotrace.extract(model, passages=other)
        assert vectors.emotions == expected.emotions
        np.testing.assert_array_equal(vectors.values, expected.values)


def test_a_frame_needs_topics(tiny):
    with pytest.raises(EmotraceError, match="lacks the column topic: it needs topic, emotion, text"):
        read_texts(tiny("llama"), crossed().drop(columns="topic"), "unnamed")


def test_a_reading_of_unknown_labels_gives_no_vectors(tiny):
    reading = read_texts(tiny("llama"), crossed()[:4].assign(emotion=["neutral", "sad", "nostalgia", "sad"]))
    with pytest.raises(EmotraceError, match="unknown emotion 'nostalgia'"):
        reading.vectors()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="topic"), "lacks the column topic"),
        (lambda t: t.assign(text=[np.nan, *t["text"][1:]]), "row 1: the text is no string"),
        (lambda t: t.assign(emotion=["smug", *t["emotion"][1:-1], "happy"]), "has none of neutral|unknown emotion"),
        (lambda t: t.assign(status="leaks"), "wrote no story of"),
    ],
)
def test_faulty_stories_are_refused(change, message, tiny):
    names = corpus.emotions().index
    table = pd.DataFrame({"topic": "pet", "emotion": names, "text": [f"A story, {name}." for name in names]})
    with pytest.raises(EmotraceError, match=message):
        emotrace.extract(tiny("llama"), method="generation", stories=change(table))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_files_as_spreadsheets_write_them(tmp_path, separator, encoding):
    table = crossed().assign(text=lambda rows: rows["text"] + ' "Já; so, и\tда"\n门。')
    table.to_csv(tmp_path / "own.csv", sep=separator, encoding=encoding, index=False, lineterminator="\r\n")
    pd.testing.assert_frame_equal(corpus.passages(tmp_path / "own.csv", topics=True), table)


@pytest.mark.parametrize(
    "content",
    [
        "emotion,text\nsad,She left.\nneutral,It is six.\n",
        "text;emotion\nShe left, crying.;sad\nIt is six.;neutral\n",
        " Emotion-id , emotion , text ,,\n1,sad,She left.,,\n\n\n2,neutral,It is six.,,\n",
        ",emotion,text\n0,sad,She left.\n1,neutral,It is six.\n",
        "\ufeffemotion\ttext\r\nsad\tShe left.\r\nneutral\tIt is six.\r\n",
    ],
)
def test_two_columns_are_enough(tmp_path, content):
    (tmp_path / "own.csv").write_text(content)
    table = corpus.passages(tmp_path / "own.csv")
    assert list(table["emotion"]) == ["sad", "neutral"]
    assert list(table["text"].str[:5]) == ["She l", "It is"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "emotion|text\nsad|She left.\n",
            "lacks the column emotion, text: it needs emotion, text, with commas, semicol",
        ),
        ("emotion,text\nsad,Café\n".encode("cp1252"), "byte 20 is not UTF-8; save it as UTF-8"),
        ("emotion,text\nsad,Gone\n".encode("utf-16-le"), "no text"),
        ("emotion,text\nsad,She cried, and left.\n", "row 2: 3 fields, but 2 columns"),
        ("emotion,text\nsad\n", "row 2: 1 fields, but 2 columns"),
        ('emotion,text\nsad,"She left.\n', "cannot be read as CSV"),
        ("emotion,text,text\nsad,a,b\n", "has the column text twice"),
        ("emotion,text\n", "has no rows"),
        ("", "it is empty"),
    ],
)
def test_files_that_cannot_be_meant_are_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "own.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(EmotraceError) as error:
        corpus.passages(tmp_path / "own.csv")
    assert message in str(error.value)
    assert str(tmp_path / "own.csv") in str(error.value)
    assert "\n" not in str(error.value)


def test_the_study_needs_topics(tmp_path):
    crossed().drop(columns="topic").to_csv(tmp_path / "own.csv", index=False)
    with pytest.raises(EmotraceError, match="lacks the column topic: it needs topic, emotion, text"):
        pipeline.run(["none"], tmp_path / "run", passages=tmp_path / "own.csv")
