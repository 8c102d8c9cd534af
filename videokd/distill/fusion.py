"""From the logits of several networks to one: teachers into a target, students into a prediction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from videokd.distill.losses import full_precision, widen
from videokd.errors import ConfigError

Space = Literal["logits", "probs"]

#: Temperatures at which softened logits stay numbers in float32.
_LOWEST, _HIGHEST = 1e-6, 1e6
#: Sums of weights stay numbers in float32.
_MOST_WEIGHT = 1e30


def fuse(
    logits: Mapping[str, Tensor],
    weights: Mapping[str, float | Tensor],
    *,
    space: Space = "logits",
    temperature: float = 1.0,
) -> Tensor:
    """The weighted mean of several networks' predictions, as logits.

    `space="logits"`: z* = Σ w_t z_t. `space="probs"`: z* = T · log Σ w_t softmax(z_t/T), so that softmax(z*/T) is the
    weighted mean of the softened predictions (Wu, Chiu and Wu, ICASSP 2019). Weights are normalised to Σw = 1.

    Args:
        logits: {name: [B, K]}, any float dtype; computed in float32. A calibrated network's are divided by its own
            temperature beforehand.
        weights: {name: w ≥ 0}, the same names; a number, or a tensor [B] of one weight per sample.
        space: what is averaged.
        temperature: T > 0; matters for `space="probs"` only.

    Returns:
        [B, K], float32 (float64 for float64 logits).

    Raises:
        ConfigError: the names differ; weights are negative, not finite, or sum to zero; space or temperature is wrong.
        ValueError: the logits' shapes differ or are not [B, K], or a weight is neither a number nor [B].

    >>> z = {"iframe": torch.tensor([[3.0, 0.0]]), "motion": torch.tensor([[0.0, 3.0]])}
    >>> fuse(z, {"iframe": 2, "motion": 1})
    tensor([[2., 1.]])
    """
    _check_settings(logits, weights, space=space, temperature=temperature)
    _check_weights(weights, like=widen(next(iter(logits.values()))))
    return weighted_mean(logits, weights, space=space, temperature=temperature)


def weighted_mean(
    logits: Mapping[str, Tensor], weights: Mapping[str, float | Tensor], *, space: Space, temperature: float
) -> Tensor:
    """`fuse` without its tests of the weights: a GPU would have to be asked in each step whether they are in range.

    Args:
        logits: as for `fuse`.
        weights: as for `fuse`, known to be 0 or more, with a sum above 0.
        space: as for `fuse`.
        temperature: as for `fuse`.

    Raises:
        ConfigError: as for `fuse`, but for weights out of range.
        ValueError: as for `fuse`, but for weights of a wrong shape.
    """
    _check_settings(logits, weights, space=space, temperature=temperature)
    first = next(iter(logits.values()))
    with full_precision(first):
        wide = {name: widen(values) for name, values in logits.items()}
        columns, total = _columns({name: weights[name] for name in logits}, like=widen(first))
        shares = {name: column / total for name, column in columns.items()}
        if space == "logits":
            return torch.stack([shares[name] * values for name, values in wide.items()]).sum(dim=0)  # [B, K]
        # In the log domain, a prediction that underflows as a probability still counts; a share of zero becomes -inf.
        terms = [shares[name].log() + F.log_softmax(values / temperature, dim=1) for name, values in wide.items()]
        return temperature * torch.stack(terms).logsumexp(dim=0)  # [B, K]


def _check_settings(
    logits: Mapping[str, Tensor], weights: Mapping[str, float | Tensor], *, space: str, temperature: float
) -> None:
    if not logits or set(logits) != set(weights):
        raise ConfigError(
            f"weights are given for {', '.join(weights) or 'nothing'} (accepted: one for each of "
            f"{', '.join(logits) or 'nothing: no logits'}). Give every network a weight, 0 to leave it out."
        )
    if space not in ("logits", "probs"):
        raise ConfigError(f"space is {space!r} (accepted: logits, probs). Choose one of them.")
    if not _LOWEST <= temperature <= _HIGHEST:
        raise ConfigError(
            f"temperature is {temperature} (accepted: {_LOWEST:g} to {_HIGHEST:g}). 1 leaves logits as they are."
        )
    for name, values in logits.items():
        if not isinstance(values, Tensor) or values.is_complex():
            kind = values.dtype if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(f"logits of {name} are {kind} (accepted: a tensor of real numbers, [B, K])")
    shapes = {name: list(values.shape) for name, values in logits.items()}
    if len({tuple(shape) for shape in shapes.values()}) > 1 or any(len(shape) != 2 for shape in shapes.values()):
        raise ValueError(f"logits are {shapes} (accepted: [B, K], the same for all)")


def _check_weights(weights: Mapping[str, float | Tensor], *, like: Tensor) -> None:
    """Refuses weights that cannot be divided by their sum."""
    for name, weight in weights.items():
        if isinstance(weight, Tensor):
            if weight.is_complex():
                raise ValueError(f"weight of {name} is {weight.dtype} (accepted: real numbers)")
            if tuple(weight.shape) not in ((), (len(like),)):
                raise ValueError(f"weight of {name} is {list(weight.shape)} (accepted: a number or [{len(like)}])")
            unusable = weight[~((weight >= 0) & (weight <= _MOST_WEIGHT))]
            wrong = unusable[0].item() if len(unusable) else None
        else:
            wrong = None if 0 <= weight <= _MOST_WEIGHT else weight
        if wrong is not None:
            raise ConfigError(
                f"weight of {name} is {wrong!s:.40} (accepted: 0 or more, up to 1e30). Correct the weight."
            )
    if not bool((_columns(weights, like=like)[1] > 0).all()):
        raise ConfigError(
            f"weights of {', '.join(weights)} sum to zero (accepted: at least one above 0). Raise one of them."
        )


def _columns(weights: Mapping[str, float | Tensor], *, like: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The weights, each a number [] or a column [B, 1], and their sum."""
    # Plain numbers stay on the CPU, as float64 scalars: no transfer, and fusion does not change with their scale.
    columns = {
        name: weight.detach().to(like).reshape(-1, 1)
        if isinstance(weight, Tensor)
        else torch.tensor(float(weight), dtype=torch.float64)
        for name, weight in weights.items()
    }
    total = torch.zeros((), dtype=torch.float64)
    for column in columns.values():
        total = total + column
    return columns, total


def sweep_weights(
    logits: Mapping[str, Tensor],
    labels: Tensor,
    *,
    steps: int = 10,
    space: Space = "logits",
    temperature: float = 1.0,
) -> tuple[dict[str, float], float]:
    """The fusion weights with the highest accuracy among all multiples of 1/steps that sum to 1.

    Of equally accurate weights the ones with the lowest cross-entropy win, then those closest to uniform. Use it on
    validation data: on the test split it would report the accuracy of weights chosen with the answers at hand.

    Args:
        logits: {name: [N, K]}.
        labels: int64 [N].
        steps: how finely the weights are divided, 1 or more.
        space: as in `fuse`.
        temperature: as in `fuse`.

    Returns:
        {name: weight}, summing to 1, and their top-1 accuracy in [0, 1].

    Raises:
        ConfigError: steps is below 1, or as for `fuse`.
        ValueError: as for `fuse`, or the labels do not match the logits.

    >>> right, wrong = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    >>> sweep_weights({"iframe": right, "motion": wrong}, torch.tensor([0]))
    ({'iframe': 1.0, 'motion': 0.0}, 1.0)
    """
    if steps < 1:
        raise ConfigError(f"steps is {steps} (accepted: 1 or more). 10 tries weights in tenths.")
    if any(values.shape[:1] != labels.shape for values in logits.values()) or not len(labels):
        shapes = {name: list(values.shape) for name, values in logits.items()}
        raise ValueError(f"labels are {list(labels.shape)}, logits {shapes} (accepted: [N] and [N, K], N ≥ 1)")
    best: tuple[tuple[float, float, float], dict[str, float]] | None = None
    for counts in _compositions(steps, len(logits)):
        weights = {name: count / steps for name, count in zip(logits, counts, strict=True)}
        fused = fuse(logits, weights, space=space, temperature=temperature)  # [N, K]
        correct = int((fused.argmax(dim=1) == labels).sum())
        # Rounded, so that weights that differ by rounding errors only count as equal, and the most even ones win.
        loss = round(F.cross_entropy(fused.double(), labels).item(), 6)
        unevenness = sum((weight - 1 / len(weights)) ** 2 for weight in weights.values())
        rank = (-correct / len(labels), loss, unevenness)
        if best is None or rank < best[0]:
            best = (rank, weights)
    if best is None:
        raise ConfigError("there are no logits to fuse (accepted: those of one or more networks). Give some.")
    return best[1], -best[0][0]


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to write total as an ordered sum of `parts` numbers that are 0 or more."""
    if parts <= 1:
        yield from [(total,)] * parts
        return
    for first in range(total, -1, -1):
        for rest in _compositions(total - first, parts - 1):
            yield (first, *rest)
