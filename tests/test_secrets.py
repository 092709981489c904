"""Keys and tokens are in no message, output, log or traceback, in whatever form a library repeats them."""

import base64
import json
import subprocess
import sys
import time
import traceback
import urllib.parse

import httpx
import pytest
import websocket
from nnsight import CONFIG
from nnsight.intervention.backends.remote import RemoteError

import emotrace
from emotrace import cli, doctor, redaction
from emotrace.errors import EmotraceError, first_line
from emotrace.hosts import checkpoints, patience, remote
from emotrace.hosts.faults import diagnose

HOST = "http://127.0.0.1:9"
KEY = "ndif/s3cret+key=42"
GOOD = [KEY, f"{KEY}\n", f"  {KEY}\r\n", f'"{KEY}"', f"'{KEY}'\n", f"\ufeff{KEY}", f"“{KEY}”", f"\0{KEY}\0"]
BAD = [
    f"{KEY[:5]}\n{KEY[5:]}",
    f"{KEY}é",
    f"{KEY[:6]}\0{KEY[6:]}",
    f"ключ-{KEY}",
    f"{KEY}\x7f-",
    f"{KEY[:4]}\ud800{KEY[4:]}",
]


def forms(secret):
    """How libraries repeat a secret: independent of the project's own list."""
    data = secret.encode("utf-8", "surrogatepass")
    credentials = [data, b"Bearer " + data, b"user:" + data, b"u:" + data, data + b":", b"hf_user:" + data + b":x"]
    yield from (secret, repr(secret), repr(data), ascii(secret), json.dumps(secret), json.dumps({"k": [secret]}))
    yield from (urllib.parse.quote(data), urllib.parse.quote(data, safe=""), urllib.parse.urlencode({"key": data}))
    yield urllib.parse.quote(data, safe="").lower()
    yield from (f"https://host/path?api_key={urllib.parse.quote(data, safe='')}", f"https://user:{secret}@host/")
    yield from (f"Basic {base64.b64encode(text).decode()}" for text in credentials)
    yield from (base64.urlsafe_b64encode(text).decode() for text in credentials)
    yield from (f"Illegal header value {data!r}", data.hex(), secret.replace("&", "&amp;"))


def leaks(text, secret):
    """Pieces of the secret that a text shows: eight characters of it in a row, however they are written."""
    pieces = [secret[start : start + 8] for start in range(len(secret) - 7)]
    encoded = [
        base64.b64encode(secret.encode("utf-8", "surrogatepass")[start : start + 9]).decode()
        for start in range(len(secret) - 8)
    ]
    plain = urllib.parse.unquote(text)
    return [piece for piece in (*pieces, *encoded) if piece in text or piece in plain]


@pytest.fixture
def key(monkeypatch):
    """``key(value)`` makes it nnsight's key."""
    return lambda value: monkeypatch.setattr(CONFIG.API, "APIKEY", value)


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE", patience.Patience(attempts=3, pause=0))


# -- in every form -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [KEY, 'a"b\\c/d e+f', "hf_pässwörd€", "x" * 40, "-\ud800abc def"])
def test_no_form_of_a_secret_is_left(secret):
    said = [f"before {form} after" for form in forms(secret)]
    printed = [leak for text in said for leak in leaks(redaction.redacted(text, secret), secret)]
    assert printed == []
    assert all(text.startswith("before ") for text in said)
    assert len(said) > 20


@pytest.mark.parametrize("variable", redaction.VARIABLES)
def test_every_error_of_emotrace_is_without_it(monkeypatch, variable):
    monkeypatch.setenv(variable, f"{KEY}\n")
    for form in forms(KEY):
        assert leaks(str(EmotraceError(f"it broke: {form}")), KEY) == []
        assert leaks(first_line(ValueError(f"{form}\nmore")), KEY) == []
        # Cut in the middle of the secret, a message would show half of it.
        for filler in range(380, 400, 3):
            assert leaks(checkpoints.one_line(ValueError("x" * filler + form)), KEY) == []
            assert leaks(diagnose(RemoteError("x" * (filler - 160) + form), HOST, KEY).reason, KEY) == []


def test_a_short_value_or_none_leaves_messages_as_they_are(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "a")
    monkeypatch.setattr(CONFIG.API, "APIKEY", None)
    assert str(EmotraceError("a banana at https://host/path")) == "a banana at https://host/path"


def test_the_user_of_an_address_is_left_out():
    assert str(EmotraceError("no answer from http://me:pw12@proxy:80/x")) == "no answer from http://…@proxy:80/x"


# -- the key of NDIF ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", GOOD)
def test_what_stands_around_a_key_is_stripped(key, value):
    key(value)
    assert patience.api_key() == KEY


@pytest.mark.parametrize("value", ["", None, " \n", '""'])
def test_no_key_is_none(key, value):
    key(value)
    assert patience.api_key() == ""


@pytest.mark.parametrize("value", BAD)
def test_a_key_that_cannot_be_sent_is_refused_at_once_without_being_named(key, value, capsys):
    key(value)
    start = time.perf_counter()
    with pytest.raises(EmotraceError, match="cannot be sent") as refused:
        remote.ask(HOST, "/ping")
    printed = "".join(traceback.format_exception(refused.value)) + "".join(capsys.readouterr())
    assert [leak for secret in (value, KEY) for leak in leaks(printed, secret)] == []
    assert "\n" not in str(refused.value)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("value", GOOD)
def test_the_header_that_is_sent_holds_the_bare_key(key, value, monkeypatch):
    key(value)
    sent = []

    def get(address, headers, timeout):
        sent.append(httpx.Request("GET", address, headers=headers).headers["ndif-api-key"])
        return httpx.Response(200, json={}, request=httpx.Request("GET", address))

    monkeypatch.setattr(httpx, "get", get)
    assert remote.ask(HOST, "/ping") == {}
    assert sent == [KEY]


@pytest.mark.parametrize(
    "error",
    [
        httpx.LocalProtocolError(f"Illegal header value b'{KEY}\\n'"),
        httpx.UnsupportedProtocol(f"no protocol in {KEY}"),
        UnicodeEncodeError("ascii", f"{KEY}é", len(KEY), len(KEY) + 1, "ordinal not in range(128)"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_this_side_cannot_send_is_no_lost_connection(error, wrapped):
    if wrapped:
        outer = RemoteError(f"Failed to send request: {error}")
        outer.__cause__ = error
        error = outer
    fault = diagnose(error, HOST, KEY)
    assert not fault.transient
    assert "lost" not in fault.reason
    assert leaks(fault.reason, KEY) == []


def test_every_wait_and_end_is_without_the_key(key, hasty, capsys):
    key(f"{KEY}\n")
    said = []
    for form in forms(KEY):
        errors = [
            ConnectionResetError(form),
            websocket.WebSocketException(form),
            RemoteError(f"evicted: was evicted {form}"),
        ]
        left = [*errors, ValueError(form)]

        def send(left=left):
            raise left.pop(0)

        with pytest.raises(EmotraceError) as ended:
            patience.patiently(send, HOST)
        said += [*traceback.format_exception(ended.value)]
    said += capsys.readouterr()
    assert leaks("\n".join(said), KEY) == []


@pytest.mark.parametrize("address", [f"https://me:{KEY[:4]}-pw@host", "https://host?key=abcd", "https://host/#abcd"])
def test_an_address_with_a_key_in_it_is_refused_without_being_named(address):
    with pytest.raises(EmotraceError, match="NDIF_API_KEY") as refused:
        remote.address(address)
    assert "abcd" not in str(refused.value)
    assert "-pw" not in str(refused.value)


# -- the doctor --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, KEY, f"{KEY}\n", *BAD])
def test_the_doctor_is_quick_without_a_server_and_with_any_key(key, value, capsys):
    key(value)
    start = time.perf_counter()
    printed = "\n".join(map(str, doctor.examine("smollm2-135m-instruct", HOST))) + "".join(capsys.readouterr())
    assert time.perf_counter() - start < 1 + 1  # a second, and what a loaded machine adds
    assert "BAD" in printed
    assert "attempt" not in printed
    assert [leak for secret in (value or KEY, KEY) for leak in leaks(printed, secret)] == []


def test_the_command_line_prints_no_key_even_where_it_breaks(monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", KEY)

    def broken():
        raise ZeroDivisionError(f"at https://user:{KEY}@host, header {KEY.encode()!r}")

    monkeypatch.setattr(cli, "app", broken)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    printed = "".join(capsys.readouterr())
    assert stopped.value.code == 1
    assert "ZeroDivisionError" in printed
    assert leaks(printed, KEY) == []


@pytest.mark.parametrize("command", [["doctor"], ["read", "A text.", "--model", "org/name", "--remote"]])
def test_the_process_prints_no_key(command):
    environment = {"NDIF_API_KEY": f"{KEY[:6]}\n{KEY[6:]}\n", "NDIF_HOST": HOST, "HF_HUB_OFFLINE": "1", "PATH": ""}
    result = subprocess.run(
        [sys.executable, "-m", "emotrace", *command], capture_output=True, text=True, env=environment, timeout=60
    )
    assert result.returncode in (1, 2)
    assert leaks(result.stdout + result.stderr, f"{KEY[:6]}\n{KEY[6:]}") == []
    assert "cannot be sent" in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


# -- the hub's token ---------------------------------------------------------------------------------------------------


def test_an_error_of_the_hub_that_names_the_token_is_not_chained(monkeypatch, tiny_folder):
    monkeypatch.setenv("HF_TOKEN", KEY)

    def refuse(*_, **__):
        raise httpx.LocalProtocolError(f"Illegal header value b'Bearer {KEY}\\x00'")

    monkeypatch.setattr(checkpoints, "read", refuse)
    with pytest.raises(EmotraceError) as refused:
        emotrace.load(str(tiny_folder("llama")))
    assert leaks("".join(traceback.format_exception(refused.value)), KEY) == []
    assert "Illegal header value" in str(refused.value)
