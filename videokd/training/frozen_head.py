"""The classifier of a frozen network, fitted to features that are computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from videokd.errors import DataError

# Weight decays to choose from, for features of deviation 1; and what is taken where no group can be held out
_WEIGHT_DECAYS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_USUAL = 1e-2
_MOST_FOLDS = 3
_ITERATIONS = 200


@dataclass(frozen=True)
class FittedHead:
    """How a head was fitted.

    Args:
        weight_decay: the one that was taken.
        held_out_loss: {weight decay: cross-entropy on groups held out in turn}; empty where a class has only one group.
        held_out_top1: accuracy at the weight decay that was taken, as a fraction; None where `held_out_loss` is empty.
    """

    weight_decay: float
    held_out_loss: dict[float, float]
    held_out_top1: float | None


def fit_head(head: nn.Module, features: Tensor, label: Tensor, groups: Sequence[str]) -> FittedHead:
    """Fits a linear classifier, or one with a hidden layer, to the features of a frozen network.

    Multinomial logistic regression on all views of all clips, by L-BFGS. The weight decay is chosen by cross-validation: up to
    three times, other groups of the training clips are held out, and the smallest mean cross-entropy wins. Features are scaled to
    deviation 1 for that; the scale is then taken into the first layer, so that the head takes features as they come.

    Args:
        head: [rows, D] to logits [rows, K]: `nn.Linear`, or `nn.Sequential` of linear layers and activations; it is changed.
        features: float32 [N, V, S, D]: of N clips, V views, S segments.
        label: int64 [N].
        groups: of each clip; clips of one group are held out together.

    Returns:
        The weight decay and how it was chosen.

    Raises:
        DataError: features are not finite.
    """
    if not features.isfinite().all():
        raise DataError(
            "features of the frozen network are not finite: its weights are damaged, or too large for its precision. Pass `--precision fp32`, "
            "or start from other weights with --init."
        )
    layers = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
    start = {name: values.clone() for name, values in head.state_dict().items()}
    mean, deviation = features.mean((0, 1, 2)), features.std((0, 1, 2), correction=0)
    scale = torch.where(deviation > 1e-6, 1 / deviation, torch.zeros_like(deviation))  # a constant feature says nothing
    scaled = (features - mean) * scale

    folds = list(_folds(label.tolist(), groups))
    losses: dict[float, float] = {}
    correct: dict[float, float] = {}
    for weight_decay in _WEIGHT_DECAYS if folds else ():
        logits = torch.cat([_held_out(head, start, scaled, label, out, weight_decay) for out in folds])
        wanted = torch.cat([label[out] for out in folds])
        losses[weight_decay] = float(functional.cross_entropy(logits, wanted))
        correct[weight_decay] = float((logits.argmax(1) == wanted).float().mean())
    best = min(losses, key=losses.__getitem__) if losses else _USUAL

    head.load_state_dict(start)
    _minimise(head, scaled, label, best)
    with torch.no_grad():
        layers[0].weight.mul_(scale)
        layers[0].bias.sub_(layers[0].weight @ mean)
    return FittedHead(best, losses, correct.get(best))


def _held_out(
    head: nn.Module, start: dict[str, Tensor], features: Tensor, label: Tensor, out: Tensor, weight_decay: float
) -> Tensor:
    """Logits [n, K] of the clips `out` (a mask), as a head says that was fitted to the others: the mean over views."""
    head.load_state_dict(start)
    _minimise(head, features[~out], label[~out], weight_decay)
    with torch.no_grad():
        return _logits(head, features[out]).mean(1)


def _minimise(head: nn.Module, features: Tensor, label: Tensor, weight_decay: float) -> None:
    """Cross-entropy of each view, and half the weight decay times the squared weights."""
    weights = [layer.weight for layer in head.modules() if isinstance(layer, nn.Linear)]
    optimizer = torch.optim.LBFGS(
        head.parameters(), max_iter=_ITERATIONS, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
    )
    of_views = label[:, None].expand(features.shape[:2]).flatten()

    def loss() -> Tensor:
        optimizer.zero_grad()
        decay = torch.stack([weight.square().sum() for weight in weights]).sum()
        total = functional.cross_entropy(_logits(head, features).flatten(0, 1), of_views) + weight_decay / 2 * decay
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[arg-type, no-untyped-call]


def _logits(head: nn.Module, features: Tensor) -> Tensor:
    """[N, V, S, D] to [N, V, K]: the mean over segments, as networks take it."""
    logits: Tensor = head(features).mean(2)
    return logits


def _folds(labels: Sequence[int], groups: Sequence[str]) -> Iterator[Tensor]:
    """Masks of the clips to hold out in turn: of each class whole groups, and never all of them."""
    of_class: dict[int, list[str]] = {}
    for label, group in zip(labels, groups, strict=True):
        if group not in of_class.setdefault(label, []):
            of_class[label].append(group)
    fewest = min(map(len, of_class.values()))
    if fewest < 2:
        return
    # A group may be in several classes (a person): its fold is that of its first class
    fold_of: dict[str, int] = {}
    folds = min(fewest, _MOST_FOLDS)
    for names in of_class.values():
        for name in names:
            fold_of.setdefault(name, len([n for n in names if n in fold_of]) % folds)
    number = np.array([fold_of[group] for group in groups])
    for fold in range(folds):
        out = torch.from_numpy(number == fold)
        left = {label for label, held in zip(labels, out.tolist(), strict=True) if not held}
        if out.any() and left == set(labels):
            yield out
