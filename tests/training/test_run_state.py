"""What a run keeps between its steps."""

from __future__ import annotations

import torch

from videokd.distill.objective import Objective
from videokd.models.network_spec import NetworkSpec
from videokd.models.students import PredictionSpec, build_students
from videokd.runs.checkpoint import load_checkpoint, save_checkpoint
from videokd.runs.device import Precision
from videokd.runs.ranks import Ranks
from videokd.runs.run_folder import RunFolder
from videokd.runs.session import Session
from videokd.runs.settings import OptimSettings
from videokd.training.run_state import RunState
from videokd.training.update import Update


def state_in(folder):
    spec = NetworkSpec.new(
        ["iframe"], "test_resnet", num_classes=2, input_size=32
    )  # its own normalisation is not ImageNet's
    students = build_students({"a": spec}, PredictionSpec(["x", "y"], 3), seed=0)
    precision = Precision("fp32", torch.device("cpu"))
    update = Update(students, Objective(), optim=OptimSettings(), precision=precision, order="simultaneous")
    return RunState(students, update, Session(RunFolder(folder), precision, Ranks()), role="teacher")


def test_a_resumed_run_keeps_its_normalisation(tmp_path):
    first = state_in(tmp_path)
    first.students.set_normalisation({"a": ((0.1, 0.2, 0.3), (0.5, 0.5, 1.0))})
    first.save()
    resumed = state_in(tmp_path)
    resumed.restore()
    assert resumed.students.specs == first.students.specs


def test_runs_without_normalisation_in_their_checkpoint_resume_with_imagenets(tmp_path):
    state_in(tmp_path).save()
    payload = load_checkpoint(tmp_path / "checkpoint.pt")
    del payload["normalisation"]
    save_checkpoint(tmp_path / "checkpoint.pt", payload)
    resumed = state_in(tmp_path)
    resumed.restore()
    assert resumed.students.specs["a"].mean is None
