"""The losses against float64 NumPy, and the laws they keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.distill.in_numpy import float32, kl, logits, softmax
from videokd.distill.losses import cross_entropy, hint_loss, kd_loss, mutual_loss, self_distillation_loss
from videokd.distill.mixup import MixedLabel
from videokd.types import StudentOutput


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kd_loss_equals_numpy(temperature):
    student, target = logits(0), logits(1)
    expected = temperature**2 * kl(softmax(target / temperature), softmax(student / temperature))
    found = kd_loss(float32(student), float32(target), temperature=temperature)
    assert found.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_cross_entropy_equals_numpy():
    z, label = logits(2), np.array([0, 6, 3, 3, 1])
    expected = -np.log(softmax(z))[np.arange(5), label].mean()
    found = cross_entropy(float32(z), torch.tensor(label))
    assert found.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_clips_without_a_label_have_no_cross_entropy():
    z, label = float32(logits(2), requires_grad=True), torch.tensor([0, -1, 3, -1, 1])
    found = cross_entropy(z, label)
    expected = cross_entropy(z[[0, 2, 4]], label[[0, 2, 4]])
    torch.testing.assert_close(found, expected)
    found.backward()
    assert z.grad[[1, 3]].abs().sum() == 0
    nothing = cross_entropy(z, torch.full((5,), -1))
    assert nothing.item() == 0
    nothing.backward()  # and its gradient is a number


def test_a_mixture_counts_the_label_that_it_has():
    z = float32(logits(2))
    label, other = torch.tensor([0, -1, 3, -1, 1]), torch.tensor([-1, 2, 3, -1, 0])
    found = cross_entropy(z, MixedLabel(label, other, share=0.75))
    of_label, of_other = cross_entropy(z[[0, 2, 4]], label[[0, 2, 4]]), cross_entropy(z[[1, 2, 4]], other[[1, 2, 4]])
    torch.testing.assert_close(found, 0.75 * of_label + 0.25 * of_other)


def test_mutual_loss_equals_numpy():
    student, peers = logits(3), [logits(4), logits(5)]
    separate = np.mean([kl(softmax(peer), softmax(student)) for peer in peers])
    ensemble = kl((softmax(peers[0]) + softmax(peers[1])) / 2, softmax(student))
    tensors = [float32(peer) for peer in peers]
    assert mutual_loss(float32(student), tensors).item() == pytest.approx(separate, rel=1e-6, abs=1e-6)
    found = mutual_loss(float32(student), tensors, peers_as="ensemble")
    assert found.item() == pytest.approx(ensemble, rel=1e-6, abs=1e-6)


def test_mutual_loss_of_two_by_hand():
    # p_peer = (0.8, 0.2), p_student = (0.5, 0.5): 0.8·ln 1.6 + 0.2·ln 0.4
    peer = torch.tensor([[np.log(4.0), 0.0]])
    assert mutual_loss(torch.zeros(1, 2), [peer]).item() == pytest.approx(0.19274475702175753, abs=1e-6)


def test_hint_loss_equals_numpy_whatever_the_batch():
    a, b = np.random.default_rng(6).normal(size=(2, 4, 3, 2, 2))
    expected = np.mean([np.sqrt(((x - y) ** 2).sum()) for x, y in zip(a, b, strict=True)])
    assert hint_loss(float32(a), float32(b)).item() == pytest.approx(expected, rel=1e-6)
    twice = hint_loss(float32(np.concatenate([a, a])), float32(np.concatenate([b, b])))
    assert twice.item() == pytest.approx(expected, rel=1e-6)


def test_hint_loss_has_a_finite_gradient_where_it_is_zero():
    same = torch.ones(2, 3, requires_grad=True)
    hint_loss(same, torch.ones(2, 3)).backward()
    assert torch.equal(same.grad, torch.zeros(2, 3))


def test_divergence_of_equal_predictions_is_zero():
    z = float32(logits(7, scale=30))
    assert kd_loss(z, z, temperature=2.0).item() == 0
    assert mutual_loss(z, [z, z]).item() == 0
    assert mutual_loss(z, [z, z], peers_as="ensemble").item() == pytest.approx(0, abs=1e-6)


def test_losses_ignore_shifts_and_keep_extremes_finite():
    student, target = float32(logits(8)), float32(logits(9))
    plain = kd_loss(student, target, temperature=2.0)
    assert kd_loss(student + 100, target - 50, temperature=2.0).item() == pytest.approx(plain.item(), rel=1e-4)
    assert torch.isfinite(kd_loss(1e4 * student, -1e4 * target, temperature=1.0))


def test_gradients_are_the_derivatives():
    student, target = torch.tensor(logits(10, 3, 4), requires_grad=True), torch.tensor(logits(11, 3, 4))
    label = torch.tensor([0, 3, 1])
    check = torch.autograd.gradcheck
    assert check(lambda z: kd_loss(z, target, temperature=3.0), [student])
    assert check(lambda z: mutual_loss(z, [target, 2 * target]), [student])
    assert check(lambda z: mutual_loss(z, [target, 2 * target], peers_as="ensemble"), [student])
    assert check(lambda z: hint_loss(z, target), [student])
    assert check(lambda z: cross_entropy(z, label), [student])


def test_kd_gradient_by_hand():
    # d/dz of T²·KL is T·(softmax(z/T) − softmax(z*/T)) / B
    z, target, temperature = logits(12), logits(13), 4.0
    student = float32(z, requires_grad=True)
    kd_loss(student, float32(target), temperature=temperature).backward()
    expected = temperature * (softmax(z / temperature) - softmax(target / temperature)) / len(z)
    np.testing.assert_allclose(student.grad.numpy(), expected, atol=1e-6)


def test_no_gradient_reaches_targets_and_peers():
    student, other, deepest = (float32(logits(seed), requires_grad=True) for seed in (14, 15, 16))
    label = torch.tensor([0, 1, 2, 3, 4])
    output = StudentOutput(deepest, exits={"exit1": student}, hints={"exit1": (student, deepest)})
    itself, _ = self_distillation_loss(output, label, gamma=0.5, temperature=2.0, hint_weight=1.0)
    total = (
        kd_loss(student, other, temperature=2.0)
        + mutual_loss(student, [other])
        + mutual_loss(student, [other], peers_as="ensemble")
        + hint_loss(student, other)
        + itself
    )
    total.backward()
    assert student.grad is not None
    assert other.grad is None
    assert deepest.grad is None


def _all_losses(student, target, label):
    return torch.stack([
        kd_loss(student, target, temperature=4.0),
        mutual_loss(student, [target]),
        mutual_loss(student, [target], peers_as="ensemble"),
        hint_loss(student, target),
        cross_entropy(student, label),
    ])  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_float32(dtype):
    # The same rounded inputs, so that what is left of the difference is the arithmetic.
    student, target = torch.tensor(logits(17, 8, 50)).to(dtype), torch.tensor(logits(18, 8, 50)).to(dtype)
    label = torch.arange(8)
    exact = _all_losses(student.double(), target.double(), label)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = _all_losses(student, target, label)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_under_autocast_on_cuda_are_close_to_float64(dtype):
    student, target = (
        torch.tensor(logits(17, 8, 50)).to("cuda", dtype),
        torch.tensor(logits(18, 8, 50)).to("cuda", dtype),
    )
    label = torch.arange(8, device="cuda")
    exact = _all_losses(student.double(), target.double(), label)
    with torch.autocast("cuda", dtype=dtype):
        found = _all_losses(student, target, label)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)


def test_self_distillation_equals_its_definition():
    deep, shallow, features = logits(19), logits(20), np.random.default_rng(21).normal(size=(2, 5, 3))
    label, gamma, temperature, weight = np.array([1, 2, 3, 4, 5]), 0.3, 3.0, 0.03
    ce = -np.log(softmax(shallow))[np.arange(5), label].mean()
    kd = temperature**2 * kl(softmax(deep / temperature), softmax(shallow / temperature))
    hint = np.linalg.norm(features[0] - features[1], axis=1).mean()
    output = StudentOutput(
        float32(deep), exits={"exit1": float32(shallow)}, hints={"exit1": (float32(features[0]), float32(features[1]))}
    )
    total, parts = self_distillation_loss(
        output, torch.tensor(label), gamma=gamma, temperature=temperature, hint_weight=weight
    )
    assert total.item() == pytest.approx((1 - gamma) * ce + gamma * kd + weight * hint, rel=1e-6)
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(
        {"exit1/ce": (1 - gamma) * ce, "exit1/kd": gamma * kd, "exit1/hint": weight * hint}, rel=1e-6
    )


@pytest.mark.parametrize(
    ("gamma", "weight", "names"),
    [(0.0, 0.0, ["exit1/ce"]), (1.0, 0.0, ["exit1/kd"]), (0.0, 1.0, ["exit1/ce", "exit1/hint"])],
)
def test_self_distillation_leaves_out_what_weighs_nothing(gamma, weight, names):
    z = torch.ones(2, 3)
    output = StudentOutput(z, exits={"exit1": z}, hints={"exit1": (z, z)})
    _, parts = self_distillation_loss(output, torch.tensor([0, 1]), gamma=gamma, temperature=1.0, hint_weight=weight)
    assert list(parts) == names


def test_self_distillation_without_exits_is_zero():
    total, parts = self_distillation_loss(
        StudentOutput(torch.ones(2, 3)), torch.tensor([0, 1]), gamma=0.5, temperature=1.0, hint_weight=1.0
    )
    assert total.item() == 0
    assert parts == {}


def test_wrong_arguments():
    z = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"student and target are \[2, 3\] and \[2, 4\]"):
        kd_loss(z, torch.zeros(2, 4), temperature=1.0)
    for temperature in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"temperature is .* above 0"):
            kd_loss(z, z, temperature=temperature)
    with pytest.raises(ValueError, match="peers is empty"):
        mutual_loss(z, [])
    with pytest.raises(ValueError, match="peers_as is 'mean'"):
        mutual_loss(z, [z], peers_as="mean")
    with pytest.raises(ValueError, match="student and peer are"):
        mutual_loss(z, [torch.zeros(1, 3)])
    with pytest.raises(ValueError, match="adapted and deepest are"):
        hint_loss(z, torch.zeros(2, 4))
    output = StudentOutput(z, exits={"exit1": z}, hints={"exit2": (z, z)})
    with pytest.raises(ValueError, match=r"hints are given for exit2 \(accepted: exit1\)"):
        self_distillation_loss(output, torch.tensor([0, 1]), gamma=0.5, temperature=1.0, hint_weight=1.0)
