"""A dataset as it lies on disk, before it is prepared: its videos, with class, group and splits."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from videokd.datasets.splits import Splits
from videokd.errors import DataError
from videokd.types import NO_LABEL


@dataclass(frozen=True)
class ListedClip:
    """One video of a dataset, before it is prepared.

    Args:
        path: relative to the dataset's root.
        video_id: unique in the dataset: the path without its suffix, with "/" between folders (with the suffix where
            two files of a folder differ in nothing else).
        label: class number, from 0; -1 without a label.
        class_name: the class's name; empty without a label.
        group: clips of one group show the same scene, person or film and must not be divided between training and test.
            Starts with the class where classes have groups of their own, as in "Archery/g01"; a person who acts in
            several classes is one group, "s3".
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
    """A dataset as it lies on disk.

    Args:
        root: the folder that the entries' paths start from.
        entries: its videos, from one of the layouts.
        flip: whether a clip mirrored left to right still shows its class.
        official_clips: {class: clips it must have}, of a published dataset.
    """

    root: Path
    entries: tuple[ListedClip, ...]
    flip: bool = True
    official_clips: Mapping[str, int] | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label."""
        names = {entry.label: entry.class_name for entry in self.entries if entry.label != NO_LABEL}
        return tuple(names[label] for label in sorted(names))


# fmt: off
VIDEO_SUFFIXES = (
    ".264", ".265", ".3g2", ".3gp", ".3gpp", ".amv", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h261", ".h263", ".h264",
    ".h265", ".hevc", ".ivf", ".m1v", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts",
    ".mxf", ".nut", ".obu", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".swf", ".ts", ".vob", ".webm", ".wmv", ".wtv", ".xvid", ".y4m",
)
# fmt: on
_MOST_KINDS = 6


def videos_in(folder: Path) -> list[Path]:
    """Everything in a folder, at any depth, that has the name of a video, sorted.

    A link that leads nowhere, a pipe, and a folder that is named like a video and holds none are listed too, so that preparing
    reports them instead of losing a clip in silence.
    """
    found, named_like_videos = [], []
    for place, folders, files in _walk(folder):
        found += [place / name for name in files if _is_video(name)]
        named_like_videos += [place / name for name in folders if _is_video(name)]
    return sorted(found + [path for path in named_like_videos if not any(path in video.parents for video in found)])


def unreadable_folders(root: Path) -> list[tuple[Path, str]]:
    """(folder, reason) of each folder that the system refuses to list, at any depth."""
    refused: list[OSError] = []
    for _ in _walk(root, refused):
        pass
    return sorted((Path(error.filename), error.strerror or str(error)) for error in refused)


def not_taken(folders: Iterable[Path]) -> str | None:
    """Says how many files in these folders have not the name of a video, and which suffixes; None if all have."""
    kinds = Counter(
        Path(name).suffix.lower() or "no suffix"
        for folder in folders
        for _, _, files in _walk(folder)
        for name in files
        if not name.startswith(".") and not _is_video(name)
    )
    if not kinds:
        return None
    shown = ", ".join(f"{count} with {kind}" for kind, count in kinds.most_common(_MOST_KINDS))
    more = ", …" if len(kinds) > _MOST_KINDS else ""
    return (
        f"{kinds.total()} files beside the clips are not taken, as they are not named like videos ({shown}{more}). "
        "If they are videos, give them a suffix such as .mp4 or .mkv."
    )


def _is_video(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in VIDEO_SUFFIXES


def _walk(folder: Path, refused: list[OSError] | None = None) -> Iterator[tuple[Path, list[str], list[str]]]:
    """As `os.walk`; links to folders are followed, but neither twice nor upwards, to where other classes are."""
    real = folder.resolve()
    seen = {(status.st_dev, status.st_ino) for status in map(os.stat, real.parents)}
    for place, folders, files in os.walk(folder, followlinks=True, onerror=None if refused is None else refused.append):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        yield Path(place), folders, files


def checked_root(root: Path | str) -> Path:
    """The dataset's folder.

    Raises:
        DataError: it is not there, or is a file.
    """
    root = Path(root)
    if not root.exists():
        raise DataError(f"{root}: no such folder. Check the path; data/README.md says how to get the datasets.")
    if not root.is_dir():
        raise DataError(f"{root} is a file (accepted: a folder with one folder a class). Name the folder.")
    return root


def folders_in(root: Path) -> list[Path]:
    """Folders in a folder, but for hidden ones, in the order of their names."""
    return sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))


def check_classes(root: Path, classes: Mapping[str, Sequence[Path]]) -> None:
    """Checks that there are two classes or more, each with a video.

    Raises:
        DataError: there are not.
    """
    if not any(classes.values()):
        raise DataError(
            f"{root} holds no videos in folders (accepted: <class>/<clip>, suffixes such as .mp4, .mkv, .avi). "
            "Put each class's clips into a folder with the class's name."
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
    """The clips of all classes, with names of their own.

    Args:
        root: the dataset's folder.
        class_names: in the order of the labels.
        classes: {class: paths of its videos}.
        groups: {path: group}.
        splits: {path: part in each split}.
    """
    stems: dict[Path, list[str]] = defaultdict(list)
    for path in groups:
        stems[path.parent].append(path.stem.lower())
    ambiguous = {folder for folder, names in stems.items() if len(set(names)) < len(names)}
    entries = []
    for label, name in enumerate(class_names):
        for path in sorted(classes[name]):
            relative = path.relative_to(root)
            named = relative if path.parent in ambiguous else relative.with_name(path.stem)
            entries.append(ListedClip(relative, named.as_posix(), label, name, groups[path], splits[path]))
    return tuple(entries)
