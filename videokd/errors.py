"""The errors that videokd raises: each message says what was given, what is accepted and what to do next."""

from __future__ import annotations

import html
import unicodedata

_JOINERS = "\u200c\u200d"  # join letters or emoji, and affect nothing else


class VideoKDError(Exception):
    """Base class of all errors that a user of videokd can fix."""


class DecodeError(VideoKDError):
    """A file could not be opened or decoded; the message names the path and, where known, the frame."""


class NeedsTranscoding(DecodeError):
    """A file can be played, but its streams can only be read after transcoding."""


class DataError(VideoKDError):
    """A dataset, manifest or run folder is missing, damaged or not valid."""


class ConfigError(VideoKDError):
    """A setting is unknown, out of its range, or in conflict with another."""


def printable(text: str) -> str:
    """The text on one line, safe to print: characters that control a terminal or the direction of text are escaped as in JSON.

    Names of files and classes are not trusted. Control characters, line breaks, direction marks and bytes that are not
    UTF-8 are escaped; letters of all scripts are kept. JSON stays JSON, with the same value.

    Args:
        text: any text.

    >>> print(printable("a\\x1b[2Jb\\u202ec é.mp4"))
    a\\u001b[2Jb\\u202ec é.mp4
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(letter) if _is_control(letter) else letter for letter in text)


def in_html(text: object) -> str:
    """A text from a file, as it stands in HTML: printable, and without what HTML would take for itself.

    >>> in_html("<a>")
    '&lt;a&gt;'
    """
    return html.escape(printable(str(text)))


def _is_control(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") and letter not in _JOINERS


def _escaped(letter: str) -> str:
    code = letter.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{code[i : i + 4]}" for i in range(0, len(code), 4))
