"""The numbers of training steps on their way from the device to the log: read for several steps at once, so that few of them wait."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from videokd.distill.mixup import GroundTruth, number_labelled
from videokd.runs.ranks import Ranks
from videokd.training.update import Updated

# The log is written about once a second, and at most so many steps late.
_SECONDS, _MOST_STEPS = 1.0, 32


@dataclass(frozen=True)
class StepNumbers:
    """What the log holds of one step.

    Args:
        step: its number, from 0.
        epoch: number of its epoch, from 0.
        rate: the learning rate.
        num_clips: of this rank's share of the batch.
        losses: {name: part of the loss}, the total last; scalars, on the device.
        others: {name: further scalar}, which need not be finite.
    """

    step: int
    epoch: int
    rate: float
    num_clips: int
    losses: Mapping[str, Tensor]
    others: Mapping[str, Tensor]


@dataclass(frozen=True)
class ReadSteps:
    """Steps whose numbers have arrived.

    Args:
        steps: as they were kept.
        values: of each of them, {name: number}, the mean over the ranks.
        clips_per_second: of all ranks.
        data_wait_share: share of the time that the device waited for data.
    """

    steps: list[StepNumbers]
    values: list[dict[str, float]]
    clips_per_second: float
    data_wait_share: float


class StepsOnDevice:
    """Keeps the numbers of steps on the device until some are read together.

    Reading waits until the device has computed them, and on several ranks exchanges them. On the CPU of a single rank this costs
    nothing, and each step is read at once. Elsewhere a block has as many steps as take about a second, at most 32.

    Args:
        device: that computes the steps.
        ranks: whose means are taken.
        most_steps: that are read together; 1 reads each at once. By default it depends on the device.
    """

    def __init__(self, device: torch.device, ranks: Ranks, *, most_steps: int | None = None) -> None:
        at_once = device.type == "cpu" and ranks.num_ranks == 1
        self._most_steps = most_steps or (1 if at_once else _MOST_STEPS)
        self._ranks, self._clock = ranks, _Clock(device)
        self._kept: list[StepNumbers] = []
        self._length, self._seconds_per_step = 1, 0.0

    def begin_step(self) -> None:
        """Starts the clock of a step."""
        self._clock.begin_step(is_first=not self._kept)

    def batch_is_here(self) -> None:
        """Ends the time spent waiting for data."""
        self._clock.batch_is_here()

    def keep(self, numbers: StepNumbers) -> bool:
        """Keeps the numbers of a step; whether it is time to read, which is so on all ranks after the same step."""
        self._kept.append(numbers)
        return len(self._kept) >= self._length

    def read(self, *, exchange: bool = True) -> ReadSteps | None:
        """The steps that were kept since the last call; None if there are none.

        Args:
            exchange: take the means over the ranks, which all have to ask for; otherwise the values are this rank's own.
        """
        kept = self._kept
        if not kept:
            return None
        together = torch.stack(
            [value.detach().float() for each in kept for value in (*each.losses.values(), *each.others.values())]
        )
        # ranks agree on the next block's length by the mean of what their clocks said of the last one
        together = torch.cat([together, together.new_full((1,), self._seconds_per_step)])
        if exchange:
            together = self._ranks.mean({"": together})[""]
        *numbers, seconds_per_step = together.tolist()
        self._kept = []  # not earlier: where the exchange fails, they can still be read without it
        if exchange and seconds_per_step > 0:
            self._length = max(1, min(self._most_steps, int(_SECONDS / seconds_per_step)))
        seconds, waited = self._clock.read()
        self._seconds_per_step = seconds / len(kept)
        arrived = iter(numbers)
        values = [dict(zip((*each.losses, *each.others), arrived, strict=False)) for each in kept]
        num_clips = sum(each.num_clips for each in kept) * self._ranks.num_ranks
        return ReadSteps(kept, values, num_clips / seconds, waited / seconds)


class _Clock:
    """Times steps, and how long the device waits for their data.

    CUDA computes behind the process: while that waits for a batch, the device may still work. So events in the device's queue
    tell how long it had nothing to do.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._began = self._asked = time.perf_counter()
        self._waited = 0.0
        self._events: list[torch.cuda.Event] = []

    def begin_step(self, *, is_first: bool) -> None:
        """A batch is asked for."""
        self._asked = time.perf_counter()
        if is_first:
            self._began, self._waited = self._asked, 0.0
        self._mark()

    def batch_is_here(self) -> None:
        """The batch is in the device's queue."""
        self._waited += time.perf_counter() - self._asked
        self._mark()

    def _mark(self) -> None:
        if self._on_cuda:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._events.append(event)

    def read(self) -> tuple[float, float]:
        """Seconds since the first step after the last call, and those of waiting for data; once the device has done its work."""
        seconds = time.perf_counter() - self._began
        if self._on_cuda:
            pairs = zip(self._events[::2], self._events[1::2], strict=False)
            self._waited = sum(asked.elapsed_time(here) for asked, here in pairs) / 1000
            self._events = []
        return seconds, min(self._waited, seconds)


def accuracy_and_agreement(
    updated: Updated, label: GroundTruth, teacher_predictions: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """What the log holds in addition to the loss, all still on the device.

    `student/train_top1`, of the clips that have a label; `agreement/student/teacher`: the share of the batch for which both
    predict the same class; the gradient's norm.
    """
    own = torch.stack([*updated.predictions.values()])  # [students, B]
    itself = label if isinstance(label, Tensor) else label.label
    top1 = (own == itself).sum(1) / number_labelled(label)
    values = {f"{name}/train_top1": share for name, share in zip(updated.predictions, top1.unbind(), strict=True)}
    if teacher_predictions:
        theirs = torch.stack([*teacher_predictions.values()])  # [teachers, B]
        agreement = (own.unsqueeze(1) == theirs).float().mean(2)  # [students, teachers]
        for name, shares in zip(updated.predictions, agreement.unbind(), strict=True):
            of_teachers = zip(teacher_predictions, shares.unbind(), strict=True)
            values |= {f"agreement/{name}/{teacher}": share for teacher, share in of_teachers}
    return values | {"gradient_norm": updated.gradient_norm}
