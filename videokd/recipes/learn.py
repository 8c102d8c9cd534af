"""The one training loop: batch, teach, learn, record. Teachers train in it too: as students without teachers."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from videokd.datasets.dataset import ClipDataset, EpochBatches, evaluation_batches, training_batches
from videokd.distill.calibration import confidence_weights
from videokd.distill.fusion import fuse
from videokd.distill.mixup import Label, mixup
from videokd.distill.objective import Objective
from videokd.errors import ConfigError, VideoKDError
from videokd.messages import say
from videokd.models.backbone import channels_last
from videokd.models.students import Students
from videokd.models.teachers import Teachers
from videokd.recipes.run_state import Progress, RunState
from videokd.recipes.settings import DataSettings, OptimSettings
from videokd.recipes.training_clips import TrainingClips
from videokd.recipes.update import Update, Updated, UpdateOrder
from videokd.training.ranks import Ranks
from videokd.training.record import RunLog, finite_values, memory_gib
from videokd.training.run_folder import RunFolder
from videokd.training.schedule import EMA, learning_rate
from videokd.training.session import Precision, StopSignal
from videokd.types import NO_LABEL, Batch

_EVALUATION_BATCH = 16


Weighting = Literal["fixed", "confidence"]


@dataclass(frozen=True)
class Target:
    """What the students are taught by.

    Args:
        teachers: the frozen networks.
        weights: {teacher: w}.
        temperatures: {teacher: T} that its logits are divided by.
        weighting: the weights alone, or times each teacher's confidence in the right label.
        space: fuse logits or probabilities.
        temperature: of fusing probabilities.
    """

    teachers: Teachers
    weights: Mapping[str, float]
    temperatures: Mapping[str, float]
    weighting: Weighting = "fixed"
    space: Literal["logits", "probs"] = "logits"
    temperature: float = 1.0

    @torch.no_grad()
    def __call__(self, batch: Batch, label: Label, precision: Precision) -> tuple[Tensor, dict[str, Tensor]]:
        """The fused logits of a batch, [B, K]; {teacher: the class it takes each clip for, int64 [B]}."""
        with precision.autocast():
            logits = self.teachers(batch)
        logits = {name: values.float() / self.temperatures[name] for name, values in logits.items()}
        weights: dict[str, float | Tensor] = dict(self.weights)
        if self.weighting == "confidence":
            weights = {name: self.weights[name] * c for name, c in confidence_weights(logits, label).items()}
        fused = fuse(logits, weights, space=self.space, temperature=self.temperature)
        return fused, {name: values.argmax(1) for name, values in logits.items()}


def learn(
    students: Students,
    *,
    target: Target | None,
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
            label: Label = batch.label
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
                    seen = _look(students, clips.held_out, precision, workers=data.workers)
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


def _compile(students: Students, target: Target | None) -> None:
    networks = [*students.members.values(), *students.exits.values()]
    for network in [*networks, *(target.teachers.networks.values() if target else ())]:
        network.compile()


def _place(students: Students, target: Target | None, device: torch.device) -> None:
    """Channels last: convolutions of small pictures run up to twice as fast, on CPU and CUDA."""
    channels_last(students.to(device)).train()
    if target is not None:
        channels_last(target.teachers.to(device))


def streams_to_load(students: Students, target: Target | None) -> tuple[str, ...]:
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


def _look(students: Students, held_out: ClipDataset | None, precision: Precision, *, workers: int) -> dict[str, float]:
    """{"val/top1": of the fused prediction, "val/<student>": of each, if there are several}, as fractions."""
    if held_out is None:
        return {}
    hits: dict[str, int] = {}
    batches = evaluation_batches(held_out, batch_size=_EVALUATION_BATCH, workers=workers)
    for logits, label in predict_batches(students, batches, precision):
        for name, values in logits.items():
            hits[name] = hits.get(name, 0) + int((values.argmax(1) == label).sum())
    shares = {name: count / len(held_out) for name, count in hits.items()}
    fused = {"val/top1": shares.pop("fused")}
    return fused if len(shares) == 1 else fused | {f"val/{name}": share for name, share in shares.items()}


def check_logits(logits: Mapping[str, Tensor], *, video_ids: Sequence[str]) -> None:
    """Refuses predictions that are not finite: the largest of them would be taken for a class.

    Args:
        logits: {student: [B, K]}.
        video_ids: B names.

    Raises:
        VideoKDError: names the student and the video.
    """
    for name, values in logits.items():
        broken = (~values.isfinite().all(dim=1)).nonzero().flatten().tolist()
        if broken:
            raise VideoKDError(
                f"{name}'s logits for {video_ids[broken[0]]} are not finite: it has diverged, or its precision is too low. Train with a lower "
                "learning rate or a longer warm-up, or pass `--precision fp32`."
            )


def predict_batches(
    students: Students, batches: Iterator[Batch], precision: Precision, *, num_views: int = 1, with_exits: bool = False
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """({student: logits [B, K], "fused": theirs together}, labels) of each batch, on the CPU, in evaluation mode.

    Of `num_views` crops the logits' mean is taken; networks that see the segments' order see that of one crop at a time. With
    exits, there are `student:exit1` and so on beside the students.
    """
    was_training = students.training
    students.eval()
    try:
        for batch in batches:
            with torch.no_grad(), precision.autocast():
                logits = students.logits(batch.to(precision.device).streams, num_views=num_views, with_exits=with_exits)
            logits = {name: values.float().cpu() for name, values in logits.items()}
            check_logits(logits, video_ids=batch.video_ids)
            deepest = {name: logits[name] for name in students.weights}
            fused = fuse(deepest, students.weights, space=students.space)  # type: ignore[arg-type]
            yield logits | {"fused": fused}, batch.label.cpu()
    finally:
        students.train(was_training)
