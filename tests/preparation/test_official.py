from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.preparation.test_folders import parts, touch
from videokd.errors import DataError
from videokd.preparation.listing import ListedClip
from videokd.preparation.official import HMDB51_CLASSES, UCF101_CLASSES, hmdb51_layout, ucf101_layout

DATA = Path(__file__).resolve().parents[2] / "data"


def ucf101_tree(root: Path) -> Path:
    spelt = {"HandstandPushups": "HandStandPushups"}
    return touch(
        root, *(f"{c}/v_{spelt.get(c, c)}_g{g:02d}_c01.avi" for c in UCF101_CLASSES for g in (1, 7, 8, 14, 15, 21, 25))
    )


def test_ucf101_by_rule(tmp_path: Path) -> None:
    clips = ucf101_layout(ucf101_tree(tmp_path / "UCF-101").parent)
    assert len(clips) == 707
    assert tuple(dict.fromkeys(clip.class_name for clip in clips)) == UCF101_CLASSES
    pushups = [clip for clip in clips if clip.class_name == "HandstandPushups"]
    assert pushups[0].path == Path("UCF-101/HandstandPushups/v_HandStandPushups_g01_c01.avi")
    assert [clip.group for clip in pushups] == [f"HandstandPushups/g{g:02d}" for g in (1, 7, 8, 14, 15, 21, 25)]
    assert {clip.label for clip in pushups} == {36}
    assert [clip.splits.index("test") if "test" in clip.splits else None for clip in pushups] == [
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
    by_id = {clip.video_id: clip.splits for clip in ucf101_layout(root, lists=lists)}
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
    with pytest.raises(DataError, match=r"Chess is not a class of UCF101 \(1 such folders\)"):
        ucf101_layout(tmp_path / "b")
    touch(tmp_path / "c", "Archery/v_Archery_g01_c01.avi")
    with pytest.raises(DataError, match=r"100 of UCF101's 101 classes have no videos here \(first: ApplyEyeMakeup\)"):
        ucf101_layout(tmp_path / "c")


@pytest.mark.parametrize(
    ("layout", "given", "meant"),
    [
        (ucf101_layout, "Archry", "Archery"),
        (ucf101_layout, "Jumping_Jack", "JumpingJack"),
        (hmdb51_layout, "Cart-wheel", "cartwheel"),
    ],
)
def test_a_misspelt_class_of_a_published_dataset(
    tmp_path: Path, layout: Callable[[Path], tuple[ListedClip, ...]], given: str, meant: str
) -> None:
    touch(tmp_path, f"{given}/v_{given}_g01_c01.avi")
    with pytest.raises(DataError, match=rf"{given} is not a class of (UCF101|HMDB51) .* Did you mean {meant}\? Rename"):
        layout(tmp_path)


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
    clips = hmdb51_layout(root)
    assert len(clips) == 153
    assert [clip.splits for clip in clips[:3]] == [
        ("train", "test", "unused"),
        ("test", "unused", "train"),
        ("unused", "train", "test"),
    ]
    assert {clip.group for clip in clips[:3]} == {"brush_hair/A!(1)&#_brush_hair"}
    assert clips == hmdb51_layout(root, lists=tmp_path / "testTrainMulti_7030_splits")


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
    clips = hmdb51_layout(tmp_path, lists=lists)
    assert len(clips) == len({clip.video_id for clip in clips}) == 6766
    for split in range(3):
        assert (len(parts(clips, split)["train"]), len(parts(clips, split)["test"])) == (3570, 1530)


@pytest.mark.parametrize(("dataset", "names"), [("ucf101", UCF101_CLASSES), ("hmdb51", HMDB51_CLASSES)])
def test_class_lists_beside_the_data_are_those_of_the_code(dataset: str, names: tuple[str, ...]) -> None:
    assert tuple((DATA / dataset / "classes.txt").read_text().split()) == names
    assert names == tuple(sorted(names, key=str.lower))
