"""Fusion against float64 NumPy, and the laws it keeps."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from videokd.distill.fusion import fuse, sweep_weights
from videokd.errors import ConfigError

NAMES = ("iframe", "motion", "residual")


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def arrays(seed=0, batch=6, classes=5):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(batch, classes)) * 3 for name in NAMES}


def tensors(values, dtype=torch.float32):
    return {name: torch.tensor(z, dtype=dtype) for name, z in values.items()}


WEIGHTS = {"iframe": 2.0, "motion": 1.0, "residual": 1.0}


def test_logits_equal_numpy():
    z = arrays()
    expected = 0.5 * z["iframe"] + 0.25 * z["motion"] + 0.25 * z["residual"]
    found = fuse(tensors(z), WEIGHTS)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_probs_equal_numpy(temperature):
    z = arrays(1)
    share = {"iframe": 0.5, "motion": 0.25, "residual": 0.25}
    mean = sum(share[name] * softmax(z[name] / temperature) for name in NAMES)
    found = fuse(tensors(z), WEIGHTS, space="probs", temperature=temperature)
    np.testing.assert_allclose(found, temperature * np.log(mean), rtol=1e-6, atol=2e-6)
    np.testing.assert_allclose(softmax(found.double().numpy() / temperature), mean, atol=1e-6)


@pytest.mark.parametrize("space", ["logits", "probs"])
def test_weights_per_sample_equal_one_sample_at_a_time(space):
    z, rng = tensors(arrays(2)), np.random.default_rng(3)
    weights = {name: torch.tensor(rng.uniform(0.1, 2, size=6), dtype=torch.float32) for name in NAMES}
    weights["motion"] = 0.7
    found = fuse(z, weights, space=space, temperature=2.0)
    for i in range(6):
        one = {name: w if isinstance(w, float) else w[i].item() for name, w in weights.items()}
        alone = fuse({name: values[i : i + 1] for name, values in z.items()}, one, space=space, temperature=2.0)
        torch.testing.assert_close(found[i : i + 1], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("space", ["logits", "probs"])
def test_scale_of_the_weights_does_not_matter(space):
    z = tensors(arrays(4))
    reference = fuse(z, WEIGHTS, space=space)
    for scale in (1e-3, 3.0, 1e6):
        scaled = {name: scale * weight for name, weight in WEIGHTS.items()}
        torch.testing.assert_close(fuse(z, scaled, space=space), reference, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("space", ["logits", "probs"])
def test_a_weight_of_zero_leaves_a_network_out(space):
    z = tensors(arrays(5))
    without = fuse({"iframe": z["iframe"], "motion": z["motion"]}, {"iframe": 1, "motion": 2}, space=space)
    torch.testing.assert_close(fuse(z, {"iframe": 1, "motion": 2, "residual": 0}, space=space), without)


def test_order_of_the_names_does_not_matter():
    z = tensors(arrays(6))
    reverse = dict(reversed(WEIGHTS.items()))
    assert torch.equal(fuse(z, WEIGHTS), fuse(z, reverse))


def test_underflowing_probabilities_still_count():
    z = {"iframe": torch.tensor([[0.0, -200.0, -300.0]])}
    torch.testing.assert_close(fuse(z, {"iframe": 1}, space="probs"), z["iframe"])


def test_half_precision_is_fused_in_float32():
    z = tensors(arrays(7), dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = fuse(z, WEIGHTS, space="probs", temperature=4.0)
    exact = fuse({name: values.double() for name, values in z.items()}, WEIGHTS, space="probs", temperature=4.0)
    assert (found.dtype, exact.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(found.double(), exact, rtol=1e-6, atol=1e-5)


def test_wrong_arguments():
    z = tensors(arrays())
    with pytest.raises(ConfigError, match=r"weights are given for iframe, flow .*iframe, motion, residual"):
        fuse(z, {"iframe": 1, "flow": 1})
    with pytest.raises(ConfigError, match="nothing: no logits"):
        fuse({}, {})
    for bad in (-1.0, float("nan"), float("inf"), torch.tensor([1.0, -1, 1, 1, 1, 1])):
        with pytest.raises(ConfigError, match=r"weight of motion is .*0 or more"):
            fuse(z, WEIGHTS | {"motion": bad})
    with pytest.raises(ConfigError, match="sum to zero"):
        fuse(z, dict.fromkeys(NAMES, 0.0))
    with pytest.raises(ConfigError, match="sum to zero"):
        fuse(z, dict.fromkeys(NAMES, torch.tensor([1.0, 1, 1, 0, 1, 1])))
    with pytest.raises(ConfigError, match="space is 'probabilities'"):
        fuse(z, WEIGHTS, space="probabilities")
    with pytest.raises(ConfigError, match="temperature is 0"):
        fuse(z, WEIGHTS, temperature=0)
    with pytest.raises(ValueError, match=r"logits are .*the same for all"):
        fuse(z | {"motion": torch.zeros(6, 4)}, WEIGHTS)
    with pytest.raises(ValueError, match=r"logits are .*the same for all"):
        fuse({"iframe": torch.zeros(3)}, {"iframe": 1})
    with pytest.raises(ValueError, match=r"weight of motion is \[5\] \(accepted: a number or \[6\]\)"):
        fuse(z, WEIGHTS | {"motion": torch.ones(5)})


@pytest.mark.parametrize("space", ["logits", "probs"])
def test_sweep_finds_the_best_of_the_grid(space):
    z, labels = arrays(8, batch=40), np.random.default_rng(9).integers(0, 5, size=40)
    z["motion"][np.arange(40), labels] += 3
    z["iframe"][np.arange(20), labels[:20]] += 3
    scores = {}
    for a, b in itertools.product(range(5), repeat=2):
        if a + b <= 4:
            w = (a / 4, b / 4, (4 - a - b) / 4)
            values = [softmax(z[n]) if space == "probs" else z[n] for n in NAMES]
            scores[w] = (sum(x * v for x, v in zip(w, values, strict=True)).argmax(axis=1) == labels).mean()
    weights, top1 = sweep_weights(tensors(z), torch.tensor(labels), steps=4, space=space)
    assert top1 == pytest.approx(max(scores.values()))
    assert scores[tuple(weights.values())] == pytest.approx(top1)
    assert sum(weights.values()) == pytest.approx(1)


def test_sweep_breaks_ties_by_loss_then_evenness():
    sure, unsure, labels = torch.tensor([[4.0, 0.0]]), torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    assert sweep_weights({"a": unsure, "b": sure}, labels) == ({"a": 0.0, "b": 1.0}, 1.0)
    assert sweep_weights({"a": sure, "b": sure}, labels) == ({"a": 0.5, "b": 0.5}, 1.0)


def test_sweep_refuses_wrong_arguments():
    z, labels = tensors(arrays()), torch.zeros(6, dtype=torch.int64)
    with pytest.raises(ConfigError, match="steps is 0"):
        sweep_weights(z, labels, steps=0)
    with pytest.raises(ConfigError, match="no logits to fuse"):
        sweep_weights({}, labels)
    with pytest.raises(ValueError, match=r"labels are \[5\]"):
        sweep_weights(z, labels[:5])


@pytest.mark.parametrize(
    "weight", [1e31, 10**400, float("inf"), torch.tensor(1e38), torch.tensor([1e300], dtype=torch.float64)]
)
@pytest.mark.parametrize("space", ["logits", "probs"])
def test_weights_whose_sum_is_no_number_are_refused(weight, space):
    z = {"a": torch.tensor([[3.0, 0.0]]), "b": torch.tensor([[0.0, 3.0]])}
    with pytest.raises(ConfigError, match="weight of a is"):
        fuse(z, {"a": weight, "b": weight}, space=space)


def test_large_and_small_weights_give_numbers():
    z = {"a": torch.tensor([[3.0, 0.0]]), "b": torch.tensor([[0.0, 3.0]])}
    for weight in (1e-320, 1e-30, 1e30, torch.tensor(1e30)):
        torch.testing.assert_close(fuse(z, {"a": weight, "b": weight}), torch.tensor([[1.5, 1.5]]))


@pytest.mark.parametrize("given", [None, [[1.0, 2.0]], np.zeros((1, 2)), torch.zeros(1, 2, dtype=torch.complex64)])
def test_logits_that_are_not_real_tensors_are_refused(given):
    with pytest.raises(ValueError, match=r"logits of a are .* \(accepted: a tensor of real numbers, \[B, K\]\)"):
        fuse({"a": given, "b": torch.zeros(1, 2)}, {"a": 1, "b": 1})


@pytest.mark.parametrize("temperature", [0, 1e-300, 1e300, float("nan")])
def test_temperatures_that_leave_no_numbers_are_refused(temperature):
    with pytest.raises(ConfigError, match="temperature is"):
        fuse({"a": torch.zeros(1, 2)}, {"a": 1}, space="probs", temperature=temperature)
