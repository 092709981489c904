"""``attach(model, tokenizer)``: the handle of a model that is in memory already."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from emotrace import arguments
from emotrace.errors import EmotraceError
from emotrace.hosts import checkpoints, quantised, threads
from emotrace.hosts.tokenizer_files import check_split
from emotrace.models import Model, describe, handle_of
from emotrace.redaction import without_secret


@arguments.checked
@threads.one_at_a_time
def attach(module: Any, tokenizer: Any, *, name: str | None = None, instruct: bool | None = None) -> Model:
    """The handle of a transformers model that is in memory already, whatever made it.

    Its weights are not copied, and neither its settings nor the tokenizer's are changed: the handle reads with a copy
    of the tokenizer. nnsight puts itself around ``forward`` of each module.

    Args:
        module: a causal language model of transformers, or nnsight's wrapper around one, whose own tokenizer is not
            used.
        tokenizer: its tokenizer.
        name: what it is called in tables and messages; default: its configuration's ``_name_or_path``, or its class.
        instruct: as in :func:`load`.

    Its identity is a digest of configuration, ends of text, tokenizer and weights, whatever it is called
    (:func:`~emotrace.hosts.checkpoints.memory_digest`).

    Raises:
        EmotraceError: no model of transformers, one on no device, or one without a residual stream to read; a wrapper
            with edits; a tokenizer that splits words as its model was not trained; whatever code of the model's or the
            tokenizer's own raises.
    """
    import transformers
    from nnsight.modeling.transformers import TransformersModel

    inner = getattr(module, "_module", module)
    if not isinstance(inner, transformers.PreTrainedModel) or inner.config.is_encoder_decoder:
        raise EmotraceError(f"a causal language model of transformers is attached, not a {type(module).__name__}")
    if not isinstance(tokenizer, transformers.PreTrainedTokenizerBase):
        raise EmotraceError(f"a tokenizer of transformers goes with it, not a {type(tokenizer).__name__}")
    if getattr(module, "_edits", None):
        raise EmotraceError("nnsight's wrapper has edits, which no identity would name: clear_edits() first")
    if inner.get_output_embeddings() is None:
        raise EmotraceError(f"{type(inner).__name__} has no unembedding: the model with its head is attached")
    if any(weights.is_meta for weights in inner.parameters()):
        raise EmotraceError("some of its weights are on the meta device or on disk: load them before it is attached")
    if inner.training:
        raise EmotraceError(f"{type(inner).__name__} is in training mode, where dropout changes it: call eval() first")
    given = "" if name is None else arguments.text(name, "a model's name")
    label = given or Path(inner.config._name_or_path or "").name or type(inner).__name__
    try:
        check_split(tokenizer)
        checkpoints.check_finite(inner)
        known = {"source": label, "weights_id": f"memory:{checkpoints.memory_digest(inner, tokenizer)}"}
        known["quantisation"] = quantised.method_of(inner)
        nn = TransformersModel(inner, task="text-generation", tokenizer=copy.deepcopy(tokenizer))
        return handle_of(label, nn, inner.config, {**known, **describe(nn, label, None, known)}, instruct)
    except EmotraceError:
        raise
    except Exception as error:  # a class, of model or tokenizer, may be anyone's code
        raise EmotraceError(f"{label} cannot be attached: {checkpoints.one_line(error)}") from without_secret(error)
