"""One update against loops written out by hand."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from videokd.distill.objective import Objective
from videokd.models.backbone import Network
from videokd.models.network_spec import NetworkSpec
from videokd.models.students import PredictionSpec, Students, build_students
from videokd.models.teachers import Teachers
from videokd.runs.device import Precision
from videokd.runs.settings import OptimSettings
from videokd.training.step_numbers import accuracy_and_agreement
from videokd.training.target import Target, TeacherTarget
from videokd.training.update import Update, untouched_batch_norm
from videokd.types import Batch

CPU = Precision("fp32", torch.device("cpu"))
RATE = 0.03
PLAIN = OptimSettings(name="sgd", lr=0.1, weight_decay=0.0)


def two_students(*, exits: bool = False, exact: bool = False) -> Students:
    """Exact ones compute in float64: two routes to one step then differ by 1e-15, which a few steps cannot make large."""
    spec = NetworkSpec(("motion",), "test_resnet", 3, 32)
    students = build_students({"a": spec, "b": spec}, PredictionSpec("xyz", 2), seed=0, with_exits=exits)
    return (students.double() if exact else students).train()


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    motion = torch.randint(0, 256, (6, 2, 2, 32, 32), dtype=torch.uint8, generator=generator)
    return Batch({"motion": motion}, torch.tensor([0, 1, 2, 0, 1, 2]), tuple("abcdef"))


def frozen_batch_norm(students: Students) -> Students:
    for module in students.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    return students


def same(one: Students, other: Students, *, tolerance: float = 0.0) -> bool:
    return all(
        torch.allclose(value.double(), other.state_dict()[name].double(), rtol=0, atol=tolerance)
        for name, value in one.state_dict().items()
    )


def agrees(predictions: torch.Tensor, logits: torch.Tensor) -> bool:
    """Whether predictions are those of the largest logits, wherever the lead is more than rounding can turn around."""
    best, second = logits.detach().topk(2).values.unbind(1)
    clear = best - second > 1e-3
    assert clear.any()
    return torch.equal(predictions[clear], logits.argmax(1)[clear])


def divergence(student: torch.Tensor, peer: torch.Tensor) -> torch.Tensor:
    p = peer.detach().softmax(1)
    return (p * (p.log() - student.log_softmax(1))).sum(1).mean()


def test_alternating_updates_equal_a_plain_loop(batch: Batch) -> None:
    ours, plain = two_students(exact=True), two_students(exact=True)
    update = Update(ours, Objective(beta=1.0), optim=PLAIN, precision=CPU, order="alternate")
    optimizers = {
        name: torch.optim.SGD(network.parameters(), lr=RATE, momentum=0.9, nesterov=True)
        for name, network in plain.members.items()
    }
    for _ in range(3):
        updated = update(batch, batch.label, None, rate=RATE)
        total = 0.0
        for name, peer in (("a", "b"), ("b", "a")):
            buffers = copy.deepcopy(dict(plain.members[peer].named_buffers()))
            with torch.no_grad():
                peer_logits = plain.members[peer](batch.streams)
            for key, value in plain.members[peer].named_buffers():
                value.copy_(buffers[key])
            logits = plain.members[name](batch.streams)
            loss = F.cross_entropy(logits, batch.label) + divergence(logits, peer_logits)
            optimizers[name].zero_grad()
            loss.backward()
            optimizers[name].step()
            total += loss.item()
        assert updated.total.item() == pytest.approx(total, rel=1e-9)
    assert same(ours, plain, tolerance=1e-9)


def test_simultaneous_updates_equal_a_plain_loop(batch: Batch) -> None:
    ours, plain = two_students(exact=True), two_students(exact=True)
    update = Update(ours, Objective(beta=1.0), optim=PLAIN, precision=CPU, order="simultaneous")
    optimizer = torch.optim.SGD(plain.parameters(), lr=RATE, momentum=0.9, nesterov=True)
    for _ in range(3):
        updated = update(batch, batch.label, None, rate=RATE)
        a, b = (plain.members[name](batch.streams) for name in "ab")
        hard = F.cross_entropy(a, batch.label) + F.cross_entropy(b, batch.label)
        loss = hard + divergence(a, b) + divergence(b, a)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert updated.total.item() == pytest.approx(loss.item(), rel=1e-9)
    assert same(ours, plain, tolerance=1e-9)


def test_untouched_batch_norm_uses_the_batch_and_records_nothing(batch: Batch) -> None:
    students = two_students()
    before = {name: values.clone() for name, values in students.state_dict().items()}
    with torch.no_grad(), untouched_batch_norm(students):
        peers = students.logits(batch.streams)
    assert all(torch.equal(values, before[name]) for name, values in students.state_dict().items())
    recorded = students.logits(batch.streams)
    for name, logits in peers.items():
        torch.testing.assert_close(logits, recorded[name])
    recording = "members.a.backbone.bn1.running_mean"
    assert not torch.equal(students.state_dict()[recording], before[recording])


@pytest.mark.parametrize("order", ["simultaneous", "alternate"])
def test_a_batch_in_pieces_gives_the_same_step(order: str, batch: Batch) -> None:
    whole, pieces = (frozen_batch_norm(two_students(exact=True)) for _ in range(2))
    target = Target(torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    objective = Objective(alpha=0.5, beta=1.0)
    in_one = Update(whole, objective, optim=PLAIN, precision=CPU, order=order)
    in_four = Update(
        pieces,
        objective,
        optim=OptimSettings(name="sgd", lr=0.1, weight_decay=0.0, accumulate=4),
        precision=CPU,
        order=order,
    )
    for step in range(2):
        expected = {name: network(batch.streams) for name, network in whole.members.items()}
        one, four = in_one(batch, batch.label, target, rate=0.1), in_four(batch, batch.label, target, rate=0.1)
        assert one.total.item() == pytest.approx(four.total.item(), rel=1e-9)
        if step == 0 or order == "simultaneous":  # in turns, the second student answers after the first has moved
            assert all(agrees(updated.predictions[name], expected[name]) for updated in (one, four) for name in "ab")
    assert same(whole, pieces, tolerance=1e-9)


@pytest.mark.parametrize("order", ["simultaneous", "alternate"])
def test_parts_add_up_and_exits_learn(order: str, batch: Batch) -> None:
    students = two_students(exits=True)
    before = copy.deepcopy(students.exits.state_dict())
    update = Update(students, Objective(beta=0.5), optim=PLAIN, precision=CPU, order=order)
    updated = update(batch, batch.label, None, rate=0.1)
    assert sum(part.item() for part in updated.parts.values()) == pytest.approx(updated.total.item(), rel=1e-5)
    assert {name.partition("/")[0] for name in updated.parts} == {"a", "b"}
    assert any("exit1/hint" in name for name in updated.parts)
    weights = [name for name in before if name.endswith("weight")]
    assert all(not torch.equal(before[name], students.exits.state_dict()[name]) for name in weights)


def test_gradients_are_clipped(batch: Batch) -> None:
    students = two_students()
    before = copy.deepcopy(students.state_dict())
    optim = OptimSettings(name="sgd", lr=1.0, weight_decay=0.0, clip_norm=1e-3)
    updated = Update(students, Objective(), optim=optim, precision=CPU, order="simultaneous")(
        batch, batch.label, None, rate=1.0
    )
    assert updated.gradient_norm > 1e-3
    moved = [students.state_dict()[name] - before[name] for name, _ in students.named_parameters()]
    length = torch.stack([part.square().sum() for part in moved]).sum().sqrt()
    assert length <= 1e-3 * 1.91  # Nesterov's first step is (1 + momentum) times the gradient


def test_state_goes_round(batch: Batch) -> None:
    straight, resumed = two_students(), two_students()
    make = {"objective": Objective(beta=1.0), "optim": OptimSettings(), "precision": CPU, "order": "alternate"}
    first = Update(straight, **make)
    first(batch, batch.label, None, rate=0.01)
    second = Update(resumed, **make)
    resumed.load_state_dict(straight.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    first(batch, batch.label, None, rate=0.01)
    second(batch, batch.label, None, rate=0.01)
    assert same(straight, resumed)


def test_a_batch_splits_into_nearly_equal_pieces(batch: Batch) -> None:
    assert [len(piece) for piece in batch.split(4)] == [2, 2, 2]
    assert [len(piece) for piece in batch.split(5)] == [2, 2, 2]
    assert torch.equal(torch.cat([piece.label for piece in batch.split(2)]), batch.label)


def test_the_log_sees_how_often_students_and_teachers_agree(batch: Batch) -> None:
    students = two_students()
    teacher = Network(NetworkSpec(("motion",), "test_resnet", 3, 32))
    target = TeacherTarget(Teachers({"motion": teacher}), {"motion": 1.0}, {"motion": 1.0})
    goal = target(batch, batch.label, CPU)
    predicted = goal.predictions
    assert goal.features is None
    assert agrees(predicted["motion"], teacher(batch.streams))
    with torch.no_grad():
        expected = {name: network(batch.streams) for name, network in two_students().members.items()}
    optim = OptimSettings(name="sgd", lr=0.1, weight_decay=0.0)
    updated = Update(students, Objective(alpha=0.5), optim=optim, precision=CPU, order="simultaneous")(
        batch, batch.label, goal, rate=0.1
    )
    watched = accuracy_and_agreement(updated, batch.label, predicted)
    assert set(watched) == {"a/train_top1", "b/train_top1", "agreement/a/motion", "agreement/b/motion", "gradient_norm"}
    for name, logits in expected.items():
        assert agrees(updated.predictions[name], logits)
        pairs = list(
            zip(updated.predictions[name].tolist(), predicted["motion"].tolist(), batch.label.tolist(), strict=True)
        )
        assert watched[f"agreement/{name}/motion"].item() == pytest.approx(sum(a == t for a, t, _ in pairs) / 6)
        assert watched[f"{name}/train_top1"].item() == pytest.approx(sum(a == y for a, _, y in pairs) / 6)


@pytest.mark.parametrize("order", ["simultaneous", "alternate"])
def test_teachers_are_the_same_to_the_bit_after_training(order: str, batch: Batch) -> None:
    teachers = Teachers({"motion": Network(NetworkSpec(("motion",), "test_resnet", 3, 32))})
    target = TeacherTarget(teachers, {"motion": 1.0}, {"motion": 1.0})
    before = copy.deepcopy(teachers.state_dict())
    students = two_students(exits=True)
    update = Update(students, Objective(alpha=0.5, beta=1.0), optim=PLAIN, precision=CPU, order=order)
    for _ in range(3):
        teachers.train()
        update(batch, batch.label, target(batch, batch.label, CPU), rate=0.1)
    assert all(torch.equal(values, before[name]) for name, values in teachers.state_dict().items())
    assert all(parameter.grad is None for parameter in teachers.parameters())


@pytest.mark.gpu
@pytest.mark.parametrize("order", ["simultaneous", "alternate"])
@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_mixed_precision_trains_like_fp32_on_cuda(name: str, order: str, batch: Batch) -> None:
    """One GradScaler for all optimizers: the loss starts where fp32's does, falls, and every weight stays finite."""
    losses = {}
    for kind in ("fp32", name):
        precision = Precision(kind, torch.device("cuda"))
        students = two_students(exits=True).to("cuda")
        update = Update(students, Objective(alpha=0.5, beta=1.0), optim=PLAIN, precision=precision, order=order)
        target = Target(torch.randn(6, 3, generator=torch.Generator().manual_seed(1)).to("cuda"))
        given = batch.to("cuda")
        losses[kind] = [update(given, given.label, target, rate=0.01).total.item() for _ in range(40)]
        assert all(torch.isfinite(values).all() for values in students.state_dict().values())
    assert losses[name][0] == pytest.approx(losses["fp32"][0], rel=0.05)
    assert losses[name][-1] < losses[name][0]


@pytest.mark.gpu
def test_compiled_students_train_on_cuda(batch: Batch) -> None:
    losses = []
    for compiled in (False, True):
        students = two_students(exits=True).to("cuda")
        if compiled:
            for network in (*students.members.values(), *students.exits.values()):
                network.compile()
        precision = Precision("fp32", torch.device("cuda"))
        update = Update(students, Objective(beta=1.0), optim=PLAIN, precision=precision, order="simultaneous")
        given = batch.to("cuda")
        losses.append([update(given, given.label, None, rate=0.01).total.item() for _ in range(3)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


@pytest.mark.slow
def test_compiled_students_take_the_same_steps(batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Inductor's cache does not tell kernels of other ATEN_CPU_CAPABILITY apart, and such a kernel fails
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    losses = []
    for compiled in (False, True):
        students = frozen_batch_norm(two_students(exits=True))
        if compiled:
            for network in (*students.members.values(), *students.exits.values()):
                network.compile()
        update = Update(students, Objective(beta=1.0), optim=PLAIN, precision=CPU, order="simultaneous")
        losses.append([update(batch, batch.label, None, rate=0.01).total.item() for _ in range(3)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
