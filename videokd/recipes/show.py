"""`videokd show`: draws the streams of a video as a picture, or as a short film."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from videokd.codec.container import MOTION_CODECS
from videokd.codec.reader import VideoReader, open_video
from videokd.drawing.film import FILMS, Film, save_film
from videokd.drawing.panels import Image, full_colour_pixels
from videokd.drawing.picture import places_to_show, positions_to_show, save_picture, streams_picture
from videokd.errors import ConfigError
from videokd.messages import say
from videokd.recipes.command_line import parse
from videokd.types import Streams

_ENDINGS = (".png", *FILMS)
_MOST_PICTURES, _ENOUGH_PICTURES = 150, 48

#: (GOP, position).
Place = tuple[int, int]


@dataclass(frozen=True)
class Show:
    """Draws I-frame, motion, valid mask, warped I-frame, residual and frame of a video, as a picture or a film.

    Args:
        file: the video.
        save: the file to write: a picture of a few positions (.png), or a film of all positions (.mp4, .gif).
        gop: which GOP to show, or where a film starts; by default the longest of the first ten.
        positions: which positions of a GOP; by default three of the first twelve in a picture, and all in a film.
        gops: how many GOPs a film shows; by default enough for about 50 pictures.
        pictures_per_second: of a film; by default half the video's speed.
    """

    file: str
    save: str
    gop: int | None = None
    positions: tuple[int, ...] = ()
    gops: int | None = None
    pictures_per_second: float | None = None

    def __post_init__(self) -> None:
        ending = Path(self.save).suffix.lower()
        if ending not in _ENDINGS:
            raise ConfigError(
                f"save is {self.save} (accepted: a name ending in {', '.join(_ENDINGS)}). Change the name."
            )
        for name, value in (("gops", self.gops), ("pictures_per_second", self.pictures_per_second)):
            if value is not None and ending not in FILMS:
                raise ConfigError(f"{name} is {value} with {self.save} (accepted: with {' or '.join(FILMS)}). Omit it.")
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value} (accepted: above 0). Change it.")


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    settings = parse(Show, arguments, verb="show", positional=("file",))
    if Path(settings.save).exists() and Path(settings.file).exists() and Path(settings.save).samefile(settings.file):
        raise ConfigError(f"--save {settings.save} is the video itself (accepted: another file). Choose another name.")
    with open_video(settings.file) as video:
        streams = _streams_of(video)
        if "motion" not in streams:
            say(
                f"{settings.file} is {video.codec}, which exports no motion vectors: only I-frame and frame are drawn. "
                "`videokd prepare folder` transcodes it."
            )
        gop = settings.gop
        if gop is None:
            gop, _ = places_to_show([group.num_positions for group in video.gops])
        elif not 0 <= gop < len(video.gops):
            raise ConfigError(
                f"{settings.file}: gop={gop} (accepted: 0 to {len(video.gops) - 1}). See `videokd inspect`."
            )
        if Path(settings.save).suffix.lower() in FILMS:
            _write_film(video, gop, streams, settings)
        else:
            _write_picture(video, gop, streams, settings)


def _streams_of(video: VideoReader) -> tuple[str, ...]:
    """The streams that the video has."""
    return ("iframe", "motion", "residual", "frame") if video.codec in MOTION_CODECS else ("iframe", "frame")


def _title(video: VideoReader, settings: Show) -> str:
    inexact = "" if video.exact or video.codec not in MOTION_CODECS else ", inexact chains"
    return f"{Path(settings.file).name}   ({video.codec}, {video.width}×{video.height}{inexact})"


def _write_picture(video: VideoReader, gop: int, streams: tuple[str, ...], settings: Show) -> None:
    positions = settings.positions or positions_to_show(video.gops[gop].num_positions)
    samples = [video.read(gop=gop, position=position, streams=streams) for position in positions]
    save_picture(streams_picture(samples, title=_title(video, settings)), settings.save)
    say(f"{settings.save}: GOP {gop}, positions {', '.join(map(str, positions))} of {settings.file}")


def _write_film(video: VideoReader, gop: int, streams: tuple[str, ...], settings: Show) -> None:
    places = _places_to_film(video, gop, settings)
    pace = settings.pictures_per_second or _half_pace(video, places)
    max_pixels = 1.0
    if "motion" in streams:
        motions = (_read(video, place, ("motion",)).motion for place in places)
        max_pixels = full_colour_pixels(motion for motion in motions if motion is not None)

    def pictures() -> Iterator[Image]:
        film = None
        for number, place in enumerate(places, 1):
            sample = _read(video, place, streams)
            if film is None:
                dots = FILMS[Path(settings.save).suffix.lower()]
                film = Film(sample, title=_title(video, settings), max_pixels=max_pixels, dots_per_inch=dots)
            yield film.draw(sample, note=_position_text(video, place), progress=number / len(places))

    save_film(pictures(), settings.save, pictures_per_second=pace)
    say(
        f"{settings.save}: {len(places)} positions of {places[-1][0] - gop + 1} GOPs of {settings.file}, {pace:g} a second"
    )


def _read(video: VideoReader, place: Place, streams: tuple[str, ...]) -> Streams:
    """The streams at one place."""
    return video.read(gop=place[0], position=place[1], streams=streams)


def _places_to_film(video: VideoReader, gop: int, settings: Show) -> list[Place]:
    """(GOP, position) of each picture of a film; positions that a GOP does not have are skipped."""
    places: list[Place] = []
    shown = video.gops[gop : gop + (settings.gops or len(video.gops))]
    for group in shown:
        if settings.gops is None and len(places) >= _ENOUGH_PICTURES:
            break
        positions = settings.positions or range(group.num_positions)
        places += [(group.index, position) for position in positions if 0 <= position < group.num_positions]
    if not places:
        given, last = ", ".join(map(str, settings.positions)), max(group.num_positions for group in shown) - 1
        raise ConfigError(
            f"{settings.file}: no GOP from {gop} on has any of the positions {given} (accepted: 0 to {last}). See `videokd inspect`."
        )
    return places if settings.gops or settings.positions else places[:_MOST_PICTURES]


def _half_pace(video: VideoReader, places: list[Place]) -> float:
    """Pictures a second, between 2 and 30, at which the film takes twice as long as the part of the video that it shows."""
    numbers = [video.gops[gop].frame_numbers[position] for gop, position in places]
    index = video.index
    one = index.duration_seconds / index.num_frames
    seconds = index.seconds_of(max(numbers)) - index.seconds_of(min(numbers)) + one
    return round(min(max(0.5 * len(places) / seconds, 2.0), 30.0), 2)


def _position_text(video: VideoReader, place: Place) -> str:
    gop, position = video.gops[place[0]], place[1]
    number = gop.frame_numbers[position]
    seconds = video.index.seconds_of(number)
    return (
        f"GOP {gop.index}/{len(video.gops) - 1} · position {position}/{gop.num_positions - 1} · "
        f"frame {number}/{video.num_frames - 1} · {seconds:.2f} s"
    )
