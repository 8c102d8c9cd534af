"""The teachers' target with features, in pieces, and from something that only knows logits."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from tests.small_networks import random_streams, spec
from videokd.distill.feature_losses import TeacherFeatures
from videokd.distill.objective import Objective
from videokd.errors import ConfigError
from videokd.models.adapters import add_adapters
from videokd.models.backbone import Network
from videokd.models.students import PredictionSpec, Students, build_students
from videokd.models.teachers import Teachers
from videokd.runs.device import Precision
from videokd.runs.settings import OptimSettings
from videokd.training.target import Target, TeacherTarget
from videokd.training.update import Update
from videokd.types import Batch

CPU = Precision("fp32", torch.device("cpu"))
PLAIN = OptimSettings(name="sgd", lr=0.1, weight_decay=0.0)
WEIGHTS, EVEN = {"iframe": 3.0, "motion": 1.0}, {"iframe": 1.0, "motion": 1.0}
BATCH = Batch(random_streams("iframe", "motion", batch=6), torch.tensor([0, 1, 2, 3, 4, -1]), tuple("abcdef"))


def two_teachers() -> Teachers:
    torch.manual_seed(0)
    return Teachers(
        {"iframe": Network(spec("iframe")), "motion": Network(spec("motion", backbone="test_efficientnet"))}
    )


def motion_students(teachers: Teachers, *, exact: bool = False) -> Students:
    """None of them sees I-frames, as one of the teachers does."""
    specs = {"a": spec("motion"), "b": spec("motion")}
    students = build_students(specs, PredictionSpec([*"vwxyz"], 3), seed=0)
    add_adapters(students, teachers.feature_widths, seed=0)
    return (students.double() if exact else students).train()


class Stored:
    """Looks logits up and has no features."""

    streams = ("motion",)

    def __call__(self, batch: Batch) -> Mapping[str, Tensor]:
        return {name: torch.eye(6, 5) for name in EVEN}


def test_features_come_from_the_pass_that_gives_the_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    teachers = two_teachers()
    passes = []
    for name, network in teachers.networks.items():
        network.register_forward_pre_hook(lambda *_, name=name: passes.append(name))
    goal = TeacherTarget(teachers, WEIGHTS, EVEN, with_features=True)(BATCH, BATCH.label, CPU)
    assert passes == ["iframe", "motion"]
    plain = TeacherTarget(teachers, WEIGHTS, EVEN)(BATCH, BATCH.label, CPU)
    torch.testing.assert_close(goal.fused, plain.fused, rtol=1e-4, atol=1e-5)
    assert plain.features is None
    assert goal.features is not None
    assert goal.features.shares == {"iframe": 0.75, "motion": 0.25}
    for name, network in teachers.networks.items():
        found = goal.features.features[name]
        assert not found.requires_grad
        assert [*found.shape] == [6, teachers.feature_widths[name]]
        _, expected = network(BATCH.streams, with_features=True)
        torch.testing.assert_close(found, expected)


def test_a_target_splits_as_a_batch_does() -> None:
    goal = TeacherTarget(two_teachers(), WEIGHTS, EVEN, with_features=True)(BATCH, BATCH.label, CPU)
    for pieces in (1, 4):
        parts = goal.split(pieces)
        assert [len(part.fused) for part in parts] == [len(piece) for piece in BATCH.split(pieces)]
        assert torch.equal(torch.cat([part.fused for part in parts]), goal.fused)
        for name in EVEN:
            assert torch.equal(torch.cat([part.predictions[name] for part in parts]), goal.predictions[name])
            assert torch.equal(torch.cat([p.features.features[name] for p in parts]), goal.features.features[name])
    assert all(part.features is None for part in Target(goal.fused).split(4))


def test_what_only_knows_logits_serves_until_features_are_asked_for() -> None:
    target = TeacherTarget(Stored(), WEIGHTS, EVEN)
    assert target.networks == []
    goal = target(BATCH, BATCH.label, CPU)
    assert goal.predictions["iframe"].tolist() == [0, 1, 2, 3, 4, 0]
    message = "need the teachers' features, and stored targets have only their logits"
    with pytest.raises(ConfigError, match=message):
        TeacherTarget(Stored(), WEIGHTS, EVEN, with_features=True)
    with pytest.raises(ConfigError, match=message):
        _ = target.feature_widths


@pytest.mark.parametrize(
    "precision",
    [
        Precision("bf16", torch.device("cpu")),
        pytest.param(Precision("bf16", torch.device("cuda")), marks=pytest.mark.gpu),
        pytest.param(Precision("fp16", torch.device("cuda")), marks=pytest.mark.gpu),
    ],
    ids=["bf16 cpu", "bf16 cuda", "fp16 cuda"],
)
def test_features_under_autocast_are_close_to_float32(precision: Precision) -> None:
    parts = {}
    for kind in (Precision("fp32", precision.device), precision):
        teachers, batch = two_teachers(), BATCH.to(precision.device)
        students = motion_students(teachers)
        teachers.to(precision.device)
        objective = Objective(feature_weight=1.0, relation_weight=1.0)
        update = Update(students, objective, optim=PLAIN, precision=kind, order="simultaneous")
        goal = TeacherTarget(teachers, WEIGHTS, EVEN, with_features=True)(batch, batch.label, kind)
        parts[kind.name] = update(batch, batch.label, goal, rate=0.01).parts
    for name, exact in parts["fp32"].items():
        assert parts[precision.name][name].dtype == torch.float32
        assert parts[precision.name][name].item() == pytest.approx(exact.item(), rel=0.05, abs=0.02)


@pytest.mark.parametrize("order", ["simultaneous", "alternate"])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_gradients_reach_student_and_adapter_and_no_teacher(order: str, beta: float) -> None:
    teachers = two_teachers()
    students = motion_students(teachers)
    before, own = copy.deepcopy(teachers.state_dict()), copy.deepcopy(students.state_dict())
    objective = Objective(beta=beta, feature_weight=1.0, relation_weight=0.5)
    update = Update(students, objective, optim=PLAIN, precision=CPU, order=order)
    target = TeacherTarget(teachers, WEIGHTS, EVEN, with_features=True)
    updated = update(BATCH, BATCH.label, target(BATCH, BATCH.label, CPU), rate=0.1)
    names = ["ce", *(["mutual"] if beta else []), "feature", "relation"]
    assert list(updated.parts) == [f"{student}/{name}" for student in "ab" for name in names]
    assert sum(part.item() for part in updated.parts.values()) == pytest.approx(updated.total.item(), rel=1e-5)
    assert all(torch.equal(values, before[name]) for name, values in teachers.state_dict().items())
    assert all(parameter.grad is None for parameter in teachers.parameters())
    moved = {name for name, values in students.state_dict().items() if not torch.equal(values, own[name])}
    for student in "ab":
        assert {f"adapters.{student}.by_teacher.{teacher}.weight" for teacher in EVEN} <= moved
        assert f"members.{student}.backbone.conv1.weight" in moved or any(
            name.startswith(f"members.{student}.backbone.conv1") for name in moved
        )


def test_features_alone_teach_the_body_and_not_the_classifier() -> None:
    """With no label in the batch and α 0, only features move a student."""
    teachers = two_teachers()
    students = motion_students(teachers)
    own = copy.deepcopy(students.state_dict())
    batch = Batch(BATCH.streams, torch.full((6,), -1), BATCH.video_ids)
    update = Update(
        students, Objective(feature_weight=1.0, feature_loss="l2"), optim=PLAIN, precision=CPU, order="simultaneous"
    )
    goal = TeacherTarget(teachers, WEIGHTS, EVEN, with_features=True)(batch, batch.label, CPU)
    first = update(batch, batch.label, goal, rate=0.1)
    for _ in range(10):
        last = update(batch, batch.label, goal, rate=0.1)
    assert last.total < 0.8 * first.total
    assert torch.equal(students.state_dict()["members.a.backbone.fc.weight"], own["members.a.backbone.fc.weight"])
    assert not torch.equal(
        students.state_dict()["members.a.backbone.conv1.0.weight"], own["members.a.backbone.conv1.0.weight"]
    )


def test_pieces_give_the_same_step_but_for_the_relations() -> None:
    teachers = two_teachers()
    whole, pieces = motion_students(teachers, exact=True), motion_students(teachers, exact=True)
    for students in (whole, pieces):
        for module in students.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
    goal = TeacherTarget(teachers, WEIGHTS, EVEN, with_features=True)(BATCH, BATCH.label, CPU)
    labelled = Batch(BATCH.streams, torch.arange(6) % 5, BATCH.video_ids)
    split = OptimSettings(name="sgd", lr=0.1, weight_decay=0.0, accumulate=2)
    made = [
        Update(students, Objective(alpha=0.5, feature_weight=2.0), optim=optim, precision=CPU, order="simultaneous")
        for students, optim in ((whole, PLAIN), (pieces, split))
    ]
    one, two = (update(labelled, labelled.label, goal, rate=0.1) for update in made)
    assert one.total.item() == pytest.approx(two.total.item(), rel=1e-9)
    assert one.parts["a/feature"].item() == pytest.approx(two.parts["a/feature"].item(), rel=1e-9)
    for name, values in whole.state_dict().items():
        torch.testing.assert_close(values.double(), pieces.state_dict()[name].double(), rtol=0, atol=1e-9)


def test_relations_are_those_of_a_piece() -> None:
    teachers = two_teachers()
    objective = Objective(relation_weight=1.0)
    goal = TeacherTarget(teachers, WEIGHTS, EVEN, with_features=True)(BATCH, BATCH.label, CPU)
    students = motion_students(teachers).eval()
    outputs = [students(piece, with_features=True) for piece in BATCH.split(2)]
    apart = [
        objective(output, None, torch.zeros(3, dtype=torch.int64), part.features)[1]["a/relation"].item()
        for output, part in zip(outputs, goal.split(2), strict=True)
    ]
    split = OptimSettings(name="sgd", lr=0.1, weight_decay=0.0, accumulate=2)
    update = Update(students, objective, optim=split, precision=CPU, order="simultaneous")
    found = update(BATCH, BATCH.label, goal, rate=0.1).parts["a/relation"].item()
    assert found == pytest.approx(sum(apart) / 2, rel=1e-4)


def test_each_teacher_counts_by_its_share() -> None:
    teachers = two_teachers()
    students = motion_students(teachers).eval()
    goal = TeacherTarget(teachers, WEIGHTS, EVEN, with_features=True)(BATCH, BATCH.label, CPU)
    assert goal.features is not None
    outputs = students(BATCH, with_features=True)
    objective = Objective(feature_weight=2.0, relation_weight=0.5)
    _, parts = objective(outputs, None, BATCH.label, goal.features)
    expected = dict.fromkeys(("a/feature", "a/relation"), 0.0)
    for teacher, share in (("iframe", 0.75), ("motion", 0.25)):
        alone = TeacherFeatures({teacher: goal.features.features[teacher]}, {teacher: 1.0})
        _, of_one = objective(outputs, None, BATCH.label, alone)
        expected = {name: value + share * of_one[name].item() for name, value in expected.items()}
    assert {name: parts[name].item() for name in expected} == pytest.approx(expected, rel=1e-5)
