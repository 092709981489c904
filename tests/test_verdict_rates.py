"""The simulations behind docs/verdicts.md: complete, runnable, and the shape test's error rate in each family."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from emotrace.study import experiments
from emotrace.study.across import claims as across_claims
from emotrace.study.verdicts import INCONCLUSIVE, NOT_REPRODUCED, REPRODUCED

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

verdict_rates = importlib.import_module("verdict_rates")
verdicts = importlib.import_module("verdicts")
separation = importlib.import_module("verdict_rates.separation")
effects = importlib.import_module("verdict_rates.effects")
across = importlib.import_module("verdict_rates.across")

BY_NAME = {one.name: one for one in separation.SIMULATIONS}
BEYOND = "remember 0.8"
"""A walk so smooth that its shape is a U's: stated in the table, not held to 5%."""


def rate(judge, verdict, draws, seed=0):
    rng = np.random.default_rng(seed)
    return sum(judge(rng) == verdict for _ in range(draws))


@pytest.mark.parametrize("name", [name for name in BY_NAME if name.startswith("u, ") and BEYOND not in name])
def test_no_family_of_curves_that_are_no_u_is_called_one_more_often_than_the_level_says(name):
    if BY_NAME[name].draw_null is None:
        pytest.skip("an effect alone")
    assert rate(BY_NAME[name].draw_null, REPRODUCED, 150) <= stats.binom.ppf(0.999, 150, 0.05)


def test_most_curves_without_a_turn_are_refuted_not_left_open():
    for name in ("u, straight line", "u, arch", "u, step at a random depth", "u, drop, then flat"):
        assert rate(BY_NAME[name].draw_null, NOT_REPRODUCED, 30) >= 27


def test_a_u_as_deep_as_the_papers_is_found_nearly_always():
    assert rate(BY_NAME["u, paper"].draw_effect, REPRODUCED, 60) >= 54
    assert rate(BY_NAME["no u"].draw_null, REPRODUCED, 60) == 0
    assert rate(BY_NAME["no u"].draw_effect, REPRODUCED, 60) >= 54


@pytest.mark.parametrize("name", ["depth", "space", "probe", "valence", "anisotropy"])
def test_each_rule_can_pass_fail_and_stay_open(name):
    one = BY_NAME[name]
    assert rate(one.draw_null, REPRODUCED, 60) <= stats.binom.ppf(0.999, 60, 0.05)
    assert rate(one.draw_effect, REPRODUCED, 40) >= 12
    assert rate(one.draw_effect, NOT_REPRODUCED, 40) <= 4


def named(module, name):
    return next(one for one in module.SIMULATIONS if one.name == name)


def test_regimes_at_the_margin_are_rarely_said_to_occur():
    one = named(effects, "three")
    assert rate(one.draw_null, REPRODUCED, 200) <= stats.binom.ppf(0.999, 200, 0.05)
    assert rate(one.draw_effect, REPRODUCED, 60) >= 30
    assert rate(one.draw_effect, NOT_REPRODUCED, 60) == 0


def test_shares_of_texts_have_the_mean_that_their_words_say():
    texts = importlib.import_module("verdict_rates.effects_texts")
    rng = np.random.default_rng(0)
    for share in (0.02, 0.1, 0.8):
        cells = [texts.coherent(rng, texts.centre(share), 1)[0].mean() for _ in range(400)]
        assert np.mean(cells) == pytest.approx(share, abs=4 * np.std(cells) / 20)


@pytest.mark.parametrize("reading", effects.PUBLISHED.noise)
def test_the_authors_arm_is_simulated_with_intervals_as_wide_as_those_that_were_measured(reading):
    table = pd.read_csv(verdicts.ROOT / "docs" / "results" / "tables" / "steering_effects.csv")
    own = table[(table["arm"] == "published") & (table["metric"] == reading) & (table["contrast"] == "towards")]
    own = own[(own["control"] == "permuted") & (own["match"] == "norm")]
    assert set(own["directions"]) == {effects.PUBLISHED.directions}
    rng, halves = np.random.default_rng(0), []
    for _ in range(20):
        found = effects.sweep(rng, effects.PUBLISHED, effects.PUBLISHED.noise[reading], 0.0)
        made = effects.estimate(found, "towards")
        halves.append((made.high - made.low) / 2)
    assert np.mean(halves) == pytest.approx(((own["high"] - own["low"]) / 2).mean(), rel=0.25)


@pytest.mark.parametrize("name", ["in every model", "in every model but one"])
def test_a_claim_about_every_model_is_not_refuted_by_one_error_among_many(name):
    one = named(across, name)
    assert rate(one.draw_effect, NOT_REPRODUCED, 1000) <= stats.binom.ppf(0.999, 1000, 0.02)
    assert rate(one.draw_null, REPRODUCED, 1000) <= stats.binom.ppf(0.999, 1000, 0.05)


def test_every_simulation_names_claims_that_exist():
    """With ``.*`` for all poolings; those of a claim that is not testable need none."""
    ids = {name for one in experiments.EXPERIMENTS for name in one.claim_ids} | set(across_claims._CLAIMS)
    for folder in verdict_rates.FOLDERS:
        for one in verdicts.simulations(folder):
            for claim in one.claims:
                stem = claim.removesuffix(".*")
                assert claim in ids or any(name.startswith(f"{stem}.") for name in ids), (folder, one.name, claim)


def test_every_claim_of_the_separation_has_a_simulation():
    simulated = {claim.removesuffix(".*") for one in separation.SIMULATIONS for claim in one.claims}
    ids = {name for one in experiments.EXPERIMENTS if "separation" in one.run.__module__ for name in one.claim_ids}
    assert ids
    assert {name.removesuffix(".last").removesuffix(".mean") for name in ids} <= simulated


class Toy:
    SIMULATIONS = (
        verdict_rates.Simulation(
            name="coin",
            claims=("C6.u.*",),
            rule="heads | tails",
            smallest="none",
            null="a coin of 0.1",
            draw_null=lambda rng: REPRODUCED if rng.random() < 0.1 else INCONCLUSIVE,
            effect="a coin of 0.8",
            draw_effect=lambda rng: REPRODUCED if rng.random() < 0.8 else NOT_REPRODUCED,
            draws=100,
        ),
    )
    NOTES = "A note."


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(verdicts, "simulations", lambda folder: Toy.SIMULATIONS)
    monkeypatch.setattr(verdicts.importlib, "import_module", lambda name: Toy)


def test_the_table_counts_what_was_drawn(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(verdicts, "ROOT", tmp_path)
    monkeypatch.setattr(verdicts, "fingerprint", lambda folder: "state")
    kept = verdicts.Kept(["separation"])
    units = list(verdicts.planned(["separation"], quick=False))
    assert [number for _, number in units] == [40, 40, 20] * 2
    for key, number in units:
        kept.add(key, number, verdicts.draw(key, number))
    again = verdicts.Kept(["separation"])  # what was kept is read back, and a line cut short is not
    assert again.counts == kept.counts
    page = verdicts.table("separation", False, again).splitlines()
    assert page[0] == "### `C6.u.*`"
    assert page[2] == "Heads | tails."
    cells = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in page[-2:]]
    without, with_it = ([float(cell.rstrip("%")) for cell in row[2:5]] for row in cells)
    assert [row[:2] for row in cells] == [["a coin of 0.1", "no such effect"], ["a coin of 0.8", "the effect is there"]]
    assert 3 <= without[0] <= 20
    assert without[1] == 0
    assert without[0] + without[2] == pytest.approx(100)
    assert 65 <= with_it[0] <= 92
    assert with_it[2] == 0
    assert with_it[0] + with_it[1] == pytest.approx(100)
    assert page[-2].count("**") == 2
    assert f"**{without[0]:.1f}%**" in page[-2]
    assert f"**{with_it[1]:.1f}%**" in page[-1]
    assert verdicts.notes("separation") == "A note."


def test_a_line_that_was_cut_short_is_simulated_again(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(verdicts, "ROOT", tmp_path)
    monkeypatch.setattr(verdicts, "fingerprint", lambda folder: "state")
    kept = verdicts.Kept(["separation"])
    key = ("separation", "coin", "null", 0)
    kept.add(key, 40, {REPRODUCED: 4})
    with kept.files["separation"].open("a") as file:
        file.write('\n{"key": ["separation", "coin", "null", 1], "number": 40, "cou')
    again = verdicts.Kept(["separation"])
    assert list(again.counts) == [(key, 40)]
    again.add(("separation", "coin", "null", 1), 40, {REPRODUCED: 1})
    assert len(verdicts.Kept(["separation"]).counts) == 2
