"""The factorial names the factor that was planted, and its fast sums equal slow loops."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from emotrace import EmotraceError
from emotrace.instrument import corpus
from emotrace.instrument.stories import stored
from emotrace.measures import geometry, grams
from emotrace.measures.geometry import neutral_components
from emotrace.readings import Reading
from emotrace.study.folder import select
from emotrace.study.methods import figures, intraclass
from emotrace.study.methods.design import AUTHORS, FRAMES, Design, match_readings, read_design
from emotrace.study.methods.factorial import METRICS, factorial_tables

TOPICS, EMOTIONS, LAYERS, WIDTH = 8, 6, 5, 24
NAMES = corpus.emotion_names()[:EMOTIONS]


def plant(author_gain=None, frame_gain=None, pooling_gain=None, frames=FRAMES, seed=0, bootstrap=300, **more):
    """Texts = a common point + topic + gain × emotion + noise; the gains of an author, a frame and a pooling multiply.

    Nothing is planted in the first layer, so that the choice of a layer matters.
    """
    rng = np.random.default_rng(seed)
    depth = np.array([0.0, 0.3, 1.0, 0.8, 0.5])[:, None]
    common, emotions = 30 * rng.normal(size=(LAYERS, WIDTH)), rng.normal(size=(EMOTIONS, LAYERS, WIDTH)) * depth
    topics = rng.normal(size=(TOPICS, 1, LAYERS, WIDTH))
    pooled = {}
    for author in AUTHORS:
        told = rng.normal(size=(TOPICS, EMOTIONS, LAYERS, WIDTH))  # a text is the same in every frame
        for frame, pooling in itertools.product(frames, ("last", "mean")):
            gain = 0.5 * (author_gain or {}).get(author, 1) * (frame_gain or {}).get(frame, 1)
            gain *= (pooling_gain or {}).get(pooling, 1)
            noise = 0.2 * rng.normal(size=told.shape)
            pooled[author, frame, pooling] = (common + topics + gain * emotions + told + noise).astype(np.float32)
    present = np.ones((TOPICS, EMOTIONS), dtype=bool)
    names = tuple(corpus.topics().index[:TOPICS])
    return Design(
        "planted",
        LAYERS,
        names,
        tuple(NAMES),
        tuple(range(1, LAYERS + 1)),
        pooled,
        present,
        bootstrap=bootstrap,
        **more,
    )


def effect(table, kind, factor, level, metric):
    row = table.query("kind == @kind and factor == @factor and level == @level and metric == @metric")
    row = row[row["reference"].isin(["ours", "plain", "last", "comprehension"])]
    assert len(row) == 1
    return row.iloc[0]


# -- diagnosis --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("planted", "factor", "level", "others"),
    [
        ({"frame_gain": {"chat": 4.0}}, "frame", "chat", [("author", "self"), ("pooling", "mean")]),
        ({"author_gain": {"self": 4.0}}, "author", "self", [("frame", "chat"), ("pooling", "mean")]),
        ({"pooling_gain": {"mean": 4.0}}, "pooling", "mean", [("author", "self"), ("frame", "chat")]),
    ],
)
@pytest.mark.parametrize("kind", ["marginal", "decomposition"])
def test_the_planted_factor_alone_is_named(planted, factor, level, others, kind):
    table = factorial_tables(plant(**planted))["factorial_effects"]
    for metric, sign in (("cosine", -1), ("intraclass", 1), ("nearest_centroid", 1)):
        found = effect(table, kind, factor, level, metric)
        assert sign * found["value"] > 0
        assert found["high"] < 0 if sign < 0 else found["low"] > 0
        for other, at in others:
            spared = effect(table, kind, other, at, metric)
            assert abs(spared["value"]) < 0.25 * abs(found["value"])
        if kind == "decomposition":
            whole = effect(table, kind, "whole", "generation", metric)
            assert whole["value"] == pytest.approx(found["value"], rel=0.3)


def test_nothing_planted_is_nothing_found():
    hits = []
    for seed in range(4):
        table = factorial_tables(plant(seed=seed))["factorial_effects"]
        rows = table.query("kind == 'marginal' and factor in ['author', 'frame', 'pooling']")
        hits += list((rows["low"] <= 0) & (rows["high"] >= 0))
        assert rows.query("metric == 'nearest_centroid'")["value"].abs().max() < 0.2
    assert np.mean(hits) > 0.75


def test_a_frame_that_only_comes_with_the_label_is_told_from_the_chat():
    table = factorial_tables(plant(frame_gain={"chat": 4.0}))["factorial_effects"]
    rows = table.query("kind == 'marginal' and factor == 'frame' and metric == 'nearest_centroid'")
    steps = rows.set_index(["level", "reference"])["value"]
    assert abs(steps["unnamed", "plain"]) < 0.1
    assert steps["chat", "unnamed"] > 0.3


def test_the_parts_add_up_to_the_whole_which_is_the_difference_of_two_cells():
    tables = factorial_tables(plant(frame_gain={"chat": 2.0}, author_gain={"self": 1.7}))
    cells = tables["factorial"].query("texts == 8 and components == 'kept'")
    parts = tables["factorial_effects"].query("kind == 'decomposition'")
    for metric in METRICS:
        end, start = (
            select(cells, author=author, frame=frame, pooling=pooling, metric=metric)["value"].item()
            for author, frame, pooling in (("self", "chat", "mean"), ("ours", "plain", "last"))
        )
        values = parts[parts["metric"] == metric].set_index("factor")["value"]
        assert values["whole"] == pytest.approx(end - start, abs=1e-12)
        assert values.drop("whole").sum() == pytest.approx(end - start, abs=1e-12)


def test_a_marginal_effect_is_the_mean_difference_over_all_other_factors():
    tables = factorial_tables(plant(frame_gain={"chat": 2.0}))
    cells = (
        tables["factorial"]
        .query("metric == 'cosine'")
        .pivot_table(index=["author", "pooling", "texts", "components"], columns="frame", values="value")
    )
    found = effect(tables["factorial_effects"], "marginal", "frame", "chat", "cosine")
    assert found["value"] == pytest.approx((cells["chat"] - cells["plain"]).mean(), abs=1e-12)


# -- cells ------------------------------------------------------------------------------------------------------------


def spread_halves(design):
    """Gives each half of the topics a layer of its own, 2 and 4, where alone its texts are told apart perfectly."""
    first, second = design.halves(TOPICS)
    spread = 20 * np.random.default_rng(5).normal(size=(EMOTIONS, WIDTH))
    for values in design.pooled.values():
        values[first, :, 1] += spread.astype(np.float32)
        values[second, :, 3] += spread.astype(np.float32)
    return first, second


def test_each_half_is_reported_at_the_layer_that_the_other_chose():
    design = plant()
    first, second = spread_halves(design)
    rows = factorial_tables(design)["factorial"].query("texts == 8 and frame == 'chat' and pooling == 'mean'")
    for row in rows.query("metric == 'cosine'").itertuples():
        assert (row.layer, row.layer_swapped) == (2, 4)
        reading = design.activations(row.author, row.frame, row.pooling)
        expected = [
            geometry.mean_pairwise_cosine(reading[half][:, :, place].mean(axis=0))
            for half, place in ((first, 3), (second, 1))
        ]
        assert row.value == pytest.approx(np.mean(expected), abs=1e-9)
        assert row.depth == 2 / 5


def test_halves_are_disjoint_nested_and_settled_by_the_seed():
    design = plant()
    first, second = design.halves(8)
    assert sorted([*first, *second]) == list(range(8))
    for small, large in zip(design.halves(4), (first, second), strict=True):
        assert len(small) == 2
        assert set(small) < set(large)
    assert design.levels["texts"] == (4, 8)


def test_tables_are_the_same_whatever_the_order_of_work_and_differ_with_the_seed():
    design = plant(frame_gain={"chat": 2.0}, bootstrap=50)
    turned = Design(
        **{
            **{name: getattr(design, name) for name in design.__dataclass_fields__},
            "pooled": dict(sorted(design.pooled.items(), key=lambda item: (item[0][2], item[0][::-1]))),
        }
    )
    tables, again = factorial_tables(design), factorial_tables(turned)
    for name, table in tables.items():
        pd.testing.assert_frame_equal(table, again[name])
    other = factorial_tables(plant(frame_gain={"chat": 2.0}, bootstrap=50))["factorial"]
    pd.testing.assert_frame_equal(tables["factorial"], other)
    design.seed = 1
    assert not np.allclose(factorial_tables(design)["factorial"]["value"], other["value"])


def test_removing_components_removes_what_they_hold():
    rng = np.random.default_rng(0)
    nuisance = rng.normal(size=WIDTH)
    nuisance /= np.linalg.norm(nuisance)
    neutral = rng.normal(size=(40, LAYERS, 1)) * 10 * nuisance + 0.1 * rng.normal(size=(40, LAYERS, WIDTH))
    design = plant(components={pooling: neutral_components(neutral, 0.5) for pooling in ("last", "mean")})
    assert [len(basis) for basis in design.components["last"]] == [1] * LAYERS
    noise = rng.normal(size=(TOPICS, EMOTIONS, LAYERS, 1)) * 15 * nuisance
    for key in design.pooled:
        design.pooled[key] = (design.pooled[key] + noise).astype(np.float32)
    table = factorial_tables(design)["factorial_effects"].query("factor == 'components'").set_index("metric")
    assert table.loc["nearest_centroid", "low"] > 0.1
    assert (table["level"] == "removed").all()


# -- fast sums --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sparse():
    """Two authors' texts with some missing, and their inner products."""
    rng = np.random.default_rng(3)
    present = rng.random((TOPICS, EMOTIONS)) > 0.15
    first, second = (
        (4 + rng.normal(size=(TOPICS, EMOTIONS, 3, WIDTH)) + rng.normal(size=(EMOTIONS, 3, WIDTH)))
        * present[..., None, None]
        for _ in range(2)
    )
    return present, first, second + first / 2


def rows_of(reading, present, layer):
    """Present texts at a layer, with their topics and emotions."""
    topics, emotions = np.nonzero(present)
    return reading[topics, emotions, layer], topics, emotions


def test_centroid_cosines_equal_geometrys(sparse):
    present, reading, _ = sparse
    fast = grams.centroid_cosine(grams.gram(reading), present)
    for layer in range(3):
        texts, topics, emotions = rows_of(reading, present, layer)
        cells = geometry.cells(texts, topics, emotions, range(EMOTIONS))
        assert fast[layer] == pytest.approx(geometry.mean_pairwise_cosine(cells.centroids()), abs=1e-12)


@pytest.mark.parametrize("centre", ["train", "own"])
@pytest.mark.parametrize("same", [True, False])
def test_decoding_equals_a_loop_over_topics(sparse, centre, same):
    present, train, other = sparse
    tested = train if same else other
    across = grams.gram(train) if same else grams.gram(tested, train)
    fast = grams.decode(grams.gram(train), across, present, centre)
    for layer, topic in itertools.product(range(3), range(TOPICS)):
        texts, topics, emotions = rows_of(train, present, layer)
        rest = topics != topic
        trained, labels = texts[rest], emotions[rest]
        middle = trained.mean(axis=0)
        centroids = np.stack([trained[labels == e].mean(axis=0) for e in range(EMOTIONS)]) - middle
        centroids /= np.linalg.norm(centroids, axis=1, keepdims=True)
        held, places, said = rows_of(tested, present, layer)
        shift = held[places != topic].mean(axis=0) if centre == "own" else middle
        expected = ((held - shift) @ centroids.T).argmax(axis=1) == said
        here = places == topic
        np.testing.assert_array_equal(fast[layer, topic, said[here]], expected[here])
        assert np.isnan(fast[layer, topic, ~present[topic]]).all()
    assert 0.3 < np.nanmean(fast) < 1


def test_decoding_within_an_author_is_the_houses_nearest_centroid(sparse):
    _, reading, _ = sparse
    everyone = np.ones((TOPICS, EMOTIONS), dtype=bool)
    full = reading + np.random.default_rng(0).normal(size=reading.shape)
    fast = grams.decode(grams.gram(full), grams.gram(full), everyone)
    texts, topics, emotions = rows_of(full, everyone, 1)
    for topic in range(TOPICS):
        rest = topics != topic
        predicted = geometry.nearest_centroid(texts[rest], emotions[rest], texts[~rest])
        np.testing.assert_array_equal(fast[1, topic], predicted == np.arange(EMOTIONS))


def test_resampled_decoding_equals_training_on_copies_of_topics(sparse):
    present, reading, _ = sparse
    products = grams.gram(reading)
    weights = np.array([np.ones(TOPICS), [2, 0, 1, 1, 3, 0, 0, 1]])
    fast = grams.decode_resampled(products[1], present, weights)
    np.testing.assert_array_equal(fast[0], np.nanmean(grams.decode(products, products, present)[1], axis=1))
    texts, topics, emotions = rows_of(reading, present, 1)
    for topic in range(TOPICS):
        rest = np.repeat(np.arange(len(texts)), weights[1][topics].astype(int))
        rest = rest[topics[rest] != topic]
        here = topics == topic
        predicted = geometry.nearest_centroid(texts[rest], emotions[rest], texts[here])
        assert fast[1, topic] == pytest.approx((predicted == emotions[here]).mean())


def test_decoding_is_tested_at_the_layers_of_the_cells_and_so_agrees_with_them():
    design = plant(author_gain={"other": 2.0})
    spread_halves(design)
    tables = factorial_tables(design)
    cells = tables["factorial"].query("metric == 'nearest_centroid' and texts == 8")
    same = tables["factorial_decoding"].query("train_author == test_author and train_frame == test_frame")
    assert len(same) == 3 * 3 * 2 * 2
    for row in same.itertuples():
        cell = select(cells, author=row.train_author, frame=row.train_frame, pooling=row.pooling).iloc[0]
        assert row.value == pytest.approx(cell["value"], abs=1e-12)
        assert (row.layer, row.layer_swapped) == (cell["layer"], cell["layer_swapped"]) == (2, 4)
        assert row.value < 0.9  # at the layers of the halves themselves it would be 1


def test_decoding_across_authors_finds_shared_directions_through_an_offset():
    design = plant()
    for (author, _, _), values in design.pooled.items():
        if author == "other":  # told apart by a constant as large as the emotions are
            values += np.float32(6) * np.random.default_rng(9).normal(size=WIDTH).astype(np.float32)
    table = factorial_tables(design)["factorial_decoding"]
    pick = table.query(
        "train_author == 'ours' and train_frame == 'plain' and test_frame == 'plain' and pooling == 'mean'"
    )
    scores = pick.set_index(["test_author", "centre"])["value"]
    assert scores["ours", "train"] == scores["ours", "own"]
    assert scores["other", "own"] > 4 / EMOTIONS * 0.8
    assert scores["other", "own"] > scores["other", "train"] + 0.2
    assert (table["chance"] == 1 / EMOTIONS).all()


def test_rdm_correlations_are_spearmans_of_the_held_out_dissimilarities():
    design = plant(author_gain={"self": 2.0}, bootstrap=100)
    spread_halves(design)
    tables = factorial_tables(design)
    row = (
        tables["factorial_rdm"]
        .query(
            "author_a == 'ours' and frame_a == 'plain' and pooling_a == 'last' and "
            "author_b == 'self' and frame_b == 'chat' and pooling_b == 'mean'"
        )
        .iloc[0]
    )
    cells = tables["factorial"].query("metric == 'nearest_centroid' and texts == 8")
    expected = []
    for number, half in enumerate(design.halves(TOPICS)):
        uppers = []
        for author, frame, pooling in (("ours", "plain", "last"), ("self", "chat", "mean")):
            cell = cells.query("author == @author and frame == @frame and pooling == @pooling").iloc[0]
            layer = cell["layer_swapped"] if number == 0 else cell["layer"]
            means = design.activations(author, frame, pooling)[half][:, :, layer - 1].mean(axis=0)
            uppers.append(geometry.rdm(means - means.mean(axis=0))[np.triu_indices(EMOTIONS, 1)])
        expected.append(stats.spearmanr(*uppers).statistic)
    assert row["value"] == pytest.approx(np.mean(expected), abs=1e-9)
    assert row["low"] < row["value"] < row["high"]
    assert len(tables["factorial_rdm"]) == 18 * 17 / 2


# -- matching ---------------------------------------------------------------------------------------------------------


def reading_of(table, layers, value=1.0):
    """Each text's activations say which row of which table it is."""
    numbers = np.arange(len(table), dtype=np.float32)[:, None, None] + value
    pooled = np.tile(numbers, (1, len(layers), 3)) + 1000 * np.array(layers, dtype=np.float32)[:, None]
    return Reading(table.reset_index(drop=True), {"mean": pooled}, list(layers), {})


@pytest.fixture(scope="module")
def labels():
    return pd.DataFrame(
        [
            (topic, name, f"{topic} {name}")
            for topic in corpus.topics().index[:4]
            for name in ("happy", "sad", "calm", "neutral")
        ],
        columns=["topic", "emotion", "text"],
    )


def test_only_cells_that_every_author_has_are_kept(labels):
    fewer = labels[~((labels["topic"] == "train") & (labels["emotion"] == "sad"))]
    turned = pd.concat([fewer[::-1], fewer[:3].assign(text="a second story in the same cell")], ignore_index=True)
    readings = {
        ("ours", "plain"): reading_of(labels, [0, 1, 2]),
        ("self", "plain"): reading_of(turned, [0, 1, 2], 50.0),
    }
    design = match_readings("m", 2, readings, neutral={"mean": np.random.default_rng(0).normal(size=(9, 3, 3))})
    assert design.emotions == ("happy", "sad", "calm")
    assert design.layers == (1, 2)
    assert [len(basis[0]) for basis in design.components["mean"]] == [3, 3]
    topics = list(design.topics)
    assert np.argwhere(~design.present).tolist() == [[topics.index("train"), 1]]
    for author, table, value in (("ours", labels, 1.0), ("self", turned, 50.0)):
        grid = design.pooled[author, "plain", "mean"]
        for (down, topic), (right, name) in itertools.product(enumerate(topics), enumerate(design.emotions)):
            if not design.present[down, right]:
                assert (grid[down, right] == 0).all()
                continue
            row = table.index[(table["topic"] == topic) & (table["emotion"] == name)][0]
            np.testing.assert_array_equal(grid[down, right, :, 0], [row + value + 1000, row + value + 2000])


def test_what_cannot_be_crossed_is_refused(labels):
    plain = reading_of(labels, [0, 1])
    with pytest.raises(EmotraceError, match="self × chat is missing"):
        match_readings("m", 1, {("ours", "plain"): plain, ("ours", "chat"): plain, ("self", "plain"): plain})
    with pytest.raises(EmotraceError, match="the same layers"):
        match_readings("m", 1, {("ours", "plain"): plain, ("self", "plain"): reading_of(labels, [0, 2])})
    few = labels[labels["topic"].isin(["cooking", "train"])]
    with pytest.raises(EmotraceError, match="that all authors share, not 2 and 3"):
        match_readings("m", 1, {("ours", "plain"): reading_of(few, [0, 1])})


@pytest.fixture(scope="module")
def passages():
    table = corpus.passages()
    return table[table["emotion"].isin([*NAMES, corpus.NEUTRAL])]


def test_a_model_reads_what_all_authors_share_in_every_frame(tiny, passages):
    def short(table, words):  # tiny models take 256 tokens
        return table.assign(text=[" ".join(text.split()[words]) for text in table["text"]])

    other = short(stored("smollm2-135m-instruct"), slice(12))
    done = []
    design = read_design(
        tiny("llama"),
        short(passages, slice(25)),
        short(passages[passages["topic"] != "pet"], slice(-20, None)),
        other,
        bootstrap=20,
        progress=done.append,
    )
    assert set(design.pooled) == set(itertools.product(AUTHORS, FRAMES, ("last", "mean")))
    assert design.present.shape == (11, EMOTIONS)
    assert sum(done) == 9 * int(design.present.sum())
    tables = factorial_tables(design)
    assert len(tables["factorial"]) == 3 * 3 * 2 * 2 * 3
    assert len(tables["factorial_decoding"]) == 9 * 9 * 2 * 2
    for name, table in tables.items():
        assert np.isfinite(table["value"]).all(), name
        known = table[np.isfinite(table[["low", "high"]]).all(axis=1)]
        assert (known["low"] <= known["high"]).all()
        without = table.drop(index=known.index)
        # A jackknife over two topics a half does not exist.
        assert without.empty or (set(without["metric"]), set(without["texts"])) == ({"intraclass"}, {4})


def test_a_base_model_is_crossed_as_far_as_it_goes(tiny, passages):
    other = stored("smollm2-135m-instruct")
    design = read_design(tiny("gpt2"), passages, None, other, bootstrap=20)
    assert design.levels["author"] == ("ours", "other")
    assert design.levels["frame"] == ("plain",)
    tables = factorial_tables(design)
    assert set(tables["factorial_effects"]["kind"]) == {"marginal"}
    assert set(tables["factorial_effects"]["factor"]) == {"author", "pooling", "texts"}


def test_the_intraclass_correlation_of_a_cell_is_the_mean_of_the_halves_at_the_layer_of_the_other():
    design = plant(frame_gain={"chat": 2.0})
    first, second = spread_halves(design)
    rows = factorial_tables(design)["factorial"].query("texts == 8 and frame == 'chat' and metric == 'intraclass'")
    for row in rows.query("pooling == 'mean'").itertuples():
        assert (row.layer, row.layer_swapped) == (2, 4)
        reading = design.activations(row.author, row.frame, row.pooling)
        expected = [
            intraclass.shares(grams.gram(reading[half][:, :, [place]]), design.present[half], np.ones((1, 4)))
            for half, place in ((first, 3), (second, 1))
        ]
        assert row.value == pytest.approx(np.mean(expected))
        assert row.low < row.value < row.high


def test_where_an_author_places_its_cloud_is_nothing_to_the_intraclass_correlation():
    """The cosine minus a null that was held fixed took another cone for another separation."""
    design = plant()
    rng = np.random.default_rng(8)
    for key in design.pooled:
        if key[0] == "self":
            design.pooled[key] = (5 * (design.pooled[key] + 60 * rng.normal(size=(LAYERS, WIDTH)))).astype(np.float32)
    table = factorial_tables(design)["factorial_effects"]
    assert effect(table, "marginal", "author", "self", "cosine")["low"] > 0
    row = effect(table, "marginal", "author", "self", "intraclass")
    assert row["low"] < 0 < row["high"]


def test_figures_are_drawn_from_the_tables_alone():
    tables = factorial_tables(plant(frame_gain={"chat": 2.0}, bootstrap=30))
    figure = figures.marginal_effects(tables)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()][3] == "frame: unnamed − plain"
    assert len(figures.decomposition(tables).axes) == 3
    matrix = figures.decoding_matrix(tables)
    values = [float(text.get_text()) for text in matrix.axes[0].texts]
    expected = tables["factorial_decoding"].query("pooling == 'mean' and centre == 'own'")["value"]
    np.testing.assert_allclose(values, expected, atol=0.0051)
