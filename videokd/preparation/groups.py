"""Groups of clips that belong together, from their names; and splits that keep each group whole."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from videokd.datasets.splits import NUM_SPLITS, Splits
from videokd.errors import ConfigError, DataError

GroupOf = Callable[[Path, str], str]
"""A clip's group from its path and class. Clips with the same group belong together, in whatever classes they are."""

#: How UCF101 numbers the scenes of a class.
DEFAULT_GROUP = re.compile(r"_g(\d+)_")
_TESTED_SHARE = 0.3  # of each class's groups, in each split
_ATTEMPTS = 64  # orders of groups that are tried


def pattern_rule(group_pattern: str | None) -> GroupOf:
    """A function that finds a clip's group in its file name, by a regular expression.

    Args:
        group_pattern: searched for in file names; its first capture group is the name of the group, which is the same group
            in all classes. None: `default_group`.

    Returns:
        The function; it raises a DataError for a file name that the pattern does not match.

    Raises:
        ConfigError: the pattern is not a regular expression, or has no capture group.
    """
    if group_pattern is None:
        return default_group
    try:
        pattern = re.compile(group_pattern)
    except re.error as error:
        raise ConfigError(
            f"group_pattern {group_pattern!r} is not a regular expression ({error}). Correct it."
        ) from error
    if pattern.groups < 1:
        raise ConfigError(
            f"group_pattern {group_pattern!r} has no capture group. Put ( ) around the part that names the group."
        )

    def group(path: Path, class_name: str) -> str:
        match = pattern.search(path.name)
        if match is None or not match[1]:
            raise DataError(f"{path}: group_pattern {pattern.pattern!r} does not match its name. Correct the pattern.")
        return match[1]

    return group


def default_group(path: Path, class_name: str) -> str:
    """A clip's group by UCF101's numbers; a clip without such a number is a group of its own.

    >>> default_group(Path("v_Archery_g01_c02.avi"), "Archery"), default_group(Path("anna.mp4"), "wave")
    ('Archery/g01', 'wave/anna')
    """
    match = DEFAULT_GROUP.search(path.name)
    return f"{class_name}/g{match[1]}" if match else f"{class_name}/{path.stem}"


def splits_by_group(classes: Mapping[str, Sequence[Path]], groups: Mapping[Path, str]) -> dict[Path, Splits]:
    """Three splits that each test about 30 % of every class's groups, different groups in each split where there are enough.

    A group is tested with all its clips, in whatever classes they are.

    Args:
        classes: {class: its clips}.
        groups: {clip: its group}.

    Returns:
        {clip: its part in each split}.

    Raises:
        DataError: a class has only one group, or classes share groups in such a way that no split is possible.
    """
    groups_of = {
        name: sorted({groups[path] for path in paths}, key=_numbers_as_numbers) for name, paths in classes.items()
    }
    for name, ordered in groups_of.items():
        if len(ordered) < 2:
            raise DataError(
                f"{name} has only one group, {ordered[0]} (accepted: two or more, one of them to test on). "
                "Add clips of other scenes, or divide the clips into folders train and test."
            )
    # At most a third, so that no group is tested twice. Of two groups, split 3 has to test the first again.
    wanted = {
        name: max(1, min(round(_TESTED_SHARE * len(ordered)), len(ordered) // 3 or 1))
        for name, ordered in groups_of.items()
    }
    classes_of: dict[str, list[str]] = defaultdict(list)
    for name, ordered in groups_of.items():
        for group in ordered:
            classes_of[group].append(name)
    times = dict.fromkeys(sorted(classes_of, key=_numbers_as_numbers), 0)
    tested: list[set[str]] = []
    for split in range(NUM_SPLITS):
        tested.append(_tested_groups(times, classes_of, groups_of, wanted, split=split))
        for group in tested[-1]:
            times[group] += 1
    return {
        path: tuple("test" if groups[path] in chosen else "train" for chosen in tested)  # type: ignore[misc]
        for paths in classes.values()
        for path in paths
    }


def _tested_groups(
    times: Mapping[str, int],
    classes_of: Mapping[str, Sequence[str]],
    groups_of: Mapping[str, Sequence[str]],
    wanted: Mapping[str, int],
    *,
    split: int,
) -> set[str]:
    """Groups to test: some of every class, never all of a class; groups that were tested least come first.

    Where classes share groups, the first order may find no solution; then other orders are tried.
    """
    order = list(times)
    for attempt in range(_ATTEMPTS):
        chosen, untested = _greedy_choice(sorted(order, key=times.__getitem__), classes_of, groups_of, wanted)
        if not untested:
            return chosen
        order.sort(key=lambda group: hashlib.sha256(f"{attempt}/{group}".encode()).digest())
    raise DataError(
        f"split {split + 1} cannot test {untested[0]}: each of its {len(groups_of[untested[0]])} groups is also all that "
        "another class has left to train on. Give the splits in a CSV file with --groups, or divide the clips into folders train and test."
    )


def _greedy_choice(
    order: Sequence[str],
    classes_of: Mapping[str, Sequence[str]],
    groups_of: Mapping[str, Sequence[str]],
    wanted: Mapping[str, int],
) -> tuple[set[str], list[str]]:
    """The first groups of an order that fit, and the classes that are not tested yet."""
    chosen: set[str] = set()
    count: Counter[str] = Counter()
    # First the groups that all their classes still want; then those of a class that is not tested yet
    for fits in (all, any):
        for group in order:
            names = classes_of[group]
            lacking = (count[name] < (wanted[name] if fits is all else 1) for name in names)
            if group not in chosen and fits(lacking) and all(count[name] + 1 < len(groups_of[name]) for name in names):
                chosen.add(group)
                count.update(names)
    return chosen, [name for name in groups_of if not count[name]]


def _numbers_as_numbers(text: str) -> list[tuple[int, str]]:
    """A key for sorting: g2 comes before g10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]
