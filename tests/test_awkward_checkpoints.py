"""Every function that reads, writes, edits or scores, over every awkward checkpoint, against plain transformers."""

import awkward_checkpoints
import numpy as np
import pytest
import torch
from awkward_checkpoints import CHECKPOINTS, Plain

import emotrace
from emotrace import activations, scoring, steered_texts, steering, tokens
from emotrace.tokens import Writing

TEXTS = ["The rain fell on the roof all night, and nobody slept.", "She laughed.", "He waited for the last train home."]
PROMPTS = [
    "The door opened, and she",
    "After supper they all went down to the river, where",
    "The door opened, and she",
]
N = 7
COMPARED: dict[tuple[str, str], float] = {}


@pytest.fixture(scope="module", params=CHECKPOINTS)
def pair(request, tmp_path_factory):
    """A checkpoint as emotrace loads it, and as transformers does."""
    folder = CHECKPOINTS[request.param].build(tmp_path_factory.mktemp("awkward"))
    return request.param, emotrace.load(str(folder)), Plain(folder)


def ids_of(plain, text):
    """Without what the tokenizer appends: a text that ends is not continued."""
    ids = plain.tokenizer(text)["input_ids"]
    return ids[:-1] if ids[-1] == plain.tokenizer.eos_token_id else ids


def ends_of(plain):
    configured = [plain.module.generation_config.eos_token_id, plain.module.config.eos_token_id]
    first = next(ids for ids in configured if ids is not None)
    return {plain.tokenizer.eos_token_id, *(first if isinstance(first, list) else [first])}


def an_edit(model, positions="generated"):
    """One vector a row at the middle layer, large enough to change texts; the last row has that of the first, twice."""
    layer = max(1, model.n_layers // 2)
    rows = torch.randn(len(PROMPTS), model.d_model, generator=torch.Generator().manual_seed(1))
    rows = rows / rows.norm(dim=1, keepdim=True) * float(activations.residual_norms(model, TEXTS)[layer])
    return layer, rows, steering.Edit({layer: rows}, positions=positions)


def close(ours, theirs):
    """The largest deviation, in units of the largest value."""
    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    assert ours.shape == theirs.shape
    deviation = float(np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max()))
    assert deviation < 2e-5
    return deviation


def equal(ours, theirs):
    assert ours == theirs
    return 0.0


# -- one comparison each: (emotrace's model, plain transformers) → deviation ----------


def read_activations(model, plain):
    special, expected = set(plain.tokenizer.all_special_ids), {"mean": [], "last": []}
    for text in TEXTS:
        ids = ids_of(plain, text)
        ordinary = [index for index, token in enumerate(ids) if token not in special]
        stream = plain.read(ids)[0]
        expected["mean"].append(stream[ordinary[1] : ordinary[-1] + 1].mean(axis=0))
        expected["last"].append(stream[ordinary[-1]])
    read = activations.read_activations(model, TEXTS)
    return max(close(read[pooling], np.stack(values)) for pooling, values in expected.items())


def read_tokens(model, plain):
    read = activations.read_tokens(model, TEXTS)
    return max(close(ours, plain.read(ids_of(plain, text))[0]) for ours, text in zip(read, TEXTS, strict=True))


def residual_norms(model, plain):
    special, norms = set(plain.tokenizer.all_special_ids), []
    for text in TEXTS:
        ids = ids_of(plain, text)
        ordinary = [index for index, token in enumerate(ids) if token not in special]
        norms.append(np.linalg.norm(plain.read(ids)[0], axis=-1)[ordinary[1] : ordinary[-1] + 1])
    return close(activations.residual_norms(model, TEXTS), np.concatenate(norms).mean(axis=0))


def generate(model, plain):
    prompts = [ids_of(plain, prompt) for prompt in PROMPTS]
    written = steering.generate(model, prompts, None, Writing(N))
    return equal(written, [plain.write(ids, N, ends_of(plain)) for ids in prompts])


def generate_edited(model, plain):
    prompts = [ids_of(plain, prompt) for prompt in PROMPTS]
    for positions in tokens.POSITIONS:
        layer, rows, edit = an_edit(model, positions)
        starts = [0 if positions == "all" else len(ids) - 1 for ids in prompts]
        edits = [(layer, row, start) for row, start in zip(rows, starts, strict=True)]
        texts = [plain.write(ids, N, ends_of(plain), one) for ids, one in zip(prompts, edits, strict=True)]
        equal(steering.generate(model, prompts, edit, Writing(N)), texts)
    return 0.0


def generate_sampled(model, plain):
    prompts = [ids_of(plain, prompt) for prompt in PROMPTS]
    written = steering.generate(model, prompts, None, Writing(N, temperature=0.8), [3, 4, 5])
    ends = ends_of(plain)
    return equal(
        written,
        [plain.write(ids, N, ends, temperature=0.8, seed=seed) for ids, seed in zip(prompts, (3, 4, 5), strict=True)],
    )


def read_while_writing(model, plain):
    prompts, deviation = [ids_of(plain, prompt) for prompt in PROMPTS], 0.0
    for temperature in (0.0, 0.8):
        written = activations.read_while_writing(model, prompts, Writing(N, temperature=temperature), [3, 4, 5])
        for ids, seed, row in zip(prompts, (3, 4, 5), written, strict=True):
            equal(row.ids, plain.write(ids, N, ends_of(plain), temperature=temperature, seed=seed))
            stream = plain.read([*ids, *row.ids])[0][len(ids) :]
            deviation = max(deviation, close(row.stream, stream)) if row.ids else deviation
    return deviation


def score(model, plain):
    layer, rows, edit = an_edit(model)
    deviations = []
    for change in (None, edit):
        scored = scoring.score(model, PROMPTS, change)
        grouped = scoring.score(model, PROMPTS, change, groups=[[5, 6, 7], [8]])["log_probabilities"]
        for row, prompt in enumerate(PROMPTS):
            ids = ids_of(plain, prompt)
            stream, logits = plain.read(ids, (layer, rows[row], len(ids) - 1) if change else None)
            logs = logits[-1].log_softmax(dim=-1)
            deviations.append(close(scored["stream"][row], stream[-1]))
            deviations.append(close(scored["log_probabilities"][row], logs))
            deviations.append(close(grouped[row], [logs[5:8].logsumexp(dim=0), logs[8]]))
    return max(deviations)


def reread(model, plain):
    layer, rows, edit = an_edit(model)
    prompts, texts = [ids_of(plain, prompt) for prompt in PROMPTS], [[7, 8, 9, 30], [10, 11], []]
    width = model.nn._module.config.get_text_config().vocab_size
    groups = np.zeros((width, 2), np.float32)
    groups[:40, 0] = groups[40:, 1] = 1
    read, deviations = scoring.reread(model, prompts, texts, edit, groups), []
    for row, ids, text, ours in zip(rows, prompts, texts, read, strict=True):
        logits = plain.read([*ids, *text[:-1]], (layer, row, len(ids) - 1))[1]
        deviations.append(close(ours, logits[len(ids) - 1 :].softmax(dim=-1).numpy() @ groups))
    return max(deviations)


def log_likelihoods(model, plain):
    prompts, texts, deviations = [ids_of(plain, prompt) for prompt in PROMPTS], [[7, 8, 9, 30], [10, 11], [5]], []
    for ids, text, ours in zip(prompts, texts, scoring.log_likelihoods(model, prompts, texts), strict=True):
        logs = plain.read([*ids, *text])[1].log_softmax(dim=-1)
        deviations.append(close(ours, [logs[len(ids) + step - 1, token] for step, token in enumerate(text)]))
    return max(deviations)


def unembed(model, plain):
    states = [plain.read(ids_of(plain, text)) for text in TEXTS]
    last = torch.from_numpy(np.stack([stream[-1, -1] for stream, _ in states]))
    return close(scoring.unembed(model, last), np.stack([logits[-1] for _, logits in states]))


def steer(model, plain):
    layer, prompts = max(1, model.n_layers // 2), PROMPTS[:2]
    rows = np.random.default_rng(2).normal(size=(2, model.n_layers + 1, model.d_model)).astype(np.float32)
    vectors = emotrace.EmotionVectors(
        ("calm", "proud"), tuple(range(model.n_layers + 1)), rows, rows[0], rows[0], rows[0], model.provenance
    )
    norms = activations.residual_norms(model)
    table = steered_texts.steer(model, prompts, vectors, [0.0, 0.8], layers=[layer], writing=Writing(N))
    for row in table.itertuples():
        unit = rows[("calm", "proud").index(row.emotion), layer]
        vector = torch.from_numpy(unit / np.linalg.norm(unit) * row.strength * norms[layer]).float()
        ids = ids_of(plain, row.prompt)
        written = plain.write(ids, N, ends_of(plain), (layer, vector, len(ids) - 1))
        equal(row.tokens, written)
        before, whole = (plain.tokenizer.decode(part, skip_special_tokens=True) for part in (ids, [*ids, *written]))
        equal(row.text, whole.removeprefix(before))
    return 0.0


FUNCTIONS = [read_activations, read_tokens, residual_norms, generate, generate_edited, generate_sampled]
FUNCTIONS += [read_while_writing, score, reread, log_likelihoods, unembed, steer]


@pytest.mark.parametrize("compare", FUNCTIONS, ids=lambda function: function.__name__)
def test_function_equals_plain_transformers(pair, compare):
    name, model, plain = pair
    COMPARED[name, compare.__name__] = compare(model, plain)


def test_every_function_ran_over_every_checkpoint():
    print(
        f"{len(CHECKPOINTS)} checkpoints, {len(COMPARED)} comparisons (function × checkpoint), largest deviation "
        f"{max(COMPARED.values(), default=0):.1e} of the largest value"
    )
    assert awkward_checkpoints.CHECKPOINTS.keys() >= {name for name, _ in COMPARED}
