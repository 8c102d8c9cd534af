"""`videokd prepare --where`: clips are left out by their descriptions."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.recipes.test_verbs import refused
from tests.small_datasets import write_clip
from videokd.__main__ import main
from videokd.datasets.manifest import Manifest
from videokd.jobs.failures import read_failures


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes; in each, one clip has 30 frames and the other 14."""
    for number, name in enumerate(("hop/a_g1_.mp4", "hop/a_g2_.mp4", "run/b_g1_.mp4", "run/b_g2_.mp4")):
        write_clip(tmp_path / "in" / name, seed=number, num_frames=30 if number % 2 else 14)
    return tmp_path / "in"


def prepare(root: Path, *options: str) -> int:
    return main(
        [
            "prepare",
            "folder",
            str(root),
            "--out",
            str(root.parent / "out"),
            "--short-side",
            "32",
            "--jobs",
            "1",
            *options,
        ]
    )


def test_clips_are_described_and_left_out(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare(root, "--where", "frames > 20 and cuts == 0") == 0
    assert "2 of 4 clips are left out by --where." in capsys.readouterr().err
    manifest = Manifest.read(root.parent / "out")
    assert [clip.video_id for clip in manifest.clips] == ["hop/a_g2_", "run/b_g2_"]
    assert manifest.settings["checks"]["left_out"] == 2
    with (root.parent / "out" / "findings.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["check"] == "where"]
    assert [row["what"] for row in rows] == ["hop/a_g1_.mp4", "run/b_g1_.mp4"]
    assert rows[0]["detail"] == "not frames > 20 and cuts == 0: cuts is 0, frames is 14"
    # another condition, from the same descriptions
    assert prepare(root, "--where", "seconds > 0") == 0
    assert len(Manifest.read(root.parent / "out").clips) == 4


@pytest.mark.parametrize("from_inside", [False, True])
def test_a_table_that_exists(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_inside: bool) -> None:
    table = tmp_path / "clips.csv"
    if from_inside:
        monkeypatch.chdir(root)
    sources = ["hop", "run/b_g1_.mp4", "run/b_g2_.mp4"] if from_inside else [str(root)]
    assert main(["describe", *sources, "--save", str(table), "--jobs", "1"]) == 0
    for shard in ("1/2", "2/2"):
        assert prepare(root, "--where", "frames > 20", "--described", str(table), "--shard", shard) == 0
    assert prepare(root, "--where", "frames > 20", "--described", str(table), "--merge") == 0
    assert len(Manifest.read(tmp_path / "out").clips) == 2
    assert not (tmp_path / "out" / "described.parquet").exists()


def test_clips_that_cannot_be_described_are_failures(root: Path) -> None:
    (root / "hop" / "bad_g3_.mp4").write_bytes(b"no video" * 100)
    assert prepare(root, "--where", "frames > 20", "--on-error", "skip") == 0
    assert [path for path, _ in read_failures(root.parent / "out" / "failures.csv")] == ["hop/bad_g3_.mp4"]
    assert len(Manifest.read(root.parent / "out").clips) == 2


def test_refusals(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["prepare", "folder", str(root), "--out", str(tmp_path / "out")]
    assert "--described is for --where (given: no --where)" in refused(capsys, *arguments, "--described", "t.csv")
    for option in (["--shard", "1/2"], ["--merge"], ["--plan", str(tmp_path / "plan.csv")]):
        assert "needs --described" in refused(capsys, *arguments, "--where", "cuts == 0", *option)
    assert "where 'cut == 0': no column cut (" in refused(capsys, *arguments, "--where", "cut == 0")
    inside = ["prepare", "folder", str(root), "--out", str(root / "out"), "--where", "cuts == 0"]
    assert "lies in the dataset's own folder" in refused(capsys, *inside)
    assert not (root / "out").exists()
    table = tmp_path / "t.csv"
    assert (
        main(["describe", str(root / "hop"), str(root / "run" / "b_g1_.mp4"), "--save", str(table), "--jobs", "1"]) == 0
    )
    given = ["--described", str(table), "--where"]
    assert "t.csv lacks run/b_g2_.mp4 (accepted: descriptions of all clips of" in refused(
        capsys, *arguments, *given, "cuts == 0"
    )
    assert main(["describe", str(root), "--save", str(table), "--jobs", "1"]) == 0
    assert "fulfils frames > 99 (accepted: some do)" in refused(capsys, *arguments, *given, "frames > 99")
    assert "no clip of 1 of 2 classes (first: run) fulfils path < 'k' " in refused(
        capsys, *arguments, *given, "path < 'k'"
    )
