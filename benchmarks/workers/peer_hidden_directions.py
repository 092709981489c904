"""hidden-directions 0.1.6: what ``extract_refusal`` and ``sweep_alphas`` do with a model, which these load on a GPU."""

import numpy as np
import torch
from hidden_directions import sweep
from hidden_directions.extract import refusal
from transformers import AutoModelForCausalLM, AutoTokenizer


class Peer:
    def __init__(self, folder: str) -> None:
        self.words = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def rows(self, texts: list[str]) -> list[tuple[list[int], int]]:
        """The tokens of each text as it is read, and the position at which it is."""
        rows = []
        for text in texts:
            turn = [{"role": "user", "content": text}]
            ids = self.words(self.words.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)).input_ids
            rows.append((ids, len(ids) - 1))
        return rows

    def read(self, texts: list[str]) -> np.ndarray:
        """``[text, layer, d_model]`` of layers 1 … L; the last is after the final norm."""
        states = refusal._collect_last_token_acts(self.model, self.words, texts, "").numpy()
        states[:, -1] = np.nan
        return states

    def write(self, prompts: list[str], push: list[float], layer: int, tokens: int) -> list[str]:
        """Each prompt in a chat, continued greedily with ``push`` added at a layer (1 … L)."""
        hook = self.model.model.layers[layer - 1].register_forward_hook(sweep._make_hook(torch.tensor(push)))
        try:
            return [sweep._greedy(self.model, self.words, prompt, tokens) for prompt in prompts]
        finally:
            hook.remove()
