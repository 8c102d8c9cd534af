"""`videokd prepare`: transcodes a dataset into the training form and writes its manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from videokd.datasets.manifest import Manifest
from videokd.description.condition import Condition
from videokd.errors import ConfigError
from videokd.jobs.failures import FAILURES_NAME
from videokd.jobs.video_files import ignored_files
from videokd.jobs.workers import Workers
from videokd.messages import say
from videokd.preparation.checks import FINDINGS_NAME, check_listing, write_plan
from videokd.preparation.folders import folder_layout, unlabelled_layout
from videokd.preparation.listing import Listing
from videokd.preparation.official import HMDB51_CLIPS, UCF101_CLIPS, hmdb51_layout, ucf101_layout
from videokd.preparation.prepare_dataset import check_arguments, encoding_of_folder, merge, prepare
from videokd.preparation.selection import describe_listing, selected
from videokd.preparation.shards import Shard
from videokd.preparation.verification import verify
from videokd.recipes.command_line import parse
from videokd.transcoding.mp4_writer import Encoding, Tune

_ONLY_FOR_FOLDER = ("group_pattern", "groups", "unlabelled")


@dataclass(frozen=True)
class Prepare:
    """Transcodes a dataset into the training form and writes its manifest; run again, it prepares what is missing.

    Args:
        layout: ucf101, hmdb51, or folder (one folder per class, or train, val and test with such folders in each).
        directory: the dataset's folder.
        out: the folder to write to; outside the dataset's own.
        plan: list the clips with their groups and splits in this CSV file, from names only, and stop.
        lists: folder of the official split lists; not needed for UCF101, where a rule gives the same splits.
        group_pattern: folder: regular expression whose first group is a clip's group (person, scene), the same in all classes.
        groups: folder: a CSV file with columns path and group, instead of a pattern; columns split1, split2, split3 (train,
            test, unused) give the splits. To change groups and splits, edit a plan, and pass it here.
        unlabelled: folder: the clips, at any depth, have no labels: for `videokd distill --unlabelled`.
        where: prepare only clips that fulfil this condition on their descriptions, such as "still < 0.9 and cuts == 0"; findings.csv lists the
            others. docs/describe.md has the columns.
        described: the table of `videokd describe` of the same folder, for `--where`; without it, clips are described first.
        flip: whether a clip mirrored left to right still shows its class.
        jobs: clips prepared at the same time; by default one per CPU.
        engine: local (processes) or ray (an existing Ray cluster).
        address: address of the Ray cluster; by default the one that this machine belongs to.
        shard: prepare only shard i/n, as a job of a batch scheduler; when all are done, run `--merge`.
        merge: merge the shards.
        verify: read and hash everything again, and compare it with the manifest.
        on_error: fail at the end if a file fails, or skip it with a warning; failures.csv lists the files either way.
        keep: keep files as they are where their codec exports motion vectors; transcode the others, and those without random
            access or that must be rotated, mirrored or widened.
        codec: mpeg4 (as CoViAR) or h264.
        gop: pictures from one I-frame to the next.
        quality: quantiser of mpeg4 (1 to 31) or CRF of h264 (0 to 51); lower is better.
        tune: of h264: fastdecode (without CABAC and deblocking, preset veryfast) is read and written in half the time, none (with both,
            preset medium) takes a little less space; by default fastdecode, or what a folder that was begun has.
        short_side: in pixels; 4:3 pictures become 340×256 with the default.
        resample: pictures per second; pictures are dropped or repeated, so that motion keeps its speed. For clips of different
            rates, such as your own; 25 is usual. `predict` then resamples in the same way.
        frame_rate: keep, or the rate to write into every file. All pictures are kept, so motion becomes slower or faster; the
            rate no longer gives the class away. For datasets whose clips all have the same rate.
    """

    layout: Literal["ucf101", "hmdb51", "folder"]
    directory: str
    out: str | None = None
    plan: str | None = None
    lists: str | None = None
    group_pattern: str | None = None
    groups: str | None = None
    unlabelled: bool = False
    where: str | None = None
    described: str | None = None
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
    tune: Tune | None = None
    short_side: int = 256
    resample: float | None = None
    frame_rate: str = "keep"

    def __post_init__(self) -> None:
        asked = [f"--{name}" for name in ("plan", "shard", "merge", "verify") if getattr(self, name)]
        if len(asked) > 1:
            raise ConfigError(f"{' and '.join(asked)} exclude each other (accepted: one at a time). Omit one.")
        if self.plan is not None and not self.plan.lower().endswith(".csv"):
            raise ConfigError(
                f"prepare: --plan {self.plan} (accepted: a name that ends with .csv). Choose another name."
            )
        if self.out is None and self.plan is None:
            raise ConfigError("prepare: no --out (accepted: a folder to write to). Pass one, or --plan FILE.csv.")
        mine, others = ("folder", _ONLY_FOR_FOLDER) if self.layout != "folder" else ("ucf101 and hmdb51", ("lists",))
        unused = next((f.name for f in fields(self) if f.name in others and getattr(self, f.name) != f.default), None)
        if unused is not None:
            raise ConfigError(f"--{unused} is for the layout {mine} (given: {self.layout}). Omit it.")
        if self.described is not None and self.where is None:
            raise ConfigError("--described is for --where (given: no --where). Pass both, or omit it.")
        if self.where is not None and self.described is None and (self.shard or self.merge or self.plan is not None):
            raise ConfigError(
                "--where with --plan, --shard or --merge needs --described (accepted: a table of `videokd describe`). Describe the folder first."
            )
        if self.unlabelled and (self.group_pattern or self.groups):
            raise ConfigError(
                "--unlabelled clips are all for training, without groups. Omit --group-pattern and --groups."
            )

    def encoding(self) -> Encoding:
        """The encoding that the settings ask for.

        Raises:
            ConfigError: a value is out of its range.
        """
        try:
            rate = None if self.frame_rate == "keep" else float(self.frame_rate)
        except ValueError as error:
            raise ConfigError(
                f"frame_rate {self.frame_rate} (accepted: keep, or pictures per second). Pass 25."
            ) from error
        return Encoding(
            self.codec,
            gop=self.gop,
            quality=self.quality,
            short_side=self.short_side,
            frame_rate=rate,
            resample=self.resample,
            tune=self.tune or self._default_tune(),
        )

    def _default_tune(self) -> Tune:
        if self.codec != "h264":
            return "none"
        begun = {} if self.out is None else encoding_of_folder(self.out)
        return "none" if begun.get("codec") == "h264" and begun.get("tune") != "fastdecode" else "fastdecode"


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    settings = parse(Prepare, arguments, verb="prepare", positional=("layout", "directory"))
    if settings.plan is not None:
        listing = _selected(settings, _listing(settings))
        write_plan(listing, settings.plan)
        say(f"{settings.plan}: {len(listing.clips)} clips of {len(listing.class_names)} classes.")
        return
    out = str(settings.out)
    workers = Workers(settings.engine, settings.jobs, settings.address)
    if settings.verify:
        compared = verify(out, settings.directory, workers=workers)
        say(f"{out}: no clip has changed since it was prepared, and none of the {compared} sources that still exist.")
        return
    manifest = prepare_dataset(settings)
    if settings.shard is not None:
        say(f"{out}: shard {settings.shard} is done, {len(manifest.clips)} clips. When all are done, pass --merge.")
        return
    _say_warnings(manifest)
    verb = "teach --stream motion --manifest"
    if settings.unlabelled:
        verb = "distill --manifest LABELLED --teachers.iframe TEACHER --unlabelled"
    say(f"{out}: {_summary(manifest)}. Next: videokd {verb} {out} --out RUN")


def prepare_dataset(settings: Prepare) -> Manifest:
    """Prepares a dataset or one shard of it, or merges its shards; returns the manifest."""
    listing = _listing(settings)
    folders = {listing.root / clip.path.parts[0] for clip in listing.clips if len(clip.path.parts) > 1}
    ignored = ignored_files(sorted(folders))
    if ignored is not None:
        say(f"warning: {ignored}")
    out = str(settings.out)
    listing = _selected(settings, listing)
    if settings.merge:
        return merge(listing, out)
    return prepare(
        replace(listing, shard=Shard.parse(settings.shard) if settings.shard else None),
        out,
        encoding=settings.encoding(),
        keep=settings.keep,
        on_error=settings.on_error,
        workers=Workers(settings.engine, settings.jobs, settings.address),
    )


def _selected(settings: Prepare, listing: Listing) -> Listing:
    """The listing without the clips that do not fulfil `--where`."""
    if settings.where is None:
        return listing
    where = Condition(settings.where)
    table = settings.described
    if table is None:
        out = Path(str(settings.out))
        check_arguments(listing, out, settings.on_error)
        workers = Workers(settings.engine, settings.jobs, settings.address)
        table = str(describe_listing(listing, out, where=where, workers=workers))
    kept = selected(listing, Path(table), where)
    say(f"{len(kept.left_out)} of {len(listing.clips)} clips are left out by --where.")
    return kept


def _listing(settings: Prepare) -> Listing:
    root = Path(settings.directory)
    if settings.unlabelled:
        return Listing(root, unlabelled_layout(root), settings.flip)
    if settings.layout == "folder":
        clips = folder_layout(root, group_pattern=settings.group_pattern, groups=settings.groups)
        listing = Listing(root, clips, settings.flip)
        grouped = settings.groups is not None or settings.group_pattern is not None
        for warning in check_listing(listing, groups=settings.groups, grouped=grouped):
            say(f"warning: {warning}")
        return listing
    lists = Path(settings.lists) if settings.lists else None
    if settings.layout == "ucf101":
        return Listing(root, ucf101_layout(root, lists=lists), settings.flip, UCF101_CLIPS)
    return Listing(root, hmdb51_layout(root, lists=lists), settings.flip, HMDB51_CLIPS)


def _say_warnings(manifest: Manifest) -> None:
    checks: Any = manifest.settings["checks"]
    for warning in checks["warnings"]:
        say(f"warning: {warning}")
    if checks["warnings"]:
        say(f"warning: {manifest.root / FINDINGS_NAME} lists every finding.")
    transcoded = sum(clip.path.startswith("videos/") for clip in manifest.clips)
    if manifest.settings["keep"] and transcoded:
        say(
            f"{transcoded} of {len(manifest.clips)} files could not be kept as they are and were transcoded: they have no motion vectors "
            "or no random access, must be rotated, mirrored or widened, or have another frame rate."
        )
    if manifest.settings["skipped"]:
        say(f"warning: {manifest.settings['skipped']} files were omitted; {manifest.root / FAILURES_NAME} says why.")


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
