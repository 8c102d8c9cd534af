"""The splits of a dataset, and the choice of training groups that are held out for validation."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from typing import Literal

Part = Literal["train", "test", "unused"]
Splits = tuple[Part, Part, Part]

NUM_SPLITS = 3


def held_out_groups(groups_of: Mapping[str, Collection[str]], *, fraction: float, key: str) -> set[str]:
    """Groups to validate on: a part of each class's groups, the same in all classes as far as possible.

    Args:
        groups_of: {class: its training groups}.
        fraction: how many of each class's groups; at least one, but never the only one.
        key: another key gives another choice.
    """
    classes_of: dict[str, list[str]] = defaultdict(list)
    for name, groups in groups_of.items():
        for group in groups:
            classes_of[group].append(name)
    held_out: set[str] = set()
    count_of: Counter[str] = Counter()  # groups of each class that are held out
    for class_name, groups in groups_of.items():

        def order(group: str, prefix: str = f"{class_name}/") -> bytes:
            # A hash, not a random generator: the choice is the same on every machine and in every version. Without the name
            # of the class, so that scenes with the same number are held out in all classes.
            return hashlib.sha256(f"{key}/{group.removeprefix(prefix)}".encode()).digest()

        count = min(max(1, round(fraction * len(groups))), len(groups) - 1)
        for group in sorted(groups, key=order):
            if count_of[class_name] >= count:
                break
            if group not in held_out and all(count_of[name] + 1 < len(groups_of[name]) for name in classes_of[group]):
                held_out.add(group)
                count_of.update(classes_of[group])
    return held_out
