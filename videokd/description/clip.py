"""Describes one clip: what its headers say, how it moves, where it cuts; at decoding speed, and without decoding full pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from videokd.bitstream.source import Openable, source_of
from videokd.codec.colours import Colours
from videokd.codec.container import MOTION_CODECS, PictureDecoder, vectors_of
from videokd.codec.cursor import Decoded
from videokd.codec.index import Limits, VideoIndex
from videokd.codec.indexing import open_indexed
from videokd.description.block_motion import BlockMotion, MotionCounter
from videokd.description.cuts import CutFinder
from videokd.description.sketches import Sketch, hash_of, sketch_of

_MOST_HASHES = 16
_DIGITS = 5


@dataclass(frozen=True)
class ClipDescription:
    """What a clip holds and how it moves, as `videokd.describe` gives it.

    Motion is that of the blocks in P-frames, as the codec has it: from each frame to the one before it that it is predicted from. Speeds are in
    picture heights a second, which compares clips of all sizes and frame rates. What needs motion vectors is None for codecs that
    export none (HEVC, VP9, AV1, …), and for clips without P-frames.

    Args:
        path: of the file, as given; in a table, from the folder that was described.
        bytes: size of the file.
        seconds: from the first frame to the end of the last.
        width: in pixels, as coded.
        height: in pixels, as coded.
        codec: FFmpeg's name of the decoder.
        frame_rate: frames a second, on average.
        frames: number of frames.
        gops: number of groups of pictures, which is that of I-frames.
        exact: whether every P-frame's vectors surely point at the I- or P-frame before it; if not, lengths are approximations. False
            without vectors.
        motion: mean speed of blocks, in picture heights a second; blocks without a vector do not count.
        motion_p95: 95th percentile of the same.
        motion_pixels: mean length of vectors, in pixels a frame.
        motion_pixels_p95: 95th percentile of the same.
        still: share of the picture whose blocks have a zero vector, 0 to 1, averaged over P-frames.
        intra: share whose blocks are intra, which no vector covers, 0 to 1, averaged over P-frames.
        camera: mean speed of the median vector of a frame, in picture heights a second.
        camera_x: mean of the median vector, in picture heights a second; positive where the picture's content moves right.
        camera_y: the same; positive where it moves down.
        shake: mean change of the median vector from one P-frame to the next, in picture heights a second.
        cuts: number of cuts to another scene.
        cut_seconds: when each new scene begins, in seconds.
        hashes: perceptual hashes of up to 16 I-frames, 16 hexadecimal digits each; none of pictures of one colour.
        near_duplicate_of: path of an earlier clip of the same archive that shows the same; empty: there is none; None: nobody looked for it.
    """

    path: str
    bytes: int
    seconds: float
    width: int
    height: int
    codec: str
    frame_rate: float
    frames: int
    gops: int
    exact: bool
    motion: float | None = None
    motion_p95: float | None = None
    motion_pixels: float | None = None
    motion_pixels_p95: float | None = None
    still: float | None = None
    intra: float | None = None
    camera: float | None = None
    camera_x: float | None = None
    camera_y: float | None = None
    shake: float | None = None
    cuts: int | None = None
    cut_seconds: tuple[float, ...] | None = None
    hashes: tuple[str, ...] = ()
    near_duplicate_of: str | None = None


def describe(path: Openable, *, limits: Limits | None = None) -> ClipDescription:
    """Describes a clip: size, codec and GOPs, motion, camera motion, cuts and perceptual hashes; docs/describe.md defines each.

    The file is decoded once, without what only full pictures need: as fast as decoding.

    Args:
        path: of a file, in any container and codec that FFmpeg reads; or the bytes of one; or a file object, as for `videokd.open`.
        limits: what to refuse; None: the defaults of `videokd.codec.index.Limits`.

    Returns:
        The description; `near_duplicate_of` is None: only `videokd describe` compares clips.

    Raises:
        DecodeError: the file is missing, empty, cut short, damaged, not a video, or exceeds a limit.

    >>> videokd.describe("clip.mp4").still              # doctest: +SKIP
    0.73
    """
    source = source_of(path)
    decoder, index = open_indexed(source, limits=limits or Limits())
    try:
        measured = _measured(decoder, index) if index.codec in MOTION_CODECS else {"hashes": _hashes(decoder, index)}
    finally:
        decoder.close()
    seconds = index.duration_seconds
    return ClipDescription(
        path=str(source),
        bytes=source.size,
        seconds=round(seconds, _DIGITS),
        width=index.width,
        height=index.height,
        codec=index.codec,
        frame_rate=round(index.num_frames / seconds, _DIGITS),
        frames=index.num_frames,
        gops=len(index.gops),
        exact=index.exact and index.codec in MOTION_CODECS,
        **measured,
    )


def _measured(decoder: PictureDecoder, index: VideoIndex) -> dict[str, Any]:
    """{field: value} of what decoding tells."""
    decoder.set_output(pictures=index.vectors_need_pictures, sketches=True)
    size, colours = decoder.frame_size(index), Colours()
    counter, cuts = MotionCounter(index.width, index.height, index.crop), CutFinder()
    sketches: list[Sketch] = []
    before: int | None = None
    for packet, frame in decoder.decode_from(index, 0):
        number, is_first = index.frame_number(packet), index.types[packet] == "I"
        if before is None and not is_first:
            continue
        intra = 1.0 if is_first or before is None else counter.add(vectors_of(frame), max(number - before, 1))
        cuts.add(Decoded(frame, colours, size, decoder.source, number), index.seconds_of(number), intra)
        if is_first:
            sketches.append(cuts.latest_sketch())
        before = number
    cuts.end()
    motion = counter.motion()
    seconds = tuple(round(value, _DIGITS) for value in cuts.seconds)
    speeds = {} if motion is None else _speeds(motion, index.num_frames / index.duration_seconds, index.height)
    return {**speeds, "cuts": len(cuts.seconds), "cut_seconds": seconds, "hashes": _chosen_hashes(sketches)}


def _speeds(motion: BlockMotion, frame_rate: float, height: int) -> dict[str, float]:
    """{field: value}: lengths in pixels a frame as picture heights a second."""
    heights = frame_rate / height
    values = {
        "motion": motion.mean * heights,
        "motion_p95": motion.percentile * heights,
        "motion_pixels": motion.mean,
        "motion_pixels_p95": motion.percentile,
        "still": motion.still,
        "intra": motion.intra,
        "camera": motion.camera * heights,
        "camera_x": motion.camera_x * heights,
        "camera_y": motion.camera_y * heights,
        "shake": motion.shake * heights,
    }
    return {name: round(value, _DIGITS) for name, value in values.items()}


def _hashes(decoder: PictureDecoder, index: VideoIndex) -> tuple[str, ...]:
    """Those of keyframes, where the rest of the video is not needed."""
    colours, size = Colours(), decoder.frame_size(index)
    sketches = []
    for key in _evenly(range(len(index.keyframes))):
        number = index.frame_number(index.keyframes[key][0])
        frame = decoder.decode_keyframe(index, key)
        sketches.append(sketch_of(Decoded(frame, colours, size, decoder.source, number)))
    return _chosen_hashes(sketches)


def _chosen_hashes(sketches: Sequence[Sketch]) -> tuple[str, ...]:
    found = (hash_of(sketch) for sketch in _evenly(sketches))
    return tuple(dict.fromkeys(value for value in found if value is not None))


def _evenly(values: Sequence[Any]) -> list[Any]:
    """Up to 16 of them, from the first to the last."""
    if len(values) <= _MOST_HASHES:
        return list(values)
    return [values[place * (len(values) - 1) // (_MOST_HASHES - 1)] for place in range(_MOST_HASHES)]
