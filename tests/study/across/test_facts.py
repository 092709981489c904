"""What is said of a model: its publisher's count of parameters, its kind, its weights."""

import numpy as np
import pandas as pd

from emotrace.study.across.facts import in_words, millions, model_facts

MANIFEST = {
    "models": {
        "qwen2.5-coder-0.5b-instruct": {
            "family": "qwen",
            "kind": "instruct",
            "parameters": 630167424,  # its file has input and output embeddings apart
            "quantisation": "GGUF Q4_K_M, dequantised to float32",
        },
        "one/of-ones-own": {"family": "llama", "kind": "base", "parameters": 2.5e6, "quantisation": "none"},
    }
}


def test_parameters_are_counted_as_the_publisher_does():
    tables = {"claims": pd.DataFrame({"model": list(MANIFEST["models"])})}
    facts = model_facts(MANIFEST, tables)
    assert facts["qwen2.5-coder-0.5b-instruct"].parameters == 494
    assert facts["one/of-ones-own"] == ("llama", "base", 2.5)
    assert millions("smollm2-135m-instruct", None) == 135
    assert np.isnan(millions("unheard-of", None))


def test_models_keep_the_order_of_the_run_whatever_tables_lie_there_from_before():
    names = list(MANIFEST["models"])
    stale = {"across_depth": pd.DataFrame({"model": names[::-1]}), "claims": pd.DataFrame({"model": names})}
    assert list(model_facts({**MANIFEST, "settings": {"models": names}}, stale)) == names


def test_size_kind_and_weights_are_said():
    words = in_words(MANIFEST)
    for part in ("494M parameters", "qwen", "instruct", "a code model", "4-bit weights", "Q4_K_M"):
        assert part in words["qwen2.5-coder-0.5b-instruct"]
    assert "code" not in words["one/of-ones-own"]
    assert "4-bit" not in words["one/of-ones-own"]
    assert "weights as published" in words["one/of-ones-own"]
