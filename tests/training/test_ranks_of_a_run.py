"""Whole trainings on two processes: what they draw, what they say, where they resume."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.rank_processes import ended, start_ranks
from tests.small_runs import TINY
from videokd.messages import say


def teach(prepared: Path, run: Path, *more: str) -> list[str]:
    command = ["-m", "videokd", "teach", "--stream=motion", "--backbone=test_resnet", "--device=cpu"]
    return [*command, f"--manifest={prepared}", f"--out={run}", *TINY, *more]


def test_only_the_first_process_says_something(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        say(f"I am {rank}")
    monkeypatch.setenv("WORLD_SIZE", "1")
    say("I am alone")
    assert capsys.readouterr().err == "I am 0\nI am alone\n"


def test_processes_that_resume_from_different_steps_end_with_one_line_each(
    prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path
) -> None:
    """Two machines that do not share the folder: one of them has the checkpoint."""
    folders = [tmp_path / "first", tmp_path / "second"]
    shutil.copytree(teacher_runs["motion"], folders[0])
    step = json.loads((folders[0] / "log.jsonl").read_text().splitlines()[-1])["step"] + 1
    results = ended(start_ranks([teach(prepared, folder) for folder in folders]))
    for status, errors in results:
        assert status == 2
        (line,) = [each for each in errors.splitlines() if each.startswith("videokd: ")]
        assert f"process 0 is at step {step}, process 1 at step 0 (accepted: the same checkpoint for all)" in line
        assert "Traceback" not in errors


def test_processes_wait_for_none_that_cannot_read_its_checkpoint(
    prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path
) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        shutil.copytree(teacher_runs["motion"], folder)
    (folders[1] / "checkpoint.pt").write_bytes(b"half")
    first, second = ended(start_ranks([teach(prepared, folder) for folder in folders]))
    assert (first[0], second[0]) == (2, 2)
    assert "process 1 unable to read it (accepted: the same checkpoint for all)" in first[1]
    assert "checkpoint.pt is damaged or not a checkpoint" in second[1]
