"""Files: whole or not at all; results on disk with the same numbers as in memory; one clear error otherwise."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emotrace import EmotraceError
from emotrace.activations import POOLINGS, read_activations
from emotrace.errors import WriteError
from emotrace.files import ArrayFile, ensure_writable, write_file, write_with

TEXTS = [
    "Rain fell on the roof.",
    "She waited.",
    "The bus was late again, and nobody said a word about it.",
    "He left.",
]


def test_a_file_is_written_with_its_folder_and_replaces_an_older_one(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    for content in (b"first", b"", b"second \x00"):
        write_file(path, content)
        assert path.read_bytes() == content
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (OSError(28, "No space left on device"), WriteError, "a.txt cannot be written: No space left on device"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
    ],
)
def test_a_writer_that_fails_leaves_the_older_file_and_nothing_beside(tmp_path, error, raised, message):
    path = tmp_path / "a.txt"
    write_file(path, b"older")

    def fail(scratch: Path) -> None:
        scratch.write_bytes(b"half")
        assert path.read_bytes() == b"older"
        raise error

    with pytest.raises(raised, match=message):
        write_with(path, fail)
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_below_a_file_or_onto_a_folder_is_one_clear_error(tmp_path):
    write_file(tmp_path / "taken", b"kept")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "taken" / "a", tmp_path / "folder"):
        with pytest.raises(WriteError, match=r"cannot be written: (Not a directory|File exists|it is a folder)"):
            write_file(path, b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "taken"]
    assert (tmp_path / "taken").read_bytes() == b"kept"


@pytest.mark.parametrize("batch_tokens", [1, 30, 10_000])
def test_a_result_on_disk_equals_the_one_in_memory(tiny, tmp_path, batch_tokens):
    model = tiny("llama")
    in_memory = read_activations(model, TEXTS, batch_tokens=batch_tokens)
    mapped = read_activations(model, TEXTS, batch_tokens=batch_tokens, out=tmp_path / "new" / "folder")
    assert list(mapped) == list(POOLINGS)
    for pooling in POOLINGS:
        assert np.array_equal(mapped[pooling], in_memory[pooling])
        assert isinstance(mapped[pooling], np.memmap)
        assert not mapped[pooling].flags.writeable
        assert np.array_equal(np.load(tmp_path / "new" / "folder" / f"{pooling}.npy"), in_memory[pooling])


def test_one_pooling_and_some_layers_on_disk(tiny, tmp_path):
    model = tiny("gemma")
    mapped = read_activations(model, TEXTS, layers=[0, 2], poolings=("last",), out=str(tmp_path))
    assert np.array_equal(mapped["last"], read_activations(model, TEXTS, layers=[0, 2], poolings=("last",))["last"])
    assert [path.name for path in tmp_path.iterdir()] == ["last.npy"]


def test_rows_come_in_any_order(tmp_path):
    values = np.random.default_rng(0).normal(size=(7, 3, 5)).astype(np.float32)
    path = tmp_path / "a.npy"
    with ArrayFile(path, values.shape) as file:
        file[[6, 0, 3]] = values[[6, 0, 3]]
        file[[5]] = values[[5]].astype(np.float64)  # kept as float32 in any case
        file[[1, 4, 2]] = np.asfortranarray(values[[1, 4, 2]])
        assert not path.exists()
    assert np.array_equal(file.mapped(), values)
    with pytest.raises(ValueError, match="cannot be taken"), ArrayFile(path, values.shape) as file:
        file[[0, 1]] = values[0]
    assert np.array_equal(np.load(path), values)  # what failed replaced nothing


def test_an_interrupted_reading_leaves_no_file(tiny, tmp_path):
    def interrupt(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_activations(tiny("llama"), TEXTS, batch_tokens=1, out=tmp_path, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_result_without_room_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(EmotraceError, match=r"last\.npy cannot be written: it takes 4e\+06 GB and .* GB are free"):
        ArrayFile(tmp_path / "last.npy", (10**9, 1000, 1000)).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_one_clear_error(tiny, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(EmotraceError, match=r"last\.npy cannot be written: (File exists|Not a directory)"):
        read_activations(tiny("llama"), TEXTS, out=tmp_path / "taken")


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on file size stands in for a disk that fills up")
def test_a_disk_that_fills_up_is_one_clear_error_and_leaves_no_file(tmp_path):
    program = f"""
import resource, signal, sys
import numpy as np
from pathlib import Path
from emotrace import EmotraceError
from emotrace.files import ArrayFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with ArrayFile(Path({str(tmp_path / "a.npy")!r}), (100, 1000)) as file:
        for row in range(100):
            file[[row]] = np.ones((1, 1000))
except EmotraceError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, env=os.environ)
    assert result.stdout == f"{tmp_path / 'a.npy'} cannot be written: File too large\n"
    assert list(Path(tmp_path).iterdir()) == []


def test_a_link_and_what_is_no_file_stay_what_they_are(tmp_path):
    (tmp_path / "real").write_bytes(b"older")
    (tmp_path / "link").symlink_to("real")
    write_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    ensure_writable(tmp_path / "pipe")
    write_file(tmp_path / "pipe", b"through")
    assert os.read(reader, 99) == b"through"
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe", "real"]


def test_a_folder_is_refused_before_the_work_and_a_name_may_be_as_long_as_any(tmp_path):
    with pytest.raises(WriteError, match="it is a folder"):
        ensure_writable(tmp_path)
    with pytest.raises(WriteError, match="too long"):
        ensure_writable(tmp_path / ("n" * 256))
    long = tmp_path / ("n" * 255)
    ensure_writable(long)
    write_file(long, b"whole")
    assert long.read_bytes() == b"whole"
