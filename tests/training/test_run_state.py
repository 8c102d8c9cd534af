"""What a run keeps between its steps."""

from __future__ import annotations

import pytest
import torch

from tests.small_networks import random_streams
from videokd.distill.objective import Objective
from videokd.errors import DataError, VideoKDError
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
from videokd.types import Batch

CPU = Precision("fp32", torch.device("cpu"))


class ScaledOnCpu(Precision):
    """float32, with the scaler of fp16."""

    def scaler(self):
        return torch.amp.GradScaler("cpu", init_scale=2.0**16)


def state_in(folder, precision=CPU, ranks=None):
    spec = NetworkSpec.new(
        ["iframe"], "test_resnet", num_classes=2, input_size=32
    )  # its own normalisation is not ImageNet's
    students = build_students({"a": spec}, PredictionSpec(["x", "y"], 3), seed=0)
    update = Update(students, Objective(), optim=OptimSettings(), precision=precision, order="simultaneous")
    return RunState(students, update, Session(RunFolder(folder), precision, ranks or Ranks()), role="teacher")


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


@pytest.mark.parametrize("broken", [False, True])
def test_steps_that_are_all_left_out_end_a_run(tmp_path, broken):
    """A loss that is a number, and gradients that never are one: such a run would end as if it had learned."""
    state = state_in(tmp_path, ScaledOnCpu("fp32", torch.device("cpu")))
    students = state.students.train()
    if broken:
        next(students.parameters()).register_hook(lambda gradient: gradient * float("nan"))
    state.save()
    before = load_checkpoint(tmp_path / "checkpoint.pt")["progress"]
    batch = Batch(random_streams("iframe", batch=4), torch.tensor([0, 1, 0, 1]), tuple("abcd"))
    for _ in range(30):
        assert state.update(batch, batch.label, None, rate=1e-4).total.isfinite()
        state.progress.step += 1
    if not broken:
        state.save()
        return
    with pytest.raises(VideoKDError, match="step 29: gradients have not been finite in fp16 for many steps"):
        state.save()
    assert load_checkpoint(tmp_path / "checkpoint.pt")["progress"]["step"] == before["step"]


def test_a_checkpoint_that_could_not_be_written_is_not_said_to_be_there(tmp_path):
    """On a full disk only the first rank knows; the others named a step that no file had."""
    first, second = state_in(tmp_path), state_in(tmp_path, ranks=Ranks(rank=1, num_ranks=2))
    for state in (first, second):
        state.progress.step = 4
    first._run.checkpoint.mkdir()  # what cannot be replaced
    with pytest.raises(DataError):
        first.save()
    second.save()
    assert first.last_checkpoint == f"{tmp_path} has no checkpoint yet."
    assert "is of step 4 if the first process could write it, else there is none" in second.last_checkpoint
    second.begin_step()
    assert "if the first process" in second.last_checkpoint
    second.progress.step += 1
    second.begin_step()
    assert second.last_checkpoint == f"The last checkpoint of {tmp_path} is of step 4."
