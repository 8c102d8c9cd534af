"""DIST, DKD, pseudo-labels and standardised logits against float64 NumPy, and the laws they keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.distill.in_numpy import float32, kl, logits, softmax
from videokd.distill.losses import cross_entropy, dist_loss, dkd_loss, kd_loss, pseudo_label_loss, standardise
from videokd.distill.mixup import MixedLabel

LABEL = np.array([0, 6, 3, 3, 1])


def one_minus_pearson(rows, others):
    """One pair of rows at a time, by NumPy's own formula but for the 1e-8."""
    found = []
    for row, other in zip(rows, others, strict=True):
        a, b = row - row.mean(), other - other.mean()
        found.append(1 - (a * b).sum() / (np.sqrt((a**2).sum() * (b**2).sum()) + 1e-8))
    return np.mean(found)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dist_loss_equals_numpy(temperature):
    student, target = logits(0), logits(1)
    p, q = softmax(student / temperature), softmax(target / temperature)
    expected = temperature**2 * (2.0 * one_minus_pearson(p, q) + 0.5 * one_minus_pearson(p.T, q.T))
    found = dist_loss(float32(student), float32(target), temperature=temperature, over_classes=2.0, over_batch=0.5)
    assert found.item() == pytest.approx(expected, rel=2e-6, abs=1e-6)


def test_the_correlation_is_pearsons():
    p, q = softmax(logits(2) / 4), softmax(logits(3) / 4)
    assert one_minus_pearson(p, q) == pytest.approx(np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p, q)]))  # noqa: B905


def test_dist_loss_of_equal_and_of_opposite_predictions():
    z = float32(logits(4, scale=1.0))
    assert dist_loss(z, z, temperature=2.0).item() == pytest.approx(0, abs=1e-5)
    # over two classes p and 1 − p are opposite, in each sample and in each class
    two = float32([[1.0, -1.0], [-2.0, 2.0], [0.5, -0.5]])
    assert dist_loss(two, -two, temperature=1.0).item() == pytest.approx(4, abs=1e-5)


def test_dist_loss_of_one_sample_has_no_term_over_the_batch():
    z, target = float32(logits(5, batch=1), requires_grad=True), float32(logits(6, batch=1))
    both = dist_loss(z, target, temperature=1.0)
    assert both.item() == dist_loss(z, target, temperature=1.0, over_batch=0.0).item()
    both.backward()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_dkd_loss_equals_numpy(temperature):
    student, target = logits(7), logits(8)
    p, q = softmax(student / temperature), softmax(target / temperature)
    rows, expected = np.arange(5), 0.0
    for row, label in zip(rows, LABEL, strict=True):
        ps, qt = p[row, label], q[row, label]
        labelled = qt * np.log(qt / ps) + (1 - qt) * np.log((1 - qt) / (1 - ps))
        rest = [k for k in range(7) if k != label]
        others = kl(q[row : row + 1, rest] / (1 - qt), p[row : row + 1, rest] / (1 - ps))
        expected += temperature**2 * (1.5 * labelled + 6.0 * others) / len(rows)
    found = dkd_loss(
        float32(student),
        float32(target),
        torch.tensor(LABEL),
        temperature=temperature,
        target_class=1.5,
        other_classes=6.0,
    )
    assert found.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_dkd_loss_weighed_by_the_targets_doubt_is_kd_loss():
    student, target, label = logits(9), logits(10), torch.tensor(LABEL)
    doubt = 1 - softmax(target / 3.0)[np.arange(5), LABEL]
    each = [
        dkd_loss(
            float32(student[i : i + 1]),
            float32(target[i : i + 1]),
            label[i : i + 1],
            temperature=3.0,
            other_classes=doubt[i],
        ).item()
        for i in range(5)
    ]
    whole = kd_loss(float32(student), float32(target), temperature=3.0).item()
    assert np.mean(each) == pytest.approx(whole, rel=1e-5)


def test_dkd_loss_of_a_mixture_is_the_mean_of_both_labels():
    z, target = float32(logits(11)), float32(logits(12))
    label, other = torch.tensor(LABEL), torch.tensor(LABEL[::-1].copy())
    found = dkd_loss(z, target, MixedLabel(label, other, 0.7), temperature=2.0)
    apart = [dkd_loss(z, target, one, temperature=2.0).item() for one in (label, other)]
    assert found.item() == pytest.approx(0.7 * apart[0] + 0.3 * apart[1], rel=1e-6)


@pytest.mark.parametrize("confidence", [0.0, 0.6, 0.95, 1.0])
def test_pseudo_label_loss_equals_numpy(confidence):
    student, target = logits(23, batch=12, scale=1.0), logits(24, batch=12, scale=1.5)
    p, q = softmax(student), softmax(target)
    expected = 0.0
    for row in range(12):
        label = int(np.argmax(q[row]))
        if q[row, label] >= confidence:
            expected -= np.log(p[row, label]) / 12
    assert 0 < sum(q.max(axis=1) >= 0.6) < 12, "some clips pass and others do not"
    found = pseudo_label_loss(float32(student), float32(target), confidence=confidence)
    assert found.item() == pytest.approx(expected, rel=2e-6, abs=1e-7)


@pytest.mark.parametrize("confidence", [0.0, 0.9])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_target_that_is_no_number_gives_no_pseudo_label(confidence, value):
    """The largest of numbers that are none has a place, which would be taken for the label."""
    target = float32(logits(26))
    target[1, 3] = value
    assert pseudo_label_loss(float32(logits(25)), target, confidence=confidence).isnan()


def test_all_pseudo_labels_are_labels():
    z, target = float32(logits(25)), float32(logits(26))
    found = pseudo_label_loss(z, 100 * target)
    assert found.item() == pytest.approx(cross_entropy(z, target.argmax(1)).item(), rel=1e-6)


def test_clips_below_the_threshold_send_no_gradient():
    z = torch.zeros(3, 2, requires_grad=True)
    target = torch.tensor([[3.0, 0.0], [0.1, 0.0], [0.0, 3.0]])  # 0.95, 0.52, 0.95
    pseudo_label_loss(z, target, confidence=0.9).backward()
    torch.testing.assert_close(z.grad, torch.tensor([[-0.5, 0.5], [0.0, 0.0], [0.5, -0.5]]) / 3)


def test_extreme_logits_stay_finite():
    z, target = (float32(1e4 * logits(seed), requires_grad=True) for seed in (13, 14))
    label = torch.tensor(LABEL)
    for loss in (
        dkd_loss(z, -target, label, temperature=1.0),
        dist_loss(z, -target, temperature=1.0),
        pseudo_label_loss(z, -target, confidence=0.9),
    ):
        assert torch.isfinite(loss)
        (grad,) = torch.autograd.grad(loss, z)
        assert grad.isfinite().all()


def test_standardise_equals_numpy():
    z = logits(15)
    expected = (z - z.mean(axis=1, keepdims=True)) / z.std(axis=1, keepdims=True)
    np.testing.assert_allclose(standardise(float32(z)), expected, atol=2e-6)


def test_standardised_logits_lose_size_and_shift_and_keep_order():
    z = float32(logits(16))
    torch.testing.assert_close(standardise(7 * z + 3), standardise(z), rtol=1e-5, atol=1e-5)
    assert torch.equal(standardise(z).argsort(), z.argsort())
    assert kd_loss(standardise(7 * z + 3), standardise(z), temperature=2.0).item() == pytest.approx(0, abs=1e-6)


def test_standardising_equal_logits_gives_zeros_and_a_finite_gradient():
    z = torch.full((2, 4), 0.3, requires_grad=True)
    standardised = standardise(z)
    assert standardised.abs().max() < 1e-3
    standardised.square().sum().backward()
    assert z.grad.isfinite().all()


def test_gradients_are_the_derivatives():
    student = torch.tensor(logits(17, 4, 5, scale=1.0), requires_grad=True)
    target, label = torch.tensor(logits(18, 4, 5, scale=1.0)), torch.tensor([0, 4, 2, 2])
    check = torch.autograd.gradcheck
    assert check(lambda z: dist_loss(z, target, temperature=3.0, over_classes=2.0), [student])
    assert check(lambda z: dkd_loss(z, target, label, temperature=3.0), [student])
    assert check(standardise, [student])
    assert check(lambda z: pseudo_label_loss(z, target, confidence=0.4), [student])
    assert check(lambda z: kd_loss(standardise(z), standardise(target), temperature=2.0), [student])


def test_no_gradient_reaches_the_target():
    student, target = (float32(logits(seed), requires_grad=True) for seed in (19, 20))
    label = torch.tensor(LABEL)
    total = dist_loss(student, target, temperature=2.0) + dkd_loss(student, target, label, temperature=2.0)
    (total + pseudo_label_loss(student, target)).backward()
    assert student.grad is not None
    assert target.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_float32(dtype):
    student, target = (torch.tensor(logits(seed, 8, 50)).to(dtype) for seed in (21, 22))
    label = torch.arange(8)

    def losses(z, z_target):
        apart = [dist_loss(z, z_target, temperature=4.0), dkd_loss(z, z_target, label, temperature=4.0)]
        apart.append(pseudo_label_loss(z, z_target, confidence=0.5))
        return torch.stack([*apart, kd_loss(standardise(z), standardise(z_target), temperature=2.0)])

    exact = losses(student.double(), target.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = losses(student, target)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)


def test_wrong_arguments():
    z, label = torch.zeros(2, 3), torch.tensor([0, 1])
    for loss in (dist_loss, lambda *both, temperature: dkd_loss(*both, label, temperature=temperature)):
        with pytest.raises(ValueError, match=r"student and target are \[2, 3\] and \[2, 4\]"):
            loss(z, torch.zeros(2, 4), temperature=1.0)
        with pytest.raises(ValueError, match="temperature is 0"):
            loss(z, z, temperature=0.0)
    with pytest.raises(ValueError, match=r"student and target are \[2, 3\] and \[2, 4\]"):
        pseudo_label_loss(z, torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"student is \[2, 1\] .*K ≥ 2"):
        dkd_loss(z[:, :1], z[:, :1], label, temperature=1.0)


def test_dkd_of_a_clip_without_a_label_takes_the_targets_own_class():
    student, target = (torch.randn(4, 5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    guessed = torch.tensor([2, -1, 0, -1])
    given = torch.where(guessed < 0, target.argmax(1), guessed)
    found, expected = (dkd_loss(student, target, label, temperature=4.0) for label in (guessed, given))
    torch.testing.assert_close(found, expected)
