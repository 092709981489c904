"""saklas 5.3.0: the batched capture that its fits run, 8 answers at once, without a system turn.

Its steering takes no vector as it is: a strength there is a share of what its own fit found on its own neutral corpus.
"""

import numpy as np
import torch
from saklas.core import capture
from transformers import AutoModelForCausalLM, AutoTokenizer

QUESTION, ROWS = "Tell me what happened.", 8


class Peer:
    def __init__(self, folder: str) -> None:
        self.words = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def rows(self, texts: list[str]) -> list[tuple[list[int], int]]:
        rows = capture._prepare_capture_batch(self.words, [QUESTION] * len(texts), texts, system_msg="")
        return [(ids[0].tolist(), end) for ids, end in rows]

    def read(self, texts: list[str]) -> np.ndarray:
        parts = []
        for start in range(0, len(texts), ROWS):
            some = texts[start : start + ROWS]
            layers = self.model.model.layers
            found = capture._encode_and_capture_all_batch(
                self.model, self.words, [QUESTION] * len(some), some, layers, torch.device("cpu"), system_msg=""
            )
            parts.append(torch.stack([found[layer] for layer in range(len(layers))], dim=1))
        return torch.cat(parts).numpy()
