"""`videokd inspect`: what a video contains, which streams it gives, and how long reading takes."""

from __future__ import annotations

import collections
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from videokd.codec.container import MOTION_CODECS
from videokd.codec.file_info import FileInfo, read_file_info
from videokd.codec.index import VideoIndex
from videokd.codec.reader import VideoReader, open_video
from videokd.errors import DecodeError
from videokd.messages import give
from videokd.recipes.command_line import parse

_TRAINED_ON = ("iframe", "motion", "residual")
_LONG_GOP = 60
_MOST_READS = 50
# Two frame rates that differ by less are reported as one
_CLOSE_RATES = 0.02


@dataclass(frozen=True)
class Inspect:
    """Prints codec, GOPs and frame types of a video and the streams that it gives, and times reading each on this machine.

    Args:
        file: the video.
        format: of the output.
        seconds_measured: how long each stream is read at random, and again in order; 0: nothing is measured.
    """

    file: str
    format: Literal["table", "json"] = "table"
    seconds_measured: float = 0.2


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    settings = parse(Inspect, arguments, verb="inspect", positional=("file",))
    started = time.perf_counter()
    with open_video(settings.file) as video:
        index_ms = 1000 * (time.perf_counter() - started)
        description = inspection_of(video.index, read_file_info(settings.file))
        if settings.seconds_measured > 0:
            cost = measure_reading(settings.file, video.index, seconds=settings.seconds_measured)
            description["cost"] = {"index_ms": round(index_ms, 2)} | cost
    if settings.format == "json":
        give([json.dumps({"file": settings.file} | description, ensure_ascii=False)])
    else:
        give([settings.file, *_table_lines(description)])


def inspection_of(index: VideoIndex, info: FileInfo) -> dict[str, Any]:
    """What a file's index and its headers tell.

    Args:
        index: of the file.
        info: of the same file.

    Returns:
        {name: value}, which `--format json` prints.
    """
    kinds = index.types.upper()
    gives_motion = index.codec in MOTION_CODECS
    no_motion = f"{index.codec} exports no motion vectors; `videokd prepare folder` transcodes it"
    seconds = index.duration_seconds
    return {
        "container": info.container,
        "bytes": info.num_bytes,
        "kilobits_per_second": round(info.num_bytes / 125 / seconds, 1),
        "codec": index.codec,
        "profile": info.profile,
        "level": info.level,
        "size": f"{index.width}x{index.height}",
        "pixel_format": info.pixel_format,
        "bits": info.bits,
        "matrix": info.matrix,
        "range": info.value_range,
        "pixel_aspect": list(info.pixel_aspect),
        "rotation": info.rotation,
        "mirrored": info.mirrored,
        "other_tracks": list(info.other_tracks),
        "frame_rate": round(index.frame_rate, 3),
        "frames": index.num_frames,
        "seconds": round(seconds, 3),
        "frames_per_second_on_average": round(index.num_frames / seconds, 3),
        "variable_frame_rate": bool(index.times),
        "frame_types": {kind: kinds.count(kind) for kind in "IPBS" if kind in kinds},
        "b_frames_never_decoded": index.types.count("b"),
        "references": info.references,
        "gops": _describe_gops([gop.num_positions for gop in index.gops]),
        "streams": ["iframe", "frame", *(["motion", "residual"] if gives_motion else [])],
        "exact": index.exact if gives_motion else False,
        "because": list(index.inexact_because) if gives_motion else [no_motion],
    }


def _describe_gops(lengths: list[int]) -> dict[str, Any]:
    """How many GOPs there are, and how many positions each has."""
    return {
        "number": len(lengths),
        "positions": sum(lengths),
        "shortest": min(lengths),
        "median": statistics.median_low(lengths),
        "longest": max(lengths),
        "lengths": lengths,
    }


def measure_reading(path: str, index: VideoIndex, *, seconds: float) -> dict[str, Any]:
    """Times reading in one thread, with the file already open and in the system's cache.

    Args:
        path: of the video.
        index: of this video.
        seconds: how long each stream is read at random, and again in order; at least one read each.

    Returns:
        {"streams": {stream: {"random_ms": median milliseconds of a read at random, "per_second": reads in order per second}}};
        also "problem": the error, if the file could not be read to the end.
    """
    rows: dict[str, tuple[str, ...]] = {name: (name,) for name in ("iframe", "frame")}
    if index.codec in MOTION_CODECS:
        rows |= {"motion": ("motion",), "residual": ("residual",), " + ".join(_TRAINED_ON): _TRAINED_ON}
    costs: dict[str, Any] = {"streams": {}}
    try:
        for name, streams in rows.items():
            with open_video(path, index=index) as video:  # not timed: the first read compiles
                video.read(gop=0, position=min(1, video.gops[0].num_positions - 1), streams=streams)
            at_random, in_order = (_time_reads(path, index, streams, shuffled, seconds) for shuffled in (True, False))
            costs["streams"][name] = {
                "random_ms": round(1000 * statistics.median(at_random), 3),
                "per_second": round(len(in_order) / sum(in_order), 1),
            }
    except DecodeError as error:
        costs["problem"] = str(error)
    return costs


def _time_reads(path: str, index: VideoIndex, streams: tuple[str, ...], shuffled: bool, seconds: float) -> list[float]:
    """Seconds that each read takes, until they add up to `seconds`."""
    times: list[float] = []
    with open_video(path, index=index) as video:  # a new reader: nothing is left of earlier reads
        for gop, position in _places_to_read(video, only_iframes=streams == ("iframe",), shuffled=shuffled):
            started = time.perf_counter()
            video.read(gop=gop, position=position, streams=streams)
            times.append(time.perf_counter() - started)
            if sum(times) > seconds:
                break
    return times


def _places_to_read(video: VideoReader, *, only_iframes: bool, shuffled: bool) -> list[tuple[int, int]]:
    """(GOP, position) of each read: every I-frame, or every position; position 0 has neither motion nor residual."""
    places = [
        (gop.index, position)
        for gop in video.gops
        for position in ((0,) if only_iframes else range(min(1, gop.num_positions - 1), gop.num_positions))
    ]
    if not shuffled:
        return places
    chosen = np.random.default_rng(0).permutation(len(places))[:_MOST_READS]
    return [places[number] for number in chosen]


def _table_lines(description: dict[str, Any]) -> Iterator[str]:
    """The lines of the table."""
    for name, value in (*_file_lines(description), *_stream_lines(description)):
        yield f"  {name:<14}{value}"
    if "cost" not in description:
        return
    cost = description["cost"]
    yield ""
    yield "  Time to read, on this machine in one thread:"
    yield f"    {'':<28}{'at random':>14}{'in order':>18}"
    for name, row in cost["streams"].items():
        unit = "I-frames/s" if name == "iframe" else "positions/s"
        yield f"    {name:<28}{row['random_ms']:>11.2f} ms{row['per_second']:>10.0f} {unit}"
    yield f"    indexing the file, which a manifest makes unnecessary: {cost['index_ms']:.1f} ms"
    if "problem" in cost:
        yield f"    the measurement ended early: {cost['problem']}"


def _file_lines(description: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, text) of what the file's headers tell."""
    profile = f", {description['profile'].removesuffix(' Profile')} profile" if description["profile"] else ""
    level = f", level {description['level']}" if description["level"] else ""
    aspect = "" if description["pixel_aspect"] == [1, 1] else ", pixels {}:{}".format(*description["pixel_aspect"])
    matrix, value_range = description["matrix"] or "BT.601 (not stated)", description["range"] or "limited (not stated)"
    size = description["size"].replace("x", "×")
    bitrate = f"{description['kilobits_per_second']:.0f} kbit/s"
    yield "file", f"{_bytes_text(description['bytes'])}, {description['container']}, {bitrate}"
    yield "codec", f"{description['codec']}{profile}{level}"
    yield "picture", f"{size}{aspect}, {description['pixel_format']}, {description['bits']} bits"
    if description["pixel_format"].startswith("yuv"):
        yield "colour", f"matrix {matrix}, range {value_range}"
    if description["rotation"] or description["mirrored"]:
        mirrored = "mirrored left to right, then turned by " if description["mirrored"] else ""
        yield "orientation", f"{mirrored}{description['rotation']}° by players; streams are as coded"
    if description["other_tracks"]:
        yield "other tracks", ", ".join(description["other_tracks"])
    yield "length", f"{description['seconds']:.2f} s, {description['frames']} frames{_rate_text(description)}"


def _stream_lines(description: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(name, text) of the frames, and of the streams that they give."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in description["frame_types"].items())
    skipped = description["b_frames_never_decoded"]
    yield "frame types", kinds + (f"; {skipped} B-frames are skipped, since no frame refers to them" if skipped else "")
    yield "GOPs", _gops_text(description["gops"])
    references = description["references"]
    if references is not None:
        yield "references", f"a P-frame refers to {'one frame' if references == 1 else f'up to {references} frames'}"
    yield "streams", ", ".join(description["streams"])
    reasons = "; ".join(description["because"])
    if "motion" not in description["streams"]:
        yield "motion", f"none: {reasons}"
    elif description["exact"]:
        yield "exact", "yes: every P-frame's vectors point at the position before it"
    else:
        yield "exact", f"no: {reasons}; `videokd prepare folder` writes a copy that is exact"


def _rate_text(description: dict[str, Any]) -> str:
    """The frame rate, as the end of the line about the length."""
    stated, average = description["frame_rate"], description["frames_per_second_on_average"]
    if not description["variable_frame_rate"] and abs(stated - average) <= _CLOSE_RATES * stated:
        return f" at {stated:g} a second"
    spacing = ", variable rate" if description["variable_frame_rate"] else ""
    return f"{spacing}, {average:g} a second on average; the file states {stated:g}"


def _gops_text(gops: dict[str, Any]) -> str:
    """How many GOPs there are and how long they are, in words."""
    lengths = collections.Counter(gops["lengths"])
    text = f"{gops['number']} with {gops['positions']} positions (I- and P-frames)"
    if len(lengths) == 1:
        text += f", {gops['longest']} in each" if gops["number"] > 1 else ""
    else:
        text += f", {gops['shortest']} to {gops['longest']} in each, median {gops['median']}"
    if gops["median"] > _LONG_GOP:
        text += "; long GOPs are slow to read at random: `videokd prepare folder` makes GOPs of 12"
    return text


def _bytes_text(count: int) -> str:
    """A number of bytes with its unit."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000  # type: ignore[assignment]
    return f"{count:.3g} GB"
