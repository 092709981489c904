"""Text for a terminal: nothing in it can command one."""

from unsafe import control_characters

from emotrace.whatif.shading import visible
from emotrace.whatif.terminal import wrapped


def test_control_characters_become_visible_and_others_stay():
    assert visible("a\x1b[31m\x00\x07b\n\tc\u202ed é 你") == "a␛[31m␀␇b\n\tc�d é 你"
    assert not control_characters(visible("".join(map(chr, range(0x3000)))))


def test_wrapping_keeps_line_breaks_and_the_width():
    text = wrapped("plain    ", "word " * 40 + "\n\nlast", 40)
    lines = text.splitlines()
    assert lines[0].startswith("plain    word")
    assert all(len(line) <= 40 for line in lines)
    assert lines[-2:] == ["", "         last"]
    assert all(line.startswith(" " * 9) for line in lines[1:] if line)
