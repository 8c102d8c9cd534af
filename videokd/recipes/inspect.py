"""`videokd inspect`: what a video's codec holds and can give."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from videokd.codec.container import MOTION_CODECS, index_video
from videokd.codec.index import VideoIndex
from videokd.recipes.command_line import parse


@dataclass(frozen=True)
class Inspect:
    """Tells what a video's codec holds and can give.

    Args:
        file: the video.
        format: of what is printed.
    """

    file: str
    format: Literal["table", "json"] = "table"


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    settings = parse(Inspect, arguments, verb="inspect", positional=("file",))
    facts = describe(index_video(settings.file))
    if settings.format == "json":
        sys.stdout.write(json.dumps({"file": settings.file} | facts) + "\n")
        return
    sys.stdout.write(f"{settings.file}\n")
    for name, value in facts.items():
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else _plain(value)
        sys.stdout.write(f"  {name.replace('_', ' '):<16}{shown}\n")


def describe(index: VideoIndex) -> dict[str, Any]:
    """The facts, fit for JSON."""
    lengths = sorted(gop.num_positions for gop in index.gops)
    kinds = index.types.upper()
    gives_motion = index.codec in MOTION_CODECS
    return {
        "codec": index.codec,
        "size": f"{index.width}x{index.height}",
        "frame_rate": round(index.frame_rate, 3),
        "frames": index.num_frames,
        "seconds": round(index.num_frames / index.frame_rate, 3),
        "frame_types": {kind: kinds.count(kind) for kind in "IPBS" if kind in kinds},
        "gops": {
            "number": len(lengths),
            "positions": sum(lengths),
            "shortest": lengths[0],
            "median": lengths[len(lengths) // 2],
            "longest": lengths[-1],
        },
        "streams": ["iframe", "frame", *(["motion", "residual"] if gives_motion else [])],
        "exact": index.exact if gives_motion else False,
        "because": list(index.inexact_because)
        if gives_motion
        else [f"{index.codec} exports no motion vectors; `videokd prepare` transcodes it"],
    }


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "-"
    return str(value)
