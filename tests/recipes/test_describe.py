"""`videokd describe` as a user runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recipes.test_verbs import refused
from tests.small_datasets import write_clip
from videokd.__main__ import main
from videokd.description.table import read_table


@pytest.fixture
def folder(tmp_path: Path, make_clip) -> Path:
    (tmp_path / "in").mkdir()
    write_clip(tmp_path / "in" / "a.mp4")
    (tmp_path / "in" / "b.webm").symlink_to(make_clip("libvpx-vp9", container="webm", num_frames=12))
    return tmp_path / "in"


def test_a_table_and_a_picture(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bad.avi").write_bytes(b"no video" * 100)
    out = tmp_path / "clips.parquet"
    for name in ("p.svg", "p.png"):
        arguments = ["describe", str(folder), "--save", str(out), "--plot", str(tmp_path / name), "--jobs", "1"]
        assert main([*arguments, "--engine", "local"]) == 0
    said = capsys.readouterr().err
    assert "clips.parquet: 2 clips, 0.00 hours, 0 with cuts, 1 without motion vectors, 2 described before." in said
    assert "warning: 1 files could not be described; " in said
    assert "it/s" not in said  # no bar where nobody looks
    assert [row.description.path for row in read_table(out)] == ["a.mp4", "b.webm"]
    assert (tmp_path / "p.svg").read_text(encoding="utf-8").count("<svg") == 1
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_refusals(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "required: FILES" in refused(capsys, "describe")
    assert "p.pdf (accepted: a name that ends with .svg or .png)" in refused(
        capsys, "describe", str(folder), "--plot", "p.pdf", "--near-duplicates", "false"
    )
    for name, place in (("--save", "/proc/t.csv"), ("--plot", "/proc/p.svg")):
        said = refused(capsys, "describe", str(folder / "a.mp4"), *("--save", str(tmp_path / "u.csv")), name, place)
        assert f"{place} could not be written (" in said
    assert not (tmp_path / "u.csv").exists()
    (tmp_path / "t.csv").mkdir()
    assert "t.csv is a folder (accepted: the name of a file to write). Add a name." in refused(
        capsys, "describe", str(folder), "--save", str(tmp_path / "t.csv")
    )
    assert "address auto needs the engine ray" in refused(
        capsys, "describe", str(folder), "--address", "auto", "--save", str(tmp_path / "v.csv")
    )
