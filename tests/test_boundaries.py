"""What people give where a number, a text or a list goes: it means what it obviously means, or is one clear line.

A new awkward value is one more line of ``ODDITIES``; a new public function one more of ``calls``.
"""

import contextlib
import importlib
import inspect
import math
import os
import subprocess
import sys
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import hypothesis
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import strategies as st

import emotrace
from emotrace import activations, cli, extraction, readings, scoring, steered_texts, steering, stories, tokens
from emotrace.arguments import integer, integers, names, number, numbers, text, texts
from emotrace.errors import EmotraceError
from emotrace.judges import calibration
from emotrace.tokens import Writing
from emotrace.whatif import text_reading

TEXT = "The rain fell on the roof all night."
SHORT = Writing(2)
LONGEST = 600  # characters of an error's line

TRIED: Counter[str] = Counter()


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("llama")


@pytest.fixture(scope="module")
def vectors(model):
    return emotrace.extract(model, pooling="mean", emotions=["happy", "sad", "calm"])


# -- they mean what they obviously mean --------------------------------------------------------------------------------

TWO_AND_THREE = [
    [2, 3],
    (3, 2),
    {2, 3},
    range(2, 4),
    np.array([2, 3]),
    np.array([2.0, 3.0]),
    torch.tensor([3, 2]),
    pd.Series([2, 3], index=[7, 8]),
    pd.Index([2, 3]),
    [np.int64(2), torch.tensor(3)],
    [np.uint8(3), 2.0],
]
TWO = [2, 2.0, np.int32(2), np.array(2), np.array([2]), torch.tensor(2), torch.tensor([2.0]), pd.Series([2]), [2, 2]]
HALF = [0.5, (0.5,), [0.5], np.float32(0.5), np.array([0.5]), torch.tensor(0.5), torch.tensor([0.5]), Fraction(1, 2)]


def of(values):
    return pytest.mark.parametrize("value", values, ids=_named)


def _named(value: object) -> str:
    """Of the value alone: an address in it would differ between the processes that share the tests."""
    return f"{type(value).__name__} {value}"[:40].split(" at 0x")[0]


@of([*TWO_AND_THREE, (layer for layer in (2, 3)), (layer for layer in iter([3, 2, 3]))])
def test_layers_two_and_three(model, value):
    assert model.check_layers(value) == [2, 3]


@of([*TWO, iter([2])])
def test_layer_two(model, vectors, value):
    expected = activations.read_activations(model, [TEXT], layers=[2])["mean"]
    np.testing.assert_array_equal(activations.read_activations(model, [TEXT], layers=value)["mean"], expected)


@of([value for value in TWO if not isinstance(value, list)])
def test_one_layer_where_one_is_wanted(model, vectors, value):
    expected = emotrace.read_emotions(model, TEXT, layer=2, vectors=vectors)
    np.testing.assert_array_equal(
        emotrace.read_emotions(model, TEXT, layer=value, vectors=vectors).score, expected.score
    )
    np.testing.assert_array_equal(vectors["sad", value], vectors["sad", 2])
    pd.testing.assert_frame_equal(
        text_reading.project_text(model, TEXT, vectors=vectors, layer=value),
        text_reading.project_text(model, TEXT, vectors=vectors, layer=2),
    )
    assert (
        emotrace.what_if(model, TEXT, "sad", 0.2, layer=value, vectors=vectors, writing=SHORT, judge=False).layer == 2
    )


@of(HALF)
def test_strength_one_half(model, vectors, value):
    expected = emotrace.steer(model, TEXT, vectors, 0.5, layers=2, writing=SHORT)
    pd.testing.assert_frame_equal(emotrace.steer(model, TEXT, vectors, value, layers=2, writing=SHORT), expected)
    np.testing.assert_array_equal(
        (vectors * value if not isinstance(value, (tuple, list)) else vectors * 0.5).values, vectors.values / 2
    )


@of(["sad", ["sad"], ("sad",), np.array(["sad"]), pd.Series(["sad"]), np.str_("sad"), iter(["sad"]), {"sad": 1}])
def test_one_emotion(model, vectors, value):
    written = emotrace.steer(model, TEXT, vectors, 0.3, emotions=value, layers=2, writing=SHORT)
    assert (
        written["text"].tolist()
        == emotrace.steer(model, TEXT, vectors, 0.3, emotions=["sad"], layers=2, writing=SHORT)["text"].tolist()
    )


@of(["sad", ("sad",), np.array(["sad"]), pd.Series(["sad"]), np.str_("sad"), (name for name in ["sad"])])
def test_one_emotion_to_extract(model, value):
    assert emotrace.extract(model, emotions=value, layers=2).emotions == ("sad",)


@of(
    [
        [TEXT, "She left."],
        (TEXT, "She left."),
        pd.Series([TEXT, "She left."], index=[4, 2]),
        np.array([TEXT, "She left."]),
    ]
)
def test_two_texts(model, vectors, value):
    expected = activations.read_activations(model, [TEXT, "She left."])["last"]
    for given in (value, iter(value)):
        np.testing.assert_array_equal(activations.read_activations(model, given)["last"], expected)
    written = emotrace.steer(model, iter(value), vectors, 0.1, emotions="sad", layers=2, writing=SHORT)
    assert written["prompt"].tolist() == [TEXT, "She left."]


def test_a_text_alone_is_a_list_of_one(model):
    for read in (activations.read_activations, activations.read_tokens, tokens.encode):
        assert len(read(model, TEXT)["last"] if read is activations.read_activations else read(model, TEXT)) == 1


@of([7, np.int64(7), np.uint8(7), torch.tensor(7), (7,), np.array([7]), range(7, 8), 7.0])
def test_a_seed(model, vectors, value):
    written = emotrace.steer(model, TEXT, vectors, 0.1, emotions="sad", layers=2, writing=Writing(4, 0.9, seeds=value))
    assert written["seed"].tolist() == [7]
    expected = emotrace.steer(model, TEXT, vectors, 0.1, emotions="sad", layers=2, writing=Writing(4, 0.9, seeds=(7,)))
    assert written["text"].tolist() == expected["text"].tolist()
    assert Writing(np.int64(4), torch.tensor(0.5), seeds=value) == Writing(4, 0.5, seeds=(7,))


# -- or are one clear line ---------------------------------------------------------------------------------------------


@of(
    [
        True,
        "3",
        "3,4",
        b"3",
        None,
        2.5,
        math.nan,
        math.inf,
        "2",
        [True],
        [None],
        ["3"],
        {2: 1},
        1j,
        object(),
        np.zeros((2, 2)),
    ]
)
def test_no_layer(model, vectors, value):
    for call in (
        lambda: model.check_layers([value]),
        lambda: emotrace.read_emotions(model, TEXT, layer=[value], vectors=vectors),
        lambda: vectors.index(value),
    ):
        with pytest.raises(EmotraceError):
            call()


@of(
    [
        math.nan,
        math.inf,
        -math.inf,
        np.nan,
        torch.tensor(math.nan),
        True,
        "1",
        "",
        None,
        b"1",
        10**400,
        1j,
        [0.1, math.nan],
    ]
)
def test_no_strength(model, vectors, value):
    refused = [value] if value is None else value
    with pytest.raises(EmotraceError):
        emotrace.steer(model, TEXT, vectors, refused, layers=2, writing=SHORT)
    with pytest.raises(EmotraceError):
        vectors.mix({"sad": value})
    with pytest.raises(EmotraceError):
        vectors * value


@of(["\ud800", "a\udfff b", b"bytes", 3, math.nan, None, pd.NA, ["nested"], "", " \n", Path("a")])
def test_no_text(model, vectors, value):
    for call in (
        lambda: activations.read_activations(model, [TEXT, value]),
        lambda: activations.read_tokens(model, [value]),
        lambda: emotrace.steer(model, [value], vectors, 0.1, layers=2),
        lambda: emotrace.read_emotions(model, value, vectors=vectors),
        lambda: emotrace.what_if(model, value, "sad", 0.1, vectors=vectors, judge=False),
        lambda: scoring.score(model, [value], None),
    ):
        with pytest.raises(EmotraceError, match=r"text|prompt"):
            call()


@of(["a\0b", "\0", "a\u202eb", "👩‍👩‍👧‍👦 family", "e\u0301", "\ufeffa b"])
def test_odd_texts_that_are_texts(model, value):
    assert np.isfinite(activations.read_activations(model, [f"{value} and so on"])["mean"]).all()


@of([[], (), "", set(), iter([]), np.array([]), pd.Series([], dtype=str)])
def test_nothing_is_asked_for(model, vectors, value):
    for call in (
        lambda: activations.read_activations(model, value),
        lambda: emotrace.steer(model, value, vectors, 0.1, layers=2),
        lambda: emotrace.steer(model, TEXT, vectors, value, layers=2),
        lambda: emotrace.steer(model, TEXT, vectors, 0.1, layers=value),
        lambda: emotrace.extract(model, emotions=value),
        lambda: Writing(seeds=value),
    ):
        with pytest.raises(EmotraceError):
            call()


@of([0, -1, True, "8", 2.5, math.nan, None])
def test_no_count(model, vectors, value):
    for call in (
        lambda: Writing(max_new_tokens=value),
        lambda: stories.write_stories(model, per_cell=value, continuation=True),
        lambda: stories.write_stories(model, batch_rows=value, continuation=True),
        lambda: calibration.calibrate(model, vectors, texts=value),
    ):
        with pytest.raises(EmotraceError, match=r"1 or more|whole number"):
            call()
    if value is not None:  # the default of both
        with pytest.raises(EmotraceError, match="batch_tokens"):
            activations.read_activations(model, [TEXT], batch_tokens=value)
        with pytest.raises(EmotraceError, match="batch_rows"):
            emotrace.steer(model, TEXT, vectors, 0.1, layers=2, batch_rows=value)


def test_what_the_coercions_refuse_is_shown_on_one_short_line():
    for call in (
        lambda: integers(pd.DataFrame({"a": range(99)}), "layer"),
        lambda: numbers("a\nb" * 99, "strength"),
        lambda: names([3.0], "emotion"),
        lambda: texts({"a", "b"}),
        lambda: text(b"\xff" * 999, "the text"),
        lambda: integer(np.zeros((40, 40)), "a layer"),
        lambda: number(Decimal("NaN"), "a strength"),
    ):
        with pytest.raises(EmotraceError) as refused:
            call()
        assert len(str(refused.value)) < 160
        assert "\n" not in str(refused.value)


# -- whatever is given -------------------------------------------------------------------------------------------------

ODDITIES = [
    *TWO_AND_THREE,
    *TWO,
    *HALF,
    "all",
    "happy",
    "happy, sad",
    ["happy", "sad"],
    {"happy": 1, "sad": math.nan},
    {"happy": "1"},
    {1: 1},
    {"happy": {}},
    -1,
    0,
    5,
    2.5,
    2**70,
    -(2**70),
    10**400,
    1e308,
    math.nan,
    math.inf,
    -math.inf,
    True,
    False,
    None,
    1j,
    Decimal("0.5"),
    "",
    " ",
    "\0",
    "\ud800",
    "3",
    "-1",
    b"",
    b"happy",
    bytearray(b"3"),
    object(),
    object,
    len,
    ...,
    [None],
    [[]],
    [[1, 2]],
    [b"x"],
    ["\udc00"],
    [math.nan],
    {},
    set(),
    frozenset({"a"}),
    (),
    [True],
    ["happy", None],
    np.array([]),
    np.zeros((2, 2)),
    np.array(["happy"]),
    np.array([None]),
    np.datetime64("2026-01-01"),
    np.bool_(True),
    torch.tensor([]),
    torch.zeros(2, 2),
    torch.tensor(math.nan),
    torch.tensor(True),
    torch.zeros(1, device="meta"),
    pd.Series(["happy"]),
    pd.Series([math.nan]),
    pd.DataFrame({"text": ["a"]}),
    pd.NA,
    pd.NaT,
    Path("happy"),
    slice(1, 2),
    "x" * 100_000,
    "word " * 3_000,
]
COUNTS = {"per_cell", "attempts", "calibrate texts", "random_like count"}  # as many as are asked for are made
ids = st.lists(st.lists(st.integers(-2, 640), max_size=4), max_size=3)
shaped = st.one_of(
    ids,
    ids.map(lambda rows: [np.array(row, dtype=np.int64) for row in rows]),
    st.builds(
        tokens.Tokens, st.lists(st.integers(-1, 700), max_size=4).map(tuple), st.integers(-1, 4), st.integers(-1, 5)
    ),
    st.sampled_from([(2, 32), (1, 32), (2, 7), (600, 2), (5, 32), (3, 5, 32), (0, 32)]).map(np.ones),
    st.sampled_from([(2, 32), (1, 32), (600, 1), (32,)]).map(torch.zeros),
    st.dictionaries(
        st.integers(-1, 5), st.sampled_from([torch.ones(1, 32), np.ones((1, 32)), [1.0], None]), max_size=2
    ),
    st.dictionaries(st.sampled_from(["topic", "emotion", "text", "seed"]), st.just(["sad"]), max_size=4).map(
        pd.DataFrame
    ),
)
simple = st.one_of(
    st.sampled_from(ODDITIES),
    st.integers(-3, 6),
    st.floats(width=32),
    st.text(max_size=6),
    st.text(alphabet=st.characters(), max_size=3),
    st.binary(max_size=3),
)
awkward = st.one_of(
    simple,
    shaped,
    st.lists(shaped, max_size=2),
    st.lists(simple, max_size=3),
    st.tuples(simple, simple),
    st.dictionaries(st.sampled_from(["happy", "sad", "smug", ""]), simple, max_size=2),
    st.lists(simple, max_size=2).map(iter),
)


def calls(model, vectors):
    """Each public function, arguments that are right, and which of them are replaced."""
    loaded, row, prompts = str(Path(model.nn._module.config._name_or_path)), torch.ones(1, model.d_model), [[5, 6, 7]]
    writing, story = {"writing": SHORT}, {"topic": ["work"], "emotion": ["sad"], "text": [TEXT]}
    edit, rows = steering.Edit({2: row}), [steered_texts.Row(TEXT, vectors, "sad", 0.1)]
    steering_by = {"vectors": vectors, "strengths": 0.1, "layers": 2, "emotions": "sad", **writing}
    framed = {"texts": pd.DataFrame(story), "layers": 2}

    def of(method):
        return lambda _, **given: method(**given)

    def steered(model, vectors, **given):
        with emotrace.steered(model, vectors, **given):
            model.nn._module(input_ids=torch.tensor(prompts))

    return {
        "read_activations": (
            activations.read_activations,
            {"texts": [TEXT]},
            "texts layers poolings batch_tokens out cache progress",
        ),
        "read_tokens": (activations.read_tokens, {"texts": [TEXT]}, "texts layers progress"),
        "residual_norms": (activations.residual_norms, {}, "texts"),
        "read_while_writing": (
            activations.read_while_writing,
            {"prompts": prompts, "writing": Writing(2, 0.7), "seeds": [1]},
            "prompts writing seeds layers",
        ),
        "score": (scoring.score, {"prompts": [TEXT], "edit": edit}, "prompts edit read_layers groups"),
        "divergence": (scoring.divergence, {"texts": [TEXT], "edit": edit}, "texts edit"),
        "reread": (
            scoring.reread,
            {"prompts": prompts, "texts": [[8, 9]], "edit": edit, "groups": np.ones((600, 1))},
            "prompts texts edit groups",
        ),
        "log_likelihoods": (
            scoring.log_likelihoods,
            {"prompts": prompts, "continuations": [[8, 9]]},
            "prompts continuations progress",
        ),
        "unembed": (scoring.unembed, {"stream": row}, "stream"),
        "generate": (
            steering.generate,
            {"prompts": prompts, "edit": edit, "writing": Writing(2, 0.7), "seeds": [1]},
            "prompts edit writing seeds",
        ),
        "Edit": (of(steering.Edit), {"directions": {2: row}}, "directions ablate on_the_fly positions"),
        "random_like": (of(steering.random_like), {"vectors": vectors, "count": 2, "seed": 0}, "vectors count seed"),
        "ablation": (
            of(steering.ablation),
            {"vectors": vectors, "emotions": ["sad"], "layers": [2]},
            "vectors emotions layers",
        ),
        "check_layers": (type(model).check_layers, {"layers": 1}, "layers"),
        "encode": (tokens.encode, {"texts": [TEXT]}, "texts"),
        "chat_ids": (tokens.chat_ids, {"message": TEXT}, "message"),
        "steer": (
            emotrace.steer,
            {"prompts": TEXT, **steering_by},
            "prompts vectors strengths layers emotions writing on_the_fly batch_rows cache progress",
        ),
        "write": (
            steered_texts.write,
            {"rows": rows, "layers": [2], **writing},
            "rows layers writing on_the_fly batch_rows cache progress",
        ),
        "steered": (
            steered,
            {"vectors": vectors, "emotions": "sad", "strength": 0.1, "layers": 2},
            "vectors emotions strength layers tokens schedule ablate",
        ),
        "request_ids": (stories.request_ids, {"topic": "shift", "emotion": "sad"}, "topic emotion named continuation"),
        "kept": (of(stories.kept), {"stories": pd.DataFrame({"status": ["kept"]})}, "stories"),
        "write_stories": (
            stories.write_stories,
            {"topics": "shift", "emotions": "sad", "attempts": 1, "writing": Writing(2, 0.8)},
            "topics emotions per_cell attempts batch_rows seed writing continuation cache progress",
        ),
        "read_texts": (readings.read_texts, framed, "texts frame author continuation layers poolings cache progress"),
        "frame_tokens": (
            readings.frame_tokens,
            {"texts": framed["texts"], "frame": "unnamed"},
            "texts frame continuation",
        ),
        "read_stories": (
            extraction.read_stories,
            {"stories": framed["texts"], "layers": 2},
            "stories while_writing continuation layers poolings cache progress",
        ),
        "extract": (
            emotrace.extract,
            {"layers": 2},
            "method pooling layers emotions passages stories seed continuation remove_neutral estimator progress "
            "instrument columns",
        ),
        "what_if": (
            emotrace.what_if,
            {"prompt": TEXT, "emotion": "sad", "strength": 0.1, "vectors": vectors, "judge": False, **writing},
            "prompt emotion strength vectors layer writing judge progress",
        ),
        "what_if_slider": (
            emotrace.what_if_slider,
            {"prompt": TEXT, "emotion": "sad", "vectors": vectors, "judge": False, **writing},
            "prompt emotion vectors layer writing judge",
        ),
        "read_emotions": (
            emotrace.read_emotions,
            {"text": TEXT, "vectors": vectors},
            "text emotion layer vectors prompt progress",
        ),
        "project_text": (text_reading.project_text, {"text": TEXT, "vectors": vectors}, "text vectors layer"),
        "calibrate": (
            calibration.calibrate,
            {"vectors": vectors, "layers": 2, "writing": SHORT, "texts": 1},
            "vectors target texts layers writing thresholds cache progress",
        ),
        "Writing": (of(Writing), {}, "max_new_tokens temperature positions chat seeds"),
        "mixture_name": (of(emotrace.vectors.mixture_name), {}, "emotion"),
        "vectors": (lambda _, key: vectors[key], {}, "key"),
        "index": (of(vectors.index), {}, "layer"),
        "at": (of(vectors.at), {}, "layer"),
        "mix": (of(vectors.mix), {}, "weights"),
        "direction": (of(vectors.direction), {"emotion": "sad", "layer": 2}, "emotion layer"),
        "times": (lambda _, factor: vectors * factor, {}, "factor"),
        "through": (lambda _, divisor: vectors / divisor, {}, "divisor"),
        "plus": (lambda _, other: vectors + other, {}, "other"),
        "minus": (lambda _, other: vectors - other, {}, "other"),
        "recentre": (of(vectors.recentre), {}, "centring"),
        "without": (of(vectors.without), {"components": [np.eye(1, 32)] * 5, "what": "one"}, "components what"),
        "check": (of(vectors.check), {"model": model}, "model"),
        "save": (of(vectors.save), {}, "path"),
        "read": (of(emotrace.EmotionVectors.load), {}, "path"),
        "export_gguf": (of(vectors.export_gguf), {"path": "v.gguf", "emotion": "sad"}, "path emotion layers"),
        # The model's own folder, since most names are of nothing that is here.
        "load": (of(emotrace.load), {"name": loaded}, "name dtype device instruct say"),
        "attach": (
            of(emotrace.attach),
            {"module": model.nn._module, "tokenizer": model.tokenizer},
            "module tokenizer name instruct",
        ),
        "Lab": (of(emotrace.Lab), {"model": model}, "model quick folder seed passages classifier"),
    }


SLOW = {"calibrate": 16, "load": 60, "what_if": 60, "extract": 60, "write_stories": 60, "what_if_slider": 30}
NAMES = (
    *("read_activations", "read_tokens", "residual_norms", "read_while_writing", "score", "reread", "log_likelihoods"),
    *("unembed", "generate", "Edit", "random_like", "ablation", "check_layers", "encode", "chat_ids", "steer", "write"),
    *("steered", "request_ids", "kept", "write_stories", "read_texts", "frame_tokens", "read_stories", "extract"),
    *("what_if", "what_if_slider", "read_emotions", "project_text", "calibrate", "Writing", "mixture_name", "vectors"),
    *("index", "at", "mix", "direction", "times", "through", "plus", "minus", "recentre", "without", "check", "save"),
    *("read", "export_gguf", "load", "attach", "Lab", "divergence"),
)
INNER = {  # given what the functions above have checked
    *(
        "tokenised",
        "token_rows",
        "prompt_ids",
        "end_tokens",
        "until_end",
        "text_after",
        "batches",
        "pad_right",
        "pad_left",
    ),
    *(
        "in_batches",
        "in_parts",
        "pooling_weights",
        "directions",
        "shared_prefix",
        "row_directions",
        "strengths_of",
        "nearest_half",
        "rows_at_once",
    ),
    *(
        "as_calibrated",
        "neutral_dots",
        "steered_positions",
        "steered_layers",
        "read_layer",
        "check_instruct",
        "seed_of",
        "judge",
        "class_means",
    ),
    *("provenance_of", "scale_of", "handle_of", "describe", "window", "cached_vectors", "vectors_for", "cosines"),
    *("chosen_layers", "runs_folder", "bracket", "design", "shipped", "permuted_like", "pooling_of"),
}


def test_every_public_function_of_the_core_is_tried(model, vectors):
    rooms = "activations steering steered_texts steering_hooks scoring tokens readings extraction stories models"
    rooms = [
        *rooms.split(),
        "in_memory",
        "vectors",
        *(f"whatif.{name}" for name in ("compare", "slider", "token_reading", "text_reading")),
    ]
    public = {
        name
        for room in [*rooms, "study.lab", "judges.calibration"]
        for name, value in vars(importlib.import_module(f"emotrace.{room}")).items()
        if inspect.isfunction(value) and value.__module__ == f"emotrace.{room}" and not name.startswith("_")
    }
    assert set(NAMES) == set(calls(model, vectors))
    assert public - set(NAMES) == INNER


# What is replaced in these has no right value among the others.
GIVEN = "mixture_name vectors index at mix times through plus minus recentre save read"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_right_is_taken(model, vectors, name, tmp_path, monkeypatch):
    """Else the test below would look at one refusal all the time."""
    monkeypatch.chdir(tmp_path)
    function, right, _ = calls(model, vectors)[name]
    missing = pytest.raises(TypeError, match=r"missing|argument") if name in GIVEN.split() else contextlib.nullcontext()
    with missing:
        function(model, **right)


@pytest.mark.parametrize("name", NAMES)
def test_no_exception_but_emotraces(model, vectors, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function, right, replaced = calls(model, vectors)[name]

    @hypothesis.settings(
        derandomize=True,
        deadline=None,
        database=None,
        max_examples=SLOW.get(name, 100),
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(st.sampled_from(replaced.split()), awkward)
    def attempt(parameter, value):
        if not COUNTS.isdisjoint({parameter, f"{name} {parameter}"}) and not isinstance(value, (str, list, dict)):
            with contextlib.suppress(TypeError, ValueError, RuntimeError, OverflowError):
                value = min(value, 3)
        TRIED["inputs"] += 1
        line = None
        try:
            function(model, **{**right, parameter: value})
        except EmotraceError as error:
            line = str(error)
        if line is not None:
            TRIED["refused"] += 1
            assert line.strip(), (parameter, value)
            assert "\n" not in line.strip()
            assert len(line) < LONGEST

    attempt()


def test_how_many_were_tried():
    """Last of the file: about half of what is given means something."""
    if TRIED["inputs"] < 1000:
        pytest.skip("the tests before did not run")
    print(f"{TRIED['inputs']} inputs to {len(NAMES)} functions, {TRIED['refused']} refused in one line, tracebacks 0")
    assert 0.2 < TRIED["refused"] / TRIED["inputs"] < 0.98


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch, capsys):
    """``run("read", …)`` → exit code, standard output, standard error."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["emotrace", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return (stopped.value.code or 0, *capsys.readouterr())

    return call


def refused(result):
    """The one line of a call that was refused."""
    code, _, error = result
    lines = [line for line in error.splitlines() if line.startswith("emotrace: ")]
    assert (code, len(lines)) == (2, 1), error
    assert "Traceback" not in error
    return lines[0]


@pytest.fixture(scope="module")
def folder(tiny_folder):
    return tiny_folder("llama")


@pytest.fixture(scope="module")
def file(vectors, tmp_path_factory):
    path = tmp_path_factory.mktemp("v") / "v.safetensors"
    vectors.save(path)
    return path


@pytest.mark.parametrize("emotions", ["happy,sad", "happy, sad", " happy ,sad ,", "happy,\tsad"])
def test_lists_with_spaces(run, folder, tmp_path, emotions):
    path = tmp_path / "v.safetensors"
    code, out, _ = run("extract", folder, "--emotions", emotions, "--layers", " 2, 3 ", "--out", path)
    assert code == 0
    assert "2 emotions × 2 layers" in out


def test_an_unknown_name_in_a_list_with_spaces_is_named_without_them(run, folder, tmp_path):
    out = ("--out", tmp_path / "v")
    assert "unknown emotion 'smug'" in refused(run("extract", folder, "--emotions", "happy, smug ", *out))
    assert "unknown experiment 'magic'" in refused(run("run", folder, "--experiments", "separation, magic", *out))
    assert "unknown emotion 'smug'" in refused(
        run("whatif", "A text", "--emotion", "happy=1, smug = 2", "--model", folder)
    )
    assert "numbers with commas" in refused(run("extract", folder, "--layers", "2;3", *out))


@pytest.mark.parametrize("mixture", ["happy=1,sad=0.5", "happy = 1 , sad = 0.5,", "happy,sad"])
def test_mixtures_with_spaces(run, folder, file, mixture):
    code, out, _ = run("read", TEXT, "--emotion", mixture, "--model", folder, "--vectors", file, "--layer", " 2")
    assert code == 0
    assert "happy×1 + sad×" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--tokens", "0"], "max_new_tokens is 1 or more"),
        (["--tokens", "-1"], "max_new_tokens is 1 or more"),
        (["--temperature", "nan"], "temperature is a finite number"),
        (["--temperature", "-1"], "temperature"),
        (["--strength", "inf"], "strength is a finite number"),
        (["--strength", "nan"], "strength is a finite number"),
        (["--seed", str(2**65), "--temperature", "1"], "64 bits"),
        (["--layer", "99"], "out of range"),
    ],
)
def test_numbers_that_are_none(run, folder, monkeypatch, vectors, arguments, words):
    monkeypatch.setattr("emotrace.whatif.compare.cached_vectors", lambda *_, **__: vectors)
    assert words in refused(run("whatif", TEXT, "--emotion", "happy", "--no-judge", "--model", folder, *arguments))


@pytest.mark.parametrize("mixture", ["happy=nan", "happy=inf", "=", ",", "happy=", "happy==1"])
def test_mixtures_that_are_none(run, folder, file, mixture):
    refused(run("read", TEXT, "--emotion", mixture, "--model", folder, "--vectors", file))


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["with space", "ünï 😀", "-leading-dash", "a'quote", "semi;colon&"])
def test_odd_paths_are_paths(run, folder, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name / f"{name}.safetensors"
    assert run("extract", folder, "--emotions", "sad", "--pooling", "mean", "--out", path)[0] == 0
    page = tmp_path / name / "page.html"
    assert run("read", TEXT, "--model", folder, "--vectors", path, "--html", page)[0] == 0
    assert page.stat().st_size > 1000


def test_places_that_cannot_be_written(run, folder, file, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "v", "/proc/emotrace/v", tmp_path):
        assert "cannot be written" in refused(run("extract", folder, "--emotions", "sad", "--out", out))
    read = ("read", TEXT, "--model", folder, "--vectors", file)
    assert "cannot be written" in refused(run(*read, "--html", tmp_path / "file" / "page.html"))
    assert "cannot be written" in refused(run(*read, "--html", tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(run, folder, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert "cannot be written" in refused(run("extract", folder, "--emotions", "sad", "--out", locked / "v"))


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 64, b"PK\x03\x04 numpy's", b"GGUF\x03\0\0\0", b"{}", b"emotion,layer\n"]
)
def test_vectors_of_another_format(run, folder, tmp_path, content):
    path = tmp_path / "v.safetensors"
    path.write_bytes(content)
    assert str(path) in refused(run("read", TEXT, "--model", folder, "--vectors", path))
    assert "no file" in refused(run("read", TEXT, "--model", folder, "--vectors", tmp_path / "none"))
    refused(run("read", TEXT, "--model", folder, "--vectors", tmp_path))


@pytest.mark.parametrize("content", ["", "\n", "id,topic,emotion,person,gender,tense,text\n", "\0"])
def test_an_empty_table(run, folder, tmp_path, content):
    path = tmp_path / "p.csv"
    path.write_text(content)
    refused(run("extract", folder, "--passages", path, "--out", tmp_path / "v"))


# -- output that is not UTF-8 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-16"])
def test_every_encoding_of_the_output_is_written(folder, file, encoding):
    """What it lacks is replaced; in one process, since each takes seconds to start."""
    commands = [
        ["read", "Ça pleut – 雨 😀 on the roof.", "--model", str(folder), "--vectors", str(file)],
        ["read", "A text about 雨.", "--layer", "all", "--model", str(folder), "--vectors", str(file)],
        [
            "whatif",
            "Ça pleut – 雨",
            "--emotion",
            "happy",
            "--tokens",
            "3",
            "--no-judge",
            "--layer",
            "2",
            "--model",
            str(folder),
        ],
        ["models"],
        ["run", "nonsense — 雨"],
    ]
    lines = [
        "import sys",
        "from emotrace import cli",
        "from emotrace.vectors import EmotionVectors",
        "import emotrace.whatif.compare as compare",
        f"compare.cached_vectors = lambda *_, **__: EmotionVectors.load({str(file)!r})",
        f"for arguments in {commands!r}:",
        "    sys.argv = ['emotrace', *arguments]",
        "    try: cli.main()",
        "    except SystemExit as stopped: print('code', stopped.code or 0)",
    ]
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    result = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, env=environment, timeout=120)
    out, error = (stream.decode(encoding, "replace") for stream in (result.stdout, result.stderr))
    assert result.returncode == 0, error
    assert [line.split()[1] for line in out.splitlines() if line.startswith("code ")] == ["0", "0", "0", "0", "2"]
    assert "UnicodeEncodeError" not in error
    assert "Traceback" not in error
