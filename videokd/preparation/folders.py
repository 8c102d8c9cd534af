"""Folders of clips: path → label, group, splits. Looks at names only, opens no video."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from videokd.datasets.splits import Splits
from videokd.errors import ConfigError, DataError
from videokd.preparation.folder_parts import DividedTree, did_you_mean, divided_tree
from videokd.preparation.groups import DEFAULT_GROUP, default_group, pattern_rule, splits_by_group
from videokd.preparation.groups_file import GroupsFile
from videokd.preparation.listing import ListedClip, check_classes, checked_root, folders_in, listed_clips, videos_in
from videokd.preparation.official import (
    _ucf_splits,
    hmdb51_layout,
    ucf101_layout,
)
from videokd.types import NO_LABEL


def folder_layout(
    root: Path | str,
    *,
    group_pattern: str | None = None,
    groups: Path | str | None = None,
) -> tuple[ListedClip, ...]:
    """One folder a class, with clips at any depth in it; or such folders divided into train, val and test.

    In `class/clip` trees each split tests about 30 % of every class's groups, whole groups, neighbours in
    the order of their names, other groups in each split. Where all files are named as UCF101 names them
    (`v_Name_g01_c01`) and UCF101's own rule leaves every class both parts, that rule decides: groups 1–7, 8–14, 15–21.

    In `part/class/clip` and `class/part/clip` trees the three splits are alike: `test` is tested; `val` counts as
    training, from which videokd holds its own validation part out, or is tested where there is no `test`. The usual
    spellings of the parts will do, in any case (Training, valid, test_set); what can be read in two ways is refused.

    Args:
        root: the dataset's folder.
        group_pattern: regular expression searched for in file names; its first capture group names the clip's group (a
            person, a scene), which is the same one in all classes. None: `_g(\\d+)_`, which numbers the scenes of each
            class, and a clip without it is a group of its own.
        groups: a CSV file, instead of a pattern; see `GroupsFile`. A plan is such a file.

    Returns:
        The entries, by class (sorted names), then path.

    Raises:
        DataError: the root is missing or a file; fewer than two classes; a class without videos, or with only one
            group; a file name that the pattern does not match; a tree that can be read in two ways.
        ConfigError: the pattern or the CSV file is not what it should be.
    """
    root = checked_root(root)
    listed = None if groups is None else GroupsFile.read(Path(groups))
    if listed is not None and group_pattern is not None:
        raise ConfigError("groups and group_pattern exclude each other (accepted: one of them). Omit one.")
    classes = {folder.name: videos_in(folder) for folder in folders_in(root)}
    divided = divided_tree(root, classes)
    if divided is not None:
        if listed is not None and listed.has_splits:
            parts = ", ".join(sorted(set(divided.parts.values())))
            raise ConfigError(
                f"{groups} has columns of splits, and {root} the folders {parts} (accepted: one of them). "
                "Take the columns out of the file."
            )
        classes = _classes_of_parts(root, divided)
    check_classes(root, classes)
    given = listed is not None or group_pattern is not None
    if listed is not None:
        named = listed.groups_of(root, classes)
    else:
        group_of = pattern_rule(group_pattern)
        named = {path: group_of(path, name) for name, paths in classes.items() for path in paths}
    if divided is not None:
        splits = _splits_of_parts(root, classes, divided)
        named = named if given else {path: _group_in_part(group, path, divided) for path, group in named.items()}
    else:
        listed_parts = None if listed is None else listed.splits_of(root, classes)
        official = None if given else _ucf_splits(classes)
        splits = listed_parts or official or splits_by_group(classes, named)
    return listed_clips(root, sorted(classes), classes, named, splits)


def unlabelled_layout(root: Path | str) -> tuple[ListedClip, ...]:
    """Clips at any depth of a folder, whose classes nobody has named: all of them are for training, in every split.

    Args:
        root: the folder.

    Returns:
        The entries, by path, with label -1.

    Raises:
        DataError: the root is missing or a file, or holds no videos.
    """
    root = checked_root(root)
    paths = videos_in(root)
    if not paths:
        raise DataError(f"{root} holds no videos (accepted: suffixes such as .mp4, .mkv, .avi). Check the folder.")
    groups = {path: default_group(path, path.parent.relative_to(root).as_posix()) for path in paths}
    entries = listed_clips(root, ("",), {"": paths}, groups, dict.fromkeys(paths, ("train",) * 3))
    return tuple(replace(entry, label=NO_LABEL) for entry in entries)


LAYOUTS: Mapping[str, Callable[..., tuple[ListedClip, ...]]] = {
    "folder": folder_layout,
    "ucf101": ucf101_layout,
    "hmdb51": hmdb51_layout,
}


def _classes_of_parts(root: Path, divided: DividedTree) -> dict[str, list[Path]]:
    """The clips of each class of a divided tree; none of a class whose folders are empty."""
    classes = {name: list(paths) for name, paths in divided.classes.items()}
    if not divided.inner:
        for part in {path.relative_to(root).parts[0] for path in divided.parts}:
            for folder in folders_in(root / part):
                classes.setdefault(folder.name, [])
    return classes


def _splits_of_parts(root: Path, classes: Mapping[str, Sequence[Path]], divided: DividedTree) -> dict[Path, Splits]:
    tested = "test" if "test" in divided.parts.values() else "val"
    splits: dict[Path, Splits] = {
        path: ("test",) * 3 if part == tested else ("train",) * 3 for path, part in divided.parts.items()
    }
    untrained = [name for name in sorted(classes) if all(splits[path][0] == "test" for path in classes[name])]
    if untrained:
        first = untrained[0]
        others = [name for name in classes if name not in untrained]
        raise DataError(
            f"{root}: {len(untrained)} classes have no training videos (first: {first}).{did_you_mean(first, others)} "
            "Add clips of it to the training part, rename its folder, or remove it."
        )
    return splits


def _group_in_part(group: str, path: Path, divided: DividedTree) -> str:
    """A group by a clip's own name: 1.mp4 to train on and 1.mp4 to test on are two clips."""
    numbered = DEFAULT_GROUP.search(path.name) is not None
    class_name, _, name = group.partition("/")
    return group if numbered or divided.parts[path] == "train" else f"{class_name}/{divided.parts[path]}/{name}"
