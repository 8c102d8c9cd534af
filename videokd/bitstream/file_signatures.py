"""Recognises files that are not videos by their first bytes, so that the error can say what to do."""

from __future__ import annotations

import codecs

_PLAYLIST = (
    "a playlist, which names other files",
    "Give the files that it names, or join them into one with `ffmpeg`.",
)
_PICTURE = ("a picture", "Give a video; `videokd` does not read pictures.")
_ARCHIVE = ("an archive", "Unpack it, and give the videos in it.")
_AUDIO = ("audio without pictures", "Give a video.")
_DOCUMENT = ("a document", "Give a video.")
_TEXT = ("a text file", "Give a video. If it was downloaded, it may be an error page: download it again.")
# (offset, bytes, what the file is)
_SIGNATURES = (
    (0, b"#EXTM3U", _PLAYLIST),
    (0, b"ffconcat", _PLAYLIST),
    (0, b"[playlist]", _PLAYLIST),
    (0, b"v=0\r\n", _PLAYLIST),
    (0, b"v=0\n", _PLAYLIST),
    (0, b"\xff\xd8\xff", _PICTURE),
    (0, b"\x89PNG\r\n\x1a\n", _PICTURE),
    (0, b"GIF8", _PICTURE),
    (0, b"BM", _PICTURE),
    (0, b"II*\0", _PICTURE),
    (0, b"MM\0*", _PICTURE),
    (0, b"\0\0\1\0", _PICTURE),
    (0, b"8BPS", _PICTURE),
    (0, b"\0\0\0\x0cjP  ", _PICTURE),
    (0, b"\xff\x0a", _PICTURE),
    (0, b"PK\3\4", _ARCHIVE),
    (0, b"PK\5\6", _ARCHIVE),
    (0, b"\x1f\x8b", _ARCHIVE),
    (0, b"BZh", _ARCHIVE),
    (0, b"\xfd7zXZ\0", _ARCHIVE),
    (0, b"7z\xbc\xaf\x27\x1c", _ARCHIVE),
    (0, b"Rar!\x1a\7", _ARCHIVE),
    (0, b"\x28\xb5\x2f\xfd", _ARCHIVE),
    (0, b"ID3", _AUDIO),
    (0, b"fLaC", _AUDIO),
    (0, b"\xff\xfb", _AUDIO),
    (0, b"\xff\xf1", _AUDIO),
    (0, b"#!AMR", _AUDIO),
    (8, b"WEBP", _PICTURE),
    (8, b"WAVE", _AUDIO),
    (257, b"ustar", _ARCHIVE),
    (0, b"%PDF", _DOCUMENT),
    (0, b"\xd0\xcf\x11\xe0", _DOCUMENT),
)
_MANIFESTS = (b"<mpd", b"<smil", b"<asx", b"<smoothstreamingmedia", b"<compositionplaylist", b"<assetmap")


def what_it_is(head: bytes) -> tuple[str, str] | None:
    """What a file is, if it is not a video and its first bytes tell.

    Args:
        head: the first bytes of the file, 4096 or all.

    Returns:
        (what it is, what to do), or None.

    >>> what_it_is(b"#EXTM3U")[0]
    'a playlist, which names other files'
    """
    for at, signature, found in _SIGNATURES:
        if head.startswith(signature, at):
            return found
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"#extm3u", b"ffconcat")) or (
        text.startswith(b"<") and any(name in text for name in _MANIFESTS)
    ):
        return _PLAYLIST
    return _TEXT if _is_text(head) else None


def _is_text(head: bytes) -> bool:
    """Whether the bytes are UTF-8 (the last character may be cut off), without control characters except white space."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return bool(text.strip()) and all(letter >= " " or letter in "\t\n\r\f" for letter in text)
