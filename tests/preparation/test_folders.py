from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

from videokd.errors import ConfigError, DataError
from videokd.preparation.folders import LAYOUTS, folder_layout
from videokd.preparation.listing import ListedClip
from videokd.preparation.official import HMDB51_CLASSES, UCF101_CLASSES, hmdb51_layout, ucf101_layout

DATA = Path(__file__).resolve().parents[2] / "data"


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def parts(entries: tuple[ListedClip, ...], split: int) -> dict[str, set[str]]:
    """{part: video ids}"""
    found: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        found[entry.splits[split]].add(entry.video_id)
    return found


def assert_groups_are_whole(entries: tuple[ListedClip, ...]) -> None:
    for split in range(3):
        seen: dict[str, set[str]] = defaultdict(set)
        for entry in entries:
            seen[entry.group].add(entry.splits[split])
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
    entries = folder_layout(tmp_path)
    assert [(e.path.as_posix(), e.video_id, e.label, e.class_name, e.group) for e in entries] == [
        ("Ant/deeper/b.webm", "Ant/deeper/b", 0, "Ant", "Ant/b"),
        ("Ant/été (1)#.avi", "Ant/été (1)#", 0, "Ant", "Ant/été (1)#"),
        ("zebra/1.mp4", "zebra/1", 1, "zebra", "zebra/1"),
        ("zebra/2.MOV", "zebra/2", 1, "zebra", "zebra/2"),
    ]


def test_files_that_differ_in_their_suffix_alone_get_ids_of_their_own(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.mp4", "a/x.avi", "a/x.avi.webm", "a/y.mp4", "b/x.mp4", "b/z.mp4")
    ids = [entry.video_id for entry in folder_layout(tmp_path)]
    assert ids == ["a/x.avi", "a/x.avi.webm", "a/x.mp4", "a/y.mp4", "b/x", "b/z"]


@pytest.mark.parametrize(("groups", "tested"), [(2, 1), (3, 1), (5, 1), (10, 3), (25, 8)])
def test_each_split_tests_other_whole_groups(tmp_path: Path, groups: int, tested: int) -> None:
    entries = folder_layout(touch(tmp_path, *numbered(3, groups, 2)))
    assert_groups_are_whole(entries)
    tests = [parts(entries, split)["test"] for split in range(3)]
    assert [len(test) for test in tests] == [3 * tested * 2] * 3
    assert not tests[0] & tests[1]
    if groups > 2:
        assert not tests[2] & (tests[0] | tests[1])
    assert entries == folder_layout(tmp_path)


def test_groups_are_ordered_by_number(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{c}/s{n}_x.mp4" for c in "ab" for n in range(1, 13)))
    entries = folder_layout(tmp_path, group_pattern=r"s(\d+)_")
    assert {e.group for e in entries if e.splits[0] == "test"} == {"1", "2", "3", "4"}


def test_group_pattern_names_groups_of_all_classes(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "wave/a1_s1_t1.mp4",
        "wave/a1_s1_t2.mp4",
        "wave/a1_s2_t1.mp4",
        "clap/a2_s1_t1.mp4",
        "clap/a2_s2_t9.mp4",
    )
    entries = folder_layout(tmp_path, group_pattern=r"_(s\d+)_")
    assert [entry.group for entry in entries] == ["s1", "s2", "s1", "s1", "s2"]
    assert_groups_are_whole(entries)


def test_names_like_ucf101s_get_its_splits_where_all_parts_are_filled(tmp_path: Path) -> None:
    names = [f"{c}/v_{c}_g{g:02d}_c01.avi" for c in ("Archery", "Surfing") for g in range(1, 26)]
    entries = folder_layout(touch(tmp_path / "whole", *names))
    for split, tested in enumerate((range(1, 8), range(8, 15), range(15, 22))):
        expected = {f"{c}/v_{c}_g{g:02d}_c01" for c in ("Archery", "Surfing") for g in tested}
        assert parts(entries, split)["test"] == expected
    # Groups 1 to 6 alone would all be tested in split 1: the general rule then.
    few = [name for name in names if int(re.findall(r"_g(\d+)_", name)[0]) <= 6]
    entries = folder_layout(touch(tmp_path / "few", *few))
    assert [len(parts(entries, split)["test"]) for split in range(3)] == [4, 4, 4]


def test_six_ucf101_classes_get_the_official_splits(shared: Path) -> None:
    entries = folder_layout(shared / "ucf101-6")
    assert len(entries) == 600
    for split in (1, 2, 3):
        for part in ("train", "test"):
            lines = (shared / "lists" / "ucf101" / f"{part}list{split:02d}.txt").read_text().split()
            official = {line.removesuffix(".avi") for line in lines if "/" in line}
            here = parts(entries, split - 1)[part]
            assert here == official & {entry.video_id for entry in entries}
    assert [len(parts(entries, 0)[part]) for part in ("train", "test")] == [432, 168]


@pytest.mark.parametrize(
    ("folders", "tested"),
    [(("train", "test"), "test"), (("train", "val"), "val"), (("train", "val", "test"), "test")],
)
def test_divided_trees_keep_their_parts(tmp_path: Path, folders: tuple[str, ...], tested: str) -> None:
    touch(tmp_path, *(f"{part}/{c}/clip.mp4" for part in folders for c in ("jump", "run")))
    entries = folder_layout(tmp_path)
    assert {entry.video_id for entry in entries} == {f"{part}/{c}/clip" for part in folders for c in ("jump", "run")}
    for entry in entries:
        assert entry.splits == (("test",) * 3 if entry.path.parts[0] == tested else ("train",) * 3)
        assert (entry.label, entry.class_name) == {"jump": (0, "jump"), "run": (1, "run")}[entry.path.parts[1]]


def test_train_and_test_may_be_class_names_among_others_only_when_alone(tmp_path: Path) -> None:
    entries = folder_layout(touch(tmp_path, "train/1.mp4", "train/2.mp4", "plane/1.mp4", "plane/2.mp4"))
    assert [entry.class_name for entry in entries] == ["plane", "plane", "train", "train"]


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


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_wants_a_folder(tmp_path: Path, layout: str) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder. Check the path"):
        LAYOUTS[layout](tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"file is a file \(accepted: a folder with one folder a class\)"):
        LAYOUTS[layout](touch(tmp_path, "file") / "file")


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"group_pattern": "("}, ConfigError, r"group_pattern '\(' is no regular expression"),
        ({"group_pattern": "g1"}, ConfigError, r"group_pattern 'g1' has no capture group"),
        ({"group_pattern": "_s([0-9])"}, DataError, r"does not match its name. Correct the pattern"),
    ],
)
def test_folder_refuses_settings(tmp_path: Path, settings: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        folder_layout(touch(tmp_path, *numbered(2, 3, 1)), **settings)


def ucf101_tree(root: Path) -> Path:
    spelt = {"HandstandPushups": "HandStandPushups"}
    return touch(
        root, *(f"{c}/v_{spelt.get(c, c)}_g{g:02d}_c01.avi" for c in UCF101_CLASSES for g in (1, 7, 8, 14, 15, 21, 25))
    )


def test_ucf101_by_rule(tmp_path: Path) -> None:
    entries = ucf101_layout(ucf101_tree(tmp_path / "UCF-101").parent)
    assert len(entries) == 707
    assert tuple(dict.fromkeys(entry.class_name for entry in entries)) == UCF101_CLASSES
    pushups = [entry for entry in entries if entry.class_name == "HandstandPushups"]
    assert pushups[0].path == Path("UCF-101/HandstandPushups/v_HandStandPushups_g01_c01.avi")
    assert [entry.group for entry in pushups] == [f"HandstandPushups/g{g:02d}" for g in (1, 7, 8, 14, 15, 21, 25)]
    assert {entry.label for entry in pushups} == {36}
    assert [entry.splits.index("test") if "test" in entry.splits else None for entry in pushups] == [
        0, 0, 1, 1, 2, 2, None,
    ]  # fmt: skip


def test_ucf101_rule_gives_the_official_lists(shared: Path, tmp_path: Path) -> None:
    lists = shared / "lists" / "ucf101"
    names = {line.split()[0] for path in lists.glob("t*list01.txt") for line in path.read_text().splitlines() if line}
    touch(tmp_path, *names)
    by_rule = ucf101_layout(tmp_path)
    assert len(by_rule) == 13320
    assert by_rule == ucf101_layout(tmp_path, lists=lists)
    counts = [(len(parts(by_rule, s)["train"]), len(parts(by_rule, s)["test"])) for s in range(3)]
    assert counts == [(9537, 3783), (9586, 3734), (9624, 3696)]


def test_ucf101_lists_are_followed_and_must_be_whole(tmp_path: Path) -> None:
    root, lists = ucf101_tree(tmp_path / "data"), tmp_path / "lists"
    for split in (1, 2, 3):
        touch(lists, f"trainlist0{split}.txt")
        (lists / f"testlist0{split}.txt").write_text("HandStandPushups/v_HandStandPushups_g25_c01.avi\r\n")
    (lists / "trainlist02.txt").write_text("Archery/v_Archery_g01_c01.avi 3\r\n")
    by_id = {entry.video_id: entry.splits for entry in ucf101_layout(root, lists=lists)}
    assert by_id["HandstandPushups/v_HandStandPushups_g25_c01"] == ("test", "test", "test")
    assert by_id["Archery/v_Archery_g01_c01"] == ("unused", "train", "unused")
    (lists / "trainlist03.txt").write_text("Archery/v_Archery_g02_c09.avi 3\n")
    with pytest.raises(DataError, match=r"1 listed clips are missing \(first: archery/v_archery_g02_c09\)"):
        ucf101_layout(root, lists=lists)
    (lists / "trainlist03.txt").unlink()
    with pytest.raises(DataError, match=r"trainlist03.txt: no such list. Name the folder"):
        ucf101_layout(root, lists=lists)


def test_ucf101_refuses_what_is_not_its_own(tmp_path: Path) -> None:
    touch(ucf101_tree(tmp_path / "a"), "Archery/holiday.avi")
    with pytest.raises(DataError, match=r"holiday.avi is not named as UCF101 names its clips"):
        ucf101_layout(tmp_path / "a")
    touch(ucf101_tree(tmp_path / "b"), "Chess/v_Chess_g01_c01.avi")
    with pytest.raises(DataError, match=r"Chess is no class of UCF101 \(1 such folders\)"):
        ucf101_layout(tmp_path / "b")
    touch(tmp_path / "c", "Archery/v_Archery_g01_c01.avi")
    with pytest.raises(DataError, match=r"100 of UCF101's 101 classes have no videos here \(first: ApplyEyeMakeup\)"):
        ucf101_layout(tmp_path / "c")


@pytest.mark.parametrize(
    ("dataset", "given", "meant"),
    [("ucf101", "Archry", "Archery"), ("ucf101", "Jumping_Jack", "JumpingJack"), ("hmdb51", "Cart-wheel", "cartwheel")],
)
def test_a_misspelt_class_of_a_published_dataset(tmp_path: Path, dataset: str, given: str, meant: str) -> None:
    touch(tmp_path, f"{given}/v_{given}_g01_c01.avi")
    with pytest.raises(DataError, match=rf"{given} is no class of {dataset.upper()} .* Did you mean {meant}\? Rename"):
        LAYOUTS[dataset](tmp_path)


def hmdb51_tree(root: Path) -> Path:
    for name in HMDB51_CLASSES:
        touch(root / "hmdb51_org", *(f"{name}/A!(1)&#_{name}_f_nm_np1_fr_med_{n}.avi" for n in range(3)))
        for split in (1, 2, 3):
            path = touch(root, f"testTrainMulti_7030_splits/{name}_test_split{split}.txt")
            lines = [f"A!(1)&#_{name}_f_nm_np1_fr_med_{n}.avi {(n + split) % 3} \n" for n in range(3)]
            (path / f"testTrainMulti_7030_splits/{name}_test_split{split}.txt").write_text("".join(lines))
    return root / "hmdb51_org"


def test_hmdb51_follows_its_lists(tmp_path: Path) -> None:
    root = hmdb51_tree(tmp_path)
    entries = hmdb51_layout(root)
    assert len(entries) == 153
    assert [entry.splits for entry in entries[:3]] == [
        ("train", "test", "unused"),
        ("test", "unused", "train"),
        ("unused", "train", "test"),
    ]
    assert {entry.group for entry in entries[:3]} == {"brush_hair/A!(1)&#_brush_hair"}
    assert entries == hmdb51_layout(root, lists=tmp_path / "testTrainMulti_7030_splits")


def test_hmdb51_refuses_missing_or_odd_lists(tmp_path: Path) -> None:
    root = hmdb51_tree(tmp_path)
    (root / "wave" / "A!(1)&#_wave_f_nm_np1_fr_med_0.avi").unlink()
    with pytest.raises(DataError, match=r"1 listed clips are missing \(first: wave/a!"):
        hmdb51_layout(root)
    with pytest.raises(DataError, match=r"no folder with HMDB51's split lists .* Unpack test_train_splits.rar"):
        hmdb51_layout(root, lists=tmp_path / "elsewhere")
    (tmp_path / "testTrainMulti_7030_splits" / "wave_test_split3.txt").write_text("x.avi 7\n")
    with pytest.raises(DataError, match=r"wave_test_split3.txt: the line 'x.avi 7' \(accepted: <clip>.avi 0\|1\|2\)"):
        hmdb51_layout(root)


def test_hmdb51_official_counts(shared: Path, tmp_path: Path) -> None:
    lists = shared / "lists" / "hmdb51"
    for path in lists.glob("*_test_split1.txt"):
        class_name = path.name.removesuffix("_test_split1.txt")
        touch(
            tmp_path, *(f"{class_name}/{line.rsplit(maxsplit=1)[0]}" for line in path.read_text().splitlines() if line)
        )
    entries = hmdb51_layout(tmp_path, lists=lists)
    assert len(entries) == len({entry.video_id for entry in entries}) == 6766
    for split in range(3):
        assert (len(parts(entries, split)["train"]), len(parts(entries, split)["test"])) == (3570, 1530)


@pytest.mark.parametrize(("dataset", "names"), [("ucf101", UCF101_CLASSES), ("hmdb51", HMDB51_CLASSES)])
def test_class_lists_beside_the_data_are_those_of_the_code(dataset: str, names: tuple[str, ...]) -> None:
    assert tuple((DATA / dataset / "classes.txt").read_text().split()) == names
    assert names == tuple(sorted(names, key=str.lower))
