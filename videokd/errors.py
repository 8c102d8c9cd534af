"""The errors videokd raises: each says what was given, what is accepted and what to do next."""

from __future__ import annotations

import unicodedata

_JOINERS = "\u200c\u200d"  # of letters and of emoji: they move nothing but their neighbours


class VideoKDError(Exception):
    """Base of every error that the user of videokd can fix."""


class DecodeError(VideoKDError):
    """A file could not be opened or decoded; the message names the path and, where known, the frame."""


class NeedsTranscoding(DecodeError):
    """A file plays, but its streams cannot be read as they are; those of a transcoded copy can."""


class DataError(VideoKDError):
    """A dataset, manifest or run folder is not what it should be."""


class ConfigError(VideoKDError):
    """A setting is unknown, misspelt, or does not fit the others."""


def printable(text: str) -> str:
    """The text on one line, what would move a terminal's cursor or turn its text around written as JSON does.

    Names of files and classes come from strangers. Control characters, line breaks, direction marks and bytes that are no
    UTF-8 are escaped; letters of all scripts stay. What was JSON still is, of the same value.

    >>> print(printable("a\\x1b[2Jb\\u202ec é.mp4"))
    a\\u001b[2Jb\\u202ec é.mp4
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(letter) if _moves(letter) else letter for letter in text)


def _moves(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") and letter not in _JOINERS


def _escaped(letter: str) -> str:
    code = letter.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{code[i : i + 4]}" for i in range(0, len(code), 4))
