"""Temperatures against a grid of them, confidence weights against the paper's formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from videokd.distill.calibration import HIGHEST, LOWEST, calibrate, confidence_weights
from videokd.distill.fusion import fuse
from videokd.distill.mixup import MixedLabel
from videokd.errors import ConfigError


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def drawn(seed=0, count=400, classes=6):
    """Logits, and labels drawn from exactly the probabilities that they stand for."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(count, classes)) * 2
    labels = np.array([rng.choice(classes, p=p) for p in softmax(z)])
    return z, labels


def likelihood_loss(z, labels, temperature):
    return -np.log(softmax(z / temperature))[np.arange(len(labels)), labels].mean()


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_no_temperature_of_a_grid_is_better(scale):
    z, labels = drawn()
    found = calibrate(torch.tensor(scale * z, dtype=torch.float32), torch.tensor(labels))
    grid = np.exp(np.linspace(np.log(LOWEST), np.log(HIGHEST), 400))
    losses = [likelihood_loss(scale * z, labels, temperature) for temperature in grid]
    assert likelihood_loss(scale * z, labels, found) <= min(losses) + 1e-12
    assert found == pytest.approx(grid[np.argmin(losses)], rel=0.02)
    assert found == pytest.approx(scale, rel=0.25)


def test_scaled_logits_have_a_scaled_temperature():
    z, labels = drawn(1)
    one, three = (calibrate(torch.tensor(scale * z), torch.tensor(labels)) for scale in (1, 3))
    assert three == pytest.approx(3 * one, rel=1e-6)


def test_a_network_without_a_best_temperature_gets_an_end_of_the_range():
    z = torch.eye(4) * 5
    assert calibrate(z, torch.arange(4)) == LOWEST
    assert calibrate(z, (torch.arange(4) + 1) % 4) == HIGHEST
    assert calibrate(torch.zeros(3, 4), torch.tensor([0, 1, 2])) in (LOWEST, HIGHEST)
    assert calibrate(1e30 * z, torch.arange(4)) == LOWEST


def test_what_cannot_be_calibrated_is_refused():
    z, labels = torch.zeros(3, 4), torch.tensor([0, 1, 2])
    with pytest.raises(ConfigError, match="not finite"):
        calibrate(z + float("nan"), labels)
    for wrong in (labels[:2], labels[:0]):
        with pytest.raises(ValueError, match=r"labels are .*N ≥ 1"):
            calibrate(z[: len(wrong) * 2], wrong)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_confidence_weights_equal_the_formula(count):
    rng, labels = np.random.default_rng(2), np.array([0, 3, 1, 1])
    z = {f"teacher{t}": rng.normal(size=(4, 5)) for t in range(count)}
    losses = np.array([-np.log(softmax(values))[np.arange(4), labels] for values in z.values()])
    expected = (1 - np.exp(losses) / np.exp(losses).sum(axis=0)) / (count - 1)
    found = confidence_weights({n: torch.tensor(v, dtype=torch.float32) for n, v in z.items()}, torch.tensor(labels))
    assert list(found) == list(z)
    np.testing.assert_allclose(torch.stack(list(found.values())), expected, atol=1e-6)
    np.testing.assert_allclose(sum(found.values()), 1, atol=1e-6)


def test_confidence_weights_go_to_fuse():
    generator = torch.Generator().manual_seed(3)
    z = {name: torch.randn(4, 5, generator=generator).requires_grad_() for name in ("iframe", "motion", "residual")}
    weights = confidence_weights(z, torch.tensor([0, 1, 2, 3]))
    assert not any(weight.requires_grad for weight in weights.values())
    fused = fuse(z, weights)
    by_hand = torch.stack([weights[name][:, None] * z[name] for name in z]).sum(dim=0)
    torch.testing.assert_close(fused, by_hand)
    fixed = {"iframe": 2.0, "motion": 1.0, "residual": 0.0}
    both = fuse(z, {name: fixed[name] * weight for name, weight in weights.items()})
    torch.testing.assert_close(both[0], (
        (2 * weights["iframe"][0] * z["iframe"][0] + weights["motion"][0] * z["motion"][0])
        / (2 * weights["iframe"][0] + weights["motion"][0])
    ))  # fmt: skip


def test_a_teacher_far_off_gets_nothing_and_overflows_nothing():
    z = {"good": torch.tensor([[50.0, 0.0]]), "bad": torch.tensor([[-5000.0, 5000.0]])}
    for dtype in (torch.float32, torch.bfloat16):
        weights = confidence_weights({name: values.to(dtype) for name, values in z.items()}, torch.tensor([0]))
        assert {name: weight.tolist() for name, weight in weights.items()} == {"good": [1.0], "bad": [0.0]}


def test_confidence_in_a_mixture_lies_between_that_in_its_labels():
    z = {"iframe": torch.tensor([[3.0, 0.0]]), "motion": torch.tensor([[0.0, 2.0]])}
    label, other = torch.tensor([0]), torch.tensor([1])
    one, mixed, two = (
        confidence_weights(z, given)["iframe"].item() for given in (label, MixedLabel(label, other, 0.5), other)
    )
    assert two < mixed < one


def test_one_teacher_and_none():
    assert confidence_weights({"a": torch.zeros(3, 2)}, torch.zeros(3, dtype=torch.int64))["a"].tolist() == [1, 1, 1]
    with pytest.raises(ConfigError, match="no teachers to weigh"):
        confidence_weights({}, torch.tensor([0]))


def test_without_a_label_all_teachers_count_alike():
    logits = {"a": torch.tensor([[5.0, 0.0], [5.0, 0.0]]), "b": torch.tensor([[0.0, 5.0], [0.0, 5.0]])}
    weights = confidence_weights(logits, torch.tensor([0, -1]))
    assert weights["a"][0] > 0.9
    assert weights["a"][1].item() == weights["b"][1].item() == 0.5
