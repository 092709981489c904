"""Scale-free separation against brute-force shuffles, planted effects and pure noise."""

import itertools

import numpy as np
import pytest
from shuffled_labels import shuffled_cosine

from emotrace.measures import spread
from emotrace.measures.statistics import topic_draws

TOPICS, EMOTIONS, WIDTH = 8, 6, 30
NAMES = [f"e{index}" for index in range(EMOTIONS)]


def crossed(rng, emotion=1.0, topics=TOPICS, offset=6.0, copies=1):
    """An offset, a topic, an emotion and noise: activations, topics, emotions."""
    labels = [(f"t{t}", name) for t in range(topics) for name in NAMES for _ in range(copies)]
    topic_of, emotion_of = (np.array(part) for part in zip(*labels, strict=True))
    of_topic, of_emotion = rng.normal(size=(topics, WIDTH)), rng.normal(size=(EMOTIONS, WIDTH))
    texts = offset + rng.normal(size=(len(labels), WIDTH))
    texts += of_topic[[int(name[1:]) for name in topic_of]] + emotion * of_emotion[[int(n[1:]) for n in emotion_of]]
    return texts, topic_of, emotion_of


def uneven(rng):
    """Some cells with two texts, one emotion missing on a topic, and texts of a class that is not asked for."""
    texts, topics, emotions = crossed(rng, copies=2)
    kept = rng.random(len(texts)) < 0.7
    kept &= ~((topics == "t1") & (emotions == "e2"))
    emotions = np.where((emotions == "e5"), "other", emotions)
    return texts[kept], topics[kept], emotions[kept], NAMES[:5]


def naive_cosine(texts, topics, emotions, names, weights):
    """Mean cosine of pairs of weighted centroids, by loops."""
    order = list(dict.fromkeys(topics))
    weight_of = np.array([weights[order.index(topic)] for topic in topics])
    centroids = [
        (weight_of[emotions == name] @ texts[emotions == name]) / weight_of[emotions == name].sum() for name in names
    ]
    return np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in itertools.combinations(centroids, 2)])


@pytest.mark.parametrize("even", [True, False])
def test_cosines_of_every_order_and_weighting_are_those_of_texts_that_changed_places(even):
    rng = np.random.default_rng(0)
    texts, topics, emotions, names = (*crossed(rng), NAMES) if even else uneven(rng)
    design = spread.Crossed.of(topics, emotions, names)
    orders, weights = design.orders(3, rng), np.array([np.ones(TOPICS), [3, 1, 0, 2, 0, 1, 1, 0]])
    found = spread.centroid_cosines(design.products(texts), design, orders, weights)
    for order, row in zip(orders, found, strict=True):
        moved = texts.copy()
        moved[design.texts] = texts[design.texts[order]]
        expected = [naive_cosine(moved, topics, emotions, names, weight) for weight in weights]
        np.testing.assert_allclose(row, expected, atol=1e-12)
    within = np.arange(TOPICS) % 2 == 0
    fast = spread.whole_cosines(design.products(texts), design, orders, within)
    slow = spread.centroid_cosines(design.products(texts), design, orders, within[None].astype(float))[:, 0]
    np.testing.assert_allclose(fast, slow, atol=1e-12)


@pytest.mark.parametrize("width", [4, 400])  # fewer dimensions than texts, and more
def test_squared_norms_of_sums_of_texts(width):
    rng = np.random.default_rng(2)
    texts, sums = rng.normal(size=(50, width)), rng.normal(size=(6, 50))
    np.testing.assert_allclose(spread.Products.of(texts).squares(sums), np.linalg.norm(sums @ texts, axis=1) ** 2)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ({"t0": "ab", "t1": "ab"}, 2),  # a with a and b with b, or crossed
        ({"t0": "abc", "t1": "abc"}, 6),
        ({"t0": "aabb"}, 3),
        ({"t0": "aab", "t1": "ab"}, 6),  # of unequal sizes: to exchange the names is another grouping
    ],
)
def test_groupings_are_counted_as_a_list_of_them_counts_them(cells, expected):
    topics = [topic for topic, letters in cells.items() for _ in letters]
    emotions = [letter for letters in cells.values() for letter in letters]
    design = spread.Crossed.of(topics, emotions, sorted(set(emotions)))
    seen = set()
    for order in itertools.product(*(set(itertools.permutations(letters)) for letters in cells.values())):
        labels = [letter for letters in order for letter in letters]
        members = (frozenset(i for i, one in enumerate(labels) if one == name) for name in set(labels))
        seen.add(frozenset(members))
    assert design.groupings(np.ones(len(cells), dtype=bool)) == len(seen) == expected
    only_first = np.arange(len(cells)) == 0
    assert design.groupings(only_first) <= expected
    assert design.groupings(np.zeros(len(cells), dtype=bool)) == 1  # of nothing


def test_very_many_groupings_are_no_error():
    design = spread.Crossed.of([f"t{t}" for t in range(99) for _ in range(20)], list(range(20)) * 99, list(range(20)))
    assert design.groupings(np.ones(99, dtype=bool)) == np.inf


def test_orders_stay_within_topics_and_the_first_is_the_texts_own():
    rng = np.random.default_rng(1)
    _, topics, emotions, names = uneven(rng)
    design = spread.Crossed.of(topics, emotions, names)
    orders = design.orders(200, rng)
    assert (orders[0] == np.arange(len(design.texts))).all()
    assert (design.topics[orders] == design.topics).all()
    assert (np.sort(orders, axis=1) == orders[0]).all()
    stays = (orders[1:] == orders[0]).mean(axis=0)  # one in as many as a topic has texts
    sizes = np.bincount(design.topics)[design.topics]
    assert (np.abs(stays - 1 / sizes) < 0.12).all()


def test_the_null_agrees_with_brute_force_shuffles_of_labels():
    rng = np.random.default_rng(2)
    texts, topics, emotions = crossed(rng)
    design = spread.Crossed.of(topics, emotions, NAMES)
    everything = np.ones(TOPICS, dtype=bool)
    null = spread.whole_cosines(design.products(texts), design, design.orders(1500, rng), everything)[1:]
    brute = shuffled_cosine(texts, topics, emotions, NAMES, 1500, np.random.default_rng(3))
    assert null.mean() == pytest.approx(brute.mean(), abs=4 * brute.std() / np.sqrt(750))
    assert null.std() == pytest.approx(brute.std(), rel=0.1)


def ratios(texts, topics, emotions, weights, rng, shuffles=30):
    design = spread.Crossed.of(topics, emotions, NAMES)
    cosines = spread.centroid_cosines(design.products(texts), design, design.orders(shuffles, rng), weights)
    return spread.ratio(cosines[0], cosines[1:].mean(axis=0), design.effective(weights))


def test_r_is_one_where_labels_say_nothing_in_every_resample_too():
    """A null that was held fixed would give resamples a mean R far above 1: they hold fewer topics."""
    rng, found = np.random.default_rng(4), []
    for _ in range(40):
        texts, topics, emotions = crossed(rng, emotion=0.0)
        found.append(ratios(texts, topics, emotions, np.vstack([np.ones(TOPICS), topic_draws(TOPICS, 30, rng)]), rng))
    whole, resampled = np.array(found)[:, 0], np.array(found)[:, 1:]
    assert whole.mean() == pytest.approx(1, abs=4 * whole.std() / np.sqrt(40))
    assert resampled.mean() == pytest.approx(1, abs=0.02)


def test_r_of_a_planted_emotion_is_the_closed_form_and_resamples_centre_on_it():
    """With emotion variance s and noise 1: 1 + (T − 1) s / (s + 1) by squared distances, whatever the offset."""
    rng, whole, resampled = np.random.default_rng(5), [], []
    strength = 0.7
    for _ in range(60):
        texts, topics, emotions = crossed(rng, strength, offset=30.0)
        weights = np.vstack([np.ones(TOPICS), topic_draws(TOPICS, 20, rng)])
        found = ratios(texts, topics, emotions, weights, rng)
        whole.append(found[0])
        resampled.append(found[1:].mean())
    expected = 1 + (TOPICS - 1) * strength**2 / (strength**2 + 1)
    assert np.mean(whole) == pytest.approx(expected, rel=0.03)
    assert np.mean(resampled) == pytest.approx(expected, rel=0.05)


def test_r_depends_neither_on_scale_nor_on_how_narrow_the_cone_is():
    """Twenty times the offset brings the cosine from 0.98 to 0.99995, its null along with it, and leaves R alone."""
    found, cosines = [], []
    for offset in (6.0, 120.0):
        texts, topics, emotions = crossed(np.random.default_rng(6), 1.0, offset=offset)
        found.append(ratios(3 * texts, topics, emotions, np.ones((1, TOPICS)), np.random.default_rng(7))[0])
        cosines.append(naive_cosine(texts, topics, emotions, NAMES, np.ones(TOPICS)))
    assert 1 - cosines[1] < 0.005 * (1 - cosines[0])
    assert found[0] == pytest.approx(found[1], rel=0.03)


def naive_intraclass(texts, topics, emotions, weights):
    """Cross-validated squared distance over the squared distance on one topic, by loops over topics and pairs."""
    order = list(dict.fromkeys(topics))
    mean_of = {
        (t, e): texts[(topics == t) & (emotions == e)].mean(axis=0)
        for t in order
        for e in NAMES
        if ((topics == t) & (emotions == e)).any()
    }
    sums = np.zeros((2, 2))
    for (i, t), (j, u) in itertools.product(enumerate(order), repeat=2):
        for a, b in itertools.combinations(NAMES, 2):
            if not all(cell in mean_of for cell in ((t, a), (t, b), (u, a), (u, b))):
                continue
            product = (mean_of[t, a] - mean_of[t, b]) @ (mean_of[u, a] - mean_of[u, b])
            if t != u:
                sums[0] += weights[i] * weights[j] * np.array([product, 1])
            else:
                sums[1] += weights[i] * np.array([product, 1])
    return (sums[0, 0] / sums[0, 1]) / (sums[1, 0] / sums[1, 1])


@pytest.mark.parametrize("even", [True, False])
def test_intraclass_is_the_loop_over_disjoint_topics(even):
    rng = np.random.default_rng(8)
    texts, topics, emotions = crossed(rng) if even else uneven(rng)[:3]
    design = spread.Crossed.of(topics, emotions, NAMES)
    weights = np.array([np.ones(TOPICS), [3.0, 1, 0, 2, 0, 1, 1, 0]])
    found = spread.intraclass(design.products(texts).gram, design, weights)
    np.testing.assert_allclose(found, [naive_intraclass(texts, topics, emotions, row) for row in weights])


def test_intraclass_is_unbiased_at_nothing_and_at_a_planted_share():
    rng = np.random.default_rng(10)
    for strength, share in ((0.0, 0.0), (0.6, 0.36 / 1.36)):
        values = []
        for _ in range(120):
            texts, topics, emotions = crossed(rng, strength)
            design = spread.Crossed.of(topics, emotions, NAMES)
            values.append(spread.intraclass(design.products(texts).gram, design, np.ones((1, TOPICS)))[0])
        assert np.mean(values) == pytest.approx(share, abs=4 * np.std(values) / np.sqrt(120) + 0.005)
        if not strength:
            assert 0.2 < np.mean(np.array(values) < 0) < 0.8


def test_an_emotion_without_a_text_in_a_draw_leaves_the_draw_unknown():
    rng = np.random.default_rng(11)
    texts, topics, emotions, names = uneven(rng)
    kept = (emotions != "e0") | (topics == "t0")
    design = spread.Crossed.of(topics[kept], emotions[kept], names)
    weights = np.array([np.ones(TOPICS), [0.0, 1, 1, 1, 1, 1, 1, 2]])
    found = spread.centroid_cosines(design.products(texts[kept]), design, design.orders(1, rng), weights)
    assert np.isnan(found).tolist() == [[False, True], [False, True]]


def test_the_cosine_of_noise_alone_is_what_texts_without_the_emotion_have():
    """The emotions taken out of the same texts; the shuffled null holds their variance and lies lower."""
    rng, found, expected, null = np.random.default_rng(12), [], [], []
    everything = np.ones(TOPICS, dtype=bool)
    for _ in range(40):
        seed = rng.integers(10**9)
        parts = []
        for strength in (1.5, 0.0):
            texts, topics, emotions = crossed(np.random.default_rng(seed), strength, offset=6.0)
            design = spread.Crossed.of(topics, emotions, NAMES)
            orders = design.orders(60, np.random.default_rng(0))
            parts.append(spread.whole_cosines(design.products(texts), design, orders, everything))
        (cosine, *shuffled), (without, *_) = parts
        null.append(np.mean(shuffled))
        effective = design.effective(np.ones((1, TOPICS)))
        found.append(spread.noise_cosine(np.array([cosine]), np.array([null[-1]]), effective)[0])
        expected.append(without)
    assert 1 - np.mean(found) == pytest.approx(1 - np.mean(expected), rel=0.1)
    assert 1 - np.mean(null) > 2 * (1 - np.mean(expected))
