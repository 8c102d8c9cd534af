"""Whole trainings on two processes: what they draw, what they say, where they resume."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.rank_processes import ended, start_ranks
from tests.small_runs import TINY
from videokd.__main__ import main
from videokd.datasets.manifest import read_manifest
from videokd.evaluation.results import read_results
from videokd.evaluation.scores import Scores
from videokd.messages import say
from videokd.runs.checkpoint import load_checkpoint
from videokd.runs.device import Precision
from videokd.runs.ranks import Ranks
from videokd.runs.run_folder import load_run
from videokd.training.training_clips import training_clips
from videokd.training.validate import validate


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


def test_only_the_first_process_says_that_it_was_stopped(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("videokd.recipes.teach.teach", stop)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert main(teach(prepared, tmp_path)[2:]) == 130
    assert capsys.readouterr().err == "videokd: teach stopped; the same command resumes.\n"


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


def start_two(*command: str) -> list[subprocess.Popen[str]]:
    return start_ranks([["-m", "videokd", *command]] * 2)


@pytest.fixture(scope="module")
def run_of_two(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("two") / "run"
    for status, errors in ended(start_ranks([teach(prepared, run, "--data.val_fraction=0.4", "--test=quick")] * 2)):
        assert status == 0, errors
    return run


def test_processes_share_the_held_out_clips(prepared: Path, run_of_two: Path) -> None:
    run = load_run(run_of_two)
    manifest = read_manifest(str(prepared))
    data = run.settings.data
    clips = training_clips(manifest, None, ("motion",), split=1, seed=0, data=data)
    found = validate(run.students, clips.held_out, Precision("fp32", torch.device("cpu")), workers=0, ranks=Ranks())
    logged = [json.loads(line) for line in (run_of_two / "log.jsonl").read_text().splitlines() if "val/top1" in line]
    assert len(logged) == 2
    best = load_checkpoint(run_of_two / "best.pt")["epoch"]
    assert found["val/top1"] == pytest.approx(logged[best]["val/top1"])
    assert len(clips.held_out or ()) % 2  # the second share is shorter


def test_the_first_process_evaluates_after_training(run_of_two: Path) -> None:
    assert read_results(run_of_two / "results.json").views == "quick"


def test_processes_share_the_videos_of_an_evaluation(run_of_two: Path, tmp_path: Path) -> None:
    """Nine videos, two at a time: three batches for the first process, two for the second."""
    runs = [tmp_path / "one", tmp_path / "two"]
    for run in runs:
        shutil.copytree(run_of_two, run)
        for file in (*run.glob("scores-*"), run / "results.json"):
            file.unlink()
    options = ["--views=quick", "--batch_size=2", "--workers=0", "--timed_videos=0", "--device=cpu"]
    assert main(["evaluate", str(runs[0]), *options]) == 0
    for _ in range(2):  # the second time, all is there
        (first, errors), (second, nothing) = ended(start_two("evaluate", str(runs[1]), *options))
        assert (first, second) == (0, 0), errors + nothing
        assert "top-1" in errors
        assert not [line for line in nothing.splitlines() if "top-1" in line or "evaluated" in line]
    assert "already evaluated" in errors
    one, two = (Scores.load(run / "scores-motion.npz") for run in runs)
    assert one.video_ids == two.video_ids
    assert one.labels.tolist() == two.labels.tolist()
    np.testing.assert_allclose(one.logits, two.logits, rtol=1e-4, atol=1e-5)
    assert not (runs[1] / ".partial-scores").exists()


def test_an_evaluation_of_two_runs_is_refused(run_of_two: Path, tmp_path: Path) -> None:
    """Two machines, of which one has older weights."""
    other = tmp_path / "run"
    shutil.copytree(run_of_two, other)
    best = torch.load(other / "best.pt", weights_only=True)
    best["payload"]["epoch"] = 77
    torch.save(best, other / "best.pt")
    options = ["--views=full", "--device=cpu"]
    results = ended(start_ranks([["-m", "videokd", "evaluate", str(run), *options] for run in (run_of_two, other)]))
    for status, errors in results:
        assert status == 2
        assert "processes found different weights or clips in it" in errors
        assert "Traceback" not in errors
