"""`videokd prepare`: a dataset into the training form, with its manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from videokd.codec.transcode import Encoding
from videokd.datasets.layouts import Entry, folder_layout, hmdb51_layout, ucf101_layout
from videokd.datasets.manifest import Manifest
from videokd.datasets.preparation import prepare
from videokd.errors import ConfigError
from videokd.recipes.command_line import parse, say


@dataclass(frozen=True)
class Prepare:
    """Transcodes a dataset into the training form and writes its manifest; started again, it does what is missing.

    Args:
        layout: ucf101, hmdb51, or folder (one folder a class, or train, val and test with such folders in each).
        directory: where the videos are.
        out: the folder to write; outside the dataset's own.
        lists: folder of the official split lists; UCF101 does without by its rule of groups.
        group_pattern: folder: regular expression whose first group names a clip's group (scene, person).
        test_fraction: folder: share of each class's groups that a split tests.
        flip: whether a clip mirrored left to right still shows its class.
        jobs: clips made at the same time; by default one for each CPU.
        on_error: fail at the end if a file fails, or skip it with a warning; failures.csv lists them either way.
        codec: mpeg4 (as CoViAR) or h264.
        gop: pictures from one I-frame to the next.
        quality: quantiser of mpeg4 (1 to 31) or CRF of h264 (0 to 51); small is good.
        short_side: in pixels; 4:3 pictures become 340×256 with the default.
        frame_rate: keep, or the rate that every file states (every picture is kept); the rate can give the class away.
    """

    layout: Literal["ucf101", "hmdb51", "folder"]
    directory: str
    out: str
    lists: str | None = None
    group_pattern: str | None = None
    test_fraction: float = 0.3
    flip: bool = True
    jobs: int | None = None
    on_error: Literal["fail", "skip"] = "fail"
    codec: Literal["mpeg4", "h264"] = "mpeg4"
    gop: int = 12
    quality: int | None = None
    short_side: int = 256
    frame_rate: str = "keep"

    def encoding(self) -> Encoding:
        """How the clips are encoded.

        Raises:
            ConfigError: a value is out of its range.
        """
        try:
            rate = None if self.frame_rate == "keep" else float(self.frame_rate)
        except ValueError as error:
            raise ConfigError(f"frame_rate {self.frame_rate} (accepted: keep, or frames a second). Pass 25.") from error
        return Encoding(self.codec, gop=self.gop, quality=self.quality, short_side=self.short_side, frame_rate=rate)


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    settings = parse(Prepare, arguments, verb="prepare", positional=("layout", "directory"))
    manifest = prepare_dataset(settings)
    say(
        f"{settings.out}: {_summary(manifest)}. Next: videokd teach --stream motion --manifest {settings.out} --out RUN"
    )


def prepare_dataset(settings: Prepare) -> Manifest:
    """Prepares a dataset, or finishes one; returns its manifest."""
    return prepare(
        _entries(settings),
        settings.directory,
        settings.out,
        encoding=settings.encoding(),
        jobs=settings.jobs,
        on_error=settings.on_error,
        flip=settings.flip,
    )


def _entries(settings: Prepare) -> tuple[Entry, ...]:
    root = Path(settings.directory)
    if settings.layout == "folder":
        return folder_layout(root, group_pattern=settings.group_pattern, test_fraction=settings.test_fraction)
    layout = ucf101_layout if settings.layout == "ucf101" else hmdb51_layout
    return layout(root, lists=Path(settings.lists) if settings.lists else None)


def _summary(manifest: Manifest) -> str:
    parts = Counter(clip.split1 for clip in manifest.clips)
    groups = len({clip.group for clip in manifest.clips})
    size = sum(clip.bytes for clip in manifest.clips) / 1e6
    return (
        f"{len(manifest.clips)} clips of {len(manifest.class_names)} classes in {groups} groups, {size:.0f} MB; "
        f"split 1: {parts['train']} train, {parts['test']} test"
    )
