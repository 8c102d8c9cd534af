"""How datasets lie on disk: path → label, group, splits. Looks at names alone, opens no video."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from videokd.datasets.class_names import HMDB51_CLASSES, UCF101_CLASSES
from videokd.datasets.folders import DividedTree, did_you_mean, divided_tree
from videokd.datasets.grouping import DEFAULT_GROUP, default_group, pattern_rule, splits_by_group
from videokd.datasets.groups_file import GroupsFile
from videokd.datasets.official_lists import Splits, listed_splits, read_hmdb51_lists, read_ucf101_lists
from videokd.datasets.video_files import videos_in
from videokd.errors import ConfigError, DataError
from videokd.types import NO_LABEL

_UCF_NAME = re.compile(r"v_(?P<name>\w+)_g(?P<group>\d+)_c\d+", re.IGNORECASE)
_UCF_GROUPS = range(1, 26)
# <title and class>_<body part>_<camera>_<people>_<viewpoint>_<quality>_<number>: one title's clips come from one film.
_HMDB_TITLE = re.compile(r"(.+?)_[a-z]_(?:cm|nm)_np\d+_[a-z]+_[a-z]+_\d+")
_HMDB_LISTS = "testTrainMulti_7030_splits"


@dataclass(frozen=True)
class Entry:
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
    entries: tuple[Entry, ...]
    flip: bool = True
    official_clips: Mapping[str, int] | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label."""
        names = {entry.label: entry.class_name for entry in self.entries if entry.label != NO_LABEL}
        return tuple(names[label] for label in sorted(names))


def folder_layout(
    root: Path | str,
    *,
    group_pattern: str | None = None,
    groups: Path | str | None = None,
    test_fraction: float = 0.3,
) -> tuple[Entry, ...]:
    """One folder a class, with clips at any depth in it; or such folders divided into train, val and test.

    In `class/clip` trees each split tests about `test_fraction` of every class's groups, whole groups, neighbours in
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
        test_fraction: between 0 and 1, of each class's groups.

    Returns:
        The entries, by class (sorted names), then path.

    Raises:
        DataError: the root is missing or a file; fewer than two classes; a class without videos, or with only one
            group; a file name that the pattern does not match; a tree that can be read in two ways.
        ConfigError: the pattern, the CSV file or the fraction is not what it should be.
    """
    root = _checked_root(root)
    if not 0 < test_fraction < 1:
        raise ConfigError(f"test_fraction {test_fraction} (accepted: between 0 and 1, ends excluded). 0.3 is usual.")
    listed = None if groups is None else GroupsFile.read(Path(groups))
    if listed is not None and group_pattern is not None:
        raise ConfigError("groups and group_pattern exclude each other (accepted: one of them). Omit one.")
    classes = {folder.name: videos_in(folder) for folder in _folders(root)}
    divided = divided_tree(root, classes)
    if divided is not None:
        if listed is not None and listed.has_splits:
            parts = ", ".join(sorted(set(divided.parts.values())))
            raise ConfigError(
                f"{groups} has columns of splits, and {root} the folders {parts} (accepted: one of them). "
                "Take the columns out of the file."
            )
        classes = _classes_of_parts(root, divided)
    _check_classes(root, classes)
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
        splits = listed_parts or official or splits_by_group(classes, named, test_fraction)
    return _entries(root, sorted(classes), classes, named, splits)


def unlabelled_layout(root: Path | str) -> tuple[Entry, ...]:
    """Clips at any depth of a folder, whose classes nobody has named: all of them are for training, in every split.

    Args:
        root: the folder.

    Returns:
        The entries, by path, with label -1.

    Raises:
        DataError: the root is missing or a file, or holds no videos.
    """
    root = _checked_root(root)
    paths = videos_in(root)
    if not paths:
        raise DataError(f"{root} holds no videos (accepted: suffixes such as .mp4, .mkv, .avi). Check the folder.")
    groups = {path: default_group(path, path.parent.relative_to(root).as_posix()) for path in paths}
    entries = _entries(root, ("",), {"": paths}, groups, dict.fromkeys(paths, ("train",) * 3))
    return tuple(replace(entry, label=NO_LABEL) for entry in entries)


def ucf101_layout(root: Path | str, *, lists: Path | str | None = None) -> tuple[Entry, ...]:
    """UCF101: `<Class>/v_<Class>_g<group>_c<clip>.avi`, or the folder UCF-101 with that in it.

    Args:
        root: the folder with the 101 class folders (any suffix of video, any case of the class names).
        lists: the folder with trainlist01.txt … testlist03.txt. None: the rule that gives the same splits (test groups
            1–7, 8–14, 15–21).

    Returns:
        The entries; labels in the order of classInd.txt.

    Raises:
        DataError: the root is missing or a file; classes or listed clips are missing; a folder or file bears another
            name.
    """
    root = _checked_root(root)
    base = root / "UCF-101" if (root / "UCF-101").is_dir() else root
    classes = _official_classes(base, UCF101_CLASSES, "UCF101")
    paths = [path for found in classes.values() for path in found]
    for path in paths:
        match = _UCF_NAME.fullmatch(path.stem)
        if match is None or int(match["group"]) not in _UCF_GROUPS:
            raise DataError(
                f"{path} is not named as UCF101 names its clips (v_<Class>_g01_c01.avi, groups 1 to 25). "
                "Remove it, or use the layout `folder`."
            )
    groups = {path: default_group(path, name) for name, found in classes.items() for path in found}
    if lists is None:
        splits = {path: _ucf_rule(path) for path in paths}
    else:
        splits = listed_splits(base, classes, read_ucf101_lists(Path(lists)))
    return _entries(root, UCF101_CLASSES, classes, groups, splits)


def hmdb51_layout(root: Path | str, *, lists: Path | str | None = None) -> tuple[Entry, ...]:
    """HMDB51: `<class>/<title>_<class>_<properties>_<number>.avi`.

    Args:
        root: the folder with the 51 class folders.
        lists: the folder with `<class>_test_split<1|2|3>.txt`. None: testTrainMulti_7030_splits in the root
            or beside it.

    Returns:
        The entries; labels in alphabetical order; groups are the films' titles.

    Raises:
        DataError: the root or the lists are missing; classes or listed clips are missing; a folder bears another name.
    """
    root = _checked_root(root)
    classes = _official_classes(root, HMDB51_CLASSES, "HMDB51", ignored=(_HMDB_LISTS,))
    folders = [Path(lists)] if lists is not None else [root / _HMDB_LISTS, root.parent / _HMDB_LISTS]
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        raise DataError(
            f"{folders[0]}: no folder with HMDB51's split lists (<class>_test_split1.txt …). "
            "Unpack test_train_splits.rar and name its folder with `lists`."
        )
    splits = listed_splits(root, classes, read_hmdb51_lists(found))
    groups = {path: f"{name}/{_hmdb_title(path)}" for name, paths in classes.items() for path in paths}
    return _entries(root, HMDB51_CLASSES, classes, groups, splits)


LAYOUTS: Mapping[str, Callable[..., tuple[Entry, ...]]] = {
    "folder": folder_layout,
    "ucf101": ucf101_layout,
    "hmdb51": hmdb51_layout,
}


def _checked_root(root: Path | str) -> Path:
    root = Path(root)
    if not root.exists():
        raise DataError(f"{root}: no such folder. Check the path; data/README.md says how to get the datasets.")
    if not root.is_dir():
        raise DataError(f"{root} is a file (accepted: a folder with one folder a class). Name the folder.")
    return root


def _folders(root: Path) -> list[Path]:
    return sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))


def _check_classes(root: Path, classes: Mapping[str, Sequence[Path]]) -> None:
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


def _official_classes(
    root: Path, names: Sequence[str], dataset: str, *, ignored: Sequence[str] = ()
) -> dict[str, list[Path]]:
    official = {name.lower(): name for name in names}
    folders = {folder.name: folder for folder in _folders(root) if folder.name not in ignored}
    unknown = [name for name in folders if name.lower() not in official]
    if unknown:
        raise DataError(
            f"{root}: {unknown[0]} is no class of {dataset} ({len(unknown)} such folders)."
            f"{did_you_mean(unknown[0], names)} Rename or remove it, or use the layout `folder`."
        )
    classes: dict[str, list[Path]] = {name: [] for name in names}
    for name, folder in folders.items():
        classes[official[name.lower()]] += videos_in(folder)
    missing = [name for name, paths in classes.items() if not paths]
    if missing:
        raise DataError(
            f"{root}: {len(missing)} of {dataset}'s {len(names)} classes have no videos here (first: {missing[0]}). "
            "Complete the download, or use the layout `folder` for a part of the dataset."
        )
    return classes


def _hmdb_title(path: Path) -> str:
    match = _HMDB_TITLE.fullmatch(path.stem)
    return match[1] if match else path.stem


def _ucf_rule(path: Path) -> Splits:
    match = _UCF_NAME.fullmatch(path.stem)
    assert match is not None
    tested = (int(match["group"]) - 1) // 7  # 0, 1, 2: the split that tests it; 3: none does
    first, second, third = ("test" if tested == split else "train" for split in range(3))
    return first, second, third  # type: ignore[return-value]


def _ucf_splits(classes: Mapping[str, Sequence[Path]]) -> dict[Path, Splits] | None:
    """UCF101's own splits, or None where names or numbers of groups are not UCF101's."""
    splits: dict[Path, Splits] = {}
    for name, paths in classes.items():
        for path in paths:
            match = _UCF_NAME.fullmatch(path.stem)
            if match is None or match["name"].lower() != name.lower() or int(match["group"]) not in _UCF_GROUPS:
                return None
            splits[path] = _ucf_rule(path)
        if any({splits[path][split] for path in paths} != {"train", "test"} for split in range(3)):
            return None
    return splits


def _classes_of_parts(root: Path, divided: DividedTree) -> dict[str, list[Path]]:
    """The clips of each class of a divided tree; none of a class whose folders are empty."""
    classes = {name: list(paths) for name, paths in divided.classes.items()}
    if not divided.inner:
        for part in {path.relative_to(root).parts[0] for path in divided.parts}:
            for folder in _folders(root / part):
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


def _entries(
    root: Path,
    class_names: Sequence[str],
    classes: Mapping[str, Sequence[Path]],
    groups: Mapping[Path, str],
    splits: Mapping[Path, Splits],
) -> tuple[Entry, ...]:
    stems: dict[Path, list[str]] = defaultdict(list)
    for path in groups:
        stems[path.parent].append(path.stem.lower())
    ambiguous = {folder for folder, names in stems.items() if len(set(names)) < len(names)}
    entries = []
    for label, name in enumerate(class_names):
        for path in sorted(classes[name]):
            relative = path.relative_to(root)
            named = relative if path.parent in ambiguous else relative.with_name(path.stem)
            entries.append(Entry(relative, named.as_posix(), label, name, groups[path], splits[path]))
    return tuple(entries)
