"""Each preset of the three systems, made small: it trains, resumes, is evaluated, exported and predicts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.small_runs import STUDENTS, TINY
from videokd.__main__ import main
from videokd.evaluation.scores import Scores
from videokd.models.students_file import load_students
from videokd.recipes.command_line import preset_names, preset_text

SYSTEMS = [name for name in preset_names() if "students" in yaml.safe_load(preset_text(name))]
TEACHERS = [name for name in preset_names() if name not in SYSTEMS]
SMALL = (*TINY, "--optim.epochs=1", "--init=none", "--precision=fp32", "--data.val_fraction=0")
EXPECTED_PARTS = {
    "mtkd-single": {"ce", "kd"},
    "mtkd-three": {"ce", "kd"},
    "dml-two": {"ce", "mutual"},
    "dml-four": {"ce", "mutual"},
    "dml-cross-stream": {"ce", "mutual"},
    "byot": {"ce", *(f"exit{e}/{part}" for e in (1, 2, 3) for part in ("ce", "kd", "hint"))},
    "mtkd-dml-byot": {
        *("ce", "kd", "mutual"),
        *(f"exit{e}/{part}" for e in (1, 2, 3) for part in ("ce", "kd", "hint")),
    },
    "demo-hard": {"ce"},
    "demo-distill": {"kd"},
    "few-labels": {"kd"},
    "small-students": {"ce", "kd"},
    "ucf101-6-hard": {"ce"},
    "ucf101-6-distill": {"ce", "kd", "mutual"},
}


@pytest.fixture(scope="module")
def three_teachers(
    prepared: Path, teacher_runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    run = tmp_path_factory.mktemp("third") / "residual"
    command = ["teach", "--stream=residual", "--backbone=test_resnet", f"--manifest={prepared}", f"--out={run}"]
    assert main([*command, *TINY]) == 0
    return [f"--teachers.{stream}={path}" for stream, path in (teacher_runs | {"residual": run}).items()]


def test_every_system_is_listed() -> None:
    assert set(EXPECTED_PARTS) == set(SYSTEMS)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_goes_the_whole_way(
    name: str,
    prepared: Path,
    three_teachers: list[str],
    clips: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    preset = yaml.safe_load(preset_text(name))
    run, exported = tmp_path / "run", tmp_path / "students"
    command = ["distill", f"--config={name}", f"--manifest={prepared}", f"--out={run}", *SMALL]
    command += [f"--students.{student}.backbone=test_resnet" for student in preset["students"]]
    command += three_teachers if preset["objective"].get("alpha") else []
    command += _cache_for(preset, tmp_path)
    assert main(command) == 0, capsys.readouterr().err

    first = json.loads((run / "log.jsonl").read_text().splitlines()[0])
    for student in preset["students"]:
        parts = {key.removeprefix(f"{student}/") for key in first if key.startswith(f"{student}/")}
        assert parts - {"train_top1"} == EXPECTED_PARTS[name]

    assert main(command) == 0
    assert "trained already" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--views=quick", "--workers=0", "--timed_videos=0", "--pictures=0"]) == 0
    assert main(["export", str(run), f"--out={exported}"]) == 0
    assert set(load_students(exported).specs) == set(preset["students"])
    capsys.readouterr()
    assert main(["predict", str(next(clips.rglob("*.mp4"))), f"--students={exported}", "--format=json"]) == 0
    assert len(json.loads(capsys.readouterr().out)[0]["labels"]) == 5


def _cache_for(preset: dict[str, dict[str, int]], folder: Path) -> list[str]:
    """Stored views need a cache; two are enough to see that it works."""
    return [f"--data.cache={folder / 'cache'}", "--data.stored_views=2"] if preset["data"].get("stored_views") else []


@pytest.mark.parametrize("name", TEACHERS)
def test_a_teacher_trains(name: str, prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path) -> None:
    preset = yaml.safe_load(preset_text(name))
    stream = preset.get("stream", "motion")
    command = ["teach", f"--config={name}", f"--stream={stream}", f"--manifest={prepared}", f"--out={tmp_path / 'run'}"]
    command += [*SMALL, "--backbone=test_resnet", *_cache_for(preset, tmp_path)]
    command += [f"--init={teacher_runs[stream]}"] if preset.get("freeze") else []
    assert main(command) == 0
    assert (tmp_path / "run" / "best.pt").exists()


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        (("--objective.target_loss=dist",), "a/dist"),
        (("--objective.target_loss=dkd", "--objective.target_weights=[1.0, 2.0]"), "a/dkd"),
        (("--objective.target_loss=hard", "--objective.confidence=0.3", "--optim.mixup=0.4"), "a/hard"),
        (("--objective.standardise", "--objective.temperature=2"), "a/kd"),
        (("--weighting=confidence", "--temperatures={iframe: 2.0, motion: 0.5}"), "a/kd"),
        (("--optim.mixup=0.4", "--optim.accumulate=2"), "a/kd"),
        (("--objective.update=alternate", "--objective.peers=ensemble", "--objective.exits"), "a/mutual"),
        (("--space=probs", "--optim.name=sgd", "--optim.schedule=step", "--optim.milestones=[0.5]"), "a/kd"),
    ],
)
def test_options_of_the_objective(
    settings: tuple[str, ...], part: str, prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    teachers = [f"--teachers.{stream}={path}" for stream, path in teacher_runs.items()]
    command = ["distill", f"--manifest={prepared}", f"--out={run}", STUDENTS, *teachers, *SMALL, *settings]
    assert main(command) == 0
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert part in lines[0]
    for line in lines:
        if "loss/total" in line:
            parts = [
                value
                for name, value in line.items()
                if name.startswith(("a/", "b/")) and not name.endswith("train_top1")
            ]
            assert sum(parts) == pytest.approx(line["loss/total"], rel=1e-3)


def test_any_number_of_teachers(
    prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of one stream, one of decoded frames, and one that sees two streams."""
    common = [f"--manifest={prepared}", *SMALL]
    rgb, both, run = (tmp_path / name for name in ("rgb", "both", "run"))
    assert main(["teach", "--stream=rgb", "--backbone=test_resnet", f"--out={rgb}", *common]) == 0
    stacked = '--students={"all": {"streams": ["iframe", "motion"], "backbone": "test_resnet"}}'
    assert main(["distill", f"--out={both}", stacked, *common]) == 0
    teachers = {
        "iframe": teacher_runs["iframe"],
        "iframe_again": teacher_runs["iframe"],
        "rgb": rgb,
        "motion_all": both,
    }
    named = [f"--teachers.{name}={path}" for name, path in teachers.items()]
    weights = "--weights={iframe: 2.0, iframe_again: 1.0, rgb: 1.0, motion_all: 3.0}"
    assert main(["distill", f"--out={run}", STUDENTS, *named, weights, "--temperatures.rgb=2.0", *common]) == 2
    assert "Give one for each of the teachers" in capsys.readouterr().err
    assert main(["distill", f"--out={run}", STUDENTS, *named, weights, *common]) == 0
    first = json.loads((run / "log.jsonl").read_text().splitlines()[0])
    assert {name for name in first if name.startswith("agreement/a/")} == {f"agreement/a/{name}" for name in teachers}
    assert first["agreement/a/iframe"] == first["agreement/a/iframe_again"]
    capsys.readouterr()
    assert main(["distill", f"--out={tmp_path / 'no'}", STUDENTS, f"--teachers.motion={both}", *common]) == 2
    assert "is a run on iframe, motion (accepted: iframe_… or motion_… for this run)" in capsys.readouterr().err


@pytest.mark.parametrize("backbone", ["video:r3d_18", "resnet10t"])
def test_networks_that_see_the_order_of_segments(backbone: str, prepared: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shift = ["--temporal_shift"] if backbone == "resnet10t" else []
    command = ["teach", "--stream=iframe", f"--backbone={backbone}", f"--manifest={prepared}", f"--out={run}", *SMALL]
    assert main([*command, *shift]) == 0
    assert main(["evaluate", str(run), "--views=full", "--workers=0", "--timed_videos=0", "--pictures=0"]) == 0
    assert json.loads((run / "results.json").read_text())["num_segments"] == 2


def test_training_stops_early_and_stays_stopped(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    command = ["teach", "--stream=motion", "--backbone=test_resnet", f"--manifest={prepared}", f"--out={run}", *TINY]
    command += ["--optim.epochs=30", "--optim.lr=1e-9", "--optim.early_stop=2"]
    assert main(command) == 0
    epochs = {json.loads(line)["epoch"] for line in (run / "log.jsonl").read_text().splitlines()}
    assert 2 <= max(epochs) < 29
    assert main(command) == 0
    assert "trained already" in capsys.readouterr().err


def test_teachers_are_calibrated(teacher_runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    scores = [f"--scores.{name}={run / f'scores-{name}.npz'}" for name, run in teacher_runs.items()]
    capsys.readouterr()
    assert main(["fuse", *scores, "--calibrate", "--format=json"]) == 0
    temperatures = json.loads(capsys.readouterr().out)["temperatures"]
    assert set(temperatures) == set(teacher_runs)
    assert all(0.05 <= temperature <= 20 for temperature in temperatures.values())


def test_two_processes_train_together(prepared: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["-m", "videokd", "teach", "--stream=motion", "--backbone=test_resnet", f"--manifest={prepared}"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, *command, f"--out={run}", *SMALL],
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # two threads of two processes each take minutes on two cores
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    steps = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)), "one process writes"
    assert (run / "best.pt").exists()


def test_students_are_fused_with_their_weights(prepared: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    weights = ["--student_weights.a=3", "--student_weights.b=1"]
    assert main(["distill", f"--manifest={prepared}", f"--out={run}", STUDENTS, *weights, *SMALL]) == 0
    assert main(["evaluate", str(run), "--views=quick", "--workers=0", "--timed_videos=0", "--pictures=0"]) == 0
    logits = {name: Scores.load(run / f"scores-{name}.npz").logits for name in ("a", "b", "fused")}
    np.testing.assert_allclose(logits["fused"], 0.75 * logits["a"] + 0.25 * logits["b"], atol=1e-4)


@pytest.mark.slow
def test_compiling_changes_no_loss(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))
    losses = {}
    for compiled in ("false", "true", "reduce-overhead"):
        run = tmp_path / compiled
        command = ["teach", "--stream=motion", "--backbone=test_resnet", f"--manifest={prepared}", f"--out={run}"]
        assert main([*command, *SMALL, f"--optim.compile={compiled}"]) == 0
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        losses[compiled] = [line["loss/total"] for line in lines if "loss/total" in line]
    for compiled in ("true", "reduce-overhead"):
        assert losses[compiled] == pytest.approx(losses["false"], rel=1e-2)
