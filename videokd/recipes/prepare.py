"""`videokd prepare`: a dataset into the training form, with its manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from videokd.codec.mp4_writer import Encoding
from videokd.datasets.manifest import Manifest
from videokd.errors import ConfigError
from videokd.messages import say
from videokd.preparation.checks import FAILURES_NAME, FINDINGS_NAME, check_listing, write_plan
from videokd.preparation.folders import folder_layout, unlabelled_layout
from videokd.preparation.listing import Listing, not_taken
from videokd.preparation.official import HMDB51_CLIPS, UCF101_CLIPS, hmdb51_layout, ucf101_layout
from videokd.preparation.prepare_dataset import merge, prepare
from videokd.preparation.shards import Shard
from videokd.preparation.verification import verify
from videokd.preparation.workers import Workers
from videokd.recipes.command_line import parse

_OF_FOLDER = ("group_pattern", "groups", "unlabelled")


@dataclass(frozen=True)
class Prepare:
    """Transcodes a dataset into the training form and writes its manifest; started again, it does what is missing.

    Args:
        layout: ucf101, hmdb51, or folder (one folder a class, or train, val and test with such folders in each).
        directory: where the videos are.
        out: the folder to write; outside the dataset's own.
        plan: write what would be made into this CSV file, from names alone, and stop.
        lists: folder of the official split lists; UCF101 does without by its rule of groups.
        group_pattern: folder: regular expression whose first group names a clip's group (person, scene), the same in all classes.
        groups: folder: a CSV file with columns path and group, in place of a pattern; columns split1, split2, split3 (train,
            test, unused) make the splits. A plan is such a file: edit its groups and splits, and give it here.
        unlabelled: folder: the clips, at any depth, have no labels: for `videokd distill --unlabelled`.
        flip: whether a clip mirrored left to right still shows its class.
        jobs: clips made at the same time; by default one for each CPU.
        engine: local (processes) or ray (an existing Ray cluster).
        address: of the Ray cluster; by default the one that this machine belongs to.
        shard: make the share i/n alone, as a job of a batch scheduler; `merge` follows when all are done.
        merge: put the shares together.
        verify: read and hash everything again, and compare it with the manifest.
        on_error: fail at the end if a file fails, or skip it with a warning; failures.csv lists them either way.
        keep: leave files as they are where their codec exports motion vectors; transcode the others, and those that cannot be read at
            random or are to be turned, mirrored or widened.
        codec: mpeg4 (as CoViAR) or h264.
        gop: pictures from one I-frame to the next.
        quality: quantiser of mpeg4 (1 to 31) or CRF of h264 (0 to 51); small is good.
        short_side: in pixels; 4:3 pictures become 340×256 with the default.
        resample: pictures a second: pictures are dropped or repeated by time, so that motion keeps its speed. For clips of different rates,
            such as your own; 25 is usual. `predict` then resamples alike.
        frame_rate: keep, or the rate that every file states. Every picture is kept, so that motion becomes slower or faster than it
            was; the rate no longer gives the class away. For datasets whose clips all have one rate.
    """

    layout: Literal["ucf101", "hmdb51", "folder"]
    directory: str
    out: str | None = None
    plan: str | None = None
    lists: str | None = None
    group_pattern: str | None = None
    groups: str | None = None
    unlabelled: bool = False
    flip: bool = True
    jobs: int | None = None
    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    shard: str | None = None
    merge: bool = False
    verify: bool = False
    on_error: Literal["fail", "skip"] = "fail"
    keep: bool = False
    codec: Literal["mpeg4", "h264"] = "mpeg4"
    gop: int = 12
    quality: int | None = None
    short_side: int = 256
    resample: float | None = None
    frame_rate: str = "keep"

    def __post_init__(self) -> None:
        asked = [f"--{name}" for name in ("plan", "shard", "merge", "verify") if getattr(self, name)]
        if len(asked) > 1:
            raise ConfigError(f"{' and '.join(asked)} exclude each other (accepted: one at a time). Leave one out.")
        if self.out is None and self.plan is None:
            raise ConfigError("prepare: no --out (accepted: a folder to write). Give one, or --plan FILE.csv.")
        mine, others = ("folder", _OF_FOLDER) if self.layout != "folder" else ("ucf101 and hmdb51", ("lists",))
        unused = next((f.name for f in fields(self) if f.name in others and getattr(self, f.name) != f.default), None)
        if unused is not None:
            raise ConfigError(f"--{unused} is for the layout {mine} (given: {self.layout}). Leave it out.")
        if self.unlabelled and (self.group_pattern or self.groups):
            raise ConfigError(
                "--unlabelled clips are all for training, in no groups. Omit --group-pattern and --groups."
            )

    def encoding(self) -> Encoding:
        """How the clips are encoded.

        Raises:
            ConfigError: a value is out of its range.
        """
        try:
            rate = None if self.frame_rate == "keep" else float(self.frame_rate)
        except ValueError as error:
            raise ConfigError(f"frame_rate {self.frame_rate} (accepted: keep, or frames a second). Pass 25.") from error
        return Encoding(
            self.codec,
            gop=self.gop,
            quality=self.quality,
            short_side=self.short_side,
            frame_rate=rate,
            resample=self.resample,
        )


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    settings = parse(Prepare, arguments, verb="prepare", positional=("layout", "directory"))
    if settings.plan is not None:
        listing = _listing(settings)
        write_plan(listing, settings.plan)
        say(f"{settings.plan}: {len(listing.entries)} clips of {len(listing.class_names)} classes.")
        return
    out = str(settings.out)
    workers = Workers(settings.engine, settings.jobs, settings.address)
    if settings.verify:
        compared = verify(out, settings.directory, workers=workers)
        say(f"{out}: every clip is as it was prepared; so are the {compared} sources that are there.")
        return
    manifest = prepare_dataset(settings)
    if settings.shard is not None:
        say(f"{out}: shard {settings.shard} is done, {len(manifest.clips)} clips. When all are: --merge.")
        return
    _warn(manifest)
    verb = "distill --unlabelled" if settings.unlabelled else "teach --stream motion --manifest"
    say(f"{out}: {_summary(manifest)}. Next: videokd {verb} {out} --out RUN")


def prepare_dataset(settings: Prepare) -> Manifest:
    """Prepares a dataset or a share of it, or finishes one; returns its manifest."""
    listing = _listing(settings)
    others = not_taken(
        sorted({listing.root / entry.path.parts[0] for entry in listing.entries if len(entry.path.parts) > 1})
    )
    if others is not None:
        say(f"warning: {others}")
    out = str(settings.out)
    if settings.merge:
        return merge(listing, out)
    return prepare(
        listing,
        out,
        encoding=settings.encoding(),
        keep=settings.keep,
        on_error=settings.on_error,
        workers=Workers(settings.engine, settings.jobs, settings.address),
        shard=Shard.parse(settings.shard) if settings.shard else None,
    )


def _listing(settings: Prepare) -> Listing:
    root = Path(settings.directory)
    if settings.unlabelled:
        return Listing(root, unlabelled_layout(root), settings.flip)
    if settings.layout == "folder":
        entries = folder_layout(
            root,
            group_pattern=settings.group_pattern,
            groups=settings.groups,
        )
        listing = Listing(root, entries, settings.flip)
        grouped = settings.groups is not None or settings.group_pattern is not None
        for warning in check_listing(listing, groups=settings.groups, grouped=grouped):
            say(f"warning: {warning}")
        return listing
    lists = Path(settings.lists) if settings.lists else None
    if settings.layout == "ucf101":
        return Listing(root, ucf101_layout(root, lists=lists), settings.flip, UCF101_CLIPS)
    return Listing(root, hmdb51_layout(root, lists=lists), settings.flip, HMDB51_CLIPS)


def _warn(manifest: Manifest) -> None:
    checks: Any = manifest.settings["checks"]
    for warning in checks["warnings"]:
        say(f"warning: {warning}")
    if checks["warnings"]:
        say(f"warning: {manifest.root / FINDINGS_NAME} lists every finding.")
    made = sum(clip.path.startswith("videos/") for clip in manifest.clips)
    if manifest.settings["keep"] and made:
        say(
            f"{made} of {len(manifest.clips)} files could not be kept as they are and were transcoded: without motion vectors, not to be "
            "read at random, to be turned or widened, or of another rate."
        )
    if manifest.settings["skipped"]:
        say(f"warning: {manifest.settings['skipped']} files were left out; {manifest.root / FAILURES_NAME} says why.")


def _summary(manifest: Manifest) -> str:
    parts = Counter(clip.split1 for clip in manifest.clips)
    groups = len({clip.group for clip in manifest.clips})
    size = sum(clip.bytes for clip in manifest.clips) / 1e6
    if not manifest.class_names:
        return f"{len(manifest.clips)} clips without labels, {size:.0f} MB"
    return (
        f"{len(manifest.clips)} clips of {len(manifest.class_names)} classes in {groups} groups, {size:.0f} MB; "
        f"split 1: {parts['train']} train, {parts['test']} test"
    )
