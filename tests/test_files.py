"""Writing aside, then renaming."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from videokd.errors import DataError
from videokd.files import read_json, write_whole, written_whole


def test_a_file_is_replaced(tmp_path: Path) -> None:
    write_whole(tmp_path / "a" / "b.txt", b"old")
    assert write_whole(str(tmp_path / "a" / "b.txt"), b"new").read_bytes() == b"new"
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_whole(tmp_path / "b.txt", b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(DataError, match=r"b\.txt could not be written \(disk full\); an older one is untouched"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["b.txt"]


def test_a_file_of_its_owner_alone_is_opened_to_others(tmp_path: Path) -> None:
    """Some libraries make their files for the owner only; other new files follow the umask."""
    (tmp_path / "usual").touch()
    with written_whole(tmp_path / "made") as aside:
        aside.touch(mode=0o600)
    assert (tmp_path / "made").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "usual"]


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a": NaN}', '{"a": -Infinity}', "\xff", "x" * 2_000])
def test_json_that_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"."):
        read_json(tmp_path / "a.json", most_bytes=1_000_000 if len(text) != 2_000 else 1_000)
