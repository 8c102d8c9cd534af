"""Teachers and students with input sizes of their own: one crop of one record, resized for each network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.predictions import streams_for
from tests.small_runs import TINY
from videokd.__main__ import main
from videokd.datasets.manifest import Manifest
from videokd.evaluation.protocol import protocol_dataset
from videokd.models.backbone import Network
from videokd.models.students import PredictionSpec, Students
from videokd.models.students_file import load_students
from videokd.runs.run_folder import load_run

STUDENTS = (
    '--students={"a": {"streams": ["iframe"], "backbone": "test_resnet", "input_size": 56}, '
    '"b": {"streams": ["motion", "iframe"], "backbone": "test_resnet"}}'
)
QUICK = ("--views=quick", "--workers=0", "--timed_videos=1", "--pictures=0")


@pytest.fixture(scope="module")
def run(prepared: Path, teacher_runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Students at 56 and 24 pixels, their teacher at 32, from a cache, with mixed clips."""
    folder = tmp_path_factory.mktemp("sizes")
    out, teacher = f"--out={folder / 'run'}", f"--teachers.iframe={teacher_runs['iframe']}"
    more = ["--data.input_size=24", f"--data.cache={folder / 'cache'}", "--optim.epochs=1", "--optim.mixup=0.4"]
    assert main(["distill", f"--manifest={prepared}", out, STUDENTS, teacher, *TINY, *more]) == 0
    kept = sorted(path.name for path in (folder / "cache").iterdir())
    assert kept == ["iframe-16x56", "motion-16x24"]  # each stream at the largest size that is needed of it
    return folder / "run"


def alone(students: Students, name: str) -> Students:
    network = students.members[name]
    assert isinstance(network, Network)
    return Students({name: network}, PredictionSpec(students.class_names, students.num_segments)).eval()


def test_they_are_evaluated_as_each_alone(run: Path, prepared: Path) -> None:
    assert main(["evaluate", str(run), *QUICK]) == 0
    entries = json.loads((run / "results.json").read_text())["entries"]
    assert entries["b"]["streams"] == ["motion", "iframe"]
    assert entries["fused"]["macs_per_video"] == entries["a"]["macs_per_video"] + entries["b"]["macs_per_video"]
    trained, manifest = load_run(run), Manifest.read(prepared)
    clips = manifest.select("test", split=1)[:2]
    for name, size in (("a", 56), ("b", 24)):
        single = replace(trained, students=alone(trained.students, name))
        data = protocol_dataset(single, manifest, clips, views="quick")
        assert data.input_size == size
        with np.load(run / f"scores-{name}.npz") as scores:
            expected = scores["logits"][:2]
        streams = {key: torch.from_numpy(np.stack([each.streams[key] for each in data])) for key in data[0].streams}
        with torch.no_grad():
            found = single.students.logits(streams)[name]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_an_export_predicts_as_its_members_alone(run: Path, prepared: Path, tmp_path: Path) -> None:
    assert main(["export", str(run), f"--out={tmp_path / 'students'}"]) == 0
    students, manifest = load_students(tmp_path / "students"), Manifest.read(prepared)
    assert students.input_size == 56
    clip = manifest.file(manifest.clips[0])
    streams, _, _ = streams_for(students, clip)
    assert sorted(streams) == ["iframe", "iframe@24", "motion@24"]
    with torch.no_grad():
        together = students.logits(streams)
        for name in ("a", "b"):
            single = alone(students, name)
            torch.testing.assert_close(single.logits(streams_for(single, clip)[0])[name], together[name])
    assert main(["predict", str(clip), f"--students={tmp_path / 'students'}"]) == 0


def test_a_size_outside_its_range_is_refused(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    students = STUDENTS.replace("56", "5")
    assert main(["distill", f"--manifest={prepared}", f"--out={tmp_path / 'x'}", students, *TINY]) == 2
    assert "a student's input_size is 5 (accepted: 16 to 4096" in capsys.readouterr().err
