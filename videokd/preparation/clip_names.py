"""Warnings from the names of clips: they look as if clips showed the same scene or person, but no groups were given."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from videokd.preparation.folder_parts import part_of
from videokd.preparation.groups import DEFAULT_GROUP

_MOST_CLIPS = 200_000  # of a larger dataset, a sample is looked at
_ENOUGH = 0.8  # share of the clips whose names must follow a pattern
#: Words before a number that stand for a person or a scene; a person can be in several classes.
_PERSONS = "subject|subj|sub|person|people|actor|actress|user|performer|player|volunteer|participant|id|s|p"
_SCENES = "scene|group|grp|video|vid|film|movie|session|sess|sequence|seq|source|src|match|game|g|v"


@dataclass(frozen=True)
class _Rule:
    """A way to read a group from a clip's name.

    Args:
        pattern: for --group-pattern; None where no pattern can find the group.
        group_of: the group by a clip's path; None where there is none.
        persons: whether the same group may be in several classes.
    """

    pattern: str | None
    group_of: Callable[[PurePath], str | None]
    persons: bool = False


@dataclass(frozen=True)
class Clue:
    """A sign in the names of clips that some of them belong together.

    Args:
        examples: two groups, as they are written in the names.
        num_groups: number of groups.
        num_clips: number of clips whose names have a group.
        pattern: for --group-pattern, or None.
        groups: {path: group}.
    """

    examples: tuple[str, ...]
    num_groups: int
    num_clips: int
    pattern: str | None
    groups: dict[PurePath, str]


def grouping_clue(paths: Sequence[PurePath], class_names: Sequence[str]) -> Clue | None:
    """The groups that the names of clips suggest; None where they suggest none, or have UCF101's group numbers.

    Args:
        paths: the clips' paths, relative to the dataset's folder.
        class_names: the class of each clip.

    >>> names = [f"{action}/a{number}_s{person}_t1.mp4" for number, action in enumerate(("clap", "wave")) for person in range(8)]
    >>> clue = grouping_clue([PurePath(name) for name in names], [name.split("/")[0] for name in names])
    >>> clue.pattern, clue.num_groups, clue.examples
    ('(?i)(?:^|[^a-z])(s[-_ ]?[0-9]+)', 8, ('s0', 's1'))
    """
    step = -(-len(paths) // _MOST_CLIPS) or 1
    paths, class_names = paths[::step], class_names[::step]
    if any(DEFAULT_GROUP.search(path.name) for path in paths):
        return None
    named = dict(zip(paths, class_names, strict=True))
    for rule in _rules():
        groups = {path: group for path in paths if (group := rule.group_of(path)) is not None}
        in_class = {(name, groups[path]) for path, name in named.items() if path in groups}
        num_groups = len(set(groups.values()))
        if len(groups) < _ENOUGH * len(paths) or num_groups < 2:
            continue
        # Numbers that only count the clips of each class from 1 are not persons, unless a word says so
        units = Counter(
            groups[path] if rule.persons else (name, groups[path]) for path, name in named.items() if path in groups
        )
        together = sum(count for count in units.values() if count > 1)
        if 2 * together >= len(groups) and len(in_class) > len(set(class_names)):
            examples = tuple(sorted(set(groups.values()))[:2])
            return Clue(examples, num_groups, len(groups), rule.pattern, dict(groups))
    return None


def grouping_warning(clue: Clue, parts: Mapping[PurePath, str] | None = None) -> str:
    """The warning to print for a clue: one line.

    Args:
        clue: from `grouping_clue`.
        parts: {path: train or test}, where the folders give the parts.
    """
    pattern = f"--group-pattern '{clue.pattern}'" if clue.pattern else "--groups CSV"
    divided: dict[str, set[str]] = defaultdict(set)
    for path, part in (parts or {}).items():
        divided[clue.groups.get(path, "")].add(part)
    on_both_sides = sorted(group for group, found in divided.items() if group and {"train", "test"} <= found)
    seen = f"; {len(on_both_sides)} of them are in training and test ({on_both_sides[0]})" if on_both_sides else ""
    return (
        f"the names of {clue.num_clips} clips look as if they show {clue.num_groups} scenes or persons "
        f"({', '.join(clue.examples)} …), and no groups were given: clips of the same one may then be in training and in validation "
        f"or test, and accuracies come out too high{seen}. If this is right, pass {pattern}."
    )


def part_names_warning(paths: Sequence[PurePath]) -> str | None:
    """A warning where files are named after parts (train_01.mp4 beside test_01.mp4), because such names are ignored."""
    named = {path: part for path in paths if (part := part_of(path.stem)) is not None}
    if len(set(named.values())) < 2 or "train" not in named.values() or len(named) < _ENOUGH * len(paths):
        return None
    return (
        f"{len(named)} clips are named after a part of the dataset ({next(iter(named)).as_posix()}): such names are "
        "ignored, and new splits are made. Move the clips into folders train and test, or give the splits in a CSV file with --groups."
    )


def _rules() -> list[_Rule]:
    rules = []
    for words, persons in ((_PERSONS, True), (_SCENES, False)):
        for word in words.split("|"):
            # One pattern per word, so that the pattern that is proposed is easy to read
            pattern = rf"(?i)(?:^|[^a-z])({word}[-_ ]?[0-9]+)"
            rules.append(_Rule(pattern, _group_by_search(re.compile(pattern)), persons))
    ntu = r"S[0-9]{3}C[0-9]{3}(P[0-9]{3})"
    return [
        _Rule(ntu, _group_by_search(re.compile(ntu)), persons=True),
        *rules,
        *(_Rule(pattern, _group_by_search(re.compile(pattern))) for pattern in _NUMBERED),
        _Rule(None, _subfolder),
        _Rule(r"^([A-Za-z]+)[-_ ]", _first_word, persons=True),
    ]


#: One long video cut into numbered clips: 01_cam2, holiday_001, "holiday (1)", v_biking_01_02, clip_0001_of_holiday.
_NUMBERED = (
    r"^([0-9]+)[-_ ][A-Za-z]",
    r"^(?:clip|part|cut|seg|segment|chunk)[-_ ]?[0-9]+[-_ ]of[-_ ](.*[A-Za-z0-9])\.",
    r"^(.*[A-Za-z0-9])[-_ .(]+(?:clip|part|cut|seg|segment|chunk|c|t|take)?[-_ ]?[0-9]+\)?\.[^.]*$",
)


def _group_by_search(pattern: re.Pattern[str]) -> Callable[[PurePath], str | None]:
    def group(path: PurePath) -> str | None:
        match = pattern.search(path.name)
        return match[1] if match else None

    return group


def _subfolder(path: PurePath) -> str | None:
    """The folder between a clip and its class's folder."""
    inside = [name for name in path.parts[1:-1] if part_of(name) is None]
    return inside[-1] if inside and part_of(path.parts[0]) is None else inside[1] if len(inside) > 1 else None


def _first_word(path: PurePath) -> str | None:
    """The first word of a file name, such as a person in daria_walk.mp4; None where it is the class's name."""
    match = re.match(r"([A-Za-z]+)[-_ ]", path.name)
    return match[1].lower() if match and match[1].lower() not in path.parent.name.lower() else None
