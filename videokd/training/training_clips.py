"""The clips of a run: those it trains on, those it holds out, and a record of them by content."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from videokd.datasets.cache import DecodedCache
from videokd.datasets.dataset import ClipDataset, EpochBatches, JoinedClips, training_batches
from videokd.datasets.manifest import Clip, Manifest
from videokd.errors import ConfigError, DataError
from videokd.files import SHA256, read_json, write_whole
from videokd.training.ranks import Ranks
from videokd.training.run_settings import Distill, Teach
from videokd.training.settings import DataSettings
from videokd.types import Batch


@dataclass(frozen=True)
class TrainingClips:
    """The clips of a run.

    Args:
        fit: what it trains on, as training views; labelled clips first, then those without labels, if there are any.
        held_out: what chooses the best epoch, in quick views; None where nothing is held out.
        batch_size: clips of a batch over all ranks.
        workers: processes that load clips; 0 loads in the main one.
        seed: of the order.
    """

    fit: JoinedClips
    held_out: ClipDataset | None
    batch_size: int
    workers: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of an epoch; at least one."""
        return self._order().steps_per_epoch

    def _order(self, *, first_step: int = 0, ranks: Ranks | None = None) -> EpochBatches:
        ranks = ranks or Ranks()
        return EpochBatches(
            tuple(map(len, self.fit.parts)),
            self.batch_size,
            seed=self.seed,
            first_step=first_step,
            rank=ranks.rank,
            num_ranks=ranks.num_ranks,
        )

    def batches(self, *, first_step: int, ranks: Ranks) -> Generator[Batch, None, None]:
        """This rank's share of each batch, without end.

        Args:
            first_step: number of the first batch: a resumed run continues with the clips that an uninterrupted one would see.
            ranks: this process's place.

        Raises:
            ConfigError: the ranks cannot share a batch equally.
        """
        check_shares(len(self.fit), self.batch_size, ranks)
        order = self._order(first_step=first_step, ranks=ranks)
        return training_batches(self.fit, order, workers=self.workers, pin_memory=ranks.device.type == "cuda")


def check_shares(num_clips: int, batch_size: int, ranks: Ranks) -> None:
    """Refuses a batch that the ranks cannot share equally, because of its size or because there are too few clips.

    Raises:
        ConfigError: names both numbers and what to pass.
    """
    ranks.share(batch_size)
    if ranks.num_ranks > 1 and num_clips < batch_size:
        fit = num_clips // ranks.num_ranks * ranks.num_ranks
        raise ConfigError(
            f"{num_clips} clips to train on are fewer than data.batch_size {batch_size}, which {ranks.num_ranks} processes share equally "
            f"(accepted: a batch of at most as many). Pass `--data.batch_size {fit}`."
            if fit
            else f"{num_clips} clips to train on are fewer than {ranks.num_ranks} processes (accepted: one clip each, at least). Start fewer."
        )


def training_clips(
    manifest: Manifest,
    unlabelled: Manifest | None,
    streams: tuple[str, ...],
    *,
    split: int,
    seed: int,
    data: DataSettings,
) -> TrainingClips:
    """The clips of one split.

    Args:
        manifest: labelled clips.
        unlabelled: clips to train on as well, all of them; only teachers and peers say what they show.
        streams: what a sample has.
        split: 1, 2 or 3.
        seed: of the training views.
        data: how they are seen, and the share that is held out.

    Raises:
        DataError: there are no clips to train on, or none to hold out.
    """
    cache = None
    if data.cache:
        cache = DecodedCache(Path(data.cache), data.cache_positions, data.input_size)

    def dataset(source: Manifest, clips: tuple[Clip, ...], views: Literal["training", "quick"]) -> ClipDataset:
        return ClipDataset(
            source,
            clips,
            streams,
            num_segments=data.num_segments,
            input_size=data.input_size,
            views=views,
            seed=seed,
            cache=cache,
        )

    to_fit, to_hold_out = training_parts(manifest, split=split, val_fraction=data.val_fraction)
    fit = [dataset(manifest, to_fit, "training")]
    if unlabelled is not None:
        fit.append(dataset(unlabelled, unlabelled.clips, "training"))
    held_out = dataset(manifest, to_hold_out, "quick") if to_hold_out else None
    return TrainingClips(JoinedClips(tuple(fit)), held_out, data.batch_size, data.workers, seed)


FILE_NAME = "trained_on.json"
_VERSION = 1
_MOST_BYTES = 1_000_000_000  # 140 bytes a clip: seven million clips

#: A clip by content: sha256 of its file, sha256 of the file it was made from, label.
Key = tuple[str, str, int]


@dataclass(frozen=True)
class TrainedOn:
    """The clips of a training run, by content: file names and folders do not matter.

    Args:
        fit: the clips that weights were fitted to, in the manifest's order.
        held_out: the clips that the best epoch was chosen with.
        by_teachers: sha256 of further clips that the run's teachers were fitted to, or theirs.
        teachers: {teacher: sha256 of its best.pt}.
        class_names: K names.
        flip: whether clips were mirrored.
    """

    fit: tuple[Key, ...]
    held_out: tuple[Key, ...]
    by_teachers: frozenset[str]
    teachers: Mapping[str, str]
    class_names: tuple[str, ...]
    flip: bool

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
        content = {
            "format": "videokd-trained-on",
            "version": _VERSION,
            "fit": self.fit,
            "held_out": self.held_out,
            "by_teachers": sorted(self.by_teachers),
            "teachers": dict(self.teachers),
            "class_names": self.class_names,
            "flip": self.flip,
        }
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
        return f"teachers.{other[0][0]} has other weights" if other else None


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
