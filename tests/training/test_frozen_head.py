"""The classifier of a frozen network: against scikit-free oracles, and what happens at the edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from videokd.errors import DataError
from videokd.training.frozen_head import fit_head

CLASSES, WIDTH = 3, 6


def clips_of(
    groups_per_class: int, *, clips: int = 4, views: int = 2, seed: int = 0
) -> tuple[Tensor, Tensor, list[str]]:
    """Features [N, V, 1, D] around one centre a class, with a deviation for each group; labels and groups."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(CLASSES, WIDTH)) * 3
    features, labels, groups = [], [], []
    for label in range(CLASSES):
        for group in range(groups_per_class):
            place = centres[label] + rng.normal(size=WIDTH)
            for _ in range(clips):
                features.append(place + rng.normal(size=(views, 1, WIDTH)) * 0.3)
                labels.append(label)
                groups.append(f"{label}/g{group}")
    # very different scales and an offset, as pooled features have
    scaled = np.array(features) * 10.0 ** np.arange(-2, WIDTH - 2) + 5
    return torch.from_numpy(scaled).float(), torch.tensor(labels), groups


def zeroed(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def test_the_linear_head_is_the_minimum_of_regularised_cross_entropy() -> None:
    """At the minimum the gradient of the loss on scaled features, weight decay included, is zero."""
    features, label, groups = clips_of(3)
    head = zeroed(nn.Linear(WIDTH, CLASSES))
    fitted = fit_head(head, features, label, groups)
    mean, deviation = features.double().mean((0, 1, 2)), features.double().std((0, 1, 2), correction=0)
    weight = (head.weight.double() * deviation).detach().requires_grad_()
    bias = (head.bias.double() + head.weight.double() @ mean).detach().requires_grad_()
    scaled = ((features.double() - mean) / deviation)[:, :, 0]
    logits = scaled @ weight.T + bias
    views = label[:, None].expand(-1, features.shape[1])
    loss = functional.cross_entropy(logits.flatten(0, 1), views.flatten())
    (loss + fitted.weight_decay / 2 * weight.square().sum()).backward()
    assert weight.grad is not None
    assert bias.grad is not None
    assert weight.grad.abs().max() < 1e-3
    assert bias.grad.abs().max() < 1e-3


def test_new_groups_are_recognised_and_the_accuracy_held_out_foretells_it() -> None:
    features, label, groups = clips_of(8)
    known = torch.tensor([int(group.rpartition("g")[2]) < 4 for group in groups])
    head = zeroed(nn.Linear(WIDTH, CLASSES))
    fitted = fit_head(head, features[known], label[known], [g for g, k in zip(groups, known, strict=True) if k])
    with torch.no_grad():
        right = head(features[~known]).mean((1, 2)).argmax(1) == label[~known]
    assert right.float().mean() > 0.9
    assert fitted.held_out_top1 is not None
    assert fitted.held_out_top1 > 0.9
    assert fitted.weight_decay == min(fitted.held_out_loss, key=fitted.held_out_loss.__getitem__)


def test_a_group_is_never_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels that follow only from the group cannot be foretold for other groups: held out, they are guessed."""
    rng = np.random.default_rng(3)
    labels = torch.arange(CLASSES).repeat_interleave(4 * 6)
    groups = [f"{label}/g{number // 6}" for label in range(CLASSES) for number in range(24)]
    places = {name: rng.normal(size=WIDTH) for name in groups}
    features = torch.tensor(np.array([places[name] for name in groups])).float()[:, None, None]
    fitted = fit_head(zeroed(nn.Linear(WIDTH, CLASSES)), features, labels, groups)
    assert fitted.held_out_top1 is not None
    assert fitted.held_out_top1 < 0.75  # clip by clip it would be 1


def test_one_group_in_a_class_leaves_nothing_to_hold_out() -> None:
    features, label, groups = clips_of(1)
    fitted = fit_head(zeroed(nn.Linear(WIDTH, CLASSES)), features, label, groups)
    assert (fitted.held_out_loss, fitted.held_out_top1) == ({}, None)
    assert fitted.weight_decay > 0


def test_a_person_in_all_classes_is_held_out_of_all() -> None:
    """With two people, each is held out once; with one person nobody can be."""
    features, label, _ = clips_of(4)
    people = [f"s{number % 2}" for number in range(len(label))]
    assert fit_head(zeroed(nn.Linear(WIDTH, CLASSES)), features, label, people).held_out_top1 is not None
    alone = fit_head(zeroed(nn.Linear(WIDTH, CLASSES)), features, label, ["s1"] * len(label))
    assert alone.held_out_top1 is None


def test_a_hidden_layer_separates_what_a_line_cannot() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, size=(200, 2))
    label = torch.from_numpy((points[:, 0] * points[:, 1] > 0).astype(np.int64))
    features = torch.from_numpy(points).float()[:, None, None] * 7 + 3
    groups = [f"g{number % 10}" for number in range(200)]
    linear = fit_head(zeroed(nn.Linear(2, 2)), features, label, groups)
    hidden = fit_head(zeroed(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2)), features, label, groups)
    assert linear.held_out_top1 is not None
    assert hidden.held_out_top1 is not None
    assert linear.held_out_top1 < 0.7 < 0.9 < hidden.held_out_top1


def test_a_feature_that_never_changes_is_ignored() -> None:
    features, label, groups = clips_of(2)
    features[..., 0] = 4.0
    head = zeroed(nn.Linear(WIDTH, CLASSES))
    fit_head(head, features, label, groups)
    assert isinstance(head, nn.Linear)
    assert head.weight.isfinite().all()
    assert not head.weight[:, 0].any()


def test_features_that_are_not_finite_are_refused() -> None:
    features, label, groups = clips_of(2)
    features[0, 0, 0, 0] = torch.inf
    with pytest.raises(DataError, match="features of the frozen network are not finite"):
        fit_head(zeroed(nn.Linear(WIDTH, CLASSES)), features, label, groups)
