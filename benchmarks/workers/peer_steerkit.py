"""steerkit 0.3.0: ``extract_activations`` on pairs of answers, ``Probe.steer``, on TransformerLens 3.9's own model.

TransformerLens 4 has no ``HookedTransformer`` any more, on which steerkit rests, and 3.9 knows no SmolLM2: then the
table says so. Untried where it does know the model.
"""

import numpy as np
import torch
from steerkit import extract
from steerkit.data import ContrastPair
from steerkit.models import ModelHandle
from steerkit.probe import Probe
from transformer_lens import HookedTransformer
from transformers import AutoModelForCausalLM, AutoTokenizer

QUESTION = "Tell me what happened."


class Peer:
    def __init__(self, folder: str) -> None:
        words = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        name = "HuggingFaceTB/SmolLM2-135M-Instruct"
        hooked = HookedTransformer.from_pretrained(
            name, hf_model=model, tokenizer=words, device="cpu", dtype=torch.float32
        )
        self.handle = ModelHandle(hooked.eval(), name)

    def rows(self, texts: list[str]) -> list[tuple[list[int], int]]:
        ids = [self.handle.format_chat(QUESTION, text)[0].tolist() for text in texts]
        return [(row, len(row) - 1) for row in ids]

    def read(self, texts: list[str]) -> np.ndarray:
        pairs = [ContrastPair(QUESTION, *texts[start : start + 2]) for start in range(0, len(texts), 2)]
        found = extract.extract_activations(pairs, self.handle, include_boundaries=False)
        return np.stack([found[layer].numpy().reshape(len(texts), -1) for layer in sorted(found)], axis=1)

    def write(self, prompts: list[str], push: list[float], layer: int, tokens: int) -> list[str]:
        vector = torch.tensor(push)
        strength = float(vector.norm())
        place = extract._hook_name(layer - 1)
        known = {"model_id": self.handle.model_id, "hook_site": "resid_post", "hook_name": place, "metrics": {}}
        probe = Probe({"logistic": vector / strength}, {}, layer - 1, n_total_layers=self.handle.n_layers, **known)
        return [probe.steer(self.handle, prompt, alpha=strength, max_new_tokens=tokens) for prompt in prompts]
