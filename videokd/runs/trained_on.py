"""The clips of a run, by content: what its weights were fitted to, and what its best epoch was chosen with."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from videokd.datasets.manifest import Clip, Manifest
from videokd.errors import ConfigError, DataError
from videokd.files import SHA256, read_json, write_whole
from videokd.runs.run_settings import Distill, Teach

FILE_NAME = "trained_on.json"
_VERSION = 1
_MOST_BYTES = 1_000_000_000  # 140 bytes a clip: seven million clips

#: A clip by content: sha256 of its file, sha256 of the file it was made from, label.
Key = tuple[str, str, int]


@dataclass(frozen=True)
class InitialSource:
    """Which trained weights a network started from.

    Args:
        source: imagenet, or the file or run folder, as it was given.
        sha256: of the weights: of the file, of the run's best.pt, or of imagenet's values.
    """

    source: str
    sha256: str


@dataclass(frozen=True)
class TrainedOn:
    """The clips of a training run, by content: file names and folders do not matter.

    Args:
        fit: the clips that weights were fitted to, in the manifest's order.
        held_out: the clips that the best epoch was chosen with.
        by_teachers: sha256 of further clips that the run's teachers were fitted to, or theirs, or its initial weights.
        teachers: {teacher: sha256 of its best.pt}.
        class_names: K names.
        flip: whether clips were mirrored.
        initial: {network: the weights that it started from}; empty where all started at random, and in runs of older versions.
    """

    fit: tuple[Key, ...]
    held_out: tuple[Key, ...]
    by_teachers: frozenset[str]
    teachers: Mapping[str, str]
    class_names: tuple[str, ...]
    flip: bool
    initial: Mapping[str, InitialSource] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        *,
        split: int,
        val_fraction: float,
        unlabelled: Sequence[Clip] = (),
        by_teachers: Collection[str] = (),
        teachers: Mapping[str, str] | None = None,
    ) -> TrainedOn:
        """What a run with these settings trains on; clips without labels come after the others.

        Raises:
            DataError: there are no clips to train on.
        """
        fit, held_out = training_parts(manifest, split=split, val_fraction=val_fraction)
        keys = tuple(map(_key, (*fit, *unlabelled)))
        return cls(
            keys,
            tuple(map(_key, held_out)),
            frozenset(by_teachers) - _digests(keys),
            dict(teachers or {}),
            manifest.class_names,
            manifest.flip,
        )

    def started_from(self, initial: Mapping[str, InitialSource], *, fitted: Collection[str] = ()) -> TrainedOn:
        """The same, of networks that start from trained weights.

        Args:
            initial: {network: the weights}.
            fitted: sha256 of the clips that these were fitted to, where they are known.
        """
        by_others = (self.by_teachers | frozenset(fitted)) - _digests(self.fit)
        return replace(self, initial=dict(initial), by_teachers=by_others)

    @property
    def fitted(self) -> frozenset[str]:
        """Every sha256 that weights of this run or of its teachers were fitted to."""
        return _digests(self.fit) | self.by_teachers

    def seen(self, clips: Iterable[Clip]) -> list[Clip]:
        """Those of the clips that weights were fitted to: by the prepared file, or by the file it was made from."""
        return _among(clips, self.fitted)

    def chosen_with(self, clips: Iterable[Clip]) -> list[Clip]:
        """Those of the clips that the best epoch was chosen with."""
        return _among(clips, _digests(self.held_out))

    def write(self, folder: Path) -> None:
        """Writes `trained_on.json` into a run's folder."""
        content: dict[str, Any] = {
            "format": "videokd-trained-on",
            "version": _VERSION,
            "fit": self.fit,
            "held_out": self.held_out,
            "by_teachers": sorted(self.by_teachers),
            "teachers": dict(self.teachers),
            "class_names": self.class_names,
            "flip": self.flip,
        }
        if self.initial:
            content["initial"] = {name: asdict(source) for name, source in self.initial.items()}
        write_whole(folder / FILE_NAME, f"{json.dumps(content, ensure_ascii=False)}\n".encode())

    @classmethod
    def read(cls, folder: Path) -> TrainedOn | None:
        """What `write` wrote; None where there is no such file, as in runs of older versions.

        Raises:
            DataError: the file is damaged.
        """
        path = folder / FILE_NAME
        if not os.path.lexists(path):
            return None
        try:
            content = read_json(path, most_bytes=_MOST_BYTES)
            if content["version"] != _VERSION:
                raise ValueError(f"version {content['version']}")
            if not content["fit"]:
                raise ValueError("no clip was trained on")
            return cls(
                tuple(_read_key(*key) for key in content["fit"]),
                tuple(_read_key(*key) for key in content["held_out"]),
                frozenset(map(str, content["by_teachers"])),
                {str(name): str(digest) for name, digest in content["teachers"].items()},
                tuple(map(str, content["class_names"])),
                bool(content["flip"]),
                {str(name): InitialSource(**values) for name, values in content.get("initial", {}).items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path} is damaged ({' '.join(str(error).split())[:80]}): which clips the run was trained on is not known. Restore it from a copy, or "
                "train the run again."
            ) from error

    def difference(self, now: TrainedOn) -> str | None:
        """What keeps a run that was trained on this from going on with something else, in words."""
        if self.class_names != now.class_names:
            return f"{len(self.class_names)} classes then, {len(now.class_names)} now, or other names"
        if self.flip != now.flip:
            return f"clips were {'' if self.flip else 'not '}mirrored then"
        for part, before, after in (
            ("training", self.fit, now.fit),
            ("validation", self.held_out, now.held_out),
        ):
            if before != after:
                gone, new = Counter(before) - Counter(after), Counter(after) - Counter(before)
                if not gone and not new:
                    return f"the {part} clips are in another order"
                return f"of {len(before)} {part} clips {gone.total()} are gone or changed, {new.total()} are new"
        other = sorted(set(self.teachers.items()) ^ set(now.teachers.items()))
        if other:
            return f"teachers.{other[0][0]} has other weights"
        sources = {name: (self.initial.get(name), now.initial.get(name)) for name in (*self.initial, *now.initial)}
        started = [name for name, (then, today) in sources.items() if _sha256_of(then) != _sha256_of(today)]
        return f"{started[0]} started from other weights" if started else None


def training_parts(manifest: Manifest, *, split: int, val_fraction: float) -> tuple[tuple[Clip, ...], tuple[Clip, ...]]:
    """The training clips of a split, in two parts.

    Args:
        manifest: of all clips.
        split: 1, 2 or 3.
        val_fraction: share of the training groups to hold out.

    Returns:
        The clips to fit; those held out, none where val_fraction is 0.

    Raises:
        DataError: there are no clips to train on, or none to hold out.
    """
    if not val_fraction:
        return manifest.select("train", split=split), ()
    fit, held_out = (manifest.select(part, split=split, val_fraction=val_fraction, seed=0) for part in ("fit", "val"))  # type: ignore[arg-type]
    return fit, held_out


def tested_clips(manifest: Manifest, *, split: int) -> tuple[Clip, ...]:
    """The test clips of a split.

    Args:
        manifest: of all clips.
        split: 1, 2 or 3.

    Returns:
        The clips; an empty tuple where nothing is tested.
    """
    try:
        return manifest.select("test", split=split)
    except DataError:
        return ()


def trained_on(folder: Path, settings: Teach | Distill) -> TrainedOn | None:
    """What a run was trained on; of older versions' runs as far as their manifest is where it was.

    Args:
        folder: of the run.
        settings: its config.yaml.

    Returns:
        None where it cannot be known.

    Raises:
        DataError: the run's record is damaged.
    """
    kept = TrainedOn.read(folder)
    if kept is not None:
        return kept
    try:
        return TrainedOn.of(
            Manifest.read(settings.manifest), split=settings.split, val_fraction=settings.data.val_fraction
        )
    except (DataError, ConfigError):
        return None


def same_clips(clips: Iterable[Clip], others: Iterable[Clip]) -> list[Clip]:
    """Those of the clips that are among the others, compared by content: of the prepared file, or of the file it was made from.

    Args:
        clips: to look for.
        others: to look in.
    """
    return _among(clips, _digests(map(_key, others)))


def some(clips: Sequence[Clip]) -> str:
    """A few of the clips' names, for a message."""
    return ", ".join(clip.video_id for clip in clips[:3]) + (", …" if len(clips) > 3 else "")


def _sha256_of(source: InitialSource | None) -> str:
    return source.sha256 if source is not None else ""


def _key(clip: Clip) -> Key:
    return clip.sha256, clip.source_sha256, clip.label


def _read_key(sha256: Any, source_sha256: Any, label: Any) -> Key:
    for digest in (sha256, source_sha256):
        if not isinstance(digest, str) or not SHA256.fullmatch(digest):
            raise ValueError(f"{digest!r:.40} is not a sha256")
    return sha256, source_sha256, int(label)


def _digests(keys: Iterable[Key]) -> frozenset[str]:
    return frozenset(digest for key in keys for digest in key[:2] if digest)


def _among(clips: Iterable[Clip], digests: Collection[str]) -> list[Clip]:
    return [clip for clip in clips if clip.sha256 in digests or clip.source_sha256 in digests]
