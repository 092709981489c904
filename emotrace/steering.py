"""The only place that edits a residual stream: prompts × emotions × strengths × seeds → texts, in batched passes.

How it is done with nnsight: one ``generate`` context a batch; at every step of the decoding loop the output of each
steered decoder layer gets one row's own vector added to one row, so that a batch holds many emotions and strengths at
once. Nothing is mutated but the activations of that pass: the weights stay as they are.

The edit is unit vector × strength × mean residual norm of the layer where it is added (claim C8; the author's published
code uses the norm at hand, we one norm a model and layer, measured once on neutral passages, so that a strength means
the same in every batch). Strength 0 adds exact zeros.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nnsight
import numpy as np
import pandas as pd
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from .activations import encode, residual_norms
from .errors import EmotraceError, unknown

if TYPE_CHECKING:
    from .models import Model
    from .vectors import EmotionVectors

POSITIONS = ("all", "generated")
BATCH_ROWS = 64


@dataclass(frozen=True)
class Edit:
    """What is done to the residual stream of each row of a batch.

    Attributes:
        directions: layer index (1 … L) → float32 ``[row, d_model]``; added, or projected out where ``ablate`` is set.
        ablate: remove the component along each (unit) direction instead of adding it.
        positions: ``all`` tokens, or ``generated``: from the last token of the prompt on, the first whose prediction is
            written.
    """

    directions: Mapping[int, torch.Tensor]
    ablate: bool = False
    positions: str = "all"

    def __post_init__(self) -> None:
        if self.positions not in POSITIONS:
            raise unknown("positions", self.positions, POSITIONS)


def apply(hidden: torch.Tensor, direction: torch.Tensor, ablate: bool) -> torch.Tensor:
    """``hidden [row, token, d_model]`` with ``direction [row, d_model]`` added to, or projected out of, every token."""
    direction = direction.to(hidden.device, hidden.dtype)[:, None, :]
    if ablate:
        return hidden - (hidden * direction).sum(dim=-1, keepdim=True) * direction
    return hidden + direction


# -- what to add ------------------------------------------------------------------------------------------------------


def directions(
    vectors: EmotionVectors,
    rows: Sequence[tuple[str | Mapping[str, float], float]],
    layers: Sequence[int],
    norms: np.ndarray,
) -> dict[int, torch.Tensor]:
    """Each row's edit at each layer: unit vector × strength × the layer's norm.

    Args:
        vectors: emotion vectors.
        rows: for each row an emotion (or a mixture, emotion → weight) and a strength.
        layers: layer indices.
        norms: mean residual norm of every layer 0 … L (:func:`~emotrace.activations.residual_norms`).
    """
    chosen = {}
    for layer in layers:
        place = vectors.place(layer)
        edits = [_unit(vectors, what, place) * strength * norms[layer] for what, strength in rows]
        chosen[layer] = torch.from_numpy(np.stack(edits).astype(np.float32))
    return chosen


def _unit(vectors: EmotionVectors, what: str | Mapping[str, float], place: int) -> np.ndarray:
    vector = (vectors[what] if isinstance(what, str) else vectors.mix(what))[place].astype(np.float64)
    norm = np.linalg.norm(vector)
    if norm == 0:
        raise EmotraceError(f"the vector of {what} at layer {vectors.layers[place]} is zero and has no direction")
    return vector / norm


def random_like(vectors: EmotionVectors, count: int, seed: int) -> EmotionVectors:
    """``count`` random directions named ``random-1`` …, of the emotions' mean norm at each layer: the control that every
    causal claim needs beside it."""
    from dataclasses import replace

    generator = np.random.default_rng(seed)
    values = generator.normal(size=(count, len(vectors.layers), vectors.d_model))
    norms = np.linalg.norm(vectors.values, axis=-1).mean(axis=0)
    values *= (norms / np.linalg.norm(values, axis=-1))[..., None]
    names = tuple(f"random-{number}" for number in range(1, count + 1))
    return replace(vectors, emotions=names, values=values.astype(np.float32))


# -- generating -------------------------------------------------------------------------------------------------------


class SeededSampling(LogitsProcessor):
    """Turns greedy decoding into sampling with one seed a row, so that a row's text does not depend on its batch.

    Adding Gumbel noise to log-probabilities / temperature and taking the largest is a draw from the softmax.
    """

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        self.generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        self.temperature = temperature

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # Minus the logarithm of an exponential variable is a Gumbel one.
        waits = torch.stack([torch.empty(scores.shape[-1]).exponential_(generator=each) for each in self.generators])
        gumbel = -torch.log(waits)
        return scores.float() / self.temperature + gumbel.to(scores.device)


def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    edit: Edit | None,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seeds: Sequence[int] | None = None,
) -> list[list[int]]:
    """Continues one batch of tokenised prompts, each row under its own edit, with a KV cache.

    Returns:
        The new token ids of each row, up to and without the end-of-text token. Nothing is forced past it.
    """
    ids, mask = _pad_left(prompts)
    ends = _end_tokens(model)
    processors = LogitsProcessorList([SeededSampling(seeds, temperature)] if temperature > 0 else [])
    settings = GenerationConfig(max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=ends, pad_token_id=ends[0])
    edits = edit.directions if edit else {}
    batch = {"input_ids": ids, "attention_mask": mask}
    with torch.no_grad(), warnings.catch_warnings():
        # The loop below ends with the generation, as it should; nnsight warns of it each time.
        warnings.filterwarnings("ignore", message=".*was never reached")
        with model.nn.generate(generation_config=settings, logits_processor=processors) as tracer:
            with tracer.invoke(batch):
                # A loop without an edit in it would wait for nothing, for ever.
                for step in tracer.iter[:] if edits else ():
                    for layer, direction in edits.items():
                        hidden = model.layers[layer - 1].output
                        if edit.positions == "all" or step > 0:
                            hidden[:] = apply(hidden, direction, edit.ablate)
                        else:
                            hidden[:, -1:] = apply(hidden[:, -1:], direction, edit.ablate)
            with tracer.invoke():
                written = tracer.result.save()
    return [_until_end(row[ids.shape[1] :].tolist(), ends) for row in written]


def _pad_left(prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Generation writes to the right of every row, so rows are padded on the left; the mask tells padding apart."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return ids, mask


def _end_tokens(model: Model) -> list[int]:
    """The ids that end a text: of the model's generation settings and of its tokenizer."""
    configured = model.nn._module.generation_config.eos_token_id
    ends = {model.tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])} - {None}
    if not ends:
        raise EmotraceError(f"{model.name} has no end-of-text token")
    return sorted(ends)


def _until_end(tokens: list[int], ends: Sequence[int]) -> list[int]:
    return list(itertools.takewhile(lambda token: token not in ends, tokens))


# -- the sweep --------------------------------------------------------------------------------------------------------


def steer(
    model: Model,
    prompts: str | Sequence[str],
    vectors: EmotionVectors,
    strengths: float | Sequence[float],
    *,
    emotions: Sequence[str | Mapping[str, float]] | None = None,
    layers: Sequence[int] | str | None = None,
    positions: str = "all",
    chat: bool = False,
    max_new_tokens: int = 40,
    temperature: float = 0.0,
    seeds: Sequence[int] = (0,),
    batch_rows: int = BATCH_ROWS,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Continues every prompt under every emotion, strength and seed.

    Args:
        model: the model.
        prompts: one prompt or several.
        vectors: emotion vectors of this model.
        strengths: multiples of the mean residual norm at the layer of the edit; negative steers away, 0 is unsteered.
        emotions: names in ``vectors`` or mixtures (emotion → weight); default: all of them.
        layers: where to add; default half depth; ``all`` is the author's published setting (with small strengths).
        positions: ``all`` tokens or ``generated`` ones (see :class:`Edit`).
        chat: put each prompt into the model's chat template as the user's words.
        max_new_tokens: at most; a text that ends is never forced on.
        temperature: 0 is greedy; otherwise each row is sampled with its own seed, whatever its batch.
        seeds: one text for each.
        batch_rows: rows of one pass.
        progress: called with the number of texts just written.

    Returns:
        One row a text: ``prompt, emotion, strength, seed, text, n_tokens, ended`` (``ended``: by end-of-text).

    Raises:
        EmotraceError: vectors of another model, a layer out of range, a strength that is not finite, an empty or too
            long prompt, an unknown emotion, a chat asked of a model without a template.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    strengths = [strengths] if isinstance(strengths, (int, float)) else list(strengths)
    chosen = _check(model, vectors, strengths, layers, temperature)
    named = list(vectors.emotions) if emotions is None else list(emotions)
    tokens = {
        prompt: _prompt_ids(model, number, prompt, chat, max_new_tokens) for number, prompt in enumerate(prompts, 1)
    }
    norms = residual_norms(model)
    rows = list(itertools.product(prompts, named, strengths, seeds))
    # Rows of like length share a batch, and the longest come first; the caller's order is restored at the end.
    order = sorted(range(len(rows)), key=lambda place: (-len(tokens[rows[place][0]]), place))
    written: dict[int, list[int]] = {}
    for start in range(0, len(order), batch_rows):
        places = order[start : start + batch_rows]
        batch = [rows[place] for place in places]
        edit = Edit(
            directions(vectors, [(what, strength) for _, what, strength, _ in batch], chosen, norms),
            positions=positions,
        )
        texts = generate(
            model, [tokens[prompt] for prompt, *_ in batch], edit,
            max_new_tokens=max_new_tokens, temperature=temperature, seeds=[seed for *_, seed in batch],
        )  # fmt: skip
        written.update(zip(places, texts, strict=True))
        if progress:
            progress(len(places))
    return pd.DataFrame([_row(model, rows[place], written[place], max_new_tokens) for place in range(len(rows))])


def _row(model: Model, row: tuple[str, Any, float, int], tokens: list[int], limit: int) -> dict[str, Any]:
    prompt, what, strength, seed = row
    text = model.tokenizer.decode(tokens, skip_special_tokens=True)
    return {
        "prompt": prompt, "emotion": mixture_name(what), "strength": float(strength), "seed": seed, "text": text,
        "n_tokens": len(tokens), "ended": len(tokens) < limit,
    }  # fmt: skip


def mixture_name(what: str | Mapping[str, float]) -> str:
    """``happy``, or ``happy×0.5 + calm×0.5`` for a mixture."""
    return what if isinstance(what, str) else " + ".join(f"{name}×{weight:g}" for name, weight in what.items())


def _check(
    model: Model,
    vectors: EmotionVectors,
    strengths: Sequence[float],
    layers: Sequence[int] | str | None,
    temperature: float,
) -> list[int]:
    """The layers to edit, once everything that a caller can get wrong is right."""
    vectors.check(model)
    for strength in strengths:
        if not np.isfinite(strength):
            raise EmotraceError(f"a strength is a finite number, not {strength}")
    if not np.isfinite(temperature) or temperature < 0:
        raise EmotraceError(f"a temperature is 0 (greedy) or a positive number, not {temperature}")
    if layers is None:
        layers = [model.n_layers // 2]
    chosen = [layer for layer in model.check_layers(layers) if layer > 0 or layers != "all"]
    if 0 in chosen:
        raise EmotraceError(
            "layer 0 is the embedding output, which is not steered: layers are 1 to " + str(model.n_layers)
        )
    return chosen


def _prompt_ids(model: Model, number: int, prompt: str, chat: bool, max_new_tokens: int) -> tuple[int, ...]:
    """A prompt's token ids, tokenised once, with room for what is to be written."""
    if chat:
        if model.tokenizer.chat_template is None:
            raise EmotraceError(f"{model.name} has no chat template: leave chat off, or take an instruct model")
        if not prompt.strip():
            raise EmotraceError(f"prompt {number} is empty")
        message = [{"role": "user", "content": prompt}]
        ids = tuple(model.tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False))
    else:
        ids = encode(model, [prompt])[0].ids
    if len(ids) + max_new_tokens > model.context:
        raise EmotraceError(
            f"prompt {number} ({len(ids)} tokens) and {max_new_tokens} new ones exceed the {model.context} of {model.name}"
        )
    return ids


# -- without generating -----------------------------------------------------------------------------------------------


def score(
    model: Model,
    prompts: Sequence[str],
    edit: Edit | None,
    *,
    read_layers: Sequence[int] | None = None,
) -> dict[str, np.ndarray]:
    """One forward pass under an edit: what it does to later layers and to the next token.

    Args:
        model: the model.
        prompts: one a row of the edit.
        edit: per-row edit, or None for the unedited pass.
        read_layers: layers to read at each prompt's last token; default all.

    Returns:
        ``stream`` float32 ``[row, layer, d_model]`` and ``log_probabilities`` float32 ``[row, vocabulary]``, both at
        the last token of the prompt. The unembedding runs on that token alone.
    """
    layers = model.check_layers(list(read_layers) if read_layers is not None else None)
    ids, mask = _pad_left([item.ids for item in encode(model, prompts)])
    edits = edit.directions if edit else {}
    last_only = edit is not None and edit.positions == "generated"
    batch = {"input_ids": ids, "attention_mask": mask}
    with torch.no_grad(), model.nn.trace(batch, use_cache=False, logits_to_keep=1):
        stream = nnsight.save([])
        for index in range(model.n_layers + 1):
            hidden = model.layers[0].input if index == 0 else model.layers[index - 1].output
            if index in edits and last_only:
                hidden[:, -1:] = apply(hidden[:, -1:], edits[index], edit.ablate)
            elif index in edits:
                hidden[:] = apply(hidden, edits[index], edit.ablate)
            if index in layers:
                stream.append(hidden[:, -1].float().cpu())
        logits = model.part("unembedding").output[:, -1].float().log_softmax(dim=-1).cpu().save()
    return {"stream": torch.stack(stream, dim=1).numpy(), "log_probabilities": logits.numpy()}


def ablation(vectors: EmotionVectors, emotions: Sequence[str], layers: Sequence[int]) -> Edit:
    """The edit that projects each row's emotion direction out of the residual stream at the given layers."""
    chosen = {}
    for layer in layers:
        rows = [_unit(vectors, emotion, vectors.place(layer)) for emotion in emotions]
        chosen[layer] = torch.from_numpy(np.stack(rows).astype(np.float32))
    return Edit(chosen, ablate=True)
