"""`videokd inspect`: what a video's codec holds and can give, and what reading it costs."""

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
# Two frame rates that differ by less are told as one
_CLOSE_RATES = 0.02


@dataclass(frozen=True)
class Inspect:
    """Tells what a video's codec holds and can give, and measures what reading each stream costs on this machine.

    Args:
        file: the video.
        format: of what is printed.
        seconds_measured: how long each stream is read for, at random and once more in order; 0 measures nothing.
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
        facts = describe(video.index, read_file_info(settings.file))
        if settings.seconds_measured > 0:
            cost = measure(settings.file, video.index, seconds=settings.seconds_measured)
            facts["cost"] = {"index_ms": round(index_ms, 2)} | cost
    if settings.format == "json":
        give([json.dumps({"file": settings.file} | facts, ensure_ascii=False)])
    else:
        give([settings.file, *_table(facts)])


def describe(index: VideoIndex, facts: FileInfo) -> dict[str, Any]:
    """What is known without decoding more than one picture, fit for JSON."""
    lengths = [gop.num_positions for gop in index.gops]
    kinds = index.types.upper()
    gives_motion = index.codec in MOTION_CODECS
    no_motion = f"{index.codec} exports no motion vectors; `videokd prepare folder` transcodes it"
    seconds = index.duration_seconds
    return {
        "container": facts.container,
        "bytes": facts.num_bytes,
        "kilobits_per_second": round(facts.num_bytes / 125 / seconds, 1),
        "codec": index.codec,
        "profile": facts.profile,
        "level": facts.level,
        "size": f"{index.width}x{index.height}",
        "pixel_format": facts.pixel_format,
        "bits": facts.bits,
        "matrix": facts.matrix,
        "range": facts.value_range,
        "pixel_aspect": list(facts.pixel_aspect),
        "rotation": facts.rotation,
        "mirrored": facts.mirrored,
        "other_tracks": list(facts.other_tracks),
        "frame_rate": round(index.frame_rate, 3),
        "frames": index.num_frames,
        "seconds": round(seconds, 3),
        "frames_per_second_on_average": round(index.num_frames / seconds, 3),
        "variable_frame_rate": bool(index.times),
        "frame_types": {kind: kinds.count(kind) for kind in "IPBS" if kind in kinds},
        "b_frames_never_decoded": index.types.count("b"),
        "references": facts.references,
        "gops": {
            "number": len(lengths),
            "positions": sum(lengths),
            "shortest": min(lengths),
            "median": statistics.median_low(lengths),
            "longest": max(lengths),
            "lengths": lengths,
        },
        "streams": ["iframe", "frame", *(["motion", "residual"] if gives_motion else [])],
        "exact": index.exact if gives_motion else False,
        "because": list(index.inexact_because) if gives_motion else [no_motion],
    }


def measure(path: str, index: VideoIndex, *, seconds: float) -> dict[str, Any]:
    """Times reading, in one thread, with the file open and in the system's cache.

    Args:
        path: of the video.
        index: of this video.
        seconds: how long each stream is read for, at random and again in order; at least one read each.

    Returns:
        {"streams": {stream: {"random_ms": median of reads at random places, "per_second": reads in order}}}; with "problem"
        where the file cannot be read on.
    """
    rows: dict[str, tuple[str, ...]] = {name: (name,) for name in ("iframe", "frame")}
    if index.codec in MOTION_CODECS:
        rows |= {"motion": ("motion",), "residual": ("residual",), " + ".join(_TRAINED_ON): _TRAINED_ON}
    costs: dict[str, Any] = {"streams": {}}
    try:
        for name, streams in rows.items():
            with open_video(path, index=index) as video:  # the first read compiles
                video.read(gop=0, position=min(1, video.gops[0].num_positions - 1), streams=streams)
            at_random, in_order = (_times(path, index, streams, shuffled, seconds) for shuffled in (True, False))
            costs["streams"][name] = {
                "random_ms": round(1000 * statistics.median(at_random), 3),
                "per_second": round(len(in_order) / sum(in_order), 1),
            }
    except DecodeError as error:
        costs["problem"] = str(error)
    return costs


def _times(path: str, index: VideoIndex, streams: tuple[str, ...], shuffled: bool, seconds: float) -> list[float]:
    """Seconds of each read, until they are enough."""
    times: list[float] = []
    with open_video(path, index=index) as video:  # a fresh one, which keeps nothing from an earlier read
        for gop, position in _places(video, alone=streams == ("iframe",), shuffled=shuffled):
            started = time.perf_counter()
            video.read(gop=gop, position=position, streams=streams)
            times.append(time.perf_counter() - started)
            if sum(times) > seconds:
                break
    return times


def _places(video: VideoReader, *, alone: bool, shuffled: bool) -> list[tuple[int, int]]:
    """(GOP, position) of each read: every I-frame, or every position; position 0 has neither motion nor residual."""
    places = [
        (gop.index, position)
        for gop in video.gops
        for position in ((0,) if alone else range(min(1, gop.num_positions - 1), gop.num_positions))
    ]
    if not shuffled:
        return places
    chosen = np.random.default_rng(0).permutation(len(places))[:_MOST_READS]
    return [places[number] for number in chosen]


def _table(facts: dict[str, Any]) -> Iterator[str]:
    """The facts in lines for people."""
    for name, value in _lines(facts):
        yield f"  {name:<14}{value}"
    if "cost" not in facts:
        return
    cost = facts["cost"]
    yield ""
    yield "  What reading costs, measured on this machine in one thread:"
    yield f"    {'':<28}{'at random':>14}{'in order':>18}"
    for name, row in cost["streams"].items():
        unit = "I-frames/s" if name == "iframe" else "positions/s"
        yield f"    {name:<28}{row['random_ms']:>11.2f} ms{row['per_second']:>10.0f} {unit}"
    yield f"    scanning the file once, which a manifest saves: {cost['index_ms']:.1f} ms"
    if "problem" in cost:
        yield f"    it ended early: {cost['problem']}"


def _lines(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    profile = f", {facts['profile'].removesuffix(' Profile')} profile" if facts["profile"] else ""
    level = f", level {facts['level']}" if facts["level"] else ""
    aspect = "" if facts["pixel_aspect"] == [1, 1] else ", pixels {}:{}".format(*facts["pixel_aspect"])
    matrix, value_range = facts["matrix"] or "BT.601 (not stated)", facts["range"] or "limited (not stated)"
    size = facts["size"].replace("x", "×")
    yield "file", f"{_bytes(facts['bytes'])}, {facts['container']}, {facts['kilobits_per_second']:.0f} kbit/s"
    yield "codec", f"{facts['codec']}{profile}{level}"
    yield "picture", f"{size}{aspect}, {facts['pixel_format']}, {facts['bits']} bits"
    if facts["pixel_format"].startswith("yuv"):
        yield "colour", f"matrix {matrix}, range {value_range}"
    if facts["rotation"] or facts["mirrored"]:
        mirrored = "mirrored left to right, then turned by " if facts["mirrored"] else ""
        yield "orientation", f"{mirrored}{facts['rotation']}° when played; streams are given as they are coded"
    if facts["other_tracks"]:
        yield "other tracks", ", ".join(facts["other_tracks"])
    yield "length", f"{facts['seconds']:.2f} s, {facts['frames']} frames{_pace(facts)}"
    kinds = ", ".join(f"{count} {kind}" for kind, count in facts["frame_types"].items())
    skipped = facts["b_frames_never_decoded"]
    yield (
        "frame types",
        kinds + (f"; {skipped} B-frames are never decoded, as nothing refers to them" if skipped else ""),
    )
    yield "GOPs", _gops(facts["gops"])
    if facts["references"] is not None:
        yield (
            "references",
            f"a P-frame refers to {'one frame' if facts['references'] == 1 else 'up to {} frames'.format(facts['references'])}",
        )
    yield "streams", ", ".join(facts["streams"])
    reasons = "; ".join(facts["because"])
    if "motion" not in facts["streams"]:
        yield "motion", f"none: {reasons}"
    else:
        exact = "yes: every P-frame's vectors point at the position before it"
        yield (
            "exact",
            exact if facts["exact"] else f"no: {reasons}; `videokd prepare folder` makes exact ones",
        )


def _pace(facts: dict[str, Any]) -> str:
    stated, average = facts["frame_rate"], facts["frames_per_second_on_average"]
    if not facts["variable_frame_rate"] and abs(stated - average) <= _CLOSE_RATES * stated:
        return f" at {stated:g} a second"
    spacing = ", variable rate" if facts["variable_frame_rate"] else ""
    return f"{spacing}, {average:g} a second on average; the file states {stated:g}"


def _gops(gops: dict[str, Any]) -> str:
    lengths = collections.Counter(gops["lengths"])
    text = f"{gops['number']} with {gops['positions']} positions (I- and P-frames)"
    if len(lengths) == 1:
        text += f", {gops['longest']} in each" if gops["number"] > 1 else ""
    else:
        text += f", {gops['shortest']} to {gops['longest']} in each, median {gops['median']}"
    if gops["median"] > _LONG_GOP:
        text += "; long for reading at random: `videokd prepare folder` makes GOPs of 12"
    return text


def _bytes(count: int) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000  # type: ignore[assignment]
    return f"{count:.3g} GB"
