"""Scores of an evaluation that was stopped, in chunks; what is damaged is scored again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from videokd.evaluation.partial_scores import PartialScores


def rows(count: int, value: float, networks: str = "ab") -> dict[str, np.ndarray]:
    return {name: np.full((count, 3), value, np.float32) for name in networks}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Chunks of 2, 3 and 1 videos out of 8."""
    scores = PartialScores(tmp_path / "partial" / "key", num_videos=8)
    for count, value in ((2, 0.0), (3, 1.0), (1, 2.0)):
        scores.add(rows(count, value))
        scores.flush()
    return tmp_path / "partial" / "key"


def test_what_is_written_is_read_in_order(folder: Path) -> None:
    again = PartialScores(folder, num_videos=8)
    assert again.num_done == 6
    assert again.rows()["b"][:, 0].tolist() == [0, 0, 1, 1, 1, 2]
    again.add(rows(2, 3.0))
    again.flush()
    assert PartialScores(folder, num_videos=8).rows()["a"][:, 1].tolist() == [0, 0, 1, 1, 1, 2, 3, 3]
    again.remove()
    assert not folder.parent.exists()


def test_another_evaluation_in_the_folder_stays(folder: Path) -> None:
    (folder.parent / "other").mkdir()
    PartialScores(folder, num_videos=8).remove()
    assert [path.name for path in folder.parent.iterdir()] == ["other"]


@pytest.mark.parametrize("damage", ["cut", "garbage", "nan", "gone", "longer", "name", "networks", "dtype"])
def test_damaged_chunks_are_scored_again(folder: Path, damage: str) -> None:
    chunk = sorted(folder.iterdir())[1]
    if damage == "cut":
        chunk.write_bytes(chunk.read_bytes()[:-20])
    elif damage == "garbage":
        chunk.write_bytes(b"no zip")
    elif damage == "gone":
        chunk.unlink()
    elif damage == "longer":
        chunk.rename(chunk.with_name("00000002-00000009.npz"))
    elif damage == "name":
        chunk.rename(chunk.with_name("2-x.npz"))
    else:
        values = rows(3, np.nan if damage == "nan" else 1.0, "ac" if damage == "networks" else "ab")
        kind = np.float64 if damage == "dtype" else np.float32
        arrays = {f"rows{number}": each.astype(kind) for number, each in enumerate(values.values())}
        np.savez(chunk, names=np.array(list(values)), **arrays)
    assert PartialScores(folder, num_videos=8).num_done == 2


def test_rows_are_written_every_few_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("videokd.evaluation.partial_scores.time.monotonic", lambda: clock[0])
    scores = PartialScores(tmp_path / "p", num_videos=100)
    for second in (1, 5, 11, 12, 22):
        clock[0] = second
        scores.add(rows(4, second))
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [
        "00000000-00000012.npz",
        "00000012-00000020.npz",
    ]
