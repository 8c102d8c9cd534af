"""What the names of clips tell about scenes and persons where nobody has named groups."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from videokd.preparation.folder_parts import part_of
from videokd.preparation.groups import DEFAULT_GROUP

_MOST_CLIPS = 200_000  # more tell no more
_ENOUGH = 0.8  # share of the clips whose names must follow a pattern
#: Words before a number that name who is seen, or where; those of persons count across classes too.
_PERSONS = "subject|subj|sub|person|people|actor|actress|user|performer|player|volunteer|participant|id|s|p"
_SCENES = "scene|group|grp|video|vid|film|movie|session|sess|sequence|seq|source|src|match|game|g|v"


@dataclass(frozen=True)
class _Rule:
    """A way to read a group from a clip's name.

    Args:
        pattern: for --group-pattern; None where it would not help.
        of: the group, or None.
        persons: whether a group that is in several classes, once in each, is one too.
    """

    pattern: str | None
    of: Callable[[PurePath], str | None]
    persons: bool = False


@dataclass(frozen=True)
class Clue:
    """Names that look as if clips belonged together.

    Args:
        examples: two groups, as the names have them.
        num_groups: how many there are.
        num_clips: clips whose names have one.
        pattern: for --group-pattern, or None.
        groups: {path: group}.
    """

    examples: tuple[str, ...]
    num_groups: int
    num_clips: int
    pattern: str | None
    groups: dict[PurePath, str]


def grouping_clue(paths: Sequence[PurePath], class_names: Sequence[str]) -> Clue | None:
    """How the names of clips that have no groups look as if they should have some; None where they do not.

    Args:
        paths: of the clips, relative to the dataset's folder.
        class_names: of each clip.

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
        groups = {path: group for path in paths if (group := rule.of(path)) is not None}
        in_class = {(name, groups[path]) for path, name in named.items() if path in groups}
        num_groups = len(set(groups.values()))
        if len(groups) < _ENOUGH * len(paths) or num_groups < 2:
            continue
        # Numbers that count the clips of each class from 1 are no persons, unless a word says so
        units = Counter(
            groups[path] if rule.persons else (name, groups[path]) for path, name in named.items() if path in groups
        )
        together = sum(count for count in units.values() if count > 1)
        if 2 * together >= len(groups) and len(in_class) > len(set(class_names)):
            examples = tuple(sorted(set(groups.values()))[:2])
            return Clue(examples, num_groups, len(groups), rule.pattern, dict(groups))
    return None


def warning_of(clue: Clue, parts: Mapping[PurePath, str] | None = None) -> str:
    """One line for a person.

    Args:
        clue: from `grouping_clue`.
        parts: {path: train or test}, where the folders decide.
    """
    pattern = f"--group-pattern '{clue.pattern}'" if clue.pattern else "--groups CSV"
    divided: dict[str, set[str]] = defaultdict(set)
    for path, part in (parts or {}).items():
        divided[clue.groups.get(path, "")].add(part)
    torn = sorted(group for group, found in divided.items() if group and {"train", "test"} <= found)
    seen = f"; {len(torn)} of them are in training and test ({torn[0]})" if torn else ""
    return (
        f"the names of {clue.num_clips} clips look as if they show {clue.num_groups} scenes or persons "
        f"({', '.join(clue.examples)} …), and no groups were given: clips of one may be trained on and validated or tested on, "
        f"and accuracies are then too high{seen}. If they are, pass {pattern}."
    )


def part_in_names(paths: Sequence[PurePath]) -> str | None:
    """A warning where files are named after parts (train_01.mp4 beside test_01.mp4), which counts for nothing."""
    named = {path: part for path in paths if (part := part_of(path.stem)) is not None}
    if len(set(named.values())) < 2 or "train" not in named.values() or len(named) < _ENOUGH * len(paths):
        return None
    return (
        f"{len(named)} clips are named after a part of the dataset ({next(iter(named)).as_posix()}): names count for nothing, the "
        "splits are made anew. Put the clips into folders train and test, or name the splits in a CSV file for --groups."
    )


def _rules() -> list[_Rule]:
    rules = []
    for words, persons in ((_PERSONS, True), (_SCENES, False)):
        for word in words.split("|"):
            # The word itself stands in the pattern that is proposed, so that it can be read
            pattern = rf"(?i)(?:^|[^a-z])({word}[-_ ]?[0-9]+)"
            rules.append(_Rule(pattern, _search(re.compile(pattern)), persons))
    ntu = r"S[0-9]{3}C[0-9]{3}(P[0-9]{3})"
    return [
        _Rule(ntu, _search(re.compile(ntu)), persons=True),
        *rules,
        *(_Rule(pattern, _search(re.compile(pattern))) for pattern in _NUMBERED),
        _Rule(None, _subfolder),
        _Rule(r"^([A-Za-z]+)[-_ ]", _first_word, persons=True),
    ]


#: One long video cut into numbered clips: 01_cam2, holiday_001, "holiday (1)", v_biking_01_02, clip_0001_of_holiday.
_NUMBERED = (
    r"^([0-9]+)[-_ ][A-Za-z]",
    r"^(?:clip|part|cut|seg|segment|chunk)[-_ ]?[0-9]+[-_ ]of[-_ ](.*[A-Za-z0-9])\.",
    r"^(.*[A-Za-z0-9])[-_ .(]+(?:clip|part|cut|seg|segment|chunk|c|t|take)?[-_ ]?[0-9]+\)?\.[^.]*$",
)


def _search(pattern: re.Pattern[str]) -> Callable[[PurePath], str | None]:
    def group(path: PurePath) -> str | None:
        match = pattern.search(path.name)
        return match[1] if match else None

    return group


def _subfolder(path: PurePath) -> str | None:
    """The folder of clips that do not lie in their class's own."""
    inside = [name for name in path.parts[1:-1] if part_of(name) is None]
    return inside[-1] if inside and part_of(path.parts[0]) is None else inside[1] if len(inside) > 1 else None


def _first_word(path: PurePath) -> str | None:
    """daria_walk.mp4: a name, if it is not the class's."""
    match = re.match(r"([A-Za-z]+)[-_ ]", path.name)
    return match[1].lower() if match and match[1].lower() not in path.parent.name.lower() else None
