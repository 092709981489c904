"""Fits a low-rank adapter of the encoder's weights together with one logistic head a label.

Deterministic: seeds, two threads whatever the machine has, deterministic algorithms of torch. The same data, settings
and versions give the same bytes on the same kind of processor; another processor rounds its sums otherwise.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save
from scipy.optimize import minimize
from scipy.special import expit

from classifier_training.data import Split
from classifier_training.wording import Wording, epoch
from emotrace.files import write_file
from emotrace.hosts import gguf
from emotrace.judges.adapter import DOWN, UP, linear_maps
from emotrace.judges.encoder import SentenceEncoder, unit_mean

THREADS = 2
# A unit vector's entries are small: the head learns at the pace of the rest on vectors of this length.
LENGTH = 10.0
_SORTED_BATCHES = 40


@dataclass(frozen=True)
class Recipe:
    """What is fitted, and how.

    Attributes:
        rank: of every weight's change.
        layers: how many layers, from the last one down, are changed.
        epochs: passes over the training texts, each with other changes of wording.
        batch: texts a step.
        tokens: the length that a training text is cut to.
        rate: AdamW's highest learning rate of the adapter; it rises over the first 6% of steps, then falls to 0.
        head_rate: the same of the heads.
        decay: AdamW's weight decay of the adapter.
        focus: the exponent of the focal loss (Lin et al. 2017): what is already told right counts less.
        balance: the exponent of negatives over positives in the weight of a label's positive texts (1: balanced).
        seed: of the adapter's start, of wording and of the order of texts.
        wording: how often each change of wording is made.
    """

    rank: int = 24
    layers: int = 4
    epochs: int = 2
    batch: int = 128
    tokens: int = 128
    rate: float = 1e-3
    head_rate: float = 2e-3
    decay: float = 0.01
    focus: float = 2.0
    balance: float = 0.25
    seed: int = 0
    wording: Wording = field(default_factory=Wording)


@dataclass(frozen=True)
class Fitted:
    """The adapter's halves (float16) by name, and the heads on unit vectors (float32)."""

    adapter: dict[str, np.ndarray]
    weight: np.ndarray
    bias: np.ndarray


class LowRank(torch.nn.Module):
    """A frozen linear map plus ``up @ down``; ``up`` starts at zero, so that nothing changes at first."""

    def __init__(self, frozen: torch.nn.Linear, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.frozen = frozen
        start = torch.randn(rank, frozen.in_features, generator=generator) / math.sqrt(frozen.in_features)
        self.down = torch.nn.Parameter(start)
        self.up = torch.nn.Parameter(torch.zeros(frozen.out_features, rank))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        change = torch.nn.functional.linear(torch.nn.functional.linear(inputs, self.down), self.up)
        return self.frozen(inputs) + change


def attach(module: transformers.PreTrainedModel, rank: int, layers: int, seed: int) -> dict[str, LowRank]:
    """Puts a :class:`LowRank` in the place of each linear map of the last ``layers`` layers, in place."""
    generator = torch.Generator().manual_seed(seed)
    adapted = {}
    for name in linear_maps(module, layers):
        parent, _, attribute = name.rpartition(".")
        adapted[name] = LowRank(module.get_submodule(name), rank, generator)
        setattr(module.get_submodule(parent), attribute, adapted[name])
    return adapted


def detach(module: transformers.PreTrainedModel, adapted: dict[str, LowRank]) -> dict[str, np.ndarray]:
    """Puts the frozen maps back and returns the halves as they are stored."""
    tensors = {}
    for name, low_rank in adapted.items():
        parent, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(parent), attribute, low_rank.frozen)
        for half, value in ((DOWN, low_rank.down), (UP, low_rank.up)):
            tensors[name + half] = value.detach().numpy().astype(np.float16)
    return tensors


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Two threads and deterministic algorithms, as long as it lasts."""
    threads, was = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(was)


def fit(
    encoder: SentenceEncoder,
    texts: list[str],
    positive: np.ndarray,
    neutral: int,
    recipe: Recipe,
    done: Callable[[float], None] = lambda share: None,
) -> Fitted:
    """Trains adapter and heads; the encoder is as before when this returns.

    Args:
        encoder: on the CPU, in evaluation mode (no dropout).
        texts: training texts.
        positive: bool ``[text, label]``.
        neutral: the column of the label *neutral*.
        recipe: the settings.
        done: is told the share of steps that are done.
    """
    with deterministic():
        adapted = attach(encoder.module, recipe.rank, recipe.layers, recipe.seed)
        head = torch.nn.Linear(encoder.module.config.hidden_size, positive.shape[1])
        odds = torch.tensor((~positive).sum(axis=0) / positive.sum(axis=0), dtype=torch.float32)
        with torch.no_grad():
            head.weight.zero_()
            head.bias.copy_((recipe.balance - 1) * odds.log())
        try:
            _train(encoder, adapted, head, odds**recipe.balance, texts, positive, neutral, recipe, done)
        finally:
            tensors = detach(encoder.module, adapted)
    return Fitted(tensors, head.weight.detach().numpy() * LENGTH, head.bias.detach().numpy().copy())


def _train(
    encoder: SentenceEncoder,
    adapted: dict[str, LowRank],
    head: torch.nn.Linear,
    weights: torch.Tensor,
    texts: list[str],
    positive: np.ndarray,
    neutral: int,
    recipe: Recipe,
    done: Callable[[float], None],
) -> None:
    rng = np.random.default_rng(recipe.seed)
    halves = [parameter for low_rank in adapted.values() for parameter in (low_rank.down, low_rank.up)]
    groups = [
        {"params": halves, "lr": recipe.rate, "weight_decay": recipe.decay},
        {"params": list(head.parameters()), "lr": recipe.head_rate, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    passes = [epoch(texts, positive, neutral, recipe.wording, rng) for _ in range(recipe.epochs)]
    steps = sum(math.ceil(len(written) / recipe.batch) for written, _ in passes)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / (0.06 * steps)) * max(0.0, 1 - step / steps)
    )
    step = 0
    for written, truth in passes:
        ids = encoder.tokenizer(written, truncation=True, max_length=recipe.tokens, padding=False)["input_ids"]
        for rows in _shuffled(np.array([len(row) for row in ids]), recipe.batch, rng):
            padded = encoder.tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="pt")
            output = encoder.module(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"])
            logits = head(LENGTH * unit_mean(output.last_hidden_state, padded["attention_mask"]))
            optimizer.zero_grad()
            loss(logits, torch.from_numpy(truth[rows]), weights, recipe.focus).backward()
            torch.nn.utils.clip_grad_norm_([*halves, *head.parameters()], 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            done(step / steps)


def loss(logits: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor, focus: float) -> torch.Tensor:
    """The focal loss, mean over texts and labels; ``logits`` and ``truth [text, label]``, ``weights [label]``."""
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, truth.to(logits.dtype), pos_weight=weights, reduction="none"
    )
    probability = logits.sigmoid()
    return (torch.where(truth, 1 - probability, probability) ** focus * cross_entropy).mean()


def cached_fit(
    encoder: SentenceEncoder,
    split: Split,
    neutral: int,
    recipe: Recipe,
    done: Callable[[float], None] = lambda share: None,
) -> Fitted:
    """:func:`fit`, or what it found before in emotrace's cache: measuring again costs no training."""
    key = [asdict(recipe), split.sha256, neutral, encoder.sha256, torch.__version__, transformers.__version__]
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    path = gguf.cache_dir() / "judge" / f"{digest[:24]}.safetensors"
    if path.is_file():
        tensors = load_file(path)
        return Fitted(weight=tensors.pop("weight"), bias=tensors.pop("bias"), adapter=tensors)
    fitted = fit(encoder, split.texts, split.positive, neutral, recipe, done)
    write_file(path, save({**fitted.adapter, "weight": fitted.weight, "bias": fitted.bias}))
    return fitted


def _shuffled(lengths: np.ndarray, batch: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Batches of texts of like length, in an order of chance."""
    order, batches = rng.permutation(len(lengths)), []
    for start in range(0, len(order), batch * _SORTED_BATCHES):
        part = order[start : start + batch * _SORTED_BATCHES]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[at : at + batch] for at in range(0, len(part), batch)]
    return [batches[at] for at in rng.permutation(len(batches))]


def calibrate(logits: np.ndarray, positive: np.ndarray) -> tuple[float, np.ndarray]:
    """One slope for all labels and an offset ``[label]`` that make ``slope * logits + offset`` calibrated (Platt 1999).

    Positive and negative texts of a label weigh the same: a score of 0.5 means that a text with it would be as likely
    to have the label as not if half of all texts had it.

    Args:
        logits: ``[text, label]``, of texts that no weight was fitted to.
        positive: bool ``[text, label]``.
    """
    n_labels = positive.shape[1]
    weights = np.where(positive, 0.5 / positive.sum(axis=0), 0.5 / (~positive).sum(axis=0)) / n_labels

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        values = parameters[0] * logits + parameters[1:]
        value = (weights * np.logaddexp(0, np.where(positive, -values, values))).sum()
        residuals = weights * (expit(values) - positive)
        return value, np.append((residuals * logits).sum(), residuals.sum(axis=0))

    start = np.append(1.0, np.zeros(n_labels))
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000, "ftol": 1e-15})
    return float(found.x[0]), found.x[1:]
