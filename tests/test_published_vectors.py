"""Vectors of others on a corpus that ours are read from too: a model agrees with itself, and words are taken out."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata, spearmanr

import emotrace
from emotrace.errors import EmotraceError
from emotrace.instrument import corpus

SCRIPTS = Path(__file__).parent.parent / "scripts"
EMOTIONS = ("joyful", "weary", "lonely", "smug", "tender", "bitter")


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec = importlib.util.spec_from_file_location("published_vectors", SCRIPTS / "published_vectors.py")
        module = sys.modules["published_vectors"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPTS))
    return module


def distances(rng, n: int = 7) -> np.ndarray:
    half = np.triu(rng.random((n, n)), 1)
    return half + half.T


def test_the_partial_agreement_is_that_of_what_words_leave(script):
    rng = np.random.default_rng(0)
    first, second, words = (distances(rng) for _ in range(3))
    first, second = first + 2 * words, second + 2 * words  # alike by the words alone
    rho, p, partial, partial_p = script.agreement(first, second, words, 199, rng)
    upper = np.triu_indices(7, 1)
    one, other, third = (rankdata(part[upper]) for part in (first, second, words))
    assert rho == pytest.approx(spearmanr(one, other).statistic)
    left = [ranks - np.polyval(np.polyfit(third, ranks, 1), third) for ranks in (one, other)]
    assert partial == pytest.approx(np.corrcoef(*left)[0, 1])
    assert rho > 0.7 > abs(partial)
    assert p == 1 / 200
    assert partial_p > 0.05
    same = script.agreement(first, first, words, 99, rng)
    assert (same[0], same[2]) == (pytest.approx(1), pytest.approx(1))


def test_a_models_own_vectors_as_published_ones_agree_wholly_with_what_it_reads(script, tiny_folder, tmp_path, capsys):
    rng, words = np.random.default_rng(0), " ".join(corpus.passages()["text"][:80]).split()
    rows = [(emotion, f"t{topic}", " ".join(rng.choice(words, 14)) + ".") for topic in range(6) for emotion in EMOTIONS]
    table = pd.DataFrame(rows, columns=["emotion", "topic", "text"])
    table.to_json(tmp_path / "corpus.jsonl", orient="records", lines=True)
    folder = str(tiny_folder("llama", n_layers=8))
    own = emotrace.extract(emotrace.load(folder), instrument=table, pooling="mean")
    theirs = tmp_path / "vectors" / "itself"
    theirs.mkdir(parents=True)
    blocks = [int(8 * depth) for depth in script.DEPTHS]  # counted from 0, as the tool counts
    np.savez(
        theirs / "raw_vectors.npz",
        **{f"layer_{block}__{name}": own[name, block + 1] for block in blocks for name in EMOTIONS},
    )
    options = [str(tmp_path / "corpus.jsonl"), str(theirs.parent), folder, "--out", str(tmp_path / "out")]
    script.main(script.parse([*options, "--permutations", "99"]))
    found = pd.read_csv(tmp_path / "out" / "published_vectors.csv").set_index(["kinds", "depth"])
    ours = found.loc["published, ours"]
    np.testing.assert_allclose(ours["rho"], 1, atol=1e-6)
    assert list(ours["layer_a"]) == list(ours["layer_b"]) == [block + 1 for block in blocks]
    assert (found.loc["published, embeddings", "rho"] < 0.999).all()
    assert found.loc["words, words", "rho"].tolist() == pytest.approx([1] * 4)  # the corpus is what was read
    assert found.loc["published, words", "partial"].isna().all()
    assert ours["ceiling"].between(0, 1).all()
    row = next(line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["words"])
    assert float(row.split()[1]) == pytest.approx(found.loc[("published, words", 0.5), "rho"].iloc[0], abs=6e-4)


def test_what_is_not_there_is_one_line(script, tmp_path):
    table = pd.DataFrame([(name, f"t{topic}", f"{name} {topic}") for name in "abcd" for topic in range(4)])
    table.set_axis(["emotion", "topic", "text"], axis=1).to_csv(tmp_path / "corpus.csv", index=False)
    with pytest.raises(EmotraceError, match="no folder with raw_vectors"):
        script.main(script.parse([str(tmp_path / "corpus.csv"), str(tmp_path), "m", "--out", str(tmp_path / "out")]))
    (tmp_path / "one").mkdir()
    np.savez(tmp_path / "one" / "raw_vectors.npz", **{f"layer_1__{name}": np.eye(4)[i] for i, name in enumerate("abc")})
    with pytest.raises(EmotraceError, match="one has no vector of d"):
        script.of_published(tmp_path / "one", list("abcd"))
    with pytest.raises(EmotraceError, match="has 1 layers"):
        script.of_published(tmp_path / "one", list("abc"))
