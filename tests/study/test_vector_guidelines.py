"""Rules on which vector to take: each answer follows the tables, and takes all of its values."""

import numpy as np
import pandas as pd
import pytest

from emotrace.study import guidelines, vector_guidelines
from emotrace.study.estimators.layers import CHOICES, EFFECT
from emotrace.study.guidelines import NO, UNTESTED, YES
from emotrace.study.verdicts import INCONCLUSIVE


def finding(start, **tables):
    """Of the model ``m``, of the rule that starts so."""
    claims = pd.DataFrame({"model": ["m"]})
    tables = {name: table.assign(model="m", instrument="scenes") for name, table in tables.items()}
    (rule,) = [rule for rule in guidelines.rules({"claims": claims, **tables}) if rule["rule"].startswith(start)]
    (found,) = rule["findings"]
    return found["verdict"], found["measured"]


def effects(relative, kl, **more):
    """``estimator_effects``: the difference of means at 1 × and exactly the KL sought, another at another."""
    row = {"metric": "kin_log_probability", "value": 1.0, "low": 0.5, "high": 1.5, "kl_sought": 0.7, "n": 10, **more}
    ends = (("mean_difference", 1.0, 0.7), ("whitened", relative, kl))
    return pd.DataFrame([{**row, "estimator": name, "relative": at, "kl": kl} for name, at, kl in ends])


@pytest.mark.parametrize(
    ("relative", "kl", "at", "verdict"),
    [
        (1.41, 0.7, "1.41", YES),
        (1.41, 0.8, "1.32", INCONCLUSIVE),  # 1.41 does more harm than was sought
        (1.3, 0.6, "1.40", YES),
        (1.1, 0.7, "1.10", NO),
    ],
)
def test_strengths_are_compared_at_exactly_the_harm_that_was_sought(relative, kl, at, verdict):
    answer, words = finding("Compare vectors that steer at equal harm", estimator_effects=effects(relative, kl))
    assert answer == verdict
    assert f"whitened 1 (0.5 to 1.5) at {at} ×" in words
    assert "beyond permuted labels of equal norm" in words
    assert "their KL" not in words  # an old table does not hold it


def test_kl_that_grows_as_the_square_gives_the_strength_of_equal_harm():
    rng = np.random.default_rng(0)
    for truth, stopped in rng.uniform(0.3, 3, size=(20, 2)):
        row = pd.Series({"relative": stopped, "kl": 0.5 * stopped**2, "kl_sought": 0.5 * truth**2})
        assert vector_guidelines.at_equal_harm(row) == pytest.approx(truth)


def test_the_controls_harm_stands_beside_what_is_measured_beyond_it():
    _, words = finding("Compare vectors that steer at equal harm", estimator_effects=effects(1.4, 0.7, control_kl=0.45))
    assert "whitened 1 (0.5 to 1.5) at 1.40 × (their KL 0.45)" in words


def layers(own, *shuffles):
    rows = [{"metric": "coherent", "choice": choice, "value": 0.9} for choice in CHOICES]
    for source, (value, half, p) in zip(("emotion", "permuted-1", "permuted-2"), (own, *shuffles), strict=False):
        gain = {"metric": f"{EFFECT}_gain", "value": value, "low": value - half, "high": value + half, "p": p}
        gain |= {"source": source, "choice": "effect", "layer": 17, "rival_layer": 12, "kl": 0.7, "prompts": 10}
        rows += [
            {**gain, "rival": rival, "where": where}
            for rival in ("decoding", "half")
            for where in ("choosing", "held out")
        ]
        rows += [{"metric": EFFECT, "source": source, "choice": "candidate", "layer": layer} for layer in (1, 12, 17)]
    return pd.DataFrame(rows).assign(n=10, first_layer=17, second_layer=17)


@pytest.mark.parametrize(
    ("own", "shuffles", "verdict"),
    [
        ((2.28, 1.03, 0.0007), [(0.37, 0.76, 0.3), (-0.11, 0.75, 0.76)], YES),
        ((1.23, 1.13, 0.036), [(1.2, 0.89, 0.013), (-0.14, 0.44, 0.48)], INCONCLUSIVE),  # its placebo gains as much
        ((1.29, 1.15, 0.032), [(-0.68, 0.89, 0.12), (-1.5, 0.64, 0.001)], INCONCLUSIVE),  # p after Holm 0.064
        ((0.0, 0.15, 0.9), [(-0.14, 0.44, 0.48), (0.1, 0.44, 0.5)], NO),
        ((2.28, 1.03, 0.0007), [], UNTESTED),
    ],
)
def test_the_layers_rule_is_decided_by_its_claim_and_names_each_placebo(own, shuffles, verdict):
    answer, words = finding("Choose the layer to steer at by steering", layer_strength=layers(own, *shuffles))
    assert answer == verdict
    assert "layer 17 (the last of 3 that were tried)" in words
    for value, half, _ in shuffles:
        assert f"{value:.3g} ({value - half:.3g} to {value + half:.3g})" in words


def precision(geometry, steering):
    common = {"choice": "chosen", "pooling": "mean", "reference": "float32", "precision": "int8"}
    rows = [{**common, "precision": "float32", "metric": "rdm_halves", "value": 0.7, "low": 0.6, "high": 0.8}]
    for metric, ends in (("rdm_change", geometry), ("steering_change", steering)):
        if ends:
            low, high = ends
            rows.append({**common, "metric": metric, "value": (low + high) / 2, "low": low, "high": high})
    return pd.DataFrame(rows).assign(n=10, p=0.5)


@pytest.mark.parametrize(
    ("geometry", "steering", "verdict"),
    [
        ((0.0, 0.001), (-0.02, 0.01), YES),
        ((0.0, 0.001), (-0.6, -0.3), NO),
        ((0.0, 0.001), (0.3, 0.6), NO),
        ((0.0, 0.001), (-0.3, 0.1), INCONCLUSIVE),
        ((0.06, 0.1), (-0.02, 0.01), NO),
        ((0.04, 0.06), (-0.02, 0.01), INCONCLUSIVE),
        ((0.0, 0.001), None, YES),
    ],
)
def test_weights_of_8_bits_must_steer_alike_as_well(geometry, steering, verdict):
    answer, words = finding("Weights of 8 bits", precision=precision(geometry, steering))
    assert answer == verdict
    assert ("of reading alone" in words) == (steering is None)


def test_weights_that_come_from_four_bits_are_called_that():
    table = precision((0.0, 0.001), (-0.02, 0.01))
    assert "4-bit" not in finding("Weights of 8 bits", precision=table)[1]
    tables = {"claims": pd.DataFrame({"model": ["gemma-3-270m"]})}
    tables["precision"] = table.assign(model="gemma-3-270m", instrument="scenes")
    (rule,) = [rule for rule in guidelines.rules(tables) if rule["rule"].startswith("Weights of 8 bits")]
    assert "the weights come from a 4-bit file (Q4_K_M)" in rule["findings"][0]["measured"]


def test_unlike_verdicts_without_a_paired_difference_leave_the_estimators_rule_open():
    def answer(gain_p, own, other):
        rows = [
            {"estimator": name, "metric": metric, "value": v, "low": v - 0.1, "high": v + 0.1, "p": p}
            for name, metric, v, p in (
                ("mean_difference", "classifier", own, 0.001),
                ("whitened", "classifier", other, 0.001),
                ("whitened", "classifier_gain", other - own, gain_p),
            )
        ]
        ranked = {"choice": "chosen", "pooling": "mean", "metric": "in_texts", "estimator": "whitened", "value": 0.5}
        tables = {"estimator_effects": pd.DataFrame(rows).assign(n=10), "estimators": pd.DataFrame([ranked])}
        return finding("Say by which estimator", **tables)[0]

    assert answer(0.3, 0.5, -0.2) == INCONCLUSIVE
    assert answer(0.001, 0.5, -0.2) == YES
    assert answer(0.001, 0.5, 0.9) == NO
