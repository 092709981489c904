"""Text is what the model's raw distribution says, whatever files lie around, and ends where the text or turn ends."""

import datetime

import pytest
import tiny_models
import torch
import transformers
from awkward_checkpoints import CHECKPOINTS, Checkpoint, Plain, ends_turns_by, turns
from tokenizers import AddedToken

import emotrace
from emotrace import activations, scoring, steered_texts, steering, stories, tokens
from emotrace.errors import EmotraceError
from emotrace.hosts import templates
from emotrace.tokens import Writing

PROMPTS = ["The door opened, and she", "After supper they all went down to the river, where"]
N = 10
# Each field of transformers' GenerationConfig with a value that changes the text, its length, or what is returned …
CHANGES = {
    "max_length": 3,
    "min_length": 60,
    "min_new_tokens": 9,
    "early_stopping": True,
    "max_time": 1e-9,
    "stop_strings": ["e", "a", " "],
    "do_sample": True,
    "num_beams": 3,
    "use_mtp": True,
    "use_cache": False,
    "cache_implementation": "static",
    "cache_config": {"max_cache_len": 4},
    "max_cache_len": 4,
    "temperature": 0.1,
    "top_k": 2,
    "top_p": 0.3,
    "min_p": 0.3,
    "top_h": 0.3,
    "typical_p": 0.3,
    "epsilon_cutoff": 0.1,
    "eta_cutoff": 0.1,
    "repetition_penalty": 1.6,
    "encoder_repetition_penalty": 2.5,
    "length_penalty": 3.0,
    "no_repeat_ngram_size": 1,
    "bad_words_ids": [[token] for token in range(20, 400)],
    "renormalize_logits": True,
    "forced_bos_token_id": 40,
    "forced_eos_token_id": 41,
    "remove_invalid_values": True,
    "exponential_decay_length_penalty": (1, 9.0),
    "suppress_tokens": list(range(20, 400)),
    "begin_suppress_tokens": list(range(20, 400)),
    "sequence_bias": [[[token], 9.0] for token in range(40, 44)],
    "token_healing": True,
    "guidance_scale": 3.0,
    "watermarking_config": {"bias": 9.0, "seeding_scheme": "lefthash"},
    "num_return_sequences": 2,
    "output_attentions": True,
    "output_hidden_states": True,
    "output_scores": True,
    "output_logits": True,
    "return_dict_in_generate": True,
    "encoder_no_repeat_ngram_size": 1,
    "is_assistant": True,
    "prompt_lookup_num_tokens": 3,
    "max_matching_ngram_size": 2,
    "assistant_early_exit": 2,
    "speculation_type": "mtp",
    "low_memory": True,
    "penalty_alpha": 0.6,
    "dola_layers": "low",
    "diversity_penalty": 1.0,
    "num_beam_groups": 2,
    "constraints": [1],
    "force_words_ids": [[40]],
    "prefill_chunk_size": 2,
    "an_entry_of_its_own": 3,
}
# … and those that cannot: special tokens (the ends are tested below), an assistant model that no one gives, compilation
# of static caches, and what says where a file is from.
HARMLESS = {
    *("max_new_tokens", "pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"),
    *("num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold"),
    *("assistant_lookbehind", "target_lookbehind", "assistant_ensemble_weight", "compile_config", "disable_compile"),
    *("continuous_batching_config", "transformers_version"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.build("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module", params=[False, "local"], ids=["here", "simulated server"])
def model(request, folder):
    return emotrace.load(str(folder), remote=request.param)


@pytest.fixture(scope="module")
def reference(folder):
    """Prompts, what greedy decoding writes, and what is drawn at temperature 0.8."""
    plain = Plain(folder)
    prompts, ends = [plain.tokenizer(prompt)["input_ids"] for prompt in PROMPTS], [plain.tokenizer.eos_token_id]
    greedy = [plain.write(ids, N, ends) for ids in prompts]
    drawn = [plain.write(ids, N, ends, temperature=0.8, seed=seed) for ids, seed in zip(prompts, (3, 4), strict=True)]
    return prompts, greedy, drawn


@pytest.fixture
def own(model):
    """The model's own generation settings, to be changed as its file would."""
    before = model.nn._module.generation_config
    model.nn._module.generation_config = transformers.GenerationConfig.from_dict(before.to_dict())
    yield model.nn._module.generation_config
    model.nn._module.generation_config = before


def test_every_field_of_transformers_generation_settings_is_looked_at():
    fields = {name for name in vars(transformers.GenerationConfig()) if not name.startswith("_")}
    assert fields == (CHANGES.keys() - {"an_entry_of_its_own"}) | HARMLESS


@pytest.mark.parametrize("field", CHANGES)
def test_no_field_of_the_models_own_settings_changes_a_text(model, own, reference, field):
    prompts, greedy, drawn = reference
    setattr(own, field, CHANGES[field])
    assert steering.generate(model, prompts, None, Writing(N)) == greedy
    edit = steering.Edit({2: torch.zeros(2, model.d_model)})
    assert steering.generate(model, prompts, edit, Writing(N, 0.8), [3, 4]) == drawn
    for writing, texts in ((Writing(N), greedy), (Writing(N, 0.8), drawn)):
        assert [row.ids for row in activations.read_while_writing(model, prompts, writing, [3, 4])] == texts


def test_most_fields_would_change_a_text_if_they_were_let_in(folder, reference, monkeypatch):
    """The test above can fail: what transformers does when it fills in the model's own settings."""
    monkeypatch.setattr(tokens, "RawGeneration", transformers.GenerationConfig)
    model, (prompts, greedy, _) = emotrace.load(str(folder)), reference
    changed, before = [], model.nn._module.generation_config.to_dict()
    for field, value in CHANGES.items():
        own = transformers.GenerationConfig.from_dict(before)
        monkeypatch.setattr(model.nn._module, "generation_config", own)
        setattr(own, field, value)
        try:
            changed += [field] if steering.generate(model, prompts, None, Writing(N)) != greedy else []
        except Exception:
            changed.append(field)
    print(len(changed), changed)
    assert len(changed) > 20


# -- where a text ends -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen", "llama", "gemma1"])
@pytest.mark.parametrize(
    ("end", "before_it", "special"), [("<|eot|>", "", True), ("<end_of_turn>", "\n", True), ("[/ANSWER]", "", False)]
)
def test_a_chat_ends_at_the_token_by_which_the_template_ends_a_turn(tmp_path, family, end, before_it, special):
    template = turns(before_it + end)
    added = AddedToken(end, special=special, normalized=False)
    model = emotrace.load(
        str(Checkpoint(family, words=lambda words: words.add_tokens([added]), template=template).build(tmp_path))
    )
    token = model.tokenizer.convert_tokens_to_ids(end)
    assert templates.turn_end(model.tokenizer) == token
    assert set(tokens.end_tokens(model, chat=True)) == {*tokens.end_tokens(model), token}
    plain, ids = Plain(tmp_path), tokens.chat_ids(model, "Say something.")
    ends = tokens.end_tokens(model)
    first = plain.write(ids, 20, ends)
    # The third token that it writes is made the end of a turn, by exchanging their rows of the unembedding.
    for module in (model.nn._module, plain.module):
        head = module.get_output_embeddings()
        rows = head.weight.detach().clone()
        rows[[first[2], token]] = rows[[token, first[2]]]
        head.weight = torch.nn.Parameter(rows, requires_grad=False)
    stopped = plain.write(ids, 20, [*ends, token])
    assert len(stopped) < 3
    writing = Writing(20, chat=True)
    assert steering.generate(model, [ids], None, writing) == [stopped]
    assert activations.read_while_writing(model, [ids], writing, [0])[0].ids == stopped
    assert steering.generate(model, [ids], None, Writing(20)) == [plain.write(ids, 20, ends)]  # no chat, no turn
    vectors = emotrace.EmotionVectors(
        ("calm",),
        (1,),
        torch.randn(1, 1, model.d_model).numpy(),
        *[torch.zeros(1, model.d_model).numpy()] * 3,
        model.provenance,
    )
    row = steered_texts.steer(model, "Say something.", vectors, 0.0, layers=[1], writing=writing).iloc[0]
    assert row.ended
    assert row.tokens == stopped


def test_templates_that_name_no_end_and_models_without_any(tmp_path, tiny):
    assert templates.turn_end(tiny("llama").tokenizer) is None  # its template writes `</assistant>`, which is no token
    plain = turns("{{ raise_exception('alternate') }}")
    refusing = emotrace.load(str(Checkpoint("llama", template=plain).build(tmp_path)))
    assert templates.turn_end(refusing.tokenizer) is None
    assert tokens.end_tokens(refusing, chat=True) == tokens.end_tokens(refusing)


@pytest.mark.parametrize("name", ["several ends", "ends in config"])
def test_ends_are_those_of_the_settings_else_of_the_configuration_and_of_the_tokenizer(tmp_path, name):
    model = emotrace.load(str(CHECKPOINTS[name].build(tmp_path)))
    listed = {"several ends": {5, 9, 300}, "ends in config": {2, 11}}[name]
    assert tokens.end_tokens(model) == sorted({*listed, model.tokenizer.eos_token_id})
    model.tokenizer.eos_token = None
    assert tokens.end_tokens(model) == sorted(listed)
    model.nn._module.generation_config.eos_token_id = model.nn._module.config.eos_token_id = None
    with pytest.raises(EmotraceError, match="has no end-of-text token"):
        tokens.end_tokens(model)


# -- tokenizers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["appended eos", "appended eos without bos"])
def test_a_prompt_to_be_continued_does_not_end_in_what_the_tokenizer_appends(tmp_path, name):
    model = emotrace.load(str(CHECKPOINTS[name].build(tmp_path)))
    eos, text = model.tokenizer.eos_token, "The door opened"
    ids = model.tokenizer(text)["input_ids"]
    assert ids[-1] == model.tokenizer.eos_token_id
    assert tokens.prompt_ids(model, [text], chat=False, room=3)[text] == tuple(ids[:-1])
    spelt = tokens.encode(model, [text + eos], prompts=True)[0]  # the text's own stays
    assert list(spelt.ids) == ids
    assert spelt.stop == len(ids) - 1
    assert scoring.score(model, [text], None)["stream"].shape[0] == 1


def test_a_text_keeps_the_space_that_sentencepiece_loses_in_decoding_it_alone(tmp_path):
    model = emotrace.load(str(CHECKPOINTS["prefix space"].build(tmp_path)))
    prompt, both = (model.tokenizer(text)["input_ids"] for text in ("The door", "The door opened. She"))
    written = both[len(prompt) :]
    assert model.tokenizer.decode(written) == "opened. She"
    assert tokens.text_after(model, prompt, written) == " opened. She"
    assert tokens.text_after(model, prompt, written[1:]) == model.tokenizer.decode(both).removeprefix(
        model.tokenizer.decode(both[: len(prompt) + 1])
    )
    assert tokens.text_after(model, prompt, []) == ""


def test_stories_are_chats(tiny, monkeypatch):
    told = []
    monkeypatch.setattr(
        stories,
        "generate",
        lambda model, prompts, edit, writing, seeds: told.append(writing.chat) or [[5] for _ in prompts],
    )
    for continuation in (False, True):
        size = {"emotions": ["happy"], "attempts": 1, "continuation": continuation}
        stories.write_stories(tiny("qwen"), topics=list(stories.corpus.topics().index[:1]), **size)
    assert told == [True, False]


@pytest.mark.parametrize("name", ["dated", "thinking", "no system role"])
def test_a_chat_does_not_depend_on_the_day_nor_think(tmp_path, name, monkeypatch):
    model = emotrace.load(str(CHECKPOINTS[name].build(tmp_path)))
    before = tokens.chat_ids(model, "Good morning.")

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2031, 5, 17)

    monkeypatch.setattr(transformers.utils.chat_template_utils, "datetime", Later)
    assert tokens.chat_ids(model, "Good morning.") == before
    text = model.tokenizer.decode(before)
    assert "think" not in text
    assert ("1 January 2026 01 January 2026" in text) == (name == "dated")


def test_a_token_that_the_model_does_not_have_is_named(tmp_path):
    checkpoint = Checkpoint("llama")
    model = emotrace.load(str(checkpoint.build(tmp_path)))
    ends_turns_by("<|new|>")(model.tokenizer)
    with pytest.raises(EmotraceError, match=r"token 600 \('<\|new\|>'\).*knows 600 tokens"):
        tokens.encode(model, ["one", "two <|new|> three"], prompts=True)
