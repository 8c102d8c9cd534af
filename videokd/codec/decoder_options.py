"""FFmpeg's options of a decoder that exports motion vectors: what it may skip where only vectors are wanted."""

from __future__ import annotations

from videokd.codec.index import VideoIndex

_EXPORT_VECTORS = {"flags2": "+export_mvs"}
# Where only vectors are wanted, pixels may be wrong: without these two steps, decoding takes up to a third less time
_WITHOUT_FILTER = {"skip_loop_filter": "all"}
_ONLY_VECTORS = _WITHOUT_FILTER | {"skip_idct": "all"}
#: Codecs whose decoders export vectors and can also decode at an eighth of the size, which makes motion compensation nearly free; H.264's
#: cannot.
SHRINKING_CODECS = (
    *("mpeg4", "mpeg1video", "mpeg2video", "h263", "h263p", "h263i", "flv"),
    *("msmpeg4v1", "msmpeg4v2", "msmpeg4", "wmv1", "wmv2", "rv10", "rv20"),
)
_SHRINK_BITS = 3
# Sketches have at least so many rows: if they are smaller, errors of motion compensation add up over a GOP, and an I-frame looks like a
# new scene
_SKETCH_ROWS = 60


def decoder_options(codec: str, *, pictures: bool, sketched: int | None = None) -> dict[str, str]:
    """FFmpeg's options of a decoder that exports vectors.

    Args:
        codec: FFmpeg's name of it.
        pictures: whether pictures are wanted; if not, the decoder skips what only they need.
        sketched: height of the picture in pixels, if small or rough pictures are wanted instead.

    Returns:
        {FFmpeg's name of an option: its value}.
    """
    if pictures:
        return _EXPORT_VECTORS
    bits = _shrink_bits(codec, sketched)
    skipped = _ONLY_VECTORS if sketched is None else _WITHOUT_FILTER
    return _EXPORT_VECTORS | skipped | ({"lowres": str(bits)} if bits else {})


def _shrink_bits(codec: str, sketched: int | None) -> int:
    """How often the decoder halves the size."""
    if codec not in SHRINKING_CODECS:
        return 0
    return _SHRINK_BITS if sketched is None else min((sketched // _SKETCH_ROWS or 1).bit_length() - 1, _SHRINK_BITS)


def decoded_size(index: VideoIndex, *, pictures: bool, sketches: bool = False) -> tuple[int, int]:
    """(width, height) in pixels of the frames that a decoder with the options of `decoder_options` gives.

    Args:
        index: of the video.
        pictures: whether pictures are wanted.
        sketches: whether small or rough pictures are wanted instead.
    """
    bits = 0 if pictures else _shrink_bits(index.codec, index.height if sketches else None)
    return -(-index.width >> bits), -(-index.height >> bits)
