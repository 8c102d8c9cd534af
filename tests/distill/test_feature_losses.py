"""Losses between features against plain loops in float64 NumPy, and the laws they keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.distill.in_numpy import float32
from videokd.distill.feature_losses import TeacherFeatures, feature_loss, relation_loss


def features(seed, clips=6, width=8):
    return np.random.default_rng(seed).normal(size=(clips, width)) + 0.5


def huber(a, b):
    difference = abs(a - b)
    return 0.5 * difference**2 if difference < 1 else difference - 0.5


def cosine_at(middle, a, b):
    e, f = a - middle, b - middle
    return (e @ f) / (np.sqrt(e @ e) * np.sqrt(f @ f))


def relation_by_loops(student, teacher):
    """Equations 5 to 9 of Park et al. 2019, one pair and one triple at a time."""
    clips = range(len(student))
    pairs = [(i, j) for i in clips for j in clips if i != j]
    triples = [(i, j, k) for i in clips for j in clips for k in clips if len({i, j, k}) == 3]
    lengths = [{(i, j): np.sqrt(((x[i] - x[j]) ** 2).sum()) for i, j in pairs} for x in (student, teacher)]
    means = [np.mean(list(of.values())) for of in lengths]
    distance = np.mean([huber(lengths[0][pair] / means[0], lengths[1][pair] / means[1]) for pair in pairs])
    if not triples:
        return distance
    angles = [huber(*(cosine_at(x[j], x[i], x[k]) for x in (student, teacher))) for i, j, k in triples]
    return distance + 2 * np.mean(angles)


def test_cosine_equals_numpy():
    a, t = features(0), features(1)
    expected = np.mean([1 - x @ y / np.sqrt((x @ x) * (y @ y)) for x, y in zip(a, t, strict=True)])
    assert feature_loss(float32(a), float32(t)).item() == pytest.approx(expected, rel=1e-6)


def test_l2_equals_numpy():
    a, t = features(2), features(3)
    expected = np.mean([((x - y / np.sqrt((y**2).mean())) ** 2).mean() for x, y in zip(a, t, strict=True)])
    assert feature_loss(float32(a), float32(t), kind="l2").item() == pytest.approx(expected, rel=1e-6)


def test_the_teachers_size_does_not_matter_and_the_students_only_to_l2():
    a, t = float32(features(4)), float32(features(5))
    for kind in ("cosine", "l2"):
        torch.testing.assert_close(feature_loss(a, 9 * t, kind=kind), feature_loss(a, t, kind=kind))
    torch.testing.assert_close(feature_loss(9 * a, t), feature_loss(a, t))
    assert feature_loss(9 * a, t, kind="l2") > 2 * feature_loss(a, t, kind="l2")


@pytest.mark.parametrize("clips", [2, 3, 6])
def test_relation_loss_equals_numpy(clips):
    student, teacher = (
        features(6, clips),
        4 * features(7, clips, width=5) ** 3,
    )  # far apart: both branches of Huber's loss
    expected = relation_by_loops(student, teacher)
    assert expected > 0.01 or clips == 2  # two clips: the one distance is its own mean
    assert relation_loss(float32(student), float32(teacher)).item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_a_distance_beyond_one_counts_linearly():
    teacher = np.array([[0.0], [0.1], [0.2], [0.3], [9.0]])
    student = np.array([[9.0], [0.1], [0.2], [0.3], [0.0]])
    mean = np.mean([abs(a - b) for i, a in enumerate(teacher[:, 0]) for j, b in enumerate(teacher[:, 0]) if i != j])
    assert 8.9 / mean - 0.1 / mean > 1
    expected = relation_by_loops(student, teacher)
    assert relation_loss(float32(student), float32(teacher)).item() == pytest.approx(expected, rel=1e-5)


def test_relations_do_not_change_with_place_size_and_rotation():
    student, teacher = float32(features(8)), float32(features(9))
    rotation = torch.linalg.qr(float32(features(10, 8))).Q
    torch.testing.assert_close(relation_loss(3 * student @ rotation + 2, teacher), relation_loss(student, teacher))
    assert relation_loss(3 * student @ rotation + 2, student).item() == pytest.approx(0, abs=1e-9)


def test_one_clip_has_no_relations():
    student = float32(features(11, 1), requires_grad=True)
    assert relation_loss(student, float32(features(12, 1))).item() == 0


@pytest.mark.parametrize("same", ["two clips", "all clips", "zeros"])
def test_clips_that_are_alike_give_finite_gradients(same):
    student = features(13)
    if same == "two clips":
        student[1] = student[0]
    elif same == "all clips":
        student[:] = student[0]
    else:
        student[:] = 0
    z, teacher = float32(student, requires_grad=True), float32(features(14))
    total = relation_loss(z, teacher) + feature_loss(z, teacher) + feature_loss(z, teacher, kind="l2")
    total.backward()
    assert total.isfinite()
    assert z.grad.isfinite().all()
    assert z.grad.abs().max() < (1e3 if same == "two clips" else 1e9)
    assert relation_loss(teacher, float32(student)).isfinite()


def test_only_triples_of_different_clips_count():
    """Where two clips are one point for the student and not for the teacher, a clip's angle with itself would differ."""
    student, teacher = float32(features(6, clips=4)), float32(features(7, clips=4))
    student[1] = student[0]

    def cosines(x):
        between = x.unsqueeze(0) - x.unsqueeze(1)
        lengths = between.norm(dim=2, keepdim=True)
        directions = torch.where(lengths > 0, between / lengths.clamp(min=1e-12), 0.0)
        return directions @ directions.transpose(1, 2)

    def distances(x):
        each = (x.unsqueeze(0) - x.unsqueeze(1)).norm(dim=2)
        pairs = [each[i, j] for i in range(4) for j in range(4) if i != j]
        return torch.stack(pairs) / torch.stack(pairs).mean()

    triples = [(j, i, k) for j in range(4) for i in range(4) for k in range(4) if len({i, j, k}) == 3]
    angles = [torch.stack([cosines(x)[triple] for triple in triples]) for x in (student, teacher)]
    expected = F.smooth_l1_loss(distances(student), distances(teacher)) + 2 * F.smooth_l1_loss(*angles)
    torch.testing.assert_close(relation_loss(student, teacher), expected)


def test_gradients_are_the_derivatives():
    student, teacher = torch.tensor(features(15, 5, 4), requires_grad=True), torch.tensor(features(16, 5, 4))
    check = torch.autograd.gradcheck
    assert check(lambda z: feature_loss(z, teacher), [student])
    assert check(lambda z: feature_loss(z, teacher, kind="l2"), [student])
    assert check(lambda z: relation_loss(z, teacher), [student])


def test_no_gradient_reaches_the_teacher():
    student, teacher = (float32(features(seed), requires_grad=True) for seed in (17, 18))
    total = feature_loss(student, teacher) + feature_loss(student, teacher, kind="l2") + relation_loss(student, teacher)
    total.backward()
    assert student.grad.abs().max() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_float32(dtype):
    student, teacher = (torch.tensor(features(seed, 8, 50)).to(dtype) for seed in (19, 20))

    def losses(z, t):
        return torch.stack([feature_loss(z, t), feature_loss(z, t, kind="l2"), relation_loss(z, t)])

    exact = losses(student.double(), teacher.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = losses(student, teacher)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)


def test_teachers_features_split_as_a_batch_does_and_share_the_loss():
    given = TeacherFeatures({"a": torch.arange(14.0).reshape(7, 2), "b": torch.zeros(7, 3)}, {"a": 3.0, "b": 1.0})
    assert given.shares == {"a": 0.75, "b": 0.25}
    pieces = given.split(3)
    assert [[*piece.features["b"].shape] for piece in pieces] == [[3, 3], [3, 3], [1, 3]]
    assert torch.equal(torch.cat([piece.features["a"] for piece in pieces]), given.features["a"])


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"adapted and teacher are \[2, 3\] and \[2, 4\]"):
        feature_loss(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"student is \[2, 3\], teacher \[3, 3\]"):
        relation_loss(torch.zeros(2, 3), torch.zeros(3, 3))
    for shapes, weights in [
        ({"a": (2, 3)}, {"b": 1.0}),
        ({"a": (2, 3), "b": (3, 3)}, {"a": 1.0, "b": 1.0}),
        ({"a": (2, 3, 1)}, {"a": 1.0}),
        ({"a": (2, 3)}, {"a": 0.0}),
        ({}, {}),
    ]:
        with pytest.raises(ValueError, match=r"accepted: \[B, D\] and a weight for each teacher, one above 0"):
            TeacherFeatures({name: torch.zeros(shape) for name, shape in shapes.items()}, weights)
