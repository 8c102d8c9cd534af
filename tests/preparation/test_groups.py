"""Groups over classes: in no split is a person on both sides."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

import pytest

from videokd.errors import DataError
from videokd.preparation.groups import splits_by_group


def clips_of(people: dict[str, str]) -> tuple[dict[str, list[Path]], dict[Path, str]]:
    """{class: clips}, {clip: person} from {class: persons}."""
    classes = {name: [Path(name, person) for person in persons.split()] for name, persons in people.items()}
    return classes, {path: path.name for paths in classes.values() for path in paths}


def assert_whole(classes: dict[str, list[Path]], groups: dict[Path, str]) -> None:
    splits = splits_by_group(classes, groups)
    assert splits == splits_by_group(classes, groups)
    for split in range(3):
        parts: dict[str, set[str]] = defaultdict(set)
        for path, found in splits.items():
            parts[groups[path]].add(found[split])
        assert all(len(found) == 1 for found in parts.values())
        for paths in classes.values():
            assert {splits[path][split] for path in paths} == {"train", "test"}


@pytest.mark.parametrize(
    "people",
    [
        {"a": "s1 s2 s3 s4 s5 s6", "b": "s3 s4 s5 s6 s7 s8 s9"},
        {"a": "1 2 3 4 5 6 7 8", "b": "1 2 3 4 5 6 7 8", "c": "1 2 3 4 5 6 7 8"},
        {"a": "1 2", "b": "1 2 3 4 5 6"},
        {"a": "1 2", "b": "2 3", "c": "3 4"},
        {"a": "1 2 3", "b": "3 4 5", "c": "5 6 1"},
        {"a": "x y", "b": "p q r s"},
        {name: " ".join(map(str, range(40))) for name in "abcdefgh"},
    ],
)
def test_a_person_is_on_one_side_in_all_classes(people: dict[str, str]) -> None:
    assert_whole(*clips_of(people))


@pytest.mark.parametrize("seed", range(20))
def test_persons_who_act_in_some_classes(seed: int) -> None:
    rng = random.Random(seed)
    names = [str(number) for number in range(rng.randint(8, 30))]
    people = {name: " ".join(rng.sample(names, rng.randint(4, len(names)))) for name in "abcdef"[: rng.randint(2, 6)]}
    assert_whole(*clips_of(people))


def test_each_split_tests_other_persons() -> None:
    classes, groups = clips_of(dict.fromkeys("abc", "1 2 3 4 5 6 7 8 9 10"))
    splits = splits_by_group(classes, groups)
    tested = [{groups[path] for path in splits if splits[path][split] == "test"} for split in range(3)]
    assert tested == [{"1", "2", "3"}, {"4", "5", "6"}, {"7", "8", "9"}]


def test_persons_who_cannot_be_divided_are_refused() -> None:
    """Whichever two persons are tested, they are all of one class."""
    with pytest.raises(DataError, match=r"split 1 cannot test .*--groups"):
        splits_by_group(*clips_of({"a": "1 2", "b": "2 3", "c": "1 3"}))
