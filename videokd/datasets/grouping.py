"""Which clips of a folder belong together, and what each split does with them."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from videokd.datasets.official_lists import NUM_SPLITS, Part, Splits
from videokd.errors import ConfigError, DataError

GroupOf = Callable[[Path, str], str]
"""A clip's group, which starts with its class, from its path and class."""

#: UCF101's way to number the scenes of a class.
DEFAULT_GROUP = re.compile(r"_g(\d+)_")
_SPLIT_COLUMNS = tuple(f"split{number + 1}" for number in range(NUM_SPLITS))


@dataclass(frozen=True)
class GroupsFile:
    """A CSV file with the columns path (relative to the dataset's root) and group, and maybe split1, split2, split3.

    What `prepare --plan` writes is such a file. Lines for files that are not there do no harm.

    Args:
        file: the CSV file.
        groups: {path: group}.
        splits: {path: its parts}, "unused" where a split has no column; None where no split has one.
    """

    file: Path
    groups: Mapping[str, str]
    splits: Mapping[str, Splits] | None

    @classmethod
    def read(cls, file: Path) -> GroupsFile:
        """The content of such a file.

        Raises:
            ConfigError: it cannot be read, lacks a column, names a clip twice, or a part that is none.
        """
        try:
            with file.open(encoding="utf-8-sig", newline="") as lines:  # spreadsheets put a mark in front
                table = csv.DictReader(lines)
                rows = list(table)
            groups = {row["path"]: row["group"] for row in rows}
        except (OSError, ValueError, KeyError, csv.Error) as error:
            raise ConfigError(
                f"{file} has no groups (accepted: a CSV file with columns path and group, and maybe split1 to split3). "
                "Mend it."
            ) from error
        if len(groups) < len(rows):
            names = [row["path"] for row in rows]
            twice = next(name for name in names if names.count(name) > 1)
            raise ConfigError(f"{file} names {twice} twice (accepted: one line a clip). Leave one out.")
        columns = [name for name in _SPLIT_COLUMNS if name in (table.fieldnames or ())]
        splits = {row["path"]: _parts(file, row, columns) for row in rows} if columns else None
        return cls(file, groups, splits)

    def group(self, name: str, class_name: str) -> str:
        """The group of a clip.

        Raises:
            DataError: the file names none for it.
        """
        if not self.groups.get(name):
            raise DataError(f"{self.file} names no group for {name}. Add a line for it.")
        group = self.groups[name]
        return group if group.startswith(f"{class_name}/") else f"{class_name}/{group}"

    def splits_of(self, root: Path, classes: Mapping[str, Sequence[Path]]) -> dict[Path, Splits] | None:
        """Each clip's parts; None where the file leaves the splits to videokd.

        Args:
            root: of the dataset.
            classes: {class: its clips}, each named in the file.

        Raises:
            DataError: a class has nothing to train on in a split that the file describes.
        """
        if self.splits is None:
            return None
        splits = {path: self.splits[path.relative_to(root).as_posix()] for paths in classes.values() for path in paths}
        for number in range(NUM_SPLITS):
            found = {name: {splits[path][number] for path in paths} for name, paths in classes.items()}
            untrained = [name for name, parts in found.items() if "train" not in parts]
            if untrained and any(parts != {"unused"} for parts in found.values()):
                raise DataError(
                    f"{self.file}: split{number + 1} has nothing to train {len(untrained)} of {len(classes)} classes on "
                    f"(first: {untrained[0]}). Mark some of its clips `train`."
                )
        return splits


def _parts(file: Path, row: Mapping[str, str], columns: Sequence[str]) -> Splits:
    parts = [row[name] if name in columns else "unused" for name in _SPLIT_COLUMNS]
    for name, part in zip(_SPLIT_COLUMNS, parts, strict=True):
        if part not in get_args(Part):
            raise ConfigError(
                f"{file}: {name} of {row['path']} is {part!r} (accepted: {', '.join(get_args(Part))}). Correct it."
            )
    return cast(Splits, tuple(parts))


def pattern_rule(group_pattern: str | None) -> GroupOf:
    """Groups by a regular expression whose first capture group names them.

    Args:
        group_pattern: searched for in file names; None: `_g(\\d+)_`, and a clip without it is a group of its own.

    Raises:
        ConfigError: it is no regular expression, or has no capture group.
    """
    if group_pattern is None:
        return default_group
    try:
        pattern = re.compile(group_pattern)
    except re.error as error:
        raise ConfigError(f"group_pattern {group_pattern!r} is no regular expression ({error}). Correct it.") from error
    if pattern.groups < 1:
        raise ConfigError(f"group_pattern {group_pattern!r} has no capture group. Put ( ) around what names the group.")

    def group(path: Path, class_name: str) -> str:
        match = pattern.search(path.name)
        if match is None or not match[1]:
            raise DataError(f"{path}: group_pattern {pattern.pattern!r} does not match its name. Correct the pattern.")
        return f"{class_name}/{match[1]}"

    return group


def default_group(path: Path, class_name: str) -> str:
    """A clip's group as UCF101 numbers them; a clip that has no such number is alone.

    >>> default_group(Path("v_Archery_g01_c02.avi"), "Archery"), default_group(Path("anna.mp4"), "wave")
    ('Archery/g01', 'wave/anna')
    """
    match = DEFAULT_GROUP.search(path.name)
    return f"{class_name}/g{match[1]}" if match else f"{class_name}/{path.stem}"


def splits_by_group(
    classes: Mapping[str, Sequence[Path]], groups: Mapping[Path, str], test_fraction: float
) -> dict[Path, Splits]:
    """Three splits that each test a share of every class's groups, other ones each time.

    Args:
        classes: {class: its clips}.
        groups: {clip: its group}.
        test_fraction: of each class's groups; a third at most.

    Raises:
        DataError: a class has one group alone.
    """
    splits: dict[Path, Splits] = {}
    for name, paths in classes.items():
        ordered = sorted({groups[path] for path in paths}, key=_natural)
        if len(ordered) < 2:
            raise DataError(
                f"{name} has one group alone, {ordered[0]} (accepted: two or more, one of them to test on). "
                "Add clips of other scenes, or make the folders train and test."
            )
        # A third at most, so that no group is tested twice; from two groups split 3 must test the first again.
        tested = max(1, min(round(test_fraction * len(ordered)), len(ordered) // 3 or 1))
        rank = {group: index for index, group in enumerate(ordered)}
        for path in paths:
            splits[path] = tuple(  # type: ignore[assignment]
                "test" if (rank[groups[path]] - split * tested) % len(ordered) < tested else "train"
                for split in range(NUM_SPLITS)
            )
    return splits


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]
