"""Writing aside, then renaming."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from videokd.errors import DataError
from videokd.files import write_whole


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
