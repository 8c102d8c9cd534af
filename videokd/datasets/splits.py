"""The parts of a dataset, and which training groups are held out to validate on."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Literal

Part = Literal["train", "test", "unused"]
Splits = tuple[Part, Part, Part]

NUM_SPLITS = 3


def held_out_groups(groups_of: Mapping[str, Collection[str]], *, fraction: float, key: str) -> set[str]:
    """Groups to validate on: a share of each class's, the same ones in all classes as far as they have them.

    Args:
        groups_of: {class: its training groups}.
        fraction: of each class's groups; one at least, but a class with only one keeps it.
        key: chooses them.
    """
    classes_of: dict[str, list[str]] = defaultdict(list)
    for name, groups in groups_of.items():
        for group in groups:
            classes_of[group].append(name)
    held_out: set[str] = set()
    held = dict.fromkeys(groups_of, 0)
    for class_name, groups in groups_of.items():

        def order(group: str, prefix: str = f"{class_name}/") -> bytes:
            # A hash, not a random generator: the choice is the same on every machine and version. Without the class, so
            # that scenes of the same number are held out of all classes.
            return hashlib.sha256(f"{key}/{group.removeprefix(prefix)}".encode()).digest()

        count = min(max(1, round(fraction * len(groups))), len(groups) - 1)
        for group in sorted(groups, key=order):
            if held[class_name] >= count:
                break
            if group not in held_out and all(held[name] + 1 < len(groups_of[name]) for name in classes_of[group]):
                held_out.add(group)
                for name in classes_of[group]:
                    held[name] += 1
    return held_out
