"""The one training loop: batch, teach, learn, record. Teachers train in it too: as students without teachers."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from types import FrameType, TracebackType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from videokd.datasets.dataset import EpochBatches, training_batches
from videokd.distill.mixup import GroundTruth, mixup
from videokd.distill.objective import Objective
from videokd.errors import ConfigError
from videokd.files import leave_at_once
from videokd.messages import say
from videokd.models.backbone import channels_last
from videokd.models.students import Students
from videokd.training.device import Precision
from videokd.training.ranks import Ranks
from videokd.training.record import RunLog, finite_values, memory_gib
from videokd.training.run_folder import RunFolder
from videokd.training.run_state import Progress, RunState
from videokd.training.schedule import EMA, learning_rate
from videokd.training.settings import DataSettings, OptimSettings
from videokd.training.target import TeacherTarget
from videokd.training.training_clips import TrainingClips
from videokd.training.update import Update, Updated, UpdateOrder
from videokd.training.validate import validate
from videokd.types import NO_LABEL


def learn(
    students: Students,
    *,
    target: TeacherTarget | None,
    objective: Objective,
    order: UpdateOrder,
    clips: TrainingClips,
    seed: int,
    data: DataSettings,
    optim: OptimSettings,
    precision: Precision,
    ranks: Ranks,
    run: RunFolder,
    role: Literal["teacher", "student"],
) -> None:
    """Trains students from where the run stands to its end, and writes `checkpoint.pt`, `best.pt` and the log.

    Args:
        students: freshly built.
        target: the teachers; None trains on labels (and peers) alone.
        objective: the loss.
        order: whether students step together or in turns.
        clips: to train on, and to choose the best epoch with.
        seed: of the order.
        data: what the networks see.
        optim: how they are trained.
        precision: fp32, bf16 or fp16, and the device.
        ranks: this process's place among those of torchrun.
        run: the folder, prepared.
        role: what the trained networks are, for those who read the run.

    Raises:
        DataError: the checkpoint is damaged or of another architecture.
        VideoKDError: a loss is no longer finite.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after the checkpoint is written.
    """
    _place(students, target, precision.device)
    update = Update(students, objective, optim=optim, precision=precision, order=order, ranks=ranks)
    ema = EMA(students, decay=optim.ema) if optim.ema else None
    state = RunState(students, update, ema, run=run, role=role, writes=ranks.is_first)
    progress = state.restore()
    if optim.compile:
        _compile(students, target)
    _check_shares(len(clips.fit), data.batch_size, ranks)
    batches = EpochBatches(
        clips.counts, data.batch_size, seed=seed, first_step=progress.step, rank=ranks.rank, num_ranks=ranks.num_ranks
    )
    total_steps = optim.epochs * batches.steps_per_epoch
    if progress.step >= total_steps or progress.stopped_early:
        say(f"{run.path}: trained already ({len(progress.history)} epochs).")
        return
    state.tell(progress)
    seen_by = {name: spec.streams for name, spec in students.specs.items()}
    loader = training_batches(clips.fit, batches, workers=data.workers, pin_memory=precision.device.type == "cuda")
    meter = _Meter()
    with (
        RunLog(run.path, resume_step=progress.step - 1, writes=ranks.is_first) as log,
        StopSignal() as stop,
        closing(loader),  # its workers end before signals are what they were
        _bar(total_steps, progress, run, shown=ranks.is_first) as bar,
    ):
        while progress.step < total_steps and not progress.stopped_early:
            meter.start()
            batch = next(loader).to(precision.device)
            label: GroundTruth = batch.label
            if optim.mixup:
                batch, label = mixup(
                    batch, alpha=optim.mixup, rng=np.random.default_rng((seed, progress.step, ranks.rank))
                )
            meter.loaded()

            taught, said = (None, {}) if target is None else target(batch, label, precision)  # [B, K]

            rate = _rate(progress.step, batches.steps_per_epoch, optim)
            updated = update(batch, label, taught, rate=rate)
            if ema is not None:
                ema.update(students)

            epoch = progress.step // batches.steps_per_epoch
            values = _numbers(
                updated, _watched(updated, said, batch.label), ranks, step=progress.step, streams=seen_by
            ) | {"lr": rate}
            log.record(
                progress.step,
                epoch,
                values | meter.stepped(len(batch) * ranks.num_ranks) | memory_gib(precision.device),
            )
            progress.step += 1
            bar.set_postfix_str(f"epoch {epoch + 1}/{optim.epochs} loss {values['loss/total']:.3f}", refresh=False)
            bar.update()

            stopping, ends_epoch = ranks.any(stop.requested), progress.step % batches.steps_per_epoch == 0
            if ends_epoch:
                with state.averaged():
                    seen = validate(students, clips.held_out, precision, workers=data.workers)
                    state.end_epoch(progress, seen, patience=optim.early_stop, ranks=ranks)
                if seen:
                    log.record(progress.step - 1, epoch, seen)
                if ranks.is_first:
                    _tell(run, epoch, optim.epochs, seen)
            if ends_epoch or stopping:
                state.save(progress)
            if stopping:
                raise KeyboardInterrupt


def _check_shares(num_clips: int, batch_size: int, ranks: Ranks) -> None:
    """Refuses a batch that the ranks cannot share equally, because of its size or for want of clips.

    Raises:
        ConfigError: names both numbers and what to pass.
    """
    ranks.share(batch_size)
    if ranks.num_ranks > 1 and num_clips < batch_size:
        fit = num_clips // ranks.num_ranks * ranks.num_ranks
        raise ConfigError(
            f"{num_clips} clips to train on are fewer than data.batch_size {batch_size}, which {ranks.num_ranks} processes share equally "
            f"(accepted: a batch of at most as many). Pass `--data.batch_size {fit}`."
            if fit
            else f"{num_clips} clips to train on are fewer than {ranks.num_ranks} processes (accepted: one clip each, at least). Start fewer."
        )


def _compile(students: Students, target: TeacherTarget | None) -> None:
    networks = [*students.members.values(), *students.exits.values()]
    for network in [*networks, *(target.teachers.networks.values() if target else ())]:
        network.compile()


def _place(students: Students, target: TeacherTarget | None, device: torch.device) -> None:
    """Channels last: convolutions of small pictures run up to twice as fast, on CPU and CUDA."""
    channels_last(students.to(device)).train()
    if target is not None:
        channels_last(target.teachers.to(device))


def streams_to_load(students: Students, target: TeacherTarget | None) -> tuple[str, ...]:
    """The streams that some student or teacher sees, each once."""
    return tuple(dict.fromkeys((*students.streams, *(target.teachers.streams if target else ()))))


def _rate(step: int, steps_per_epoch: int, optim: OptimSettings) -> float:
    total_steps = optim.epochs * steps_per_epoch
    return learning_rate(
        step,
        total_steps=total_steps,
        base=optim.lr,
        # a preset's warm-up may be longer than a run that somebody made short to try it
        warmup_steps=min(round(optim.warmup_epochs * steps_per_epoch), total_steps // 2),
        schedule=optim.schedule,
        milestones=[round(epoch * steps_per_epoch) for epoch in optim.milestones],
        factor=optim.factor,
    )


def _watched(updated: Updated, said: Mapping[str, Tensor], label: Tensor) -> dict[str, Tensor]:
    """What the log has beside the loss, all on the device still.

    `student/train_top1`, of the clips that have a label; `agreement/student/teacher`: the share of the batch that both take
    for the same class.
    """
    labelled = (label != NO_LABEL).sum()
    shares = {f"{name}/train_top1": (own == label).sum() / labelled for name, own in updated.answers.items()}
    for name, own in updated.answers.items():
        shares |= {f"agreement/{name}/{teacher}": (own == theirs).float().mean() for teacher, theirs in said.items()}
    return shares | {"gradient_norm": updated.gradient_norm}


def _numbers(
    updated: Updated, watched: Mapping[str, Tensor], ranks: Ranks, *, step: int, streams: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Means over the ranks, in one exchange and one transfer from the device; raises where a loss is not finite."""
    parts = dict(updated.parts) | {"loss/total": updated.total}
    means = ranks.mean(parts | dict(watched))
    # a batch without a label has no accuracy
    means = {name: mean for name, mean in means.items() if not (name.endswith("/train_top1") and math.isnan(mean))}
    return finite_values({name: means[name] for name in parts}, step=step, streams=streams, beside=means)


def _bar(total: int, progress: Progress, run: RunFolder, *, shown: bool) -> tqdm[Any]:
    """Quiet where standard error is no terminal: there a line an epoch tells how far it is."""
    disable = None if shown else True
    return tqdm(total=total, initial=progress.step, desc=run.path.name, unit="step", disable=disable, mininterval=0.5)


def _tell(run: RunFolder, epoch: int, epochs: int, values: Mapping[str, float]) -> None:
    """A line an epoch; of many epochs, every few."""
    if (epoch + 1) % max(epochs // 20, 1) and epoch + 1 < epochs:
        return
    shown = "".join(f", {name} {100 * value:.1f}%" for name, value in values.items())
    with tqdm.external_write_mode(file=sys.stderr):
        say(f"{run.path.name}: epoch {epoch + 1}/{epochs}{shown}")


class _Meter:
    """Clips per second and the share of time spent waiting for data, of each step; looks and checkpoints do not count."""

    def __init__(self) -> None:
        self._began = self._arrived = time.perf_counter()

    def start(self) -> None:
        self._began = time.perf_counter()

    def loaded(self) -> None:
        self._arrived = time.perf_counter()

    def stepped(self, clips: int) -> dict[str, float]:
        whole = time.perf_counter() - self._began
        waited = self._arrived - self._began
        return {"samples_per_second": clips / whole, "data_wait_share": waited / whole}


_STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class StopSignal:
    """While it lasts, the first Ctrl-C, SIGTERM or SIGHUP only asks to stop; the second one ends the process at once.

    The loop looks at `requested` after each step, saves, and leaves. Signals reach a program's main thread only:
    elsewhere nothing is caught. Under `nohup`, SIGHUP stays ignored.

    >>> with StopSignal() as stop:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     stop.requested
    True
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            kinds = [kind for kind in _STOPPING if signal.getsignal(kind) != signal.SIG_IGN or kind == signal.SIGINT]
            self._previous = {kind: signal.signal(kind, self._handle) for kind in kinds}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for caught, handler in self._previous.items():
            signal.signal(caught, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            leave_at_once("videokd: stopped at once; the same command resumes from the last checkpoint.")
        self.requested = True
