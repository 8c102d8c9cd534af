"""Runs that start from trained weights: of a file, or of another run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from tests.recipes.test_verbs import refused
from tests.small_runs import TINY
from videokd.__main__ import main
from videokd.config import without_retired
from videokd.files import sha256_of
from videokd.runs.run_folder import load_run
from videokd.runs.run_settings import read_settings

#: One epoch at a learning rate that changes nothing: the run ends as it started.
STILL = (*TINY, "--optim.epochs=1", "--optim.lr=1e-30", "--optim.weight_decay=0")
TWO = (
    '--students={"iframe": {"streams": ["iframe"], "backbone": "test_resnet"}, '
    '"other": {"streams": ["iframe", "motion"], "backbone": "test_resnet", "init": "none"}}'
)


def record(run: Path) -> dict[str, object]:
    return json.loads((run / "trained_on.json").read_text())


def weight(run: Path, name: str) -> torch.Tensor:
    return load_run(run).students.state_dict()[f"members.{name}"]


def test_a_student_starts_from_a_run_and_resumes_without_it(
    prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    shutil.copytree(teacher_runs["iframe"], source)
    command = ["distill", f"--manifest={prepared}", f"--out={tmp_path / 'run'}", TWO, *STILL]
    assert main([*command, f"--init={source}"]) == 0
    run = tmp_path / "run"
    assert record(run)["initial"] == {"iframe": {"source": str(source), "sha256": sha256_of(source / "best.pt")}}
    for part in ("conv1.0.weight", "fc.weight"):  # the same classes: the classifier carries over too
        assert torch.equal(weight(run, f"iframe.backbone.{part}"), weight(source, f"iframe.backbone.{part}"))
    assert load_run(run).students.specs["iframe"].mean == load_run(source).students.specs["iframe"].mean
    assert "iframe starts from" in capsys.readouterr().err

    moved = tmp_path / "moved"
    source.rename(moved)
    assert main([*command, f"--init={source}"]) == 0
    assert main([*command, f"--init={moved}"]) == 0
    assert record(run)["initial"]["iframe"]["sha256"] == sha256_of(moved / "best.pt")  # type: ignore[index]
    message = "other data: iframe started from other weights. Bring the clips and teachers back"
    assert message in refused(capsys, *command, f"--init={teacher_runs['motion']}")
    assert message in refused(capsys, *command, f"--init={tmp_path / 'gone'}")
    assert message in refused(capsys, *command)
    assert message in refused(capsys, *command, "--init=imagenet")


def test_what_cannot_be_a_start_is_refused(
    prepared: Path,
    teacher_runs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["distill", f"--manifest={prepared}", f"--out={tmp_path / 'run'}", *STILL]
    one = '--students={{"{}": {{"streams": ["iframe"], "backbone": "{}"}}}}'
    init = f"--init={teacher_runs['iframe']}"
    assert "init: kinetics is none of these (accepted: none, imagenet, a file of weights" in refused(
        capsys, *command, one.format("a", "test_resnet"), "--init=kinetics"
    )
    assert "w.pth is not a file" in refused(
        capsys, *command, one.format("a", "test_resnet"), f"--init={tmp_path / 'w.pth'}"
    )
    assert "a has the backbone test_efficientnet, " in (
        message := refused(capsys, *command, one.format("a", "test_efficientnet"), init)
    )
    assert "has test_resnet (accepted: the same)" in message
    assert "is a folder, but not of a run (accepted: none, imagenet, a file of weights" in refused(
        capsys, *command, one.format("a", "test_resnet"), f"--init={prepared}"
    )
    assert not (tmp_path / "run" / "checkpoint.pt").exists()

    assert main([*command, TWO.replace('iframe": {', 'one": {')]) == 0
    several = refused(
        capsys,
        *command[:2],
        f"--out={tmp_path / 'b'}",
        *STILL,
        one.format("a", "test_resnet"),
        f"--init={tmp_path / 'run'}",
    )
    assert "has several networks (one, other), and none is called a. Name the student like one of them" in several


def test_clips_of_the_first_run_count_as_seen(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["teach", f"--manifest={prepared}", "--backbone=test_resnet", *STILL]
    first, second = tmp_path / "first", tmp_path / "second"
    assert main([*command, "--stream=iframe", f"--out={first}", "--split=2", "--data.val_fraction=0"]) == 0
    message = refused(capsys, *command, "--stream=motion", f"--out={tmp_path / 'a'}", f"--init={first}")
    assert f"init of motion: {first} was trained on" in message
    assert "clips that split 1 of" in message

    again = [*command, "--stream=motion", f"--out={second}", "--split=2", f"--init={first}"]
    assert main(again) == 0
    clips, held_out = record(second)["by_teachers"], record(second)["held_out"]
    assert clips
    assert {key[0] for key in held_out} <= set(clips)  # type: ignore[call-overload, attr-defined]
    message = refused(capsys, "evaluate", str(second), "--split=1", "--views=quick", "--workers=0")
    assert "it, its teachers or its initial weights: their accuracy would be meaningless" in message
    shutil.rmtree(first)
    assert main(again) == 0  # resumed without the first run, whose clips are still known
    assert record(second)["by_teachers"] == clips


def test_a_teacher_starts_from_a_file(
    prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = load_run(teacher_runs["iframe"]).students.members["iframe"]
    file = tmp_path / "weights.safetensors"
    save_file({name: values.contiguous() for name, values in members.backbone.state_dict().items()}, file)  # type: ignore[union-attr, operator]
    command = ["teach", f"--manifest={prepared}", "--stream=residual", "--backbone=test_resnet", *STILL]
    command += [f"--out={tmp_path / 'run'}", f"--init={file}"]
    assert main(command) == 0
    assert record(tmp_path / "run")["initial"] == {"residual": {"source": str(file), "sha256": sha256_of(file)}}
    name = "backbone.layer1.0.conv1.weight"
    assert torch.equal(weight(tmp_path / "run", f"residual.{name}"), weight(teacher_runs["iframe"], f"iframe.{name}"))
    file.unlink()
    assert main(command) == 0
    file.write_bytes(b"other")
    assert "residual started from other weights" in refused(capsys, *command)


def test_runs_of_versions_with_pretrained_are_read_and_resumed(
    prepared: Path, teacher_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(teacher_runs["iframe"], run)
    settings = yaml.safe_load((run / "config.yaml").read_text())
    for pretrained, init in ((True, "imagenet"), (False, "none")):
        old = {name: value for name, value in settings.items() if name != "init"} | {"pretrained": pretrained}
        (run / "config.yaml").write_text(yaml.safe_dump(old))
        assert read_settings(run / "config.yaml").init == init
        command = [
            "teach",
            "--stream=iframe",
            "--backbone=test_resnet",
            f"--manifest={prepared}",
            f"--out={run}",
            *TINY,
        ]
        assert main([*command, f"--init={init}"]) == 0
    assert without_retired({"pretrained": "yes"}) == {"pretrained": "yes"}  # refused as unknown
    assert "--pretrained is unknown. Did you mean --init?" in refused(capsys, "teach", "--pretrained", "true")
