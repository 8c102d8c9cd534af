"""Names that look as if clips belonged together, as published datasets and people write them, and names that do not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePath

import pytest

from videokd.preparation.clip_names import grouping_clue, grouping_warning, part_names_warning

CLASSES = ("jump", "run", "wave")


def names(form: str, groups: str, clips: int) -> Iterator[PurePath]:
    """Paths by a form with {c} class, {k} its number, {g} group, {n} clip."""
    for k, c in enumerate(CLASSES):
        for g in groups.split():
            for n in range(1, clips + 1):
                yield PurePath(c, form.format(c=c, k=k, g=g, n=n))


PEOPLE = "01 02 03 04 05 06 07 08"
WORDS = "daria denis eli ido ira lena"


@pytest.mark.parametrize(
    ("form", "groups", "clips", "examples"),
    [
        ("a{k}_s{g}_t{n}_color.avi", "1 2 3 4 5 6 7 8", 4, ("s1", "s2")),
        ("a{k}_s{g}_t1.avi", "1 2 3 4 5 6 7 8", 1, ("s1", "s2")),
        ("person{g}_{c}_d{n}_uncomp.avi", PEOPLE, 4, ("person01", "person02")),
        ("Subject {g} trial {n}.mp4", PEOPLE, 3, ("Subject 01", "Subject 02")),
        ("P{g}_{n}.MP4", PEOPLE, 3, ("P01", "P02")),
        ("{c}-actor-{g}-{n}.webm", PEOPLE, 2, ("actor-01", "actor-02")),
        ("S001C00{k}P0{g}R00{n}A00{k}.avi", PEOPLE, 2, ("P001", "P002")),
        ("{c}_scene{g}_take{n}.mp4", PEOPLE, 3, ("scene01", "scene02")),
        ("vid{g}_clip{n}.mp4", PEOPLE, 3, ("vid01", "vid02")),
        ("v_{c}_{g}_0{n}.mpg", PEOPLE, 4, ("v_jump_01", "v_jump_02")),
        ("{g}_{c}.avi", WORDS, 1, ("daria", "denis")),
        ("{g}_{n:03d}.mp4", "holiday garden", 9, ("garden", "holiday")),
        ("{g} ({n}).mp4", "holiday garden", 9, ("garden", "holiday")),
        ("clip_{n:04d}_of_{g}.mp4", "holiday garden", 9, ("garden", "holiday")),
        ("{g}/{n}.mp4", "kitchen garden", 9, ("garden", "kitchen")),
        ("{g}_cam{n}.mp4", PEOPLE, 3, ("01", "02")),
    ],
)
def test_names_that_look_grouped(form: str, groups: str, clips: int, examples: tuple[str, ...]) -> None:
    paths = list(names(form, groups, clips))
    clue = grouping_clue(paths, [path.parts[0] for path in paths])
    assert clue is not None
    assert clue.examples == examples
    if clue.pattern is not None:  # what is proposed does what it says
        assert {re.search(clue.pattern, path.name)[1] for path in paths} == set(clue.groups.values())  # type: ignore[index]


@pytest.mark.parametrize(
    ("form", "groups", "clips"),
    [
        ("{n}.mp4", "1", 30),
        ("{n:04d}.mp4", "1", 30),
        ("{c}_{n:03d}.mp4", "1", 30),
        ("{c}{n}.mp4", "1", 30),
        ("clip_{n:03d}.mp4", "1", 30),
        ("video{n}.mp4", "1", 30),
        ("v_{n}.mp4", "1", 30),
        ("IMG_{k}{n:03d}.MOV", "1", 30),
        ("xK{k}{n}b_0000{n}_0000{n}.mp4", "1", 30),
        ("2024-01-{n:02d}.mp4", "1", 28),
        ("my {g} video.mp4", "red blue green dark", 1),
        ("x_g{g}_c{n}.mp4", "01 02 03", 4),  # numbered as UCF101 does, which is understood
        ("train/{n}.mp4", "1", 9),
    ],
)
def test_names_that_do_not(form: str, groups: str, clips: int) -> None:
    paths = list(names(form, groups, clips))
    assert grouping_clue(paths, [path.parts[0] for path in paths]) is None


def test_the_warning_names_who_is_on_both_sides() -> None:
    paths = [
        PurePath(f"{part}/{c}/s{s}_{n}.mp4")
        for part in ("train", "test")
        for c in CLASSES
        for s in (1, 2, 3)
        for n in (1, 2)
    ]
    clue = grouping_clue(paths, [path.parts[1] for path in paths])
    assert clue is not None
    assert "3 of them are in training and test (s1)" in grouping_warning(clue, {path: path.parts[0] for path in paths})
    assert "--group-pattern" in grouping_warning(clue)


def test_files_named_after_parts() -> None:
    paths = [PurePath(c, f"{part}_{n}.mp4") for c in CLASSES for part, n in (("train", 1), ("train", 2), ("test", 1))]
    assert "9 clips are named after a part of the dataset (jump/train_1.mp4)" in (part_names_warning(paths) or "")
    assert part_names_warning([PurePath(c, f"{n}.mp4") for c in CLASSES for n in range(3)]) is None
