"""Your own folders of clips: the class, group and splits of each clip from its path. No video is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from videokd.datasets.splits import Splits
from videokd.errors import ConfigError, DataError
from videokd.jobs.video_files import videos_in
from videokd.preparation.folder_parts import DividedTree, did_you_mean, divided_tree
from videokd.preparation.groups import DEFAULT_GROUP, default_group, pattern_rule, splits_by_group
from videokd.preparation.groups_file import GroupsFile
from videokd.preparation.listing import ListedClip, check_classes, checked_root, folders_in, listed_clips
from videokd.preparation.official import ucf101_splits
from videokd.types import NO_LABEL


def folder_layout(
    root: Path | str, *, group_pattern: str | None = None, groups: Path | str | None = None
) -> tuple[ListedClip, ...]:
    """One folder per class, with clips at any depth in it; or such folders inside train, val and test.

    In `class/clip` trees each split tests about 30 % of every class's groups: whole groups, neighbours in the order of
    their names, and different groups in each split. Where all files have UCF101's names (`v_Name_g01_c01`) and UCF101's
    own rule leaves clips of every class on both sides, that rule is used: groups 1–7, 8–14, 15–21.

    In `part/class/clip` and `class/part/clip` trees the three splits are equal: `test` is tested; `val` counts as
    training, because videokd holds out its own validation part, or is tested where there is no `test`. The usual
    spellings of the parts are accepted, in any case (Training, valid, test_set); an ambiguous tree is refused.

    Args:
        root: the dataset's folder.
        group_pattern: regular expression searched for in file names; its first capture group is the name of the clip's
            group (a person, a scene), which is the same group in all classes. None: `_g(\\d+)_`, which numbers the scenes
            of each class; a clip without such a number is a group of its own.
        groups: a CSV file instead of a pattern; see `GroupsFile`. The file that `prepare --plan` writes is one.

    Returns:
        The clips, by class (sorted names), then path.

    Raises:
        DataError: the root is missing or a file; there are fewer than two classes; a class has no videos, or only one
            group; the pattern does not match a file name; the tree is ambiguous.
        ConfigError: the pattern or the CSV file is not valid, or both were given.
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
                f"{groups} has split columns, and {root} has the folders {parts} (accepted: one of the two). "
                "Remove the columns from the file."
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
        official = None if given else ucf101_splits(classes)
        splits = listed_parts or official or splits_by_group(classes, named)
    return listed_clips(root, sorted(classes), classes, named, splits)


def unlabelled_layout(root: Path | str) -> tuple[ListedClip, ...]:
    """Clips without labels, at any depth in a folder: all of them are for training, in every split.

    Args:
        root: the folder.

    Returns:
        The clips, by path, with label -1.

    Raises:
        DataError: the root is missing or a file, or holds no videos.
    """
    root = checked_root(root)
    paths = videos_in(root)
    if not paths:
        raise DataError(f"{root} holds no videos (accepted: suffixes such as .mp4, .mkv, .avi). Check the folder.")
    groups = {path: default_group(path, path.parent.relative_to(root).as_posix()) for path in paths}
    clips = listed_clips(root, ("",), {"": paths}, groups, dict.fromkeys(paths, ("train",) * 3))
    return tuple(replace(clip, label=NO_LABEL) for clip in clips)


def _classes_of_parts(root: Path, divided: DividedTree) -> dict[str, list[Path]]:
    """{class: its clips} of a divided tree, with an empty list for a class whose folders are empty."""
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
    """The group of a clip in a divided tree: train/wave/1.mp4 and test/wave/1.mp4 are different clips, so different groups."""
    numbered = DEFAULT_GROUP.search(path.name) is not None
    class_name, _, name = group.partition("/")
    return group if numbered or divided.parts[path] == "train" else f"{class_name}/{divided.parts[path]}/{name}"
