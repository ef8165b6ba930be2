"""Texts from strangers, such as names of classes, people and files, made fit to be looked at. What identifies is exact.

A name may hold what a terminal obeys, what turns writing round, or half of a surrogate pair, which UTF-8 cannot have:
file names that are not UTF-8 and JSON bring such.
"""

import re

# Control characters, the ends of lines and paragraphs, marks that turn the direction of writing, surrogates.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def escaped(text: str) -> str:
    r"""The text in one line, with visible escapes, such as \x1b, for what is not seen but does something.

    What JSON gives stays JSON with the same meaning. An escaped text stays as it is.
    """
    return _UNSEEN.sub(_escape, text)


def printed(line: str) -> str:
    """A line for a terminal: escaped, and cut in the middle where nobody would read it all."""
    return _cut(escaped(line), 2000)


def shown(name: str, most: int = 60) -> str:
    """A name to be looked at: in one line, with single spaces, escaped, its middle left out beyond `most` letters."""
    return _cut(escaped(" ".join(name.split())), most)


def _cut(text: str, most: int) -> str:
    head = most // 2 + 1  # names that begin alike often end differently, so the middle goes
    return text if len(text) <= most else f"{text[:head]}…{text[len(text) - (most - head - 1) :]}"


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return _SHORT.get(match[0]) or (f"\\x{code:02x}" if code < 0x20 else f"\\u{code:04x}")
