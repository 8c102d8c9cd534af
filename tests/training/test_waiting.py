"""A training step never waits for the GPU: shown without one, on tensors that only have shapes, types and a device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils._python_dispatch import TorchDispatchMode

from tests.small_networks import spec
from videokd.distill.mixup import mixup
from videokd.distill.objective import Objective
from videokd.models.adapters import add_adapters
from videokd.models.backbone import Network
from videokd.models.students import PredictionSpec, Students, build_students
from videokd.models.teachers import Teachers
from videokd.runs.device import Precision
from videokd.runs.settings import OptimSettings
from videokd.training.schedule import EMA
from videokd.training.step_numbers import accuracy_and_agreement
from videokd.training.target import TeacherTarget
from videokd.training.update import Update
from videokd.types import STREAMS, Batch

CUDA = torch.device("cuda")
STREAM_NAMES = ("iframe", "motion")
PARTS: dict[str, dict[str, Any]] = {
    "kd": {},
    "dist, standardised": {"target_loss": "dist", "standardise": True},
    "dkd, ensemble of peers": {"target_loss": "dkd", "peers": "ensemble"},
    "pseudo-labels": {"target_loss": "hard", "confidence": 0.9},
    "features and relations": {"feature_weight": 1.0, "relation_weight": 1.0},
}


class WaitsForTheGpu(AssertionError):
    """A copy between host and device that the process would have to wait for."""


class _Copies(TorchDispatchMode):
    """Refuses copies to the CPU, and copies from it that are not asynchronous."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        name = str(function)
        if "_to_copy" in name or "aten.copy_" in name:
            source = args[1] if "aten.copy_" in name else args[0]
            asynchronous = (kwargs or {}).get("non_blocking", False) or (len(args) > 2 and args[2])
            from_to = (source.device.type, found.device.type)
            if from_to == ("cuda", "cpu") or (from_to == ("cpu", "cuda") and not asynchronous and source.ndim):
                raise WaitsForTheGpu(f"{name} from {from_to[0]} to {from_to[1]}, {list(source.shape)}")
        return found


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """CUDA as far as shapes go: autocast and GradScaler believe in it."""
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self, *_: self)
    # what only has a shape cannot be put into another order
    monkeypatch.setattr("videokd.training.update.channels_last", lambda module: module)
    monkeypatch.setattr("torch.nn.Module.to", lambda module, *_: module)  # they are made there
    monkeypatch.setattr("videokd.models.backbone.Network.set_normalisation", lambda *_: None)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def batch(count: int = 4) -> Batch:
    streams = {
        name: torch.randint(0, 256, (count, 3, 32, 32, STREAMS[name].channels), dtype=torch.uint8).permute(
            0, 1, 4, 2, 3
        )
        for name in STREAM_NAMES
    }
    return Batch(streams, torch.randint(-1, 5, (count,)), tuple(map(str, range(count))))


def networks(*, exits: bool = True) -> tuple[Students, Teachers]:
    with CUDA:
        specs = {name: spec(name) for name in STREAM_NAMES}
        students = build_students(specs, PredictionSpec([*"vwxyz"], 3), seed=0, with_exits=exits)
        teachers = Teachers({name: Network(spec(name)) for name in STREAM_NAMES})
        add_adapters(students, teachers.feature_widths, seed=0)
    return students.train(), teachers


def _give_gradients(students: Students) -> None:
    for parameter in students.parameters():
        parameter.grad = torch.zeros_like(parameter)


def step(
    monkeypatch: pytest.MonkeyPatch,
    objective: Objective,
    *,
    precision: Precision,
    order: Any = "simultaneous",
    weighting: Any = "fixed",
    space: Any = "logits",
    alpha: float = 0.0,
) -> None:
    """What `learn` does in each step, on the GPU."""
    students, teachers = networks()
    weights = {"iframe": 2.0, "motion": 1.0}
    target = TeacherTarget(
        teachers, weights, weights, weighting=weighting, space=space, with_features=objective.needs_features
    )
    optim = OptimSettings(clip_norm=1.0, accumulate=2)
    update = Update(students, objective, optim=optim, precision=precision, order=order)
    ema = EMA(students, decay=0.9)
    given = batch()
    # autograd's own engine asks for a GPU; none of its derivatives waits for one
    monkeypatch.setattr(Tensor, "backward", lambda loss: _give_gradients(students))
    with _Copies():
        on_gpu = given.to(CUDA)
        label: Any = on_gpu.label
        if alpha:
            on_gpu, label = mixup(on_gpu, alpha=alpha, rng=np.random.default_rng(0))
        goal = target(on_gpu, label, precision)
        updated = update(on_gpu, label, goal, rate=0.1)
        ema.update(students)
        numbers = accuracy_and_agreement(updated, on_gpu.label, goal.predictions)
    devices = {value.device.type for value in (*numbers.values(), *updated.parts.values(), updated.total)}
    assert devices == {"cuda"}


@pytest.mark.parametrize("name", PARTS)
def test_no_loss_waits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    step(monkeypatch, Objective(alpha=0.5, beta=1.0, **PARTS[name]), precision=Precision("bf16", CUDA))


@pytest.mark.parametrize("space", ["logits", "probs"])
def test_weights_by_confidence_and_mixed_clips_do_not_wait(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = Objective(alpha=0.5, target_loss="dkd")
    step(
        monkeypatch,
        objective,
        precision=Precision("bf16", CUDA),
        weighting="confidence",
        space=space,
        alpha=0.4,
    )


@pytest.mark.parametrize("name", ["fp32", "fp16"])
def test_students_in_turns_do_not_wait(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    step(monkeypatch, Objective(beta=1.0), precision=Precision(name, CUDA), order="alternate")


def test_waiting_is_noticed() -> None:
    on_gpu = torch.ones(3, device=CUDA)
    with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        on_gpu.sum().item()
    with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
        on_gpu[on_gpu > 0]
    with pytest.raises(RuntimeError, match="device"):
        on_gpu + torch.ones(3)
    with _Copies():
        torch.ones(3).to(CUDA, non_blocking=True)
        with pytest.raises(WaitsForTheGpu, match="from cpu to cuda"):
            torch.ones(3).to(CUDA)
        with pytest.raises(WaitsForTheGpu, match="from cuda to cpu"):
            on_gpu.cpu()
