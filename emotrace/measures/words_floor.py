"""What texts give away without a model: surface counts, words, and the words that one class alone has. Ours.

A model's decoding accuracy stands above a floor: what a classifier reaches on the same texts from their commas
(:func:`surface_counts`, :func:`decode_counts`) or from their words (:func:`decode_tfidf`). Topics are held out as in
:func:`~emotrace.measures.geometry.decode`. ``words`` is each text's list of words in lower case; what counts as a word
is the caller's (:func:`~emotrace.instrument.corpus.words`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from typing import NamedTuple

import numpy as np

from emotrace.errors import of_extra, unknown
from emotrace.measures.geometry import Labels, logistic_regression, shuffle_within_topics, topic_folds

Words = Sequence[Sequence[str]]

_MARKS = {
    "double_quotes": '"“”',
    "exclamation_marks": "!",
    "question_marks": "?",
    "commas": ",",
    "colons_semicolons": ":;",
    "dashes_hyphens": "-–—",
    "apostrophes": "'’‘",
    "brackets_ellipses": "()[]…",
}
SURFACE = (*_MARKS, "digits", "capitals", "words", "characters", "sentences", "mean_word_length", "words_quoted")
_SENTENCE_END = re.compile(r"[.!?…]+[\"”’']*(?=\s|$)")
_QUOTED = re.compile(r"[\"“]([^\"“”]*)[\"”]")
# Not the inches of a pipe of 5".
_SPEECH = re.compile(r"(?<!\d)[\"“][^\"“”]*[\"”]|„[^“”]*[“”]|«[^»]*»|»[^«]*«|「[^」]*」|『[^』]*』")
_QUOTED_SINGLY = re.compile(r"(?<!\w)['‘](?=\w)[^'‘’]*[,.?!]['’](?!\w)")


def surface_counts(texts: Sequence[str], words: Words) -> np.ndarray:
    """How a text looks, without what it says: float ``[text, count]``, the columns as named in ``SURFACE``.

    Fifteen counts a text: eight kinds of punctuation mark, digits, capital letters, words, characters, sentences (marks
    that end one before a space or the end), the mean length of a word in characters, and the words between double
    quotation marks. 0 words have the mean length 0.
    """
    return np.array([_counts(text, tokens) for text, tokens in zip(texts, words, strict=True)], dtype=np.float64)


def _counts(text: str, tokens: Sequence[str]) -> list[float]:
    return [
        *(sum(map(text.count, marks)) for marks in _MARKS.values()),
        sum(map(str.isdigit, text)),
        sum(map(str.isupper, text)),
        len(tokens),
        len(text),
        len(_SENTENCE_END.findall(text)),
        float(np.mean([len(word) for word in tokens])) if tokens else 0.0,
        sum(len(quoted.split()) for quoted in _QUOTED.findall(text)),
    ]


def has_speech(text: str) -> bool:
    """Whether a text has direct speech: anything between quotation marks, double, or single around a whole phrase."""
    return bool(_SPEECH.search(text) or _QUOTED_SINGLY.search(text))


def random_forest(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Predicts each test row's label by a random forest of 300 trees (seed 0, at least 3 rows a leaf).

    The nonlinear decoder beside logistic regression: it sees a count that is high *or* low in a class.
    """
    with of_extra():
        from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(300, min_samples_leaf=3, random_state=0).fit(train, labels).predict(test)


COUNT_DECODERS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]] = {
    "logistic_regression": logistic_regression,
    "random_forest": random_forest,
}


def decode_counts(
    counts: np.ndarray, emotions: Labels, topics: Labels, decoder: str = "logistic_regression"
) -> np.ndarray:
    """Whether each text's emotion is decoded from its surface counts when its topic was held out: bool ``[text]``.

    Args:
        counts: ``[text, count]``, as of :func:`surface_counts`; logistic regression standardises them.
        emotions, topics: of each text.
        decoder: one of ``COUNT_DECODERS``.

    Where every class has the same mean counts, the accuracy lies *below* chance: a topic left out takes its share of
    each class with it, and the rest leans the other way.

    Raises:
        EmotraceError: an unknown decoder, or one topic only.
    """
    if decoder not in COUNT_DECODERS:
        raise unknown("decoder", decoder, COUNT_DECODERS)
    labels = np.asarray(emotions)
    correct = np.zeros(len(labels), dtype=bool)
    for train, test in topic_folds(topics):
        correct[test] = COUNT_DECODERS[decoder](counts[train], labels[train], counts[test]) == labels[test]
    return correct


def decode_tfidf(words: Words, emotions: Labels, topics: Labels) -> np.ndarray:
    """Whether each text's emotion is decoded from its words when its topic was held out: bool ``[text]``.

    TF-IDF of single words (scikit-learn's defaults), its vocabulary and weights from the training texts, and logistic
    regression (L2, C = 10, not tuned). Word order, word forms' kinship and meaning are not used: a model that reads has
    to do better.

    Raises:
        EmotraceError: one topic only.
    """
    with of_extra():
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

    labels, texts = np.asarray(emotions), [list(tokens) for tokens in words]
    correct = np.zeros(len(labels), dtype=bool)
    for train, test in topic_folds(topics):
        names, counts = np.unique(labels[train], return_counts=True)
        if len(names) == 1 or not any(texts[row] for row in train):  # nothing to learn from
            correct[test] = labels[test] == names[counts.argmax()]
            continue
        weigh = TfidfVectorizer(analyzer=_itself)
        seen = weigh.fit_transform([texts[row] for row in train])
        unseen = weigh.transform([texts[row] for row in test])
        correct[test] = (
            LogisticRegression(C=10.0, max_iter=500).fit(seen, labels[train]).predict(unseen) == labels[test]
        )
    return correct


def _itself(tokens: list[str]) -> list[str]:
    return tokens


class Leak(NamedTuple):
    """What surface counts decode.

    Attributes:
        accuracy: of logistic regression with topics held out.
        chance: one over the number of classes.
        p: by labels shuffled within topics, sequentially (:func:`counts_leak`).
    """

    accuracy: float
    chance: float
    p: float


_EXCEEDANCES = 10


def counts_leak(
    counts: np.ndarray, emotions: Labels, topics: Labels, rng: np.random.Generator, permutations: int = 199
) -> Leak:
    """The accuracy of :func:`decode_counts` and its p among labels shuffled within topics.

    The p is sequential (Besag & Clifford 1991): shuffling stops after the 10th accuracy at least as high, at draw l,
    and p = 10 / l; else it is (b + 1) / (m + 1) after all m draws. Under the null p ≤ 0.05 in at most 5% of sets, as
    with all draws, and a clean set needs about 20 of them.
    """
    accuracy = decode_counts(counts, emotions, topics).mean()
    higher = 0
    for draw in range(1, permutations + 1):
        shuffled = shuffle_within_topics(emotions, topics, rng)
        higher += decode_counts(counts, shuffled, topics).mean() >= accuracy - 1e-12
        if higher == _EXCEEDANCES:
            return Leak(float(accuracy), 1 / len(set(emotions)), higher / draw)
    return Leak(float(accuracy), 1 / len(set(emotions)), (higher + 1) / (permutations + 1))


class Owned(NamedTuple):
    """A word that one class has and the others have not.

    Attributes:
        emotion: whose word it is.
        word: its stem, or the name of the family it belongs to.
        texts, of: in how many of the class's texts it stands.
        next: in how many texts of the class whose share of texts with it comes next.
    """

    emotion: str
    word: str
    texts: int
    of: int
    next: int


def owned_words(words: Words, emotions: Labels, families: Mapping[str, Set[str]] | None = None) -> list[Owned]:
    """The content words of one class: in over a third of its texts, and less than a third as often in any other's.

    How often is the share of a class's texts, so that a class of many owns no word that one of few has, too.

    Function words (scikit-learn's English stop list) are left out, and forms of a word are counted together by crude
    rules (:func:`stem`; irregular forms stay apart).

    Args:
        words: of each text.
        emotions: of each text.
        families: named sets of stems counted as one word too (*shout*, *yell* and *bellow* are one motif).
    """
    labels = np.asarray(emotions)
    contents = [_contents(tokens, families or {}) for tokens in words]
    sizes = Counter(labels.tolist())
    counts: dict[str, Counter[str]] = {}
    for label, content in zip(labels.tolist(), contents, strict=True):
        for word in content:
            counts.setdefault(word, Counter())[label] += 1
    found = []
    for word, of_class in counts.items():
        (first, *rest) = sorted(of_class, key=lambda name: -of_class[name] / sizes[name])
        most, runner_up = of_class[first], of_class[rest[0]] if rest else 0
        if 3 * most > sizes[first] and (not rest or 3 * runner_up * sizes[first] < most * sizes[rest[0]]):
            found.append(Owned(first, word, most, sizes[first], runner_up))
    return sorted(found)


def _contents(tokens: Sequence[str], families: Mapping[str, Set[str]]) -> set[str]:
    with of_extra():
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    parts = (part.split("'")[0] for token in tokens for part in token.split("-"))
    stems = {stem(part) for part in parts if len(part) > 1 and part not in ENGLISH_STOP_WORDS}
    return stems | {f"{name} (family)" for name, family in families.items() if stems & family}


def stem(word: str) -> str:
    """A word without its regular endings (*-ing, -ed, -es, -s, -ly*), a doubled consonant and a final e or y.

    Crude, and enough to count forms together: *slammed, slams* → *slam*; *carries, carry* → *carr*; not *shook, shake*.
    """
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            if ending in _DOUBLING:
                word = re.sub(r"([bdgkmnprt])\1$", r"\1", word)
            break
    return re.sub(r"[eiy]$", "", word) if len(word) > 3 else word


_DOUBLING = ("ingly", "edly", "ing", "ed")
_ENDINGS = ("ingly", "edly", "ing", "ied", "ies", "ed", "ly", "es", "s")
