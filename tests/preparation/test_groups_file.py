"""The CSV file of groups, as spreadsheets and people write it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.preparation.test_folders import touch
from videokd.errors import ConfigError, DataError, VideoKDError
from videokd.preparation.folders import folder_layout
from videokd.preparation.groups_file import GroupsFile

CLIPS = [f"{label}/{clip}.mp4" for label in ("jump", "run") for clip in ("1", "2", "3")]
LINES = ["path,group", *(f"{name},{name[-5]}" for name in CLIPS)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return touch(tmp_path / "clips", *CLIPS)


def groups_in(tree: Path, content: bytes) -> list[str]:
    file = tree.parent / "groups.csv"
    file.write_bytes(content)
    return [clip.group for clip in folder_layout(tree, groups=file)]


@pytest.mark.parametrize(
    "content",
    [
        "\n".join(LINES).encode(),
        "\r\n".join(LINES).encode("utf-8-sig"),
        "\r\n".join(LINES).encode("utf-16"),
        "\n".join(LINES).replace(",", ";").encode(),
        "\n".join(LINES).replace(",", "\t").encode(),
        ("\n".join(LINES) + "\n\n,\n").encode(),
        "\n".join(LINES).replace("path,group", " Path , GROUP ").encode(),
        "\n".join(LINES).replace("jump/", "jump\\").encode(),
        "\n".join(["path,group", *(f"./{line}" for line in LINES[1:])]).encode(),
        "\n".join(['"path","group"', *(f'"{name}","{name[-5]}"' for name in CLIPS)]).encode(),
        "\n".join(["group,path", *(f"{name[-5]},{name}" for name in reversed(CLIPS))]).encode(),
    ],
    ids=[
        "plain",
        "bom",
        "utf16",
        "semicolons",
        "tabs",
        "empty-lines",
        "header",
        "backslashes",
        "dots",
        "quotes",
        "order",
    ],
)
def test_what_spreadsheets_write(tree: Path, content: bytes) -> None:
    assert groups_in(tree, content) == ["1", "2", "3"] * 2


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        (
            "path,group",
            "path,group,split",
            ConfigError,
            r"unknown column 'split' \(accepted: path, group, .*Rename it to split1",
        ),
        ("path,group", "path,group,split4", ConfigError, "unknown column 'split4'"),
        ("path,group", "path,group,lable", ConfigError, "unknown column 'lable' .* Rename it to label"),
        ("path,group", "path,group,note", ConfigError, "unknown column 'note'"),
        ("path,group", "path,group,group", ConfigError, "has the column group twice"),
        ("path,group", "path", ConfigError, r"does not list groups .*Add the column group"),
        ("path,group", "file,group", ConfigError, "Add the column path"),
        ("run/1.mp4,1", "run/1.mp4,1,x", ConfigError, "line 5: 3 values for 2 columns"),
        ("run/1.mp4,1", "run/1.mp4", ConfigError, "line 5: 1 values for 2 columns"),
        ("run/1.mp4", "run/2.mp4", ConfigError, "lists run/2.mp4 twice"),
        ("run/1.mp4", "./run/2.mp4", ConfigError, "lists run/2.mp4 twice"),
        ("run/1.mp4,1", "run/1.mp4,", DataError, r"gives no group for run/1.mp4 \(1 of 6 clips have none\)"),
        ("run/1.mp4", "run/1.avi", DataError, "It lists run/1.avi, which does not exist: correct that path"),
    ],
)
def test_what_does_not_fit(tree: Path, old: str, new: str, error: type[VideoKDError], message: str) -> None:
    with pytest.raises(error, match=message):
        groups_in(tree, "\n".join(LINES).replace(old, new, 1).encode())


def test_text_that_is_not_utf8(tree: Path) -> None:
    with pytest.raises(ConfigError, match="it is not UTF-8; save it as CSV in UTF-8"):
        groups_in(tree, "path,group\nété/1.mp4,1\n".encode("latin-1"))


@pytest.mark.parametrize("edit", [(",0,jump,", ",0,leap,"), (",0,jump,", ",1,jump,"), (",1,run,", ",0,jump,")])
def test_a_plan_whose_classes_were_edited(tree: Path, edit: tuple[str, str]) -> None:
    rows = [f"{name},{number // 3},{name[:-6]},{name[-5]},train,train,train" for number, name in enumerate(CLIPS)]
    plan = "\n".join(["path,label,class_name,group,split1,split2,split3", *rows])
    assert groups_in(tree, plan.encode()) == ["1", "2", "3"] * 2
    with pytest.raises(ConfigError, match=r"(label|class_name) of .* is .*, but by its folder it is"):
        groups_in(tree, plan.replace(*edit, 1).encode())


def test_rows_of_other_clips_are_known(tree: Path) -> None:
    file = tree.parent / "groups.csv"
    file.write_text("\n".join([*LINES, "run/gone.mp4,1"]))
    assert GroupsFile.read(file).unknown_paths([Path(name) for name in CLIPS]) == ["run/gone.mp4"]


def test_splits_that_use_no_clip_are_refused(tree: Path) -> None:
    rows = "".join(f"{clip.path.as_posix()},{number},unused\n" for number, clip in enumerate(folder_layout(tree)))
    with pytest.raises(DataError, match="every clip is unused in every split"):
        groups_in(tree, f"path,group,split1\n{rows}".encode())
