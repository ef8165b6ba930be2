import json
import unicodedata

import pytest
from helpers import HOSTILE, one_sentence

from backbone.errors import InputError
from backbone.names import escaped, printed, shown


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("beagle", "beagle"),
        ("Ærø пудель 柴犬 🐶", "Ærø пудель 柴犬 🐶"),
        ("  two\nlines\t and\r\nmore ", "two lines and more"),
        ("\x1b[31mred\x1b[0m\x07", r"\x1b[31mred\x1b[0m\x07"),
        ("\x9b31m\x7f", r"\u009b31m\u007f"),
        ("\u202egnp.exe\u2066", r"\u202egnp.exe\u2066"),
        ("caf\udce9 \ud800", r"caf\udce9 \ud800"),
        ("=cmd", "=cmd"),
        ("", ""),
        ("n" * 60, "n" * 60),
        ("a" * 31 + "b" * 5000 + "c" * 28, "a" * 31 + "…" + "c" * 28),
    ],
)
def test_a_name_is_shown_in_one_short_line_with_visible_escapes(name, seen):
    assert shown(name) == seen
    assert shown(seen) == seen


@pytest.mark.parametrize("most", [3, 4, 26, 60])
def test_a_cut_name_is_as_long_as_may_be(most):
    assert [len(shown("n" * length, most)) for length in (most - 1, most, most + 1, 5000)] == [most - 1, *[most] * 3]


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_printed_says_all_and_does_nothing(name):
    line = printed(f"error: {name}: replace it")
    assert line.startswith("error: ")
    assert line.endswith(": replace it")
    assert len(line) <= 2000
    assert not {unicodedata.category(letter) for letter in line} & {"Cc", "Cs", "Zl", "Zp"}
    assert line.encode().decode() == line
    assert printed(line) == line


def test_escapes_are_as_in_json_and_do_not_collapse_spaces():
    assert escaped("a  b\n\t\r\x00") == r"a  b\n\t\r\x00"
    text = json.dumps(HOSTILE, ensure_ascii=False)
    assert json.loads(escaped(text)) == json.loads(text) == HOSTILE
    assert "\x9b" not in escaped(text)


def test_a_sentence_is_fit_for_a_terminal_whoever_prints_it():
    with one_sentence("^class ") as raised:
        raise InputError("class \x1b[2J\n\udcff: rename it.")
    assert str(raised.value) == r"class \x1b[2J\n\udcff: rename it."
    assert len(str(InputError("x" * 10_000))) == 2000
