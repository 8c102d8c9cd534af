"""Trees of folders: classes, parts, both, and what is refused because it could be either."""

from __future__ import annotations

import itertools
import unicodedata
from pathlib import Path

import pytest

from tests.preparation.test_folders import touch
from videokd.errors import DataError
from videokd.preparation.folder_parts import part_of
from videokd.preparation.folders import folder_layout


@pytest.mark.parametrize(
    ("part", "names"),
    [
        (
            "train",
            "train Train TRAIN training Training trainset TrainSet train_set training-data train2017 train_videos",
        ),
        ("val", "val Val valid validation Validation VALID dev Dev eval evaluation val_set validation_data"),
        ("test", "test Test TEST testing Testing tests test_set TestVideos testset test2"),
        (
            None,
            "wave tester training_dog test_tube devil latest protest validate_ticket 1 été_train 火车 split set data",
        ),
    ],
)
def test_spellings(part: str | None, names: str) -> None:
    assert {name: part_of(name) for name in names.split()} == dict.fromkeys(names.split(), part)


SPELT = [
    ("train", "test"),
    ("Train", "Test"),
    ("TRAINING", "validation"),
    ("training_set", "dev"),
    ("train", "Testing"),
]


@pytest.mark.parametrize("spelt", SPELT)
@pytest.mark.parametrize("inner", [False, True])
def test_parts_in_any_spelling_outside_or_inside_of_the_classes(
    tmp_path: Path, spelt: tuple[str, str], inner: bool
) -> None:
    names = [
        f"{label}/{part}/{clip}.mp4" if inner else f"{part}/{label}/{clip}.mp4"
        for part, label, clip in itertools.product(spelt, ("jump", "run"), (1, 2))
    ]
    clips = folder_layout(touch(tmp_path, *names))
    assert len(clips) == 8
    for clip in clips:
        assert clip.class_name in ("jump", "run")
        assert clip.class_name in clip.path.parts
        assert clip.splits == (("test",) * 3 if spelt[1] in clip.path.parts else ("train",) * 3)
    # 1.mp4 to train on and 1.mp4 to test on are two clips, not one group that is divided
    assert len({clip.group for clip in clips}) == 8


@pytest.mark.parametrize("inner", [False, True])
def test_validation_is_trained_on_where_there_is_a_test_part(tmp_path: Path, inner: bool) -> None:
    for part, label in itertools.product(("Train", "Valid", "Test"), ("jump", "run")):
        touch(tmp_path, f"{label}/{part}/x/1.mp4" if inner else f"{part}/{label}/x/1.mp4")
    (tmp_path / "annotations").mkdir()
    found = {(part, clip.splits[0]) for clip in folder_layout(tmp_path) for part in clip.path.parts[:2]}
    assert {("Train", "train"), ("Valid", "train"), ("Test", "test")} <= found


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            "train/run/1 train/jump/1 test/run/2 test/jump/2 run/3 jump/3",
            "may be parts of the dataset or classes, because",
        ),
        ("run/1 run/2 jump/1 jump/2 test/1 test/2", r"test may be parts .* folders with clips beside them: jump, run"),
        ("run/1 jump/1 Train/run/1 Train/jump/1", "Train may be parts of the dataset or classes"),
        ("run/1 jump/1 training/1 training/2", "training may be parts of the dataset or classes"),
        ("train/run/1 train/jump/1 test/run/2 test/jump/2 unlabelled/9", "folders with clips beside them: unlabelled"),
        ("train/run/1 train/jump/1 test/2", r"test/2.mp4 is not in a class folder .* Move it into test/<class>"),
        ("train/1 train/2 test/1 test/2", "is not in a class folder"),
        ("train/run/1 train/jump/1 training/run/2 test/run/2", "train and training both stand for train"),
        ("train/run/1 train/jump/1 val/run/2 dev/run/2", "dev and val both stand for val"),
        ("train/run/1 train/jump/1", r"has only the part train \(accepted: val or test beside it\)"),
        ("val/run/1 val/jump/1 test/run/1 test/jump/1", r"has only the parts test, val \(accepted: train, and"),
        (
            "run/train/1 run/2 jump/train/1 jump/test/1",
            "1.mp4 is in a folder named like a part, and run/2.mp4 is not",
        ),
        ("run/train/1 run/test/2 jump/1 jump/2", "is in a folder named like a part, and jump/1.mp4 is not"),
        ("run/train/1 run/test/2 jump/train/1 jump/training/2", "train and training both stand for train"),
        ("run/train/1 run/train/2 jump/train/1", r"has only the part train \(accepted: train, and val or test\)"),
        ("run/test/1 jump/test/1", "has only the part test"),
        ("run/s1/train/1 run/s1/test/2 jump/s1/train/1 jump/s2/train/1", "train may be a part of the dataset"),
        ("train/run/test/1 train/jump/1 test/run/1 test/jump/1", "test may be a part of the dataset"),
        ("ucf_train/run/1 ucf_test/run/1", "ucf_test and ucf_train differ only in the part"),
        ("run_train/1 run_train/2 run_test/1 jump_train/1 jump_test/2", "differ only in the part"),
        (
            "split1/train/run/1 split1/test/run/2 split2/train/run/1 split2/test/run/2",
            "look like splits of one dataset",
        ),
        ("fold_1/run/1 fold_2/run/1 fold_3/jump/1", "look like splits of one dataset"),
        ("data/run/1 data/jump/1", r"holds only one class, data .* if data holds the class folders, name .*data\."),
        ("data/train/run/1 data/test/run/1", "if data holds the class folders, name"),
        ("train/Jump/1 train/Run/1 test/Jmp/1 test/Run/2", r"1 classes .* \(first: Jmp\). Did you mean Jump\?"),
        ("Jump/train/1 Run/train/1 Run/test/1 Jmp/test/1", r"\(first: Jmp\). Did you mean Jump\?"),
        ("train/Jump/1 train/Run/1 val/jump/1 val/Run/2", r"\(first: jump\). Did you mean Jump\?"),
    ],
)
def test_trees_that_can_be_read_in_two_ways(tmp_path: Path, names: str, message: str) -> None:
    touch(tmp_path, *(f"{name}.mp4" for name in names.split()))
    with pytest.raises(DataError, match=message):
        folder_layout(tmp_path)


def test_classes_whose_accents_are_encoded_in_two_ways(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "été") for form in ("NFC", "NFD"))
    touch(tmp_path, *(f"{name}.mp4" for name in (f"train/{composed}/1", "train/b/1", f"test/{apart}/2", "test/b/2")))
    if len(list((tmp_path / "train").iterdir()) + list((tmp_path / "test").iterdir())) == 4:
        with pytest.raises(DataError, match=r"It looks like été, but its accents are encoded differently"):
            folder_layout(tmp_path)


def test_groups_of_a_divided_tree_may_be_given(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{part}/{c}/s{n}_x.mp4" for part, n in (("Train", 1), ("Test", 2)) for c in ("a", "b")))
    assert {clip.group for clip in folder_layout(tmp_path, group_pattern=r"(s\d)")} == {"s1", "s2"}
