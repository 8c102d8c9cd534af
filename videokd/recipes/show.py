"""`videokd show`: a picture of a video's streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videokd.codec.picture import save_picture, streams_picture
from videokd.codec.streams import open_video
from videokd.errors import ConfigError
from videokd.recipes.command_line import parse, say


@dataclass(frozen=True)
class Show:
    """Draws I-frame, motion, residual, warped I-frame and frame at a few positions of a video.

    Args:
        file: the video.
        save: the PNG to write.
        gop: which GOP; by default the longest of the first ten.
        positions: which positions of it; by default three, from the first to the last.
    """

    file: str
    save: str
    gop: int | None = None
    positions: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if Path(self.save).suffix.lower() != ".png":
            raise ConfigError(f"save is {self.save} (accepted: a name ending in .png). Change the name.")


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    settings = parse(Show, arguments, verb="show", positional=("file",))
    with open_video(settings.file) as video:
        gop = settings.gop
        if gop is None:
            gop = max(range(min(len(video.gops), 10)), key=lambda number: video.gops[number].num_positions)
        last = video.gops[gop].num_positions - 1 if 0 <= gop < len(video.gops) else 0
        positions = settings.positions or sorted({min(1, last), (last + 1) // 2, last})
        streams = [
            video.read(gop=gop, position=position, streams=("iframe", "motion", "residual", "frame"))
            for position in positions
        ]
    title = Path(settings.file).name
    save_picture(streams_picture(streams, title=title), Path(settings.save))
    say(f"{settings.save}: GOP {gop}, positions {', '.join(map(str, positions))} of {title}")
