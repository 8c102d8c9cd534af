from __future__ import annotations

import random

import pytest

from videokd.datasets.splits import held_out_groups


@pytest.mark.parametrize("seed", range(10))
def test_validation_holds_persons_out_of_all_classes(seed: int) -> None:
    rng = random.Random(seed)
    names = [str(number) for number in range(12)]
    groups_of = {name: set(rng.sample(names, rng.randint(1, 12))) for name in "abcd"}
    held_out = held_out_groups(groups_of, fraction=0.25, key=f"{seed}/1")
    assert all(groups - held_out for groups in groups_of.values())


def test_validation_of_scenes_of_a_class_is_what_it_was() -> None:
    """The choice of videokd 0.1, so that runs trained with it keep their validation part."""
    groups_of = {name: {f"{name}/g{number:02d}" for number in range(1, 26)} for name in ("Archery", "Surfing")}
    held_out = held_out_groups(groups_of, fraction=0.15, key="0/1")
    assert sorted(held_out) == EXPECTED


EXPECTED = [
    "Archery/g02",
    "Archery/g06",
    "Archery/g19",
    "Archery/g23",
    "Surfing/g02",
    "Surfing/g06",
    "Surfing/g19",
    "Surfing/g23",
]
