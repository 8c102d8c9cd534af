"""A GPU without free memory, as PyTorch reports it: what is trained is saved, and one line says what to change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.rank_processes import ended, start_ranks
from tests.recipes.test_verbs import refused
from tests.small_runs import STUDENTS, TINY, teach_motion
from videokd.__main__ import main
from videokd.datasets.loading_processes import LoadingEnded
from videokd.models.students import Students
from videokd.runs.checkpoint import load_checkpoint
from videokd.training import loop
from videokd.training.update import Update

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has a total capacity of …")


def raise_in_call(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, call: int, error: Exception = FULL
) -> None:
    """Lets one call of a function, counted from 1, fail; by default it runs out of memory."""
    calls, original = iter(range(1, 10_000)), getattr(owner, name)

    def failing(*given: Any, **options: Any) -> Any:
        if next(calls) == call:
            raise error
        return original(*given, **options)

    monkeypatch.setattr(owner, name, failing)


def steps_of(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines() if "loss/total" in line]


def test_the_steps_before_are_saved_and_the_run_goes_on_in_pieces(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    command = [*teach_motion(prepared, run), *TINY]
    with monkeypatch.context() as patch:
        raise_in_call(patch, Update, "_backward", call=2)
        line = refused(capsys, *command)
    for part in (
        "out of memory on the GPU: data.batch_size",
        "optim.accumulate 1, precision fp32",
        "saved up to step 1",
    ):
        assert part in line
    assert load_checkpoint(run / "checkpoint.pt")["progress"]["step"] == 1
    assert "Run the same command with `--optim.accumulate 2`" in line
    assert main([*command, "--optim.accumulate=2"]) == 0
    assert steps_of(run) == list(range(len(steps_of(run))))


def test_a_step_that_changed_some_weights_is_not_saved(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["distill", f"--manifest={prepared}", f"--out={tmp_path / 'run'}", STUDENTS, *TINY]
    raise_in_call(monkeypatch, Update, "_backward", call=4)  # of the second student, after the first one stepped
    line = refused(capsys, *command, "--objective.update=alternate")
    assert "--optim.accumulate 2" in line
    assert "saved" not in line
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_a_validation_that_finds_no_memory_is_done_when_the_run_resumes(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    command = [*teach_motion(prepared, run), *TINY]
    command += ["--optim.epochs=1"]
    with monkeypatch.context() as patch:
        raise_in_call(patch, loop, "validate", call=1)
        assert "is saved up to step" in refused(capsys, *command)
    assert not (run / "best.pt").exists()
    trained = steps_of(run)
    assert main(command) == 0
    assert steps_of(run) == trained
    assert load_checkpoint(run / "best.pt")["epoch"] == 0
    assert len(load_checkpoint(run / "checkpoint.pt")["progress"]["history"]) == 1
    assert main(command) == 0
    assert "trained already (1 epochs)" in capsys.readouterr().err


def test_what_the_failed_step_did_to_batch_norms_is_not_saved(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is repeated when the run resumes, and would be counted twice."""
    runs = [tmp_path / "whole", tmp_path / "parts"]
    commands = [[*teach_motion(prepared, run), *TINY] for run in runs]
    assert main(commands[0]) == 0
    with monkeypatch.context() as patch:
        raise_in_call(patch, Update, "_loss", call=2)  # after the forward pass
        assert "is saved up to step 1" in refused(capsys, *commands[1])
    assert main(commands[1]) == 0
    whole, parts = (load_checkpoint(run / "checkpoint.pt")["students"] for run in runs)
    assert any("running_mean" in name for name in whole)
    for name, values in whole.items():
        assert torch.equal(values, parts[name]), name


def test_the_steps_before_clips_stopped_coming_are_saved(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    command = [*teach_motion(prepared, run), *TINY]
    with monkeypatch.context() as patch:
        raise_in_call(patch, loop, "_take", call=2, error=LoadingEnded("they were killed."))
        assert refused(capsys, *command).endswith(f"they were killed. {run} is saved up to step 1.")
    with monkeypatch.context() as patch:
        raise_in_call(patch, loop, "_take", call=1, error=LoadingEnded("they were killed."))
        assert refused(capsys, *command).endswith(f"they were killed. {run} is saved up to step 1.")
    assert main(command) == 0
    assert steps_of(run) == list(range(len(steps_of(run))))


OUT_OF_MEMORY_ON_THE_SECOND = """
import os, sys
import torch
from videokd.__main__ import main
from videokd.training.update import Update

calls, original = [], Update._loss

def failing(self, *given, **options):
    calls.append(given)
    if len(calls) == 3 and os.environ["RANK"] == "1":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return original(self, *given, **options)

Update._loss = failing
sys.exit(main())
"""


def test_the_first_of_several_processes_saves_when_another_has_no_memory(prepared: Path, tmp_path: Path) -> None:
    run, script = tmp_path / "run", tmp_path / "script.py"
    script.write_text(OUT_OF_MEMORY_ON_THE_SECOND)
    command = [str(script), *teach_motion(prepared, run), *TINY, "--device=cpu", "--data.batch_size=4"]
    (first, its_line), (second, others_line) = ended(start_ranks([command] * 2))
    assert (first, second) == (2, 2), its_line + others_line
    assert "process 0: another process of this run has ended; its own message" in its_line
    assert f"{run} is saved up to step 2. The same command resumes." in its_line
    assert (
        f"precision fp32. {run} has no checkpoint yet. Run the same command with `--optim.accumulate 2`" in others_line
    )
    assert load_checkpoint(run / "checkpoint.pt")["progress"]["step"] == 2
    assert steps_of(run) == [0, 1]


def test_clips_that_do_not_fit_one_by_one(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = teach_motion(prepared, tmp_path / "run")
    raise_in_call(monkeypatch, Update, "_backward", call=1)
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr(loop, "say", said.append)
        line = refused(capsys, *command, *TINY, "--optim.accumulate=64")
    assert said == ["optim.accumulate is 64, but a process has 6 clips of each batch: they go through one by one."]
    assert "A single clip is too large" in line


def test_evaluate_keeps_what_is_scored(
    prepared: Path,
    teacher_runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    shutil.copytree(teacher_runs["motion"], run, ignore=shutil.ignore_patterns("results*", "scores*"))
    command = ["evaluate", str(run), "--views=quick", "--workers=0", "--timed_videos=0", "--pictures=0"]
    with monkeypatch.context() as patch:
        raise_in_call(patch, Students, "logits", call=2)
        line = refused(capsys, *command, "--batch_size=2")
    assert (
        "out of memory on the GPU: batch_size 2, views quick, precision fp32. Videos that are scored are kept." in line
    )
    assert f"Run `videokd evaluate {run}` with `--batch_size 1`" in line
    assert main([*command, "--batch_size=1"]) == 0
    assert "resumes after 2 of 9 videos" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        raise_in_call(patch, Students, "logits", call=1)
        (run / "results.json").unlink()
        assert "pass fewer `--num_segments`" in refused(capsys, *command, "--batch_size=1")


def test_predictions_before_one_that_finds_no_memory_are_printed(
    clips: Path,
    teacher_runs: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["export", str(teacher_runs["motion"]), f"--out={tmp_path / 'students'}"]) == 0
    files = sorted(map(str, clips.rglob("*.mp4")))[:2]
    raise_in_call(monkeypatch, Students, "logits", call=2)
    capsys.readouterr()
    assert main(["predict", *files, f"--students={tmp_path / 'students'}", "--num_segments=4", "--format=json"]) == 2
    printed, line = capsys.readouterr()
    assert [each["path"] for each in json.loads(printed)] == files[:1]
    assert f"out of memory on the GPU: {files[1]} in 4 segments. Pass fewer: `--num_segments 2`" in line
