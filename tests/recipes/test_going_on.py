"""Runs that are stopped, resumed, or go wrong."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.recipes.conftest import STUDENTS, TINY
from videokd.__main__ import main
from videokd.recipes.update import Update, Updated
from videokd.training.checkpoint import load_checkpoint
from videokd.training.session import StopSignal


def assert_same(one: Any, other: Any, *, where: str = "") -> None:
    """Equal to the bit, however deep."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], where=f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, where=f"{where}.{number}")
    else:
        assert one == other, where


@pytest.mark.parametrize("order", ["simultaneous", pytest.param("alternate", marks=pytest.mark.slow)])
def test_with_workers_and_everything_on_a_resumed_run_is_bit_equal(
    order: str, prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teachers = [f"--teachers.{stream}={run}" for stream, run in teacher_runs.items()]
    settings = [*TINY, "--data.workers=2", f"--objective.update={order}", "--objective.exits", "--optim.dropout=0.2"]
    settings += ["--optim.ema=0.9", "--optim.mixup=0.4", "--optim.accumulate=2", "--optim.clip_norm=5"]

    def command(out: str) -> list[str]:
        return ["distill", f"--manifest={prepared}", f"--out={tmp_path / out}", STUDENTS, *teachers, *settings]

    assert main(command("whole")) == 0
    looks = itertools.count()
    with monkeypatch.context() as patch:  # asked to stop in the second step
        asked = property(lambda self: next(looks) >= 1, lambda self, value: None)
        patch.setattr(StopSignal, "requested", asked, raising=False)
        assert main(command("parts")) == 130
    assert main(command("parts")) == 0
    whole, parts = (load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("whole", "parts"))
    for payload in (whole, parts):
        del payload["progress"]["seconds"]
    assert_same(whole, parts)
    assert_same(*(load_checkpoint(tmp_path / name / "best.pt") for name in ("whole", "parts")))
    for key in ("students", "ema"):
        state = whole[key]["average"] if key == "ema" else whole[key]
        assert any(name.startswith("exits.a.exit1.bottleneck") for name in state)


def test_sigterm_saves_and_the_run_goes_on(prepared: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["teach", "--stream=motion", "--backbone=test_resnet", f"--manifest={prepared}", f"--out={run}", *TINY]
    running = subprocess.Popen(
        [sys.executable, "-m", "videokd", *command, "--optim.epochs=500"], stderr=subprocess.PIPE, text=True
    )
    try:
        log = run / "log.jsonl"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (log.exists() and log.read_text().count("loss/total") > 2):
            time.sleep(0.05)
        running.send_signal(signal.SIGTERM)
        _, errors = running.communicate(timeout=120)
    finally:
        running.kill()
    assert running.returncode == 130, errors
    assert "Traceback" not in errors
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines() if "loss/total" in line]
    assert load_checkpoint(run / "checkpoint.pt")["progress"]["step"] == len(steps) == steps[-1] + 1


def diverging(prepared: Path, run: Path, *more: str) -> list[str]:
    """A training whose learning rate explodes when its first epoch is over."""
    command = ["distill", f"--manifest={prepared}", f"--out={run}", STUDENTS, *TINY, "--optim.name=sgd"]
    explode = ["--optim.schedule=step", "--optim.milestones=[1]", "--optim.factor=1e30", "--optim.clip_norm=1"]
    return [*command, *explode, "--data.val_fraction=0", *more]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(diverging(prepared, run)) == 2
    message = [line for line in capsys.readouterr().err.splitlines() if line.startswith("videokd: ")][-1]
    per_epoch = 27 // 6
    assert message.startswith(f"videokd: step {per_epoch + 1}: a/ce is ")
    assert "(the student sees iframe)" in message
    assert "the last checkpoint is good" in message
    checkpoint = load_checkpoint(run / "checkpoint.pt")
    assert checkpoint["progress"]["step"] == per_epoch
    assert all(torch.isfinite(values).all() for values in checkpoint["students"].values())
    assert all(torch.isfinite(values).all() for values in load_checkpoint(run / "best.pt")["state"].values())


def test_weights_that_are_not_finite_are_not_saved(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step an epoch: the step that spoils the weights has a sound loss, and its epoch ends before the next."""
    plain = Update.__call__

    def spoiling(self: Update, *arguments: Any, rate: float) -> Updated:
        updated = plain(self, *arguments, rate=rate)
        if rate == 0.5:  # from the second epoch on
            with torch.no_grad():
                self._students.members["b"].backbone.fc.bias[0] = float("inf")
        return updated

    monkeypatch.setattr(Update, "__call__", spoiling)
    run = tmp_path / "run"
    command = ["distill", f"--manifest={prepared}", f"--out={run}", STUDENTS, *TINY, "--data.val_fraction=0"]
    command += ["--data.batch_size=27", "--optim.lr=1", "--optim.schedule=step", "--optim.milestones=[1]"]
    assert main([*command, "--optim.factor=0.5"]) == 2
    message = [line for line in capsys.readouterr().err.splitlines() if line.startswith("videokd: ")][-1]
    assert message.startswith("videokd: step 1: b's weights are no longer finite (the student sees motion, residual)")
    checkpoint, best = (load_checkpoint(run / name) for name in ("checkpoint.pt", "best.pt"))
    assert checkpoint["progress"]["step"] == 1
    for state in (checkpoint["students"], best["state"]):
        assert all(torch.isfinite(values).all() for values in state.values())
