"""Features and relations of teachers as targets, as a user trains with them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from tests.recipes.test_going_on import assert_same
from tests.recipes.test_verbs import refused
from tests.small_runs import STUDENTS, TINY
from videokd.__main__ import main
from videokd.runs.checkpoint import load_checkpoint
from videokd.stopping import StopSignal

MOTION = '--students={"small": {"streams": ["motion"], "backbone": "test_efficientnet"}}'
FEATURES = ("--objective.feature_weight=1", "--objective.relation_weight=2")


def distill(prepared: Path, out: Path, students: str, *more: str) -> list[str]:
    return ["distill", f"--manifest={prepared}", f"--out={out}", students, *TINY, *more]


def test_a_motion_student_learns_from_the_features_of_an_iframe_teacher(
    prepared: Path, teacher_runs: dict[str, Path], clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, exported = tmp_path / "run", tmp_path / "exported"
    teacher = f"--teachers.iframe={teacher_runs['iframe']}"
    assert (
        main(distill(prepared, run, MOTION, teacher, *FEATURES, "--objective.feature_loss=l2", "--objective.alpha=0"))
        == 0
    )
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    for line in (line for line in lines if "loss/total" in line):
        parts = {name: value for name, value in line.items() if name.startswith("small/") and "top1" not in name}
        assert set(parts) == {"small/ce", "small/feature", "small/relation"}
        assert sum(parts.values()) == pytest.approx(line["loss/total"], rel=1e-3)
    state = load_checkpoint(run / "checkpoint.pt")["students"]
    assert [*state["adapters.small.by_teacher.iframe.weight"].shape] == [96, 256]
    assert not any("adapters" in name for name in load_checkpoint(run / "best.pt")["state"])
    assert main(["evaluate", str(run), "--views=quick", "--workers=0", "--timed_videos=0", "--pictures=0"]) == 0
    assert main(["export", str(run), f"--out={exported}"]) == 0
    assert not any("adapters" in name for name in load_file(exported / "students.safetensors"))
    capsys.readouterr()
    assert main(["predict", str(next(clips.rglob("*.mp4"))), f"--students={exported}", "--format=json"]) == 0
    assert len(json.loads(capsys.readouterr().out)[0]["labels"]) == 5


@pytest.mark.parametrize("order", ["simultaneous", pytest.param("alternate", marks=pytest.mark.slow)])
def test_a_resumed_run_is_bit_equal_adapters_included(
    order: str, prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teachers = [f"--teachers.{stream}={run}" for stream, run in teacher_runs.items()]
    more = [*teachers, *FEATURES, f"--objective.update={order}", "--optim.ema=0.9", "--optim.accumulate=2"]
    assert main(distill(prepared, tmp_path / "whole", STUDENTS, *more)) == 0
    looks = itertools.count()
    with monkeypatch.context() as patch:  # asked to stop in the second step
        asked = property(lambda self: next(looks) >= 1, lambda self, value: None)
        patch.setattr(StopSignal, "requested", asked, raising=False)
        assert main(distill(prepared, tmp_path / "parts", STUDENTS, *more)) == 130
    assert main(distill(prepared, tmp_path / "parts", STUDENTS, *more)) == 0
    whole, parts = (load_checkpoint(tmp_path / name / "checkpoint.pt") for name in ("whole", "parts"))
    for payload in (whole, parts):
        del payload["progress"]["seconds"]
    assert_same(whole, parts)
    names = {f"adapters.{student}.by_teacher.{teacher}.weight" for student in "ab" for teacher in teacher_runs}
    assert names <= set(whole["students"]) & set(whole["ema"]["average"])


def test_weights_that_nobody_can_follow_are_refused(
    prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, *distill(prepared, tmp_path / "run", STUDENTS, *FEATURES))
    assert "objective.feature_weight is 1.0, objective.relation_weight 2.0 without teachers. Name teachers" in message
    teacher = f"--teachers.iframe={teacher_runs['iframe']}"
    message = refused(capsys, *distill(prepared, tmp_path / "run", STUDENTS, teacher, "--objective.alpha=0"))
    assert "Raise it, objective.feature_weight or objective.relation_weight, or name no teachers" in message
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_older_than_these_settings_resumes(
    prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    command = distill(prepared, run, MOTION, f"--teachers.iframe={teacher_runs['iframe']}", "--optim.epochs=1")
    assert main(command) == 0
    config = yaml.safe_load((run / "config.yaml").read_text())
    for name in ("confidence", "feature_weight", "feature_loss", "relation_weight"):
        del config["objective"][name]
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    assert main(["evaluate", str(run), "--views=quick", "--workers=0", "--timed_videos=0", "--pictures=0"]) == 0
    capsys.readouterr()
    assert main(command) == 0
    assert "trained already" in capsys.readouterr().err
    message = refused(capsys, *command, "--objective.relation_weight=2")
    assert "holds a run with objective.relation_weight 0.0, not 2.0" in message
