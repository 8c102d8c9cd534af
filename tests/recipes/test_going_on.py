"""Runs that are stopped, resumed, or go wrong."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.recipes.test_verbs import refused
from tests.small_runs import STUDENTS, TINY
from videokd.__main__ import main
from videokd.errors import ConfigError
from videokd.runs.checkpoint import load_checkpoint
from videokd.runs.ranks import Ranks
from videokd.runs.run_folder import RunFolder
from videokd.stopping import StopSignal
from videokd.training.run_state import RunState
from videokd.training.training_clips import check_shares
from videokd.training.update import Update, Updated


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


@pytest.mark.parametrize(
    ("kind", "group"), [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGHUP, True), (signal.SIGUSR1, True)]
)
def test_what_a_batch_system_sends_saves_and_the_run_goes_on(
    kind: signal.Signals, group: bool, prepared: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = ["teach", "--stream=motion", "--backbone=test_resnet", f"--manifest={prepared}", f"--out={run}", *TINY]
    running = subprocess.Popen(
        [sys.executable, "-m", "videokd", *command, "--optim.epochs=500", "--data.workers=2"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        log = run / "log.jsonl"
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and not (log.exists() and log.read_text().count("loss/total") > 2):
            time.sleep(0.05)
        if group:  # its loading processes are of the group too
            os.killpg(running.pid, kind)
        else:
            running.send_signal(kind)
        _, errors = running.communicate(timeout=200)
    finally:
        running.kill()
    assert running.returncode == 130, errors
    assert "Traceback" not in errors
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines() if "loss/total" in line]
    assert load_checkpoint(run / "checkpoint.pt")["progress"]["step"] == len(steps) == steps[-1] + 1


def test_within_an_epoch_a_checkpoint_is_written_when_the_last_one_is_old(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    plain = RunState.save

    def save(self: RunState) -> None:
        saved.append(self.progress.step)
        plain(self)

    monkeypatch.setattr(RunState, "save", save)
    run = tmp_path / "run"
    per_epoch = 27 // 6
    assert main(teach(prepared, run, "--data.val_fraction=0", "--optim.save_minutes=0")) == 0
    assert saved == [per_epoch]
    assert main(teach(prepared, run, "--data.val_fraction=0", "--optim.save_minutes=5")) == 0  # it may change
    assert main(teach(prepared, tmp_path / "often", "--data.val_fraction=0", "--optim.save_minutes=1e-9")) == 0
    assert saved == [per_epoch, *range(1, per_epoch + 1), per_epoch]  # before and after the epoch's validation


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
    assert "a checkpoint that was saved before is good" in message
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


def teach(prepared: Path, run: Path, *more: str) -> list[str]:
    command = ["teach", "--stream=motion", "--backbone=test_resnet", f"--manifest={prepared}", f"--out={run}", *TINY]
    return [*command, "--optim.epochs=1", *more]


@pytest.mark.parametrize("spoilt", ["weight", "running_var"])
def test_an_epoch_that_diverged_is_not_the_best(
    spoilt: str, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of each step is sound; the network that validation looks at gives no finite logit."""
    plain = Update.__call__

    def spoiling(self: Update, *arguments: Any, rate: float) -> Updated:
        updated = plain(self, *arguments, rate=rate)
        state = self._students.state_dict()
        if spoilt == "weight":  # finite, and too large
            state["members.motion.backbone.fc.weight"].fill_(3e38)
        else:
            state["members.motion.backbone.bn1.running_var"][0] = float("inf")
        return updated

    monkeypatch.setattr(Update, "__call__", spoiling)
    run = tmp_path / "run"
    message = refused(capsys, *teach(prepared, run, "--data.batch_size=27"))
    assert "finite" in message
    assert "learning rate" in message
    assert not (run / "best.pt").exists()


def test_a_diverged_network_is_refused_wherever_it_is_taken(
    prepared: Path, teacher_runs: dict[str, Path], clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, exported = tmp_path / "run", tmp_path / "exported"
    shutil.copytree(teacher_runs["motion"], run)
    assert main(["export", str(run), f"--out={exported}"]) == 0
    clip, weights = str(next(clips.rglob("*.mp4"))), exported / "students.safetensors"
    state = load_file(weights)
    for value, message in ((float("nan"), "has values that are not finite"), (3e38, "are not finite")):
        save_file({name: t.fill_(value) if t.is_floating_point() else t for name, t in state.items()}, weights)
        assert message in refused(capsys, "predict", clip, f"--students={exported}", "--format=json")
        best = torch.load(teacher_runs["motion"] / "best.pt", weights_only=True)
        best["payload"]["state"]["members.motion.backbone.fc.weight"].fill_(value)
        torch.save(best, run / "best.pt")
        for command in (["export", str(run), f"--out={tmp_path / 'no'}"], ["evaluate", str(run), "--views=quick"]):
            assert message in refused(capsys, *command)
        assert not (tmp_path / "no").exists()


def test_one_training_at_a_time_and_who_reads_is_told(
    prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(teacher_runs["motion"], run)
    before = {file.name: file.stat().st_mtime_ns for file in run.iterdir()}
    with RunFolder(run).kept():
        assert "is being trained by another process" in refused(capsys, *teach(prepared, run, "--optim.epochs=9"))
        assert main(["export", str(run), f"--out={tmp_path / 'exported'}"]) == 0
    assert "is still being trained: this is its best epoch so far" in capsys.readouterr().err
    assert {file.name: file.stat().st_mtime_ns for file in run.iterdir()} == before


def test_clips_per_second_are_those_that_were_there(prepared: Path, tmp_path: Path) -> None:
    rates = []
    for batch_size in (27, 270_000):
        run = tmp_path / str(batch_size)
        assert main(teach(prepared, run, f"--data.batch_size={batch_size}", "--data.val_fraction=0")) == 0
        rates.append(json.loads((run / "log.jsonl").read_text().splitlines()[0])["samples_per_second"])
    assert rates[1] < 100 * rates[0]


def test_a_batch_of_one(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more in (["--data.batch_size=1"], ["--data.batch_size=4", "--optim.accumulate=4"]):
        message = refused(capsys, *teach(prepared, tmp_path / "run", "--data.num_segments=1", *more))
        assert "a BatchNorm cannot learn from 1 clip at a time" in message
        assert "optim.accumulate" in message


def test_fewer_clips_than_processes_share() -> None:
    ranks = Ranks(rank=1, num_ranks=3)
    check_shares(9, 9, ranks)
    check_shares(2, 9, Ranks())
    with pytest.raises(
        ConfigError, match=r"8 clips to train on are fewer than data\.batch_size 9.*--data\.batch_size 6"
    ):
        check_shares(8, 9, ranks)
    with pytest.raises(ConfigError, match="2 clips to train on are fewer than 3 processes"):
        check_shares(2, 9, ranks)


def test_what_a_killed_write_left_is_removed(prepared: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in (".0123456789ab.part", ".notes.part", "0123456789ab.part"):
        (run / name).write_bytes(b"half")
    command = ["teach", "--stream=motion", "--backbone=test_resnet", f"--manifest={prepared}", f"--out={run}"]
    assert main([*command, *TINY]) == 0
    assert {path.name for path in run.glob("*.part")} | {path.name for path in run.glob(".*.part")} == {
        ".notes.part",
        "0123456789ab.part",
    }
