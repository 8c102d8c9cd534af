"""The objective: its parts, their sum, and who gets gradients."""

from __future__ import annotations

import pytest
import torch

from videokd.distill.feature_losses import TeacherFeatures, feature_loss, relation_loss
from videokd.distill.losses import (
    cross_entropy,
    dist_loss,
    dkd_loss,
    hint_loss,
    kd_loss,
    mutual_loss,
    pseudo_label_loss,
    standardise,
)
from videokd.distill.mixup import MixedLabel
from videokd.distill.objective import Objective
from videokd.errors import ConfigError
from videokd.types import StudentOutput

LABEL = torch.tensor([0, 1, 2, 3])


def output(seed, *, exits=False):
    generator = torch.Generator().manual_seed(seed)
    logits, shallow, adapted, deepest = torch.randn(4, 4, 6, generator=generator).requires_grad_().unbind()
    if not exits:
        return StudentOutput(logits)
    return StudentOutput(logits, exits={"exit1": shallow}, hints={"exit1": (adapted, deepest)})


def test_everything_at_once_follows_the_definition():
    a, b, target = output(0, exits=True), output(1), output(2).logits
    objective = Objective(alpha=0.7, beta=0.5, temperature=3.0, gamma=0.2, hint_weight=0.1)
    total, parts = objective({"a": a, "b": b}, target, LABEL)
    expected = {
        "a/ce": 0.3 * cross_entropy(a.logits, LABEL),
        "a/kd": 0.7 * kd_loss(a.logits, target, temperature=3.0),
        "a/mutual": 0.5 * mutual_loss(a.logits, [b.logits]),
        "a/exit1/ce": 0.8 * cross_entropy(a.exits["exit1"], LABEL),
        "a/exit1/kd": 0.2 * kd_loss(a.exits["exit1"], a.logits, temperature=3.0),
        "a/exit1/hint": 0.1 * hint_loss(*a.hints["exit1"]),
        "b/ce": 0.3 * cross_entropy(b.logits, LABEL),
        "b/kd": 0.7 * kd_loss(b.logits, target, temperature=3.0),
        "b/mutual": 0.5 * mutual_loss(b.logits, [a.logits]),
    }
    assert list(parts) == list(expected)
    assert {n: p.item() for n, p in parts.items()} == pytest.approx(
        {n: p.item() for n, p in expected.items()}, rel=1e-5
    )
    assert total.item() == pytest.approx(sum(part.item() for part in parts.values()), rel=1e-6)
    assert not any(part.requires_grad for part in parts.values())
    assert total.requires_grad


@pytest.mark.parametrize(
    ("settings", "teachers", "students", "names"),
    [
        ({}, False, 1, ["a/ce"]),
        ({"alpha": 1.0}, True, 1, ["a/kd"]),
        ({"alpha": 0.5}, True, 1, ["a/ce", "a/kd"]),
        ({"beta": 1.0}, False, 2, ["a/ce", "a/mutual", "b/ce", "b/mutual"]),
        ({"alpha": 0.0}, True, 2, ["a/ce", "b/ce"]),
    ],
)
def test_any_part_can_be_switched_off(settings, teachers, students, names):
    outputs = {name: output(seed) for seed, name in enumerate("ab"[:students])}
    total, parts = Objective(**settings)(outputs, output(5).logits if teachers else None, LABEL)
    assert list(parts) == names
    assert total.item() == pytest.approx(sum(part.item() for part in parts.values()), rel=1e-6)


def test_total_is_the_sum_over_students_alone_in_turn():
    outputs, target = {"a": output(0), "b": output(1), "c": output(2)}, output(3).logits
    objective = Objective(alpha=0.5, beta=1.0, peers="ensemble")
    total, parts = objective(outputs, target, LABEL)
    alone = [objective.for_student(name, outputs, target, LABEL) for name in outputs]
    assert total.item() == pytest.approx(sum(one.item() for one, _ in alone), rel=1e-6)
    assert list(parts) == [name for _, of_one in alone for name in of_one]


def test_a_student_alone_sends_no_gradient_to_peers_and_teachers():
    leaves = {name: torch.randn(4, 6, requires_grad=True) for name in ("a", "b", "target")}
    outputs = {name: StudentOutput(leaves[name]) for name in "ab"}
    total, _ = Objective(alpha=0.5, beta=1.0).for_student("a", outputs, leaves["target"], LABEL)
    total.backward()
    assert leaves["a"].grad is not None
    assert leaves["b"].grad is None
    assert leaves["target"].grad is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("alpha", 1.1), ("alpha", -0.1), ("beta", -1.0), ("beta", float("inf")), ("temperature", 0.0), ("peers", "mean"),
        ("gamma", 2.0), ("hint_weight", -1.0), ("hint_weight", float("nan")),
        ("target_loss", "mse"), ("feature_weight", -1.0), ("feature_loss", "mse"), ("relation_weight", float("inf")),
    ],
)  # fmt: skip
def test_numbers_outside_their_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name} is {value} .accepted"):
        Objective(**{name: value})


def test_impossible_combinations_are_refused():
    one = {"a": output(0)}
    with pytest.raises(ConfigError, match=r"alpha is 0.5, but there are no teachers"):
        Objective(alpha=0.5)(one, None, LABEL)
    with pytest.raises(ConfigError, match=r"beta is 1.0, but a has no peer"):
        Objective(beta=1.0)(one, None, LABEL)
    features = TeacherFeatures({"iframe": torch.ones(4, 3)}, {"iframe": 1.0})
    for settings in ({"feature_weight": 1.0}, {"relation_weight": 1.0}):
        with pytest.raises(ConfigError, match="but the teachers' features are not there"):
            Objective(**settings)(one, None, LABEL)
        with pytest.raises(ConfigError, match="but the student's features are not there"):
            Objective(**settings)(one, None, LABEL, features)
    with pytest.raises(ConfigError, match="there are no students"):
        Objective()({}, None, LABEL)


@pytest.mark.parametrize("standardised", [False, True])
@pytest.mark.parametrize("weights", [None, (2.0, 0.5)])
def test_other_losses_take_the_place_of_kd(standardised, weights):
    outputs, target = {"a": output(0), "b": output(1)}, output(3).logits
    before = standardise if standardised else lambda z: z
    z, goal = before(outputs["a"].logits), before(target)
    first, second = weights or (1.0, 1.0)
    of_label, of_others = weights or (1.0, 8.0)
    expected = {
        "dist": dist_loss(z, goal, temperature=2.0, over_classes=first, over_batch=second),
        "dkd": dkd_loss(z, goal, LABEL, temperature=2.0, target_class=of_label, other_classes=of_others),
    }
    if weights is None:
        expected["kd"] = kd_loss(z, goal, temperature=2.0)
    for name, value in expected.items():
        objective = Objective(
            alpha=0.6, beta=0.5, temperature=2.0, target_loss=name, target_weights=weights, standardise=standardised
        )
        total, parts = objective(outputs, target, LABEL)
        assert list(parts) == ["a/ce", f"a/{name}", "a/mutual", "b/ce", f"b/{name}", "b/mutual"]
        assert parts[f"a/{name}"].item() == pytest.approx(0.6 * value.item(), rel=1e-6)
        assert parts["a/mutual"].item() == pytest.approx(0.5 * mutual_loss(output(0).logits, [output(1).logits]).item())
        assert total.item() == pytest.approx(sum(part.item() for part in parts.values()), rel=1e-6)


@pytest.mark.parametrize("confidence", [0.0, 0.5])
def test_pseudo_labels_take_the_place_of_kd(confidence):
    outputs, target = {"a": output(0)}, output(3).logits
    total, parts = Objective(alpha=0.6, target_loss="hard", confidence=confidence)(outputs, target, LABEL)
    assert list(parts) == ["a/ce", "a/hard"]
    expected = 0.6 * pseudo_label_loss(outputs["a"].logits, target, confidence=confidence).item()
    assert parts["a/hard"].item() == pytest.approx(expected, rel=1e-6)
    assert total.item() == pytest.approx(sum(part.item() for part in parts.values()), rel=1e-6)


@pytest.mark.parametrize(("settings", "message"), [
    ({"confidence": 0.5}, r"confidence is 0.5 .accepted: 0 to 1 for target_loss hard; else 0"),
    ({"target_loss": "hard", "confidence": 1.5}, r"confidence is 1.5 .accepted: 0 to 1"),
    ({"target_loss": "hard", "confidence": float("nan")}, r"confidence is nan .accepted: 0 to 1"),
    ({"target_loss": "hard", "standardise": True}, r"standardise is True .accepted: false for target_loss hard"),
    ({"target_loss": "hard", "target_weights": (1.0, 1.0)}, r"target_weights is .*else none"),
])  # fmt: skip
def test_what_does_not_fit_pseudo_labels_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Objective(**settings)


@pytest.mark.parametrize("kind", ["cosine", "l2"])
def test_features_are_compared_beside_the_target(kind):
    z = output(0).logits
    own, adapted, theirs = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(9)).unbind()
    outputs = {"a": StudentOutput(z, features=own, adapted={"iframe": adapted})}
    features = TeacherFeatures({"iframe": theirs}, {"iframe": 2.0})
    objective = Objective(alpha=0.5, feature_weight=3.0, feature_loss=kind, relation_weight=0.25)
    total, parts = objective(outputs, output(3).logits, torch.tensor([0, -1, 2, -1]), features)
    assert list(parts) == ["a/ce", "a/kd", "a/feature", "a/relation"]
    assert parts["a/feature"].item() == pytest.approx(3 * feature_loss(adapted, theirs, kind=kind).item(), rel=1e-6)
    assert parts["a/relation"].item() == pytest.approx(0.25 * relation_loss(own, theirs).item(), rel=1e-6)
    assert total.item() == pytest.approx(sum(part.item() for part in parts.values()), rel=1e-6)


def test_a_mixture_counts_in_every_part_that_sees_labels():
    label, other = LABEL, LABEL.flip(0)
    outputs, target = {"a": output(0, exits=True), "b": output(1)}, output(3).logits
    objective = Objective(alpha=0.5, beta=0.5, target_loss="dkd")
    _, mixed = objective(outputs, target, MixedLabel(label, other, 0.8))
    (_, first), (_, second) = (objective(outputs, target, one) for one in (label, other))
    for name, part in mixed.items():
        assert part.item() == pytest.approx(0.8 * first[name].item() + 0.2 * second[name].item(), rel=1e-5)
    assert {name for name in mixed if first[name] != second[name]} >= {"a/ce", "a/dkd", "a/exit1/ce", "b/ce"}


@pytest.mark.parametrize("settings", [
    {"target_weights": (1.0, 1.0)},
    {"target_loss": "dist", "target_weights": (1.0,)},
    {"target_loss": "dkd", "target_weights": (1.0, -1.0)},
])  # fmt: skip
def test_weights_that_do_not_fit_the_loss_are_refused(settings):
    with pytest.raises(ConfigError, match=r"target_weights is .*two, 0 or more, for dist and dkd"):
        Objective(**settings)
