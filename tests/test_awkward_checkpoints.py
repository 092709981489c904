"""Every function that reads, writes, edits or scores, over every awkward checkpoint, against plain transformers.

A checkpoint that is refused is refused by every function, or by every way in, in one line that says why.
"""

import awkward_checkpoints
import numpy as np
import pandas as pd
import pytest
import torch
from awkward_checkpoints import CHECKPOINTS, Plain
from typer.testing import CliRunner

import emotrace
from emotrace import activations, cli, scoring, steered_texts, steering, tokens
from emotrace.errors import EmotraceError
from emotrace.tokens import Writing
from emotrace.whatif.text_reading import project_text as read_whole

TEXTS = ["The rain fell on the roof all night, and nobody slept.", "She laughed.", "He waited for the last train home."]
PROMPTS = [
    "The door opened, and she",
    "After supper they all went down to the river, where",
    "The door opened, and she",
]
N = 7
COMPARED: dict[tuple[str, str], float] = {}
REFUSED: set[tuple[str, str]] = set()


@pytest.fixture(scope="module")
def built(request, tmp_path_factory):
    """A checkpoint's name, what ``emotrace.load`` is given, and its folder."""
    folder = tmp_path_factory.mktemp("awkward")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMOTRACE_CACHE", str(folder / "cache"))
        yield request.param, str(CHECKPOINTS[request.param].build(folder)), folder


@pytest.fixture(scope="module")
def pair(built):
    """A checkpoint as emotrace loads it, and as transformers does."""
    name, path, folder = built
    return name, emotrace.load(path, **CHECKPOINTS[name].load), Plain(folder, CHECKPOINTS[name])


def ids_of(plain, text):
    """Without what the tokenizer appends: a text that ends is not continued."""
    ids = plain.tokenizer(text)["input_ids"]
    return ids[:-1] if ids[-1] == plain.tokenizer.eos_token_id else ids


def ends_of(plain):
    configured = [plain.module.generation_config.eos_token_id, plain.module.config.get_text_config().eos_token_id]
    first = next(ids for ids in configured if ids is not None)
    named = {plain.tokenizer.eos_token: plain.tokenizer.eos_token_id}
    return {plain.tokenizer.eos_token_id, *(first if isinstance(first, list) else [named.get(first, first)])}


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


def chat(model, plain):
    if model.tokenizer.chat_template is None:
        return None
    today = plain.tokenizer.get_chat_template().replace("strftime_now('%d %B %Y')", "'01 January 2026'")
    shown = {"add_generation_prompt": True, "enable_thinking": False, "date_string": "1 January 2026"}
    turn, end = [{"role": "user", "content": PROMPTS[0]}], plain.checkpoint.turn_end
    ids = plain.tokenizer.apply_chat_template(turn, chat_template=today, return_dict=False, **shown)
    equal(list(tokens.chat_ids(model, PROMPTS[0])), ids)
    ends = ends_of(plain) | ({plain.tokenizer.convert_tokens_to_ids(end)} if end else set())
    return equal(steering.generate(model, [ids], None, Writing(N, chat=True)), [plain.write(ids, N, ends)])


def own_vectors(model):
    """Two directions at random at every layer, and a centre that is not zero."""
    rows = np.random.default_rng(2).normal(size=(3, model.n_layers + 1, model.d_model)).astype(np.float32)
    provenance = {**model.provenance, "pooling": "mean", "model": model.name}
    layers = tuple(range(model.n_layers + 1))
    return emotrace.EmotionVectors(("calm", "proud"), layers, rows[:2], rows[2], rows[2], rows[2], provenance)


def mean_of(plain, text, layer):
    """Pooled by mean at a layer: without special tokens and the first other one; and the stream of all tokens."""
    ids, special = ids_of(plain, text), set(plain.tokenizer.all_special_ids)
    stream = plain.read(ids)[0][:, layer].astype(np.float64)
    ordinary = [index for index, token in enumerate(ids) if token not in special]
    return stream[ordinary[1] : ordinary[-1] + 1].mean(axis=0), stream


def cosines(vectors, centred, layer):
    values = vectors.at(layer).astype(np.float64)
    return values @ centred / np.linalg.norm(values, axis=1) / np.linalg.norm(centred)


def extract(model, plain):
    rows = [("happy", TEXTS[0]), ("happy", PROMPTS[0]), ("sad", TEXTS[2]), ("neutral", PROMPTS[1])]
    vectors = emotrace.extract(model, pooling="mean", passages=pd.DataFrame(rows, columns=["emotion", "text"]))
    deviations = []
    for layer in range(model.n_layers + 1):
        happy, also, sad, neutral = (mean_of(plain, text, layer)[0] for _, text in rows)
        means = np.stack([(happy + also) / 2, sad, neutral])
        deviations.append(close(vectors.at(layer), (means - means.mean(axis=0))[:2]))
    return max(deviations)


def project_text(model, plain):
    vectors, layer = own_vectors(model), max(1, model.n_layers // 2)
    table = read_whole(model, TEXTS[0], vectors=vectors, layer=layer).set_index("emotion")["cosine"]
    centred = mean_of(plain, TEXTS[0], layer)[0] - vectors.grand_mean[layer]
    return close(table[list(vectors.emotions)], cosines(vectors, centred, layer))


def read_emotions(model, plain):
    vectors, layer = own_vectors(model), max(1, model.n_layers // 2)
    reading = emotrace.read_emotions(model, TEXTS[0], vectors=vectors, layer=layer)
    values, stream = vectors.at(layer).astype(np.float64), mean_of(plain, TEXTS[0], layer)[1]
    right = (stream - vectors.grand_mean[layer]) @ values.T / (values**2).sum(axis=1)
    counted = reading.tokens["counted"].to_numpy()
    assert counted.sum() >= len(stream) - 3
    places = plain.tokenizer(TEXTS[0], return_offsets_mapping=True)["offset_mapping"][: len(stream)]
    equal(list(zip(reading.tokens["start"], reading.tokens["end"], strict=True)), places)
    return close(reading.projection[counted, 0], right[counted])


def what_if(model, plain):
    vectors, layer = own_vectors(model), max(1, model.n_layers // 2)
    result = emotrace.what_if(
        model, PROMPTS[0], "proud", 0.8, vectors=vectors, layer=layer, writing=Writing(N), judge=False
    )
    unit = vectors["proud", layer] / np.linalg.norm(vectors["proud", layer])
    vector, ids = (
        torch.from_numpy(unit * 0.8 * activations.residual_norms(model)[layer]).float(),
        ids_of(plain, PROMPTS[0]),
    )
    deviations, before = [], plain.tokenizer.decode(ids, skip_special_tokens=True)
    for side, edit in ((result.plain, None), (result.steered, (layer, vector, len(ids) - 1))):
        written = plain.write(ids, N, ends_of(plain), edit)
        equal(side, plain.tokenizer.decode([*ids, *written], skip_special_tokens=True).removeprefix(before))
        centred = mean_of(plain, PROMPTS[0] + side, layer)[0] - vectors.grand_mean[layer]
        column = result.changes.set_index("emotion")["steered" if edit else "plain"]
        deviations.append(close(column[list(vectors.emotions)], cosines(vectors, centred, layer)))
    return max(deviations)


def steer(model, plain):
    layer, prompts = max(1, model.n_layers // 2), PROMPTS[:2]
    vectors = own_vectors(model)
    rows, norms = vectors.values, activations.residual_norms(model)
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


READING = [read_activations, read_tokens, residual_norms, extract, project_text, read_emotions]
FUNCTIONS = [*READING, generate, generate_edited, generate_sampled, read_while_writing, chat, score, reread]
FUNCTIONS += [log_likelihoods, unembed, steer, what_if]
READ_RIGHTLY = [name for name, checkpoint in CHECKPOINTS.items() if not checkpoint.refused]
OVERFLOWING = [name for name, checkpoint in CHECKPOINTS.items() if checkpoint.refused and checkpoint.at != "load"]
NOT_LOADED = [name for name, checkpoint in CHECKPOINTS.items() if checkpoint.refused and checkpoint.at == "load"]


@pytest.mark.parametrize("built", READ_RIGHTLY, indirect=True)
@pytest.mark.parametrize("compare", FUNCTIONS, ids=lambda function: function.__name__)
def test_function_equals_plain_transformers(pair, compare):
    name, model, plain = pair
    if (deviation := compare(model, plain)) is not None:
        COMPARED[name, compare.__name__] = deviation


# -- refused -----------------------------------------------------------------------------------------------------------


def refused(call, words):
    """Refused in one line that has these words and ends in no traceback."""
    with pytest.raises(EmotraceError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("built", OVERFLOWING, indirect=True)
@pytest.mark.parametrize("compare", FUNCTIONS, ids=lambda function: function.__name__)
def test_numbers_that_overflow_stop_every_function_that_meets_them(pair, compare):
    name, model, plain = pair
    checkpoint = CHECKPOINTS[name]
    if compare in READING and checkpoint.at == "logits":
        if "dtype" not in checkpoint.load:  # what it reads is finite, and right
            COMPARED[name, compare.__name__] = compare(model, plain)
        return
    if compare is chat and model.tokenizer.chat_template is None:
        return
    refused(lambda: compare(model, plain), checkpoint.refused)
    REFUSED.add((name, compare.__name__))


def command(*arguments):
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception:
        raise result.exception


WAYS_IN = {
    "load": lambda path, out: emotrace.load(path),
    "on a simulated server": lambda path, out: emotrace.load(path, remote="local"),
    "Lab": lambda path, out: emotrace.Lab(emotrace.load(path), folder=out / "lab").vectors(),
    "emotrace extract": lambda path, out: command("extract", path, "--out", out / "v.safetensors"),
    "emotrace read": lambda path, out: command("read", "She laughed.", "--model", path),
    "emotrace whatif": lambda path, out: command("whatif", "She", "--emotion", "happy", "--model", path, "--no-judge"),
    "emotrace run": lambda path, out: command("run", path, "--out", out / "run", "--quick"),
}


@pytest.mark.parametrize("built", NOT_LOADED, indirect=True)
@pytest.mark.parametrize("way", WAYS_IN)
def test_what_is_not_whole_or_not_known_is_refused_by_every_way_in(built, way, tmp_path):
    name, path, _ = built
    checkpoint = CHECKPOINTS[name]
    enter = (
        (lambda: emotrace.load(path, **checkpoint.load)) if checkpoint.load else lambda: WAYS_IN[way](path, tmp_path)
    )
    refused(enter, checkpoint.refused)
    REFUSED.add((name, way))
    assert not list(tmp_path.glob("v*"))


def test_every_function_ran_over_every_checkpoint():
    print(
        f"{len(CHECKPOINTS)} checkpoints: {len(READ_RIGHTLY)} read, {len(OVERFLOWING)} overflow, {len(NOT_LOADED)} not "
        f"loaded; {len(COMPARED)} comparisons (function × checkpoint), largest deviation "
        f"{max(COMPARED.values(), default=0):.1e} of the largest value; {len(REFUSED)} refusals"
    )
    assert awkward_checkpoints.CHECKPOINTS.keys() >= {name for name, _ in {**COMPARED, **dict.fromkeys(REFUSED)}}
