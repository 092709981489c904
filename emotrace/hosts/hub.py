"""Vectors on the model hub: one commit of a file and its card, and the file back. Nothing else of emotrace uploads.

Who may write is for the hub's own client to know (``hf auth login``, ``HF_TOKEN``): no key is an argument here, and
none is in any message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from emotrace.errors import EmotraceError, shown
from emotrace.hosts import checkpoints
from emotrace.instrument import corpus
from emotrace.redaction import redacted

FILE, CARD = "vectors.safetensors", "README.md"
TAGS = ("emotrace", "emotion", "steering-vectors", "activation-steering", "interpretability")
_LICENCES = {"apache-2.0", "mit", "gemma", "llama3.1", "llama3.2"}
"""As the hub spells those of the registry."""
_SPELT = {"gemma terms": "gemma", "llama 3.1 licence": "llama3.1", "llama 3.2 licence": "llama3.2"}


def upload(repo: str, files: Mapping[str, bytes], *, private: bool, message: str) -> str:
    """Makes the model repository if there is none, and puts the files there in one commit.

    Returns:
        The commit's address.

    Raises:
        EmotraceError: no such name, or what the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    _check(repo)
    api = HfApi(library_name="emotrace")
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        return redacted(api.create_commit(repo, operations, commit_message=message).commit_url)
    except Exception as error:  # the hub's client raises a dozen types here
        raise _failed(f"the vectors were not put into {repo}", repo, error) from None


def download(repo: str, revision: str | None = None) -> Path:
    """Where the vectors of a repository lie in the hub's cache, fetched if they are not there.

    Raises:
        EmotraceError: no such repository, revision or file, or the hub cannot be reached and nothing is in the cache.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RemoteEntryNotFoundError

    _check(repo)
    try:
        return Path(HfApi(library_name="emotrace").hf_hub_download(repo, FILE, revision=revision))
    except RemoteEntryNotFoundError:
        raise EmotraceError(f"{repo} has no emotion vectors: there is no {FILE} in it") from None
    except Exception as error:
        raise _failed(f"no vectors come from {repo}", repo, error) from None


def _check(repo: str) -> None:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        if isinstance(repo, str) and repo.count("/") == 1:
            validate_repo_id(repo)
            return
    except HFValidationError:
        pass
    raise EmotraceError(
        f"a repository of the hub is named USER/NAME, of letters, digits, -, _ and ., not {shown(repo)}"
    )


def _failed(what: str, repo: str, error: Exception) -> EmotraceError:
    from huggingface_hub import get_token

    return EmotraceError(redacted(f"{what}: {checkpoints.cause(repo, error)}", get_token() or ""))


# -- the card ---------------------------------------------------------------------------------------------------------


def card(
    repo: str,
    emotions: Sequence[str],
    layers: Sequence[int],
    width: int,
    provenance: Mapping[str, str],
    *,
    licence: str | None = None,
    reliability: pd.DataFrame | None = None,
) -> bytes:
    """The model card of a file of vectors, from what its provenance says.

    Args:
        repo: where it will lie.
        emotions, layers, width: of the vectors.
        provenance: theirs.
        licence: as the hub spells it; default: the base model's, where the registry knows it.
        reliability: split-half cosines, columns ``emotion, split_half`` and, where there are, ``p`` and ``n``.

    Raises:
        EmotraceError: vectors of another tool, of which the card would say what is not so.
    """
    from huggingface_hub import ModelCardData

    if "of" in provenance:
        raise EmotraceError(
            f"these vectors are of {provenance['of']}: nobody could steer with them from a repository of emotrace's"
        )

    base = provenance.get("source", "")
    own, name = _licence(base, licence)
    data = ModelCardData(
        base_model=base if "/" in base else None,
        library_name="emotrace",
        license=own,
        license_name=name,
        tags=list(TAGS),
    )
    calibration = json.loads(provenance.get("calibration", "{}"))
    parts = [
        f"---\n{data.to_yaml()}\n---\n\n# Emotion vectors of {provenance.get('model', base)}",
        f"{len(emotions)} directions in the residual stream of `{base}`, `[emotion, layer, d_model]` = "
        f"[{len(emotions)}, {len(layers)}, {width}]: {', '.join(emotions)}. Layer 0 is the embedding output, layer i "
        "the output of decoder layer i.",
        f"```python\nimport emotrace\n\nvectors = emotrace.EmotionVectors.from_hub({repo!r})\n"
        "model = emotrace.load(…)  # the base model: vectors are refused on other weights\n"
        f'emotrace.steer(model, "When she opened the letter, she", vectors{_example(emotions, calibration)})\n```',
        "## How they were made\n\n" + _provenance_table(provenance),
        "## Strengths\n\n" + _strengths(calibration),
    ]
    if reliability is not None:
        parts.append(_reliability(reliability))
    parts.append(
        "## What they are not\n\nA direction says where texts of an emotion lie in this model, not that the model "
        "feels. Steered text may be wrong or hurtful."
        + ("" if own or name else " Whoever uses them is bound by the base model's licence, which is not known here.")
    )
    return redacted("\n\n".join(parts) + "\n").encode()


def _licence(base: str, given: str | None) -> tuple[str | None, str | None]:
    """The hub's ``license`` and ``license_name``."""
    if given is None:
        registry = corpus.model_registry()
        known = registry.loc[registry["hub_id"] == base, "licence"]
        if known.empty:
            return None, None
        given = str(known.iloc[0])
    own = _SPELT.get(given.lower(), given.lower())
    return (own, None) if own in _LICENCES else ("other", given)


def _example(emotions: Sequence[str], calibration: Mapping[str, object]) -> str:
    strength = "" if calibration.get("strength") else ", 0.2"
    return f"{strength}, emotions={emotions[0]!r}" if emotions else strength


def _provenance_table(provenance: Mapping[str, str]) -> str:
    rows = [(key, value) for key, value in sorted(provenance.items()) if key != "calibration"]
    return _table(("what", "value"), rows)


def _strengths(calibration: Mapping[str, object]) -> str:
    if not calibration:
        return "Not calibrated: which strengths leave this model's text coherent was not measured."
    window = calibration.get("window") or (None, None)
    low, high = (_number(end) for end in window)  # type: ignore[attr-defined]
    return (
        f"In multiples of the mean residual norm. At least {calibration.get('target')} of {calibration.get('n')} texts "
        f"a strength stayed coherent from {low} to {high}, added at layers {calibration.get('layers')}, positions "
        f"`{calibration.get('positions')}`, temperature {calibration.get('temperature')}. "
        f"Default strength: {_number(calibration.get('strength'))}."
    )


def _reliability(table: pd.DataFrame) -> str:
    columns = [name for name in ("emotion", "layer", "split_half", "spearman_brown", "p", "n") if name in table]
    rows = [[_number(cell) for cell in row] for row in table[columns].itertuples(index=False)]
    about = "Cosine between the vectors of two disjoint halves of the topics, mean over random splits."
    return f"## Split-half reliability\n\n{about}\n\n{_table(columns, rows)}"


def _number(value: object) -> str:
    if value is None or value != value:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [columns, ["---"] * len(columns), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
