""""""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from videokd.distill.mixup import GroundTruth, MixedLabel, number_labelled, over_labels
from videokd.types import NO_LABEL, StudentOutput


def widen(values: Tensor) -> Tensor:
    """The values in float32, or in float64 where they are float64 already.

    Args:
        values: any shape, any float dtype.

    >>> widen(torch.zeros(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


def full_precision(values: Tensor) -> torch.autocast:
    """A context that leaves autocast on the values' device.

    >>> with torch.autocast("cpu", dtype=torch.bfloat16), full_precision(torch.zeros(1)):
    ...     (torch.ones(1, 1) @ torch.ones(1, 1)).dtype
    torch.float32
    """
    return torch.autocast(values.device.type, enabled=False)


def check_temperature(temperature: float) -> None:
    """ValueError unless the temperature is a finite number above 0."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature is {temperature} (accepted: a finite number above 0)")


def check_same_shape(first: Tensor, second: Tensor, *, names: str) -> None:
    """ValueError unless both have the same shape."""
    if first.shape != second.shape:
        raise ValueError(f"{names} are {list(first.shape)} and {list(second.shape)} (accepted: the same shape)")


def divergence(log_student: Tensor, log_target: Tensor) -> Tensor:
    """KL(target ‖ student) of log-probabilities [B, K], mean over the batch."""
    return F.kl_div(log_student, log_target, reduction="batchmean", log_target=True)


def cross_entropy(logits: Tensor, label: GroundTruth) -> Tensor:
    """Cross-entropy against hard labels, mean over the clips that have one.

    Args:
        logits: [B, K], any float dtype; computed in float32.
        label: int64 [B], class numbers from 0, or -1 for a clip without a label; of a mixture, both labels count by their
            shares. `counted_over` says of how many clips it is the mean, where these are a part of a step.

    Returns:
        A scalar; 0 if no clip of the batch has a label.

    >>> cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3])).item()  # log 4
    1.386...
    >>> cross_entropy(torch.zeros(2, 4), torch.tensor([-1, -1])).item()
    0.0
    """
    with full_precision(logits):
        wide = widen(logits)
        # a mixture's other clips may have another number of labels than the clips themselves
        given = isinstance(label, MixedLabel) and label.num_labelled is not None

        def loss(one: Tensor) -> Tensor:
            summed = F.cross_entropy(wide, one, ignore_index=NO_LABEL, reduction="sum")
            number = number_labelled(label if given else one)
            return summed / torch.where(number > 0, number, 1)

        return over_labels(loss, label)


def kd_loss(student: Tensor, target: Tensor, *, temperature: float) -> Tensor:
    """Cross-entropy of softened predictions against a softened target, minus the target's entropy.

    T² · KL(softmax(target/T) ‖ softmax(student/T)), mean over the batch: the gradient keeps its size as T changes
    (Hinton et al. 2015, section 2.1).

    Args:
        student: [B, K] logits, any float dtype; computed in float32.
        target: [B, K] fused logits of the teachers; no gradient flows into it.
        temperature: T > 0.

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: the shapes differ, or temperature is not positive.

    >>> z = torch.tensor([[1.0, 2.0, 3.0]])
    >>> kd_loss(z, z, temperature=4.0).item()
    0.0
    """
    check_same_shape(student, target, names="student and target")
    check_temperature(temperature)
    with full_precision(student):
        log_student = F.log_softmax(widen(student) / temperature, dim=1)
        log_target = F.log_softmax(widen(target.detach()) / temperature, dim=1)
        return temperature**2 * divergence(log_student, log_target)


def mutual_loss(
    student: Tensor, peers: Sequence[Tensor], *, peers_as: Literal["separate", "ensemble"] = "separate"
) -> Tensor:
    """How far a student's predictions are from its peers', at T = 1, mean over the batch.

    `separate`: the mean over peers j of KL(p_j ‖ p_student); `ensemble`: KL(mean of p_j ‖ p_student)
    (Zhang et al. 2018, Deep Mutual Learning, sections 2.2 and 2.4; there separate peers teach better).

    Args:
        student: [B, K] logits, any float dtype; computed in float32.
        peers: one or more [B, K] logits; no gradient flows into them.
        peers_as: whether each peer teaches by itself, or all by their mean prediction.

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: there are no peers, the shapes differ, or peers_as is unknown.

    >>> even, sure = torch.zeros(1, 2), torch.tensor([[0.0, 1.0]])
    >>> mutual_loss(even, [even]).item()
    0.0
    >>> mutual_loss(even, [sure]).item()  # log 2 − H(sure)
    0.110...
    """
    if not peers:
        raise ValueError("peers is empty (accepted: the logits of one or more other students)")
    if peers_as not in ("separate", "ensemble"):
        raise ValueError(f"peers_as is {peers_as!r} (accepted: 'separate', 'ensemble')")
    for peer in peers:
        check_same_shape(student, peer, names="student and peer")
    with full_precision(student):
        log_student = F.log_softmax(widen(student), dim=1)
        log_peers = torch.stack([F.log_softmax(widen(peer.detach()), dim=1) for peer in peers])  # [peers, B, K]
        if peers_as == "ensemble":
            return divergence(log_student, log_peers.logsumexp(dim=0) - math.log(len(peers)))
        return torch.stack([divergence(log_student, log_peer) for log_peer in log_peers]).mean()


def hint_loss(adapted: Tensor, deepest: Tensor) -> Tensor:
    """The L2 distance of a shallow exit's features to the deepest ones, mean over samples.

    The distance is taken per sample and not over the whole batch, so that its size does not depend on the batch
    (Zhang et al. 2019, Be Your Own Teacher, equation 3).

    Args:
        adapted: [N, …] features behind the exit's bottleneck, any float dtype; computed in float32.
        deepest: the same shape; no gradient flows into it.

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: the shapes differ.

    >>> hint_loss(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.zeros(2, 2)).item()
    2.5
    """
    check_same_shape(adapted, deepest, names="adapted and deepest")
    with full_precision(adapted):
        difference = (widen(adapted) - widen(deepest.detach())).flatten(1)  # [N, D]
        distance: Tensor = torch.linalg.vector_norm(difference, dim=1)  # [N]
        return distance.mean()


def self_distillation_loss(
    output: StudentOutput,
    label: GroundTruth,
    *,
    gamma: float,
    temperature: float,
    hint_weight: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """What a student's shallow exits learn from the labels and from its own deepest exit.

    Σ over shallow exits e of (1−γ)·CE_e + γ·T²·KL(deepest ‖ e) + λ·hint_e (Zhang et al. 2019, Be Your Own Teacher; the
    authors' code has no T²). The cross-entropy of the deepest exit is not part of it.

    Args:
        output: a student's logits, exits and hints; no gradient flows into the deepest logits and features.
        label: int64 [B], or the labels of a mixture.
        gamma: γ in [0, 1], the share of the deepest exit's predictions.
        temperature: T > 0.
        hint_weight: λ ≥ 0; hints are optional.

    Returns:
        The sum, and its terms by name (`exit1/ce`, `exit1/kd`, `exit1/hint`), already weighted; terms of weight zero
        are omitted.

    Raises:
        ValueError: a hint belongs to no exit, shapes differ, or temperature is not positive.

    >>> z = torch.tensor([[1.0, 2.0]])
    >>> total, parts = self_distillation_loss(
    ...     StudentOutput(z, exits={"exit1": z}), torch.tensor([1]), gamma=0.5, temperature=3.0, hint_weight=0.0
    ... )
    >>> sorted(parts), parts["exit1/kd"].item()
    (['exit1/ce', 'exit1/kd'], 0.0)
    """
    homeless = sorted(set(output.hints) - set(output.exits))
    if homeless:
        raise ValueError(f"hints are given for {', '.join(homeless)} (accepted: {', '.join(output.exits) or 'none'})")
    parts: dict[str, Tensor] = {}
    for name, logits in output.exits.items():
        if gamma < 1:
            parts[f"{name}/ce"] = (1 - gamma) * cross_entropy(logits, label)
        if gamma > 0:
            parts[f"{name}/kd"] = gamma * kd_loss(logits, output.logits, temperature=temperature)
        if hint_weight > 0 and name in output.hints:
            parts[f"{name}/hint"] = hint_weight * hint_loss(*output.hints[name])
    if not parts:
        return widen(output.logits.new_zeros(())), parts
    return torch.stack(list(parts.values())).sum(), parts


def pseudo_label_loss(student: Tensor, target: Tensor, *, confidence: float = 0.0) -> Tensor:
    """Cross-entropy against the target's most probable class, as if it were the label.

    Lee 2013, Pseudo-Label. With a threshold, a clip counts only where the target's largest probability, at T = 1, is at
    least that; the others count as zeros in the mean over the batch (Sohn et al. 2020, FixMatch, equation 4).

    Args:
        student: [B, K] logits, any float dtype; computed in float32.
        target: [B, K] fused logits of the teachers; no gradient flows into it.
        confidence: the threshold, 0 to 1; at 0 every clip counts.

    Returns:
        A scalar, at least 0; 0 where no clip passes the threshold.

    Raises:
        ValueError: the shapes differ.

    >>> even, sure = torch.zeros(1, 2), torch.tensor([[0.0, 3.0]])  # probabilities 0.05 and 0.95
    >>> pseudo_label_loss(even, sure, confidence=0.9).item()  # log 2
    0.693...
    >>> pseudo_label_loss(even, sure, confidence=0.99).item()
    0.0
    """
    check_same_shape(student, target, names="student and target")
    with full_precision(student):
        probability, label = F.softmax(widen(target.detach()), dim=1).max(dim=1)  # [B], [B]
        each = F.cross_entropy(widen(student), label, reduction="none")  # [B]
        # neither below the threshold nor a label: a target that is not a number makes a loss that is none, which ends the training
        each = each.masked_fill(probability.isnan(), math.nan)
        return torch.where(probability < confidence, 0.0, each).mean()


def standardise(logits: Tensor) -> Tensor:
    """Each sample's logits with mean 0 and standard deviation 1 over the classes.

    Where both sides are standardised before they are divided by T, the student no longer has to match the size of
    the teachers' logits, only their shape (Sun et al. 2024, Logit Standardization in Knowledge Distillation; there
    T = 2 and a weight of 9 are common). The deviation is that of the population, as in the paper's equations.

    Args:
        logits: [B, K], any float dtype; computed in float32.

    Returns:
        [B, K], float32 (float64 for float64 logits); zeros where a sample's logits are all equal.

    >>> standardise(torch.tensor([[1.0, 3.0]]))
    tensor([[-1., 1.]])
    """
    with full_precision(logits):
        # 1e-8 keeps the gradient of a new classifier finite, whose logits may all be equal
        return F.layer_norm(widen(logits), logits.shape[1:], eps=1e-8)


def dist_loss(
    student: Tensor, target: Tensor, *, temperature: float, over_classes: float = 1.0, over_batch: float = 1.0
) -> Tensor:
    """How badly the student's predictions correlate with the target's, within samples and within classes.

    T² · (β · mean over samples of 1 − ρ(p, q) + γ · mean over classes of 1 − ρ(p, q)), p and q the predictions softened
    by T, ρ Pearson's correlation, over the classes of one sample and over the batch for one class (Huang et al. 2022, Knowledge
    Distillation from A Stronger Teacher: "inter" and "intra"). As in the authors' code 1e-8 is added to the product
    of the two norms, so that a class that nobody predicts weighs little.

    The second term sees a batch as a whole: on several ranks, or with accumulation, it sees what each of them has.

    Args:
        student: [B, K] logits, any float dtype; computed in float32.
        target: [B, K] fused logits of the teachers; no gradient flows into it.
        temperature: T > 0 (the authors: 1 on ImageNet, 4 on CIFAR).
        over_classes: β ≥ 0.
        over_batch: γ ≥ 0; the term is left out for a batch of one sample, which correlates with nothing.

    Returns:
        A scalar from 0 to 2 · T² · (β + γ).

    Raises:
        ValueError: the shapes differ, or temperature is not positive.

    >>> z = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 0.0]])
    >>> round(dist_loss(z, z, temperature=1.0).item(), 4)
    0.0
    """
    check_same_shape(student, target, names="student and target")
    check_temperature(temperature)
    with full_precision(student):
        p = F.softmax(widen(student) / temperature, dim=1)
        q = F.softmax(widen(target.detach()) / temperature, dim=1)
        loss = over_classes * (1 - _correlation(p, q, dim=1)).mean()
        if len(student) > 1:
            loss = loss + over_batch * (1 - _correlation(p, q, dim=0)).mean()
        return temperature**2 * loss


def _correlation(p: Tensor, q: Tensor, *, dim: int) -> Tensor:
    """Pearson's, along one dimension of [B, K]."""
    p = p - p.mean(dim=dim, keepdim=True)
    q = q - q.mean(dim=dim, keepdim=True)
    norms: Tensor = torch.linalg.vector_norm(p, dim=dim) * torch.linalg.vector_norm(q, dim=dim)
    return (p * q).sum(dim=dim) / (norms + 1e-8)


def dkd_loss(
    student: Tensor,
    target: Tensor,
    label: GroundTruth,
    *,
    temperature: float,
    target_class: float = 1.0,
    other_classes: float = 8.0,
) -> Tensor:
    """KL to the target in two parts, weighed apart: the labelled class against the rest, and the rest among themselves.

    T² · (α · KL(b_target ‖ b_student) + β · KL(r_target ‖ r_student)), mean over the batch, b = (p_y, 1 − p_y) and r the
    prediction over the classes other than y. `kd_loss` is the same with α = 1 and β = 1 − p_y of the target, which
    silences the second part just where the teachers are sure (Zhao et al. 2022, Decoupled Knowledge Distillation).

    Args:
        student: [B, K] logits, K ≥ 2, any float dtype; computed in float32.
        target: [B, K] fused logits of the teachers; no gradient flows into it.
        label: int64 [B]; of a mixture, both labels count by their shares. Where there is none (-1), the target's most
            probable class takes its place.
        temperature: T > 0.
        target_class: α ≥ 0.
        other_classes: β ≥ 0 (the authors: 0.5 on ImageNet, mostly 8 on CIFAR-100).

    Returns:
        A scalar, at least 0.

    Raises:
        ValueError: the shapes differ, there are fewer than two classes, or temperature is not positive.

    >>> z = torch.tensor([[1.0, 2.0, 3.0]])
    >>> dkd_loss(z, z, torch.tensor([2]), temperature=4.0).item()
    0.0
    """
    check_same_shape(student, target, names="student and target")
    check_temperature(temperature)
    if student.shape[1] < 2:
        raise ValueError(f"student is {list(student.shape)} (accepted: [B, K], K ≥ 2)")

    def loss(label: Tensor) -> Tensor:
        label = torch.where(label == NO_LABEL, target.argmax(dim=1), label)
        both = [_decoupled(values / temperature, label) for values in (widen(student), widen(target.detach()))]
        (student_class, student_rest), (target_of_class, target_rest) = both
        in_target = target_class * divergence(student_class, target_of_class)
        return temperature**2 * (in_target + other_classes * divergence(student_rest, target_rest))

    with full_precision(student):
        return over_labels(loss, label)


def _decoupled(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the labelled class and of all others together [B, 2], and of the others among themselves [B, K − 1]."""
    # Gathered by number and not by a mask, whose count a GPU would have to tell first
    labelled = logits.gather(1, label.unsqueeze(1))  # [B, 1]
    number = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = logits.gather(1, number + (number >= label.unsqueeze(1)))  # [B, K − 1]
    # log Σ exp of the others is the one logit that stands for them all: 1 − p_y is never computed by subtraction
    together = torch.cat([labelled, others.logsumexp(dim=1, keepdim=True)], dim=1)
    return F.log_softmax(together, dim=1), F.log_softmax(others, dim=1)
