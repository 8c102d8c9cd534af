"""What a training run keeps between its steps: its place, its checkpoint, and the best weights so far."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from videokd.errors import DataError, VideoKDError
from videokd.models.students import Students, not_finite
from videokd.runs.checkpoint import load_checkpoint, save_checkpoint, strict_load
from videokd.runs.ranks import Ranks
from videokd.runs.session import Session
from videokd.training.schedule import EMA
from videokd.training.update import Update

_UNREADABLE = -1
_UNREADABLE_IN_WORDS = "unable to read it"


@dataclass
class Progress:
    """Where a run stands.

    Args:
        step: the number of the next step.
        best_top1: on the validation set, as a fraction; -1 before the first validation.
        best_epoch: the epoch it was reached in.
        seconds: of training so far, over all starts.
        stopped_early: whether training ended because validation accuracy no longer rose.
        history: the validation results of each epoch.
    """

    step: int = 0
    best_top1: float = -1.0
    best_epoch: int = -1
    seconds: float = 0.0
    stopped_early: bool = False
    history: list[dict[str, float]] = field(default_factory=list)

    def check(self) -> None:
        """Refuses what no run has, for one that comes from a file.

        Raises:
            ValueError: says what.
        """
        for name in ("step", "best_epoch"):
            if type(getattr(self, name)) is not int or getattr(self, name) < -1:
                raise ValueError(f"progress.{name} is {getattr(self, name)!r:.40}")
        if self.step < 0 or not -1 <= self.best_top1 <= 1 or not math.isfinite(self.seconds):
            raise ValueError(f"progress: step {self.step}, best_top1 {self.best_top1}, seconds {self.seconds}")
        if not all(math.isfinite(value) for values in self.history for value in values.values()):
            raise ValueError("progress.history has numbers that are not finite")


def _epochs_without_gain(history: Sequence[Mapping[str, float]]) -> int:
    """Epochs since the first one with the best validation accuracy: an equally good one does not count.

    >>> _epochs_without_gain([{"val/top1": top1} for top1 in (0.5, 0.6, 0.6, 0.55)])
    2
    """
    top1 = [values.get("val/top1", -1.0) for values in history]
    return len(top1) - 1 - top1.index(max(top1))


class RunState:
    """A training run between its steps: students, optimizers, progress; writes and reads `checkpoint.pt` and `best.pt`.

    Args:
        students: the networks that are trained, exits included.
        update: their optimizers and gradient scaler.
        session: the run's folder and ranks; only the first rank writes.
        role: what the trained networks are, for whoever reads the run.
        ema_decay: of a moving average of the weights, which then is validated and kept; 0 keeps none.
    """

    def __init__(
        self,
        students: Students,
        update: Update,
        session: Session,
        *,
        role: Literal["teacher", "student"],
        ema_decay: float = 0.0,
    ) -> None:
        self.students, self.update, self.progress = students, update, Progress()
        self._ema = EMA(students, decay=ema_decay) if ema_decay else None
        self._run, self._role, self._ranks = session.folder, role, session.ranks
        self._started = time.perf_counter()
        self._first_step = self._saved_step = 0
        self._announced_step = 0  # of a checkpoint that the first rank was to write, and may not have written
        self._buffers: list[Tensor] = []
        self._buffers_before: tuple[int, list[Tensor]] = (-1, [])

    def begin_step(self) -> None:
        """Remembers what a forward pass changes before its step is done: the statistics of BatchNorms."""
        if not self._ranks.is_first:
            if self.progress.step > self._announced_step:  # the first rank has taken a step since
                self._saved_step = max(self._saved_step, self._announced_step)
            return
        if not self._buffers:
            self._buffers = [*self.students.buffers()]
            self._buffers_before = (-1, [buffer.clone() for buffer in self._buffers])
        before = self._buffers_before[1]
        for kind in {old.dtype for old in before}:  # one kernel for all of a kind
            of_kind = [number for number, old in enumerate(before) if old.dtype == kind]
            torch._foreach_copy_([before[n] for n in of_kind], [self._buffers[n] for n in of_kind])
        self._buffers_before = (self.progress.step, before)

    def average(self) -> None:
        """Takes the present weights into the moving average, if there is one."""
        if self._ema is not None:
            self._ema.update(self.students)

    def restore(self) -> Progress:
        """The progress so far: that of `checkpoint.pt`, whose weights are restored, or a new one.

        Raises:
            DataError: it is damaged, of another architecture, or not the same on all ranks.
        """
        step = _UNREADABLE
        try:
            self._load()
            step = self.progress.step
        finally:  # other ranks wait for the answer of one that cannot read its checkpoint
            steps = self._ranks.gather(step)
        other = next((rank for rank, its_step in enumerate(steps) if its_step != steps[0]), None)
        if other is not None:
            first, second = (
                _UNREADABLE_IN_WORDS if s == _UNREADABLE else f"at step {s}" for s in (steps[0], steps[other])
            )
            raise DataError(
                f"{self._run.checkpoint}: process 0 is {first}, process {other} {second} (accepted: the same checkpoint for all). Keep --out on a "
                "file system that all machines share, or copy the folder to each of them."
            )
        return self.progress

    def _load(self) -> None:
        if not self._run.checkpoint.is_file():
            return
        payload = load_checkpoint(self._run.checkpoint)
        try:
            strict_load(self.students, payload["students"], path=self._run.checkpoint)
            # Before it was in the checkpoint, every network had the default.
            self.students.set_normalisation(
                payload.get("normalisation", dict.fromkeys(self.students.specs, (None, None)))
            )
            self.update.load_state_dict(payload["update"])
            if self._ema is not None:
                self._ema.load_state_dict(payload["ema"])
            self.progress = Progress(**payload["progress"])
            self.progress.check()
            self._first_step = self._saved_step = self.progress.step
        except VideoKDError:
            raise
        except Exception as error:  # what a damaged file holds can be wrong in any way
            reason = (str(error).splitlines() or [repr(error)])[0]
            raise DataError(
                f"{self._run.checkpoint} is damaged ({reason:.200}). Restore it from a copy, or choose another --out."
            ) from error

    def save_done_steps(self) -> str:
        """Saves, when a step could not be done, what the steps before it have made, if this is the first rank and there is more than was saved.

        Where a step has changed some weights already, nothing is saved.

        Returns:
            A sentence that says up to which step the run is saved.
        """
        step, before = self._buffers_before
        is_between_steps = self.update.num_begun == self.progress.step - self._first_step
        if not self._ranks.is_first or not is_between_steps or not self.progress.step:
            return self.last_checkpoint
        if self.progress.step > self._saved_step:
            if step == self.progress.step:
                for buffer, old in zip(self._buffers, before, strict=True):
                    buffer.copy_(old)
            self.save()
        return f"{self._run.path} is saved up to step {self.progress.step}."

    @property
    def last_checkpoint(self) -> str:
        """A sentence that says of which step it is; of the newest, ranks that do not write learn it a step later."""
        if self._announced_step > self._saved_step:
            before = f"else of step {self._saved_step}" if self._saved_step else "else there is none"
            return f"The last checkpoint of {self._run.path} is of step {self._announced_step} if the first process could write it, {before}."
        if not self._saved_step:
            return f"{self._run.path} has no checkpoint yet."
        return f"The last checkpoint of {self._run.path} is of step {self._saved_step}."

    def is_overdue(self, minutes: float, *, validates: bool = False) -> bool:
        """Whether the last checkpoint, or the start, is that many minutes ago by the first rank's clock; with 0, never.

        False on all other ranks: the first one tells them, so that all save after the same step. Ahead of a validation, which may take
        longer than whoever stops the run waits, one minute is enough.
        """
        minutes = min(minutes, 1.0) if validates else minutes
        return self._ranks.is_first and 0 < 60 * minutes <= time.perf_counter() - self._started

    def save(self) -> None:
        """Writes `checkpoint.pt`: everything needed to resume.

        Raises:
            VideoKDError: a weight is not finite; the last checkpoint is left as it is.
        """
        self._check_finite()
        now = time.perf_counter()
        self.progress.seconds += now - self._started
        self._started = now
        if not self._ranks.is_first:
            self._announced_step = self.progress.step
            return
        payload = {
            "students": self.students.state_dict(),
            "normalisation": {name: (spec.mean, spec.std) for name, spec in self.students.specs.items()},
            "update": self.update.state_dict(),
            "ema": self._ema.state_dict() if self._ema else None,
            "progress": vars(self.progress),
        }
        save_checkpoint(self._run.checkpoint, payload)
        self._saved_step = self.progress.step

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """While it lasts, the moving average, if there is one, stands in the place of the weights."""
        if self._ema is None:
            yield
            return
        own = {name: value.clone() for name, value in self.students.state_dict().items()}
        self._ema.copy_to(self.students)
        try:
            yield
        finally:
            self.students.load_state_dict(own)

    def end_epoch(self, values: Mapping[str, float], *, patience: int, ranks: Ranks) -> None:
        """Writes `best.pt` if no epoch was better (or nothing is held out, and the last one counts).

        Args:
            values: what the held-out clips gave.
            patience: epochs without a better one after which the run ends; 0: never.
            ranks: each has looked with BatchNorm statistics of its own; the first one decides for all.

        Raises:
            VideoKDError: a weight is not finite; `best.pt` is left as it is.
        """
        self._check_finite()
        progress = self.progress
        epoch, history = len(progress.history), [*progress.history, dict(values)]
        top1 = values.get("val/top1", -1.0)
        tired = bool(values and patience) and _epochs_without_gain(history) >= patience
        progress.stopped_early = ranks.any(tired and ranks.is_first)
        progress.history = (
            history  # not before the exchange, which may fail: then the epoch is validated when the run resumes
        )
        if top1 < progress.best_top1:
            return
        progress.best_top1, progress.best_epoch = top1, epoch
        payload = {
            "role": self._role,
            "description": self.students.description(),
            "state": self.students.kept_state(),
            "epoch": epoch,
            "validation": dict(values),
        }
        if self._ranks.is_first:
            save_checkpoint(self._run.best, payload)

    def _check_finite(self) -> None:
        """A step may spoil the weights after a sound loss; the next step's loss would tell, but a checkpoint may come first.

        So may a batch spoil what a BatchNorm has recorded, which no loss tells: training uses the batch's own statistics.
        """
        broken = not_finite(self.students.state_dict())
        if broken:
            student = broken.split(".")[1]  # members.STUDENT.…
            raise VideoKDError(
                f"step {self.progress.step - 1}: {student}'s weights are no longer finite (the student sees "
                f"{', '.join(self.students.specs[student].streams)}). Lower the learning rate, warm up for longer, or pass "
                "`--precision fp32`; a checkpoint that was saved before is good."
            )
        if self.update.leaves_out_steps:
            raise VideoKDError(
                f"step {self.progress.step - 1}: gradients have not been finite in fp16 for many steps, which were left out: the weights no longer "
                "change. With another --out, pass `--precision bf16` or fp32, or lower the learning rate."
            )
