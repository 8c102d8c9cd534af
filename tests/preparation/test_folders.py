from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from videokd.errors import ConfigError, DataError
from videokd.preparation.folders import folder_layout, unlabelled_layout
from videokd.preparation.listing import ListedClip
from videokd.preparation.official import hmdb51_layout, ucf101_layout


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def parts(clips: tuple[ListedClip, ...], split: int) -> dict[str, set[str]]:
    """{part: video ids}"""
    found: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        found[clip.splits[split]].add(clip.video_id)
    return found


def assert_groups_are_whole(clips: tuple[ListedClip, ...]) -> None:
    for split in range(3):
        seen: dict[str, set[str]] = defaultdict(set)
        for clip in clips:
            seen[clip.group].add(clip.splits[split])
        assert all(len(found) == 1 for found in seen.values())


def numbered(classes: int, groups: int, clips: int) -> list[str]:
    return [
        f"class{c}/scene_g{g:02d}_c{n:02d}.mp4"
        for c in range(classes)
        for g in range(1, groups + 1)
        for n in range(1, clips + 1)
    ]


def test_folder_gives_labels_by_name_and_ids_without_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "zebra/1.mp4", "zebra/2.MOV", "Ant/été (1)#.avi", "Ant/deeper/b.webm", "Ant/notes.txt", "readme.md")
    touch(tmp_path, ".cache/x.mp4", "Ant/.hidden.mp4")
    clips = folder_layout(tmp_path)
    assert [(c.path.as_posix(), c.video_id, c.label, c.class_name, c.group) for c in clips] == [
        ("Ant/deeper/b.webm", "Ant/deeper/b", 0, "Ant", "Ant/b"),
        ("Ant/été (1)#.avi", "Ant/été (1)#", 0, "Ant", "Ant/été (1)#"),
        ("zebra/1.mp4", "zebra/1", 1, "zebra", "zebra/1"),
        ("zebra/2.MOV", "zebra/2", 1, "zebra", "zebra/2"),
    ]


def test_files_that_differ_in_their_suffix_alone_get_ids_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.mp4", "a/x.avi", "a/x.avi.webm", "a/y.mp4", "b/x.mp4", "b/z.mp4")
    ids = [clip.video_id for clip in folder_layout(tmp_path)]
    assert ids == ["a/x.avi", "a/x.avi.webm", "a/x.mp4", "a/y.mp4", "b/x", "b/z"]


@pytest.mark.parametrize(("groups", "tested"), [(2, 1), (3, 1), (5, 1), (10, 3), (25, 8)])
def test_each_split_tests_other_whole_groups(tmp_path: Path, groups: int, tested: int) -> None:
    clips = folder_layout(touch(tmp_path, *numbered(3, groups, 2)))
    assert_groups_are_whole(clips)
    tests = [parts(clips, split)["test"] for split in range(3)]
    assert [len(test) for test in tests] == [3 * tested * 2] * 3
    assert not tests[0] & tests[1]
    if groups > 2:
        assert not tests[2] & (tests[0] | tests[1])
    assert clips == folder_layout(tmp_path)


def test_groups_are_ordered_by_number(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{c}/s{n}_x.mp4" for c in "ab" for n in range(1, 13)))
    clips = folder_layout(tmp_path, group_pattern=r"s(\d+)_")
    assert {c.group for c in clips if c.splits[0] == "test"} == {"1", "2", "3", "4"}


def test_group_pattern_names_groups_of_all_classes(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "wave/a1_s1_t1.mp4",
        "wave/a1_s1_t2.mp4",
        "wave/a1_s2_t1.mp4",
        "clap/a2_s1_t1.mp4",
        "clap/a2_s2_t9.mp4",
    )
    clips = folder_layout(tmp_path, group_pattern=r"_(s\d+)_")
    assert [clip.group for clip in clips] == ["s1", "s2", "s1", "s1", "s2"]
    assert_groups_are_whole(clips)


def test_names_like_ucf101s_get_its_splits_where_all_parts_are_filled(tmp_path: Path) -> None:
    names = [f"{c}/v_{c}_g{g:02d}_c01.avi" for c in ("Archery", "Surfing") for g in range(1, 26)]
    clips = folder_layout(touch(tmp_path / "whole", *names))
    for split, tested in enumerate((range(1, 8), range(8, 15), range(15, 22))):
        expected = {f"{c}/v_{c}_g{g:02d}_c01" for c in ("Archery", "Surfing") for g in tested}
        assert parts(clips, split)["test"] == expected
    # Groups 1 to 6 alone would all be tested in split 1: the general rule then.
    few = [name for name in names if int(re.findall(r"_g(\d+)_", name)[0]) <= 6]
    clips = folder_layout(touch(tmp_path / "few", *few))
    assert [len(parts(clips, split)["test"]) for split in range(3)] == [4, 4, 4]


def test_six_ucf101_classes_get_the_official_splits(shared: Path) -> None:
    clips = folder_layout(shared / "ucf101-6")
    assert len(clips) == 600
    for split in (1, 2, 3):
        for part in ("train", "test"):
            lines = (shared / "lists" / "ucf101" / f"{part}list{split:02d}.txt").read_text().split()
            official = {line.removesuffix(".avi") for line in lines if "/" in line}
            here = parts(clips, split - 1)[part]
            assert here == official & {clip.video_id for clip in clips}
    assert [len(parts(clips, 0)[part]) for part in ("train", "test")] == [432, 168]


@pytest.mark.parametrize(
    ("folders", "tested"),
    [(("train", "test"), "test"), (("train", "val"), "val"), (("train", "val", "test"), "test")],
)
def test_divided_trees_keep_their_parts(tmp_path: Path, folders: tuple[str, ...], tested: str) -> None:
    touch(tmp_path, *(f"{part}/{c}/clip.mp4" for part in folders for c in ("jump", "run")))
    clips = folder_layout(tmp_path)
    assert {clip.video_id for clip in clips} == {f"{part}/{c}/clip" for part in folders for c in ("jump", "run")}
    for clip in clips:
        assert clip.splits == (("test",) * 3 if clip.path.parts[0] == tested else ("train",) * 3)
        assert (clip.label, clip.class_name) == {"jump": (0, "jump"), "run": (1, "run")}[clip.path.parts[1]]


def test_train_and_test_may_be_class_names_among_others_only_when_alone(tmp_path: Path) -> None:
    clips = folder_layout(touch(tmp_path, "train/1.mp4", "train/2.mp4", "plane/1.mp4", "plane/2.mp4"))
    assert [clip.class_name for clip in clips] == ["plane", "plane", "train", "train"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["a/x.txt", "b/y.txt"],
            r"holds no videos in folders \(accepted: <class>/<clip>, suffixes such as .mp4.*\). Put",
        ),
        (["x.mp4"], r"holds no videos in folders"),
        (["a/x.mp4", "a/y.mp4"], r"holds only one class, a \(accepted: two or more\)"),
        (["a/x.mp4", "a/y.mp4", "b/y.txt"], r"no videos for 1 of 2 classes \(first: b\)"),
        (["a/x.mp4", "b/x.mp4", "b/y.mp4"], r"a has only one group, a/x \(accepted: two or more"),
        (["train/a/x.mp4", "train/b/x.mp4", "test/c/x.mp4"], r"1 classes have no training videos \(first: c\)"),
    ],
)
def test_folder_refuses(tmp_path: Path, files: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        folder_layout(touch(tmp_path, *files))


@pytest.mark.parametrize("layout", [folder_layout, unlabelled_layout, ucf101_layout, hmdb51_layout])
def test_every_layout_wants_a_folder(tmp_path: Path, layout: Callable[[Path], object]) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder. Check the path"):
        layout(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"file is a file \(accepted: a folder with one folder per class\)"):
        layout(touch(tmp_path, "file") / "file")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"group_pattern": "("}, ConfigError, r"group_pattern '\(' is not a regular expression"),
        ({"group_pattern": "g1"}, ConfigError, r"group_pattern 'g1' has no capture group"),
        ({"group_pattern": "_s([0-9])"}, DataError, r"does not match its name. Correct the pattern"),
    ],
)
def test_folder_refuses_settings(tmp_path: Path, settings: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        folder_layout(touch(tmp_path, *numbered(2, 3, 1)), **settings)
