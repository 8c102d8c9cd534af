"""Tiny runs of every verb on a tiny dataset, made once a session and shared by the tests that read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from videokd.__main__ import main
from videokd.preparation.synthetic import generate

#: Settings that make a training last seconds.
TINY = (
    "--data.input_size=32",
    "--data.batch_size=6",
    "--data.workers=0",
    "--data.num_segments=2",
    "--optim.epochs=2",
    "--optim.warmup_epochs=0",
)


def teach_motion(prepared: Path, run: Path) -> list[str]:
    """The command that trains a tiny motion teacher, but for the settings that make it last seconds."""
    return ["teach", "--stream=motion", "--backbone=test_resnet", f"--manifest={prepared}", f"--out={run}"]


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("generated") / "clips", groups=4, clips_per_group=1, num_frames=16, size=64)


@pytest.fixture(scope="session")
def prepared(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "data"
    assert main(["prepare", "folder", str(clips), "--out", str(out), "--short-side", "64", "--jobs", "1"]) == 0
    return out


@pytest.fixture(scope="session")
def teacher_runs(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("teachers")
    runs = {stream: folder / stream for stream in ("iframe", "motion")}
    for stream, run in runs.items():
        command = [
            "teach",
            "--stream",
            stream,
            "--backbone",
            "test_resnet",
            "--manifest",
            str(prepared),
            "--out",
            str(run),
        ]
        assert main([*command, *TINY]) == 0
        assert main(["evaluate", str(run), "--views=quick", "--workers=0", "--timed_videos=1", "--pictures=1"]) == 0
    return runs


STUDENTS = (
    '--students={"a": {"streams": ["iframe"], "backbone": "test_resnet"}, '
    '"b": {"streams": ["motion", "residual"], "backbone": "test_resnet"}}'
)


@pytest.fixture(scope="session")
def student_run(prepared: Path, teacher_runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("students") / "students"
    teachers = [f"--teachers.{stream}={path}" for stream, path in teacher_runs.items()]
    assert main(["distill", "--manifest", str(prepared), "--out", str(run), STUDENTS, *teachers, *TINY]) == 0
    return run


@pytest.fixture(scope="session")
def exported(student_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "students"
    assert main(["export", str(student_run), "--out", str(out)]) == 0
    return out
