"""What changes from step to step: learning rate and averaged weights; and the optimizers that they act on."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from videokd.errors import ConfigError, DataError
from videokd.runs.checkpoint import first_difference
from videokd.runs.settings import OptimSettings


@dataclass(frozen=True)
class Schedule:
    """The learning rate of each step: a linear warm-up, then half a cosine to zero, or a drop at each milestone.

    Args:
        total_steps: how many there are.
        base: the rate at the end of the warm-up.
        warmup_steps: how many steps it takes to get there; the first has base/warmup_steps.
        kind: `cosine` (Loshchilov and Hutter 2017, without restarts) or `step`.
        milestones: in ascending order, the steps from which on the rate is multiplied by `factor`, for `step` only.
        factor: what it is multiplied with.

    Raises:
        ConfigError: a number does not fit the others, or the kind is unknown.

    >>> drops = Schedule(4, 1.0, kind="step", milestones=(1, 3))
    >>> [drops.rate(step) for step in range(4)]
    [1.0, 0.1, 0.1, 0.01...]
    >>> cosine = Schedule(6, 1.0, warmup_steps=2)
    >>> [round(cosine.rate(step), 2) for step in range(6)]
    [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]
    """

    total_steps: int
    base: float
    warmup_steps: int = 0
    kind: Literal["cosine", "step"] = "cosine"
    milestones: tuple[int, ...] = ()
    factor: float = 0.1

    def __post_init__(self) -> None:
        if self.total_steps < 1 or not 0 <= self.warmup_steps < self.total_steps:
            raise ConfigError(
                f"warmup_steps {self.warmup_steps}, total_steps {self.total_steps} (accepted: warmup_steps 0 or more and below "
                "total_steps). Train for longer, or shorten the warm-up."
            )
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ConfigError(f"milestones are {list(self.milestones)} (accepted: ascending numbers). Sort them.")
        if self.kind not in ("cosine", "step"):
            raise ConfigError(f"schedule is {self.kind!r} (accepted: cosine, step). Choose one of them.")

    def rate(self, step: int) -> float:
        """The learning rate of one step, from 0; steps after the last get its rate."""
        if step < self.warmup_steps:
            return self.base * (step + 1) / self.warmup_steps
        if self.kind == "step":
            return self.base * self.factor ** bisect.bisect_right(self.milestones, step)
        progress = min((step - self.warmup_steps) / (self.total_steps - self.warmup_steps), 1.0)
        return self.base * 0.5 * (1 + math.cos(math.pi * progress))


def schedule_of(optim: OptimSettings, steps_per_epoch: int) -> Schedule:
    """The learning rate of each step of a run.

    Args:
        optim: how it is trained.
        steps_per_epoch: batches of an epoch.
    """
    total_steps = optim.epochs * steps_per_epoch
    return Schedule(
        total_steps,
        optim.lr,
        # a preset's warm-up may be longer than a run that somebody made short to try it
        warmup_steps=min(round(optim.warmup_epochs * steps_per_epoch), total_steps // 2),
        kind=optim.schedule,
        milestones=tuple(sorted({round(epoch * steps_per_epoch) for epoch in optim.milestones})),
        factor=optim.factor,
    )


def build_optimizer(
    groups: Sequence[Mapping[str, Any]],
    *,
    name: Literal["adam", "adamw", "sgd"],
    learning_rate: float,
    momentum: float = 0.9,
    epsilon: float = 1e-8,
    fused: bool = False,
) -> torch.optim.Optimizer:
    """An optimizer over groups of parameters.

    Args:
        groups: each with `params`, and optionally `weight_decay` and `lr_factor`, by which its rate differs.
        name: `sgd` is with Nesterov's momentum.
        learning_rate: that of a group whose lr_factor is 1.
        momentum: of `sgd`.
        epsilon: of `adam` and `adamw` (CoViAR trains with 1e-3).
        fused: update all weights in one kernel, for parameters on CUDA; a gradient scaler then need not ask whether gradients are finite.

    Raises:
        ConfigError: the name is unknown.

    >>> weights = torch.nn.Linear(2, 2).parameters()
    >>> build_optimizer([{"params": weights, "lr_factor": 0.1}], name="sgd", learning_rate=0.5).param_groups[0]["lr"]
    0.05
    """
    scaled = [dict(group) | {"lr": learning_rate * group.get("lr_factor", 1.0)} for group in groups]
    one_kernel = True if fused else None  # None leaves PyTorch its choice of the others
    if name == "adam":
        return torch.optim.Adam(scaled, lr=learning_rate, eps=epsilon, fused=one_kernel)
    if name == "adamw":
        return torch.optim.AdamW(scaled, lr=learning_rate, eps=epsilon, weight_decay=0.0, fused=one_kernel)
    if name == "sgd":
        sgd = torch.optim.SGD(scaled, lr=learning_rate, momentum=momentum, nesterov=momentum > 0, fused=one_kernel)
        if fused and momentum:
            _start_momentum_at_zero(sgd)
        return sgd
    raise ConfigError(f"optimizer is {name!r} (accepted: adam, adamw, sgd). Choose one of them.")


def _start_momentum_at_zero(sgd: torch.optim.SGD) -> None:
    """Gives fused SGD its buffers before its first step, which then does what it would do without them.

    PyTorch would allocate them uninitialised and fill them in the first step; where a gradient scaler has that step left out,
    because gradients are not finite yet, what lay in the memory would become the momentum (seen in fp16 with PyTorch 2.11).
    """
    for group in sgd.param_groups:
        for parameter in group["params"]:
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Continues from a state, with the kernels that the optimizer was built with: a run may resume on another device.

    Args:
        optimizer: from `build_optimizer`.
        state: from its `state_dict`, or from that of an optimizer with other kernels.
    """
    kernels = {name: optimizer.defaults[name] for name in ("fused", "foreach") if name in optimizer.defaults}
    groups = [{**group, **kernels} for group in state["param_groups"]]
    optimizer.load_state_dict({**state, "param_groups": groups})


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives every group the rate times its `lr_factor`.

    Args:
        optimizer: from `build_optimizer`.
        rate: from `Schedule`.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_factor", 1.0)


class EMA:
    """An exponential moving average of a model's weights, which often does better than the last ones.

    Parameters and floating-point buffers (BatchNorm's statistics, which belong to the weights they were seen with) are
    averaged; counters are copied. The decay grows with the number of updates n, as min(decay, (1+n)/(10+n)), so that
    the random start is forgotten soon (as in TensorFlow's ExponentialMovingAverage).

    Args:
        model: whose present state the average starts from; it is not kept.
        decay: share of the old average in the new one, in [0, 1).

    Raises:
        ConfigError: decay is outside its range.

    >>> model = nn.Linear(1, 1)
    >>> ema = EMA(model, decay=0.999)
    >>> ema.update(model)
    >>> ema.num_updates
    1
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"decay is {decay} (accepted: 0 up to, not including, 1). 0.999 is a common one.")
        self.decay = decay
        self.num_updates = 0
        self.average = {name: values.detach().clone() for name, values in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes in the model's present state.

        Args:
            model: of the same architecture as the first.
        """
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        averages: list[Tensor] = []
        currents: list[Tensor] = []
        for name, current in model.state_dict().items():
            if current.is_floating_point():
                averages.append(self.average[name])
                currents.append(current)
            else:
                self.average[name].copy_(current)
        get_ema_multi_avg_fn(decay)(averages, currents, self.num_updates)  # type: ignore[no-untyped-call]
        self.num_updates += 1

    def copy_to(self, model: nn.Module) -> None:
        """Overwrites the model's state with the average.

        Args:
            model: of the same architecture, on any device.
        """
        model.load_state_dict(self.average)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to hold."""
        return {"num_updates": self.num_updates, "average": self.average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` gave; the values are copied, to the device of the present ones.

        Raises:
            DataError: the state is that of another architecture.
        """
        average = state["average"]
        difference = first_difference(self.average, average)
        if difference:
            raise DataError(f"averaged weights are of another architecture: {difference}.")
        for name, values in average.items():
            self.average[name].copy_(values)
        self.num_updates = int(state["num_updates"])
