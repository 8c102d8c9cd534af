"""Recognises encrypted files, whose pictures FFmpeg would report as damaged."""

from __future__ import annotations

from videokd.bitstream.source import Source
from videokd.errors import DecodeError

#: Sample entries of MP4: those of Common Encryption (ISO/IEC 23001-7), and of Apple's FairPlay.
ENCRYPTED_ENTRIES = (b"encv", b"drmi")
# IDs of ContentEncodings, ContentEncoding and ContentEncryption (RFC 9559), each in the one before
_MATROSKA, _MATROSKA_IDS, _NEAR = b"\x1a\x45\xdf\xa3", (b"\x6d\x80", b"\x62\x40", b"\x50\x35"), 32
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
# Content encryption, and extended content encryption (ASF specification, section 10.2)
_ASF_OBJECTS = (
    bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e"),
    bytes.fromhex("14e68a292226174cb935dae07ee9289c"),
)


def check_unencrypted(source: Source) -> None:
    """Checks the header of a Matroska or ASF file; files of other formats pass.

    Args:
        source: of the video.

    Raises:
        DecodeError: the header says that the file is encrypted.
    """
    with source.open() as file:
        head = file.read(1 << 14)
    if head.startswith(_ASF) and any(name in head for name in _ASF_OBJECTS):
        raise encrypted(source)
    if head.startswith(_MATROSKA):
        outer, middle, inner = _MATROSKA_IDS
        at = head.find(outer)
        while at >= 0:
            within = head.find(middle, at, at + _NEAR)
            if within >= 0 and head.find(inner, within, within + _NEAR) >= 0:
                raise encrypted(source)
            at = head.find(outer, at + 1)


def encrypted(source: object) -> DecodeError:
    """The error for an encrypted file."""
    return DecodeError(f"{source} is encrypted (accepted: videos without copy protection). Give a copy that is not.")
