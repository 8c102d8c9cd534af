"""Runs that end early: SIGTERM to all of their processes at random moments, and `kill -9` to one. Nothing is lost or done twice."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.rank_processes import ROOT, ended, start_ranks
from tests.small_runs import STUDENTS, TINY
from videokd.evaluation.results import read_results
from videokd.runs.checkpoint import load_checkpoint

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="finds the processes of a run in /proc")

ONE = ["-m", "videokd"]
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "videokd"]


def start(launcher: list[str], prepared: Path, run: Path, *, epochs: int) -> subprocess.Popen[str]:
    command = ["teach", "--stream=motion", "--backbone=test_resnet", "--device=cpu", "--optim.dropout=0.3", *TINY]
    command += [
        f"--manifest={prepared}",
        f"--out={run}",
        "--data.workers=1",
        f"--optim.epochs={epochs}",
        "--data.batch_size=2",
    ]
    return subprocess.Popen(
        [sys.executable, *launcher, *command],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def descendants(pid: int) -> list[int]:
    """A process and all that it and its children have started."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def steps_of(run: Path) -> list[int]:
    log = run / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True) if log.is_file() else []
    return [json.loads(line)["step"] for line in lines if "loss/total" in line and line.endswith("\n")]


def stop_after(running: subprocess.Popen[str], run: Path, *, steps: int, seconds: float) -> str:
    """Sends SIGTERM to all processes, some time after the log has so many steps; returns standard error."""
    try:
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and running.poll() is None and len(steps_of(run)) <= steps:
            time.sleep(0.01)
        time.sleep(seconds)
        for pid in descendants(running.pid):
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
        return running.communicate(timeout=200)[1]
    finally:
        running.kill()


def ended_well(running: subprocess.Popen[str]) -> None:
    """Waits for a run, whose messages are read meanwhile: a full pipe would stop it."""
    try:
        errors = running.communicate(timeout=400)[1]
    finally:
        running.kill()
    assert running.returncode == 0, errors


@pytest.mark.parametrize(
    ("launcher", "moments"),
    [(TWO, 2), pytest.param(ONE, 10, marks=pytest.mark.slow), pytest.param(TWO, 10, marks=pytest.mark.slow)],
    ids=["two-2", "one-10", "two-10"],
)
def test_sigterm_to_all_processes_loses_nothing(
    launcher: list[str], moments: int, prepared: Path, tmp_path: Path
) -> None:
    epochs, rng = 2 * moments, random.Random(moments)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    uninterrupted = start(launcher, prepared, whole, epochs=epochs)
    stops = []
    for _ in range(moments):
        before = len(steps_of(parts))
        running = start(launcher, prepared, parts, epochs=epochs)
        errors = stop_after(running, parts, steps=before, seconds=rng.uniform(0, 0.5))
        steps = steps_of(parts)
        saved = load_checkpoint(parts / "checkpoint.pt")["progress"]["step"]
        assert saved == len(steps) == steps[-1] + 1, errors
        stops.append(saved)
    ended_well(start(launcher, prepared, parts, epochs=epochs))
    print(f"stopped after {stops} of {len(steps_of(parts))} steps")
    ended_well(uninterrupted)
    assert stops == sorted(set(stops)), "the run was over before it was stopped"
    assert steps_of(parts) == steps_of(whole) == list(range(len(steps_of(whole))))
    ends = [load_checkpoint(run / "checkpoint.pt")["students"] for run in (parts, whole)]
    differences = [(values.double() - ends[1][name].double()).abs().max() for name, values in ends[0].items()]
    print(f"largest difference of a weight: {max(differences):.1e}")
    for name, values in ends[0].items():
        torch.testing.assert_close(values, ends[1][name], rtol=1e-5, atol=1e-6)


def kill_one(processes: list[subprocess.Popen[str]], run: Path, *, steps: int, victim: int) -> list[tuple[int, str]]:
    """`kill -9` to one process of a run once the log has so many steps; what all of them ended with."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and processes[victim].poll() is None and len(steps_of(run)) < steps:
        time.sleep(0.01)
    processes[victim].kill()
    return ended(processes)


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "numbers"), [("teach", (2, 1)), ("distill", (2, 3, 1))])
def test_after_kill_9_of_one_process_a_run_resumes_on_other_numbers_of_them(
    verb: str, numbers: tuple[int, ...], prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path
) -> None:
    run, epochs = tmp_path / "run", 12
    command = ["-m", "videokd", verb, "--device=cpu", "--optim.dropout=0.3", *TINY, "--data.workers=1"]
    command += ["--data.batch_size=12", f"--optim.epochs={epochs}", "--optim.save_minutes=0.0001"]
    command += [f"--manifest={prepared}", f"--out={run}", "--test=quick"]
    if verb == "teach":
        command += ["--stream=motion", "--backbone=test_resnet"]
    else:
        command += [STUDENTS, "--objective.update=alternate", "--objective.exits", "--optim.accumulate=2"]
        command += [f"--teachers.{stream}={teacher}" for stream, teacher in teacher_runs.items()]
    for killed, number in enumerate(numbers[:-1]):
        before = len(steps_of(run))
        results = kill_one(start_ranks([command] * number), run, steps=before + 3, victim=number - 1 - killed)
        assert results.pop(number - 1 - killed)[0] == -signal.SIGKILL
        for status, errors in results:
            assert status == 2, errors
            assert "another process of this run has ended" in errors
            assert "Traceback" not in errors
    for status, errors in ended(start_ranks([command] * numbers[-1])):
        assert status == 0, errors
    assert steps_of(run) == list(range(epochs))  # one batch an epoch, each exactly once
    for status, errors in ended(start_ranks([["-m", "videokd", "evaluate", str(run), "--device=cpu"]] * 2)):
        assert status == 0, errors
    assert read_results(run / "results.json").views == "full"
