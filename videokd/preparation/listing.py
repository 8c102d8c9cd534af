"""A dataset on disk before it is prepared: its videos with class, group and splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from videokd.datasets.splits import Splits
from videokd.errors import DataError
from videokd.preparation.shards import Shard
from videokd.types import NO_LABEL


@dataclass(frozen=True)
class ListedClip:
    """One video of a dataset, before it is prepared.

    Args:
        path: relative to the dataset's root.
        video_id: unique in the dataset: the path without its suffix, with "/" between folders (with the suffix where
            two files of a folder differ only in the suffix).
        label: class number, from 0; -1 without a label.
        class_name: the class's name; empty without a label.
        group: clips of one group show the same scene, person or film; a group is never divided between training and
            test. The name starts with the class where each class has its own groups ("Archery/g01"); a person who acts
            in several classes is one group ("s3").
        splits: for splits 1, 2 and 3: "train", "test" or "unused".
    """

    path: Path
    video_id: str
    label: int
    class_name: str
    group: str
    splits: Splits


@dataclass(frozen=True)
class Listing:
    """A dataset on disk.

    Args:
        root: the dataset's folder; the clips' paths are relative to it.
        clips: all its videos, from one of the layouts.
        flip: whether a clip mirrored left to right still shows its class.
        official_clips: {class: number of clips}, for a published dataset.
        shard: the part of the dataset to prepare; None: all of it.
        left_out: (path, reason) of each clip that a condition left out; they are not among `clips`.
    """

    root: Path
    clips: tuple[ListedClip, ...]
    flip: bool = True
    official_clips: Mapping[str, int] | None = None
    shard: Shard | None = None
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label."""
        names = {clip.label: clip.class_name for clip in self.clips if clip.label != NO_LABEL}
        return tuple(names[label] for label in sorted(names))

    @property
    def clips_of_shard(self) -> tuple[ListedClip, ...]:
        """The clips to prepare: those of the shard, or all."""
        return tuple(clip for clip in self.clips if self.shard is None or self.shard.holds(clip.video_id))


def checked_root(root: Path | str) -> Path:
    """The dataset's folder as a path, after a check that it is a folder.

    Raises:
        DataError: it does not exist, or is a file.
    """
    root = Path(root)
    if not root.exists():
        raise DataError(f"{root}: no such folder. Check the path; data/README.md says how to get the datasets.")
    if not root.is_dir():
        raise DataError(f"{root} is a file (accepted: a folder with one folder per class). Name the folder.")
    return root


def folders_in(root: Path) -> list[Path]:
    """The folders in a folder, sorted by name, without hidden ones."""
    return sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))


def check_classes(root: Path, classes: Mapping[str, Sequence[Path]]) -> None:
    """Checks that there are at least two classes, each with a video.

    Args:
        root: the dataset's folder, for messages.
        classes: {class: paths of its videos}.

    Raises:
        DataError: there are no videos, there is only one class, or a class has no videos.
    """
    if not any(classes.values()):
        raise DataError(
            f"{root} holds no videos in folders (accepted: <class>/<clip>, suffixes such as .mp4, .mkv, .avi). "
            "Put the clips of each class into a folder with the class's name."
        )
    if len(classes) < 2:
        only = next(iter(classes))
        raise DataError(
            f"{root} holds only one class, {only} (accepted: two or more). Add the others; if {only} holds the class "
            f"folders, name {root / only}."
        )
    empty = [name for name, paths in classes.items() if not paths]
    if empty:
        raise DataError(
            f"{root}: no videos for {len(empty)} of {len(classes)} classes (first: {empty[0]}). "
            "Add clips, or remove the folder."
        )


def listed_clips(
    root: Path,
    class_names: Sequence[str],
    classes: Mapping[str, Sequence[Path]],
    groups: Mapping[Path, str],
    splits: Mapping[Path, Splits],
) -> tuple[ListedClip, ...]:
    """The clips of all classes, each with a unique id.

    Args:
        root: the dataset's folder.
        class_names: in the order of the labels.
        classes: {class: paths of its videos}.
        groups: {path: group}.
        splits: {path: part in each split}.

    Returns:
        The clips, by label, then path.
    """
    stems: dict[Path, list[str]] = defaultdict(list)
    for path in groups:
        stems[path.parent].append(path.stem.lower())
    ambiguous = {folder for folder, names in stems.items() if len(set(names)) < len(names)}
    clips = []
    for label, name in enumerate(class_names):
        for path in sorted(classes[name]):
            relative = path.relative_to(root)
            named = relative if path.parent in ambiguous else relative.with_name(path.stem)
            clips.append(ListedClip(relative, named.as_posix(), label, name, groups[path], splits[path]))
    return tuple(clips)
