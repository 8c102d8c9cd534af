"""`--test quick`: teach and distill run the test protocol when they are done, and print the accuracy beside chance."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.small_runs import STUDENTS, TINY, teach_motion
from videokd.__main__ import main
from videokd.datasets.manifest import Manifest


def test_accuracy_with_interval_and_chance(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["distill", STUDENTS, f"--manifest={prepared}", f"--out={tmp_path / 'run'}", *TINY, "--optim.epochs=1"]
    assert main([*command, "--test=quick"]) == 0
    classes = len(Manifest.read(prepared).class_names)
    printed = capsys.readouterr().err
    for name in ("a", "b", "fused"):
        assert f"run: {name}: top-1 " in printed
    assert f"chance {100 / classes:.1f}%" in printed
    assert "95% interval" in printed
    assert "Next: videokd evaluate" not in printed
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["views"] == "quick"
    assert results["command"].startswith(f"videokd evaluate {tmp_path / 'run'} --views=quick")
    # again: nothing is trained, nothing is scored; and a run may be tested later
    assert main([*command, "--test=quick"]) == 0
    assert "already evaluated" in capsys.readouterr().err


def test_a_teacher_is_tested_too_and_may_be_tested_later(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = teach_motion(prepared, tmp_path / "run")
    assert main([*command, *TINY, "--optim.epochs=1"]) == 0
    assert not (tmp_path / "run" / "results.json").exists()
    assert main([*command, *TINY, "--optim.epochs=1", "--test=quick"]) == 0
    assert "motion: top-1" in capsys.readouterr().err


def test_without_test_clips_it_says_so(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = Manifest.read(prepared)
    clips = tuple(replace(clip, split1="train") for clip in manifest.clips)
    every = replace(manifest, clips=clips).write(prepared / "every.parquet")
    command = ["teach", "--stream=motion", "--backbone=test_resnet", f"--manifest={every}", f"--out={tmp_path / 'run'}"]
    assert main([*command, *TINY, "--optim.epochs=1", "--test=quick"]) == 0
    assert "nothing to test on" in capsys.readouterr().err
    every.unlink()
