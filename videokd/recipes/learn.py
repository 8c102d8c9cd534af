"""The one training loop: batch, teach, learn, record. Teachers train in it too: as students without teachers."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from videokd.datasets.dataset import ClipDataset, EpochBatches, evaluation_batches, training_batches
from videokd.datasets.manifest import Manifest
from videokd.distill.fusion import fuse
from videokd.distill.objective import Objective
from videokd.errors import DataError
from videokd.models.students import Students
from videokd.models.teachers import Teachers
from videokd.recipes.command_line import say
from videokd.recipes.settings import DataSettings, OptimSettings
from videokd.training.checkpoint import capture_rng, load_checkpoint, restore_rng, save_checkpoint, strict_load
from videokd.training.schedule import EMA, build_optimizer, learning_rate, set_learning_rate
from videokd.training.session import Precision, RunFolder, RunLog, StopSignal, finite_values

_EVALUATION_BATCH = 16


@dataclass(frozen=True)
class Target:
    """What the students are taught by.

    Args:
        teachers: the frozen networks.
        weights: {teacher: w}.
        space: fuse logits or probabilities.
        temperature: of fusing probabilities.
    """

    teachers: Teachers
    weights: Mapping[str, float]
    space: Literal["logits", "probs"]
    temperature: float


@dataclass
class Progress:
    """Where a run stands; what its checkpoint holds beside the weights."""

    step: int = 0
    best_top1: float = -1.0
    best_epoch: int = -1
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def learn(
    students: Students,
    *,
    target: Target | None,
    objective: Objective,
    manifest: Manifest,
    split: int,
    seed: int,
    data: DataSettings,
    optim: OptimSettings,
    precision: Precision,
    run: RunFolder,
    role: Literal["teacher", "student"],
) -> None:
    """Trains students from where the run stands to its end, and writes `checkpoint.pt`, `best.pt` and the log.

    Args:
        students: freshly built.
        target: the teachers; None trains on labels (and peers) alone.
        objective: the loss.
        manifest: the clips.
        split: 1, 2 or 3.
        seed: of order and views.
        data: what the networks see.
        optim: how they are trained.
        precision: fp32, bf16 or fp16, and the device.
        run: the folder, prepared.
        role: what the trained networks are, for those who read the run.

    Raises:
        DataError: no clip to train on, or the checkpoint is damaged or of another architecture.
        VideoKDError: a loss is no longer finite.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after the checkpoint is written.
    """
    device = precision.device
    teachers = None if target is None else target.teachers.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    students.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    streams = tuple(dict.fromkeys((*students.streams, *(teachers.streams if teachers else ()))))
    fit, held_out = _parts(manifest, streams, split=split, seed=seed, data=data)

    optimizer = build_optimizer(
        students.parameter_groups(
            weight_decay=optim.weight_decay, body_factor=optim.body_factor, input_factor=optim.input_factor
        ),
        name=optim.name,
        learning_rate=optim.lr,
        epsilon=optim.epsilon,
    )
    scaler = precision.scaler()
    ema = EMA(students, decay=optim.ema) if optim.ema else None
    state = _State(students, optimizer, scaler, ema, run, role)
    progress = state.restore() if run.checkpoint.is_file() else Progress()

    order = EpochBatches(len(fit), data.batch_size, seed=seed, first_step=progress.step)
    total_steps = optim.epochs * order.steps_per_epoch
    if progress.step >= total_steps:
        say(f"{run.path}: trained already ({optim.epochs} epochs).")
        return
    batches = training_batches(fit, order, workers=data.workers, pin_memory=device.type == "cuda")
    resume_step = progress.step - 1 if progress.step else None
    with (
        RunLog(run.path, resume_step=resume_step) as log,
        StopSignal() as stop,
        _bar(total_steps, progress.step, run) as bar,
    ):
        meter = _Meter()
        while progress.step < total_steps:
            batch = next(batches).to(device)
            meter.loaded()

            with torch.no_grad(), precision.autocast():
                fused = None
                if target is not None and teachers is not None:
                    fused = fuse(
                        teachers(batch), dict(target.weights), space=target.space, temperature=target.temperature
                    )

            rate = _rate(progress.step, order.steps_per_epoch, optim)
            set_learning_rate(optimizer, rate)
            with precision.autocast():
                outputs = students(batch)
            total, parts = objective(outputs, fused, batch.label)
            norm = _step(total, students, optimizer, scaler, clip_norm=optim.clip_norm)
            if ema is not None:
                ema.update(students)

            epoch = progress.step // order.steps_per_epoch
            values = finite_values({"loss/total": total.detach()} | parts, step=progress.step)
            agreement = _accuracy(outputs, batch.label)
            log.record(
                progress.step,
                epoch,
                values | agreement | {"lr": rate, "gradient_norm": norm} | meter.stepped(len(batch)),
            )
            progress.step += 1
            bar.update()
            bar.set_postfix_str(f"epoch {epoch + 1}/{optim.epochs} loss {values['loss/total']:.3f}", refresh=False)

            ends_epoch = progress.step % order.steps_per_epoch == 0
            if ends_epoch:
                state.end_epoch(progress, log, held_out, precision, epochs=optim.epochs, workers=data.workers)
            stopping = stop.requested
            if ends_epoch or stopping:
                state.save(progress)
            if stopping:
                raise KeyboardInterrupt


def _parts(
    manifest: Manifest, streams: tuple[str, ...], *, split: int, seed: int, data: DataSettings
) -> tuple[ClipDataset, ClipDataset | None]:
    """The clips to fit, as training views, and those held out, if any."""

    def dataset(part: Literal["train", "fit", "val"], views: Literal["training", "quick"]) -> ClipDataset:
        return ClipDataset(
            manifest,
            manifest.select(part, split=split, val_fraction=data.val_fraction, seed=0),
            streams,
            num_segments=data.num_segments,
            input_size=data.input_size,
            views=views,
            seed=seed,
            blank_invalid=data.blank_invalid,
        )

    fit = dataset("fit" if data.val_fraction else "train", "training")
    if not len(fit):
        raise DataError(
            f"{manifest.root}: split {split} has no clip to train on (accepted: one or more). Check the manifest."
        )
    return fit, dataset("val", "quick") if data.val_fraction else None


def _rate(step: int, steps_per_epoch: int, optim: OptimSettings) -> float:
    return learning_rate(
        step,
        total_steps=optim.epochs * steps_per_epoch,
        base=optim.lr,
        warmup_steps=round(optim.warmup_epochs * steps_per_epoch),
        schedule=optim.schedule,
        milestones=[round(epoch * steps_per_epoch) for epoch in optim.milestones],
        factor=optim.factor,
    )


def _step(
    total: Tensor,
    students: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    *,
    clip_norm: float,
) -> float:
    """Scale, backward, unscale, clip, step, update. Returns the length of the gradient before clipping."""
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(total).backward()  # type: ignore[no-untyped-call]
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(students.parameters(), clip_norm or float("inf"))
    scaler.step(optimizer)
    scaler.update()
    return float(norm)


def _accuracy(outputs: Mapping[str, Any], label: Tensor) -> dict[str, float]:
    return {
        f"{name}/train_top1": (output.logits.argmax(1) == label).float().mean().item()
        for name, output in outputs.items()
    }


def _bar(total: int, done: int, run: RunFolder) -> tqdm[Any]:
    """Quiet where standard error is no terminal: there a line an epoch tells how far it is."""
    return tqdm(total=total, initial=done, desc=run.path.name, unit="step", disable=None, mininterval=0.5)


class _Meter:
    """Clips per second and the share of time spent waiting for data, from one step to the next."""

    def __init__(self) -> None:
        self._last = self._arrived = time.perf_counter()

    def loaded(self) -> None:
        self._arrived = time.perf_counter()

    def stepped(self, clips: int) -> dict[str, float]:
        now = time.perf_counter()
        whole = now - self._last
        waited = self._arrived - self._last
        self._last = now
        return {"samples_per_second": clips / whole, "data_wait_share": waited / whole}


class _State:
    """What a checkpoint holds, and how it is written and read."""

    def __init__(
        self,
        students: Students,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        ema: EMA | None,
        run: RunFolder,
        role: str,
    ) -> None:
        self._students, self._optimizer, self._scaler, self._ema = students, optimizer, scaler, ema
        self._run, self._role = run, role
        self._started = time.perf_counter()

    def save(self, progress: Progress) -> None:
        """Writes `checkpoint.pt`: everything needed to resume."""
        now = time.perf_counter()
        progress.seconds += now - self._started
        self._started = now
        payload = {
            "students": self._students.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "ema": self._ema.state_dict() if self._ema else None,
            "progress": vars(progress),
            "rng": capture_rng(),
        }
        save_checkpoint(self._run.checkpoint, payload)

    def restore(self) -> Progress:
        """Takes up `checkpoint.pt`."""
        payload = load_checkpoint(self._run.checkpoint)
        strict_load(self._students, payload["students"], path=self._run.checkpoint)
        self._optimizer.load_state_dict(payload["optimizer"])
        self._scaler.load_state_dict(payload["scaler"])
        if self._ema is not None:
            self._ema.load_state_dict(payload["ema"])
        restore_rng(payload["rng"])
        progress = Progress(**payload["progress"])
        say(f"{self._run.path}: going on from step {progress.step}.")
        return progress

    def end_epoch(
        self,
        progress: Progress,
        log: RunLog,
        held_out: ClipDataset | None,
        precision: Precision,
        *,
        epochs: int,
        workers: int,
    ) -> None:
        """Looks at the held-out clips, and keeps the weights if they are the best so far (or the last, without any)."""
        epoch = len(progress.history)
        values: dict[str, float] = {}
        with _averaged(self._students, self._ema):
            if held_out is not None:
                values = _held_out_top1(self._students, held_out, precision, workers=workers)
                log.record(progress.step - 1, epoch, values)
            progress.history.append(values)
            top1 = values.get("val/top1", -1.0)
            if top1 >= progress.best_top1:
                progress.best_top1, progress.best_epoch = top1, epoch
                self._keep(epoch, values)
        _tell(self._run, epoch, epochs, values)

    def _keep(self, epoch: int, values: Mapping[str, float]) -> None:
        exported = {k: v for k, v in self._students.state_dict().items() if not k.startswith("exits.")}
        payload = {
            "role": self._role,
            "description": self._students.description(),
            "state": exported,
            "epoch": epoch,
            "validation": dict(values),
        }
        save_checkpoint(self._run.best, payload)


def _tell(run: RunFolder, epoch: int, epochs: int, values: Mapping[str, float]) -> None:
    shown = ", ".join(f"{name} {100 * value:.1f}%" for name, value in values.items())
    line = f"{run.path.name}: epoch {epoch + 1}/{epochs}" + (f", {shown}" if shown else "")
    tqdm.write(line, file=sys.stderr)


@contextmanager
def _averaged(students: Students, ema: EMA | None) -> Iterator[None]:
    """While it lasts, the moving average stands in the place of the weights."""
    if ema is None:
        yield
        return
    own = {name: value.clone() for name, value in students.state_dict().items()}
    ema.copy_to(students)
    try:
        yield
    finally:
        students.load_state_dict(own)


def _held_out_top1(
    students: Students, held_out: ClipDataset, precision: Precision, *, workers: int
) -> dict[str, float]:
    """{"val/top1": of the fused prediction, "val/<student>": of each, if there are several}, as fractions."""
    hits: dict[str, int] = {}
    for logits, label in predict_batches(
        students, evaluation_batches(held_out, batch_size=_EVALUATION_BATCH, workers=workers), precision
    ):
        for name, values in logits.items():
            hits[name] = hits.get(name, 0) + int((values.argmax(1) == label).sum())
    shares = {name: count / len(held_out) for name, count in hits.items()}
    fused = {"val/top1": shares.pop("fused")}
    return fused if len(shares) == 1 else fused | {f"val/{name}": share for name, share in shares.items()}


def predict_batches(
    students: Students, batches: Iterator[Any], precision: Precision
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """({student: logits [B, K], "fused": theirs together}, labels) of each batch, on the CPU, in evaluation mode."""
    was_training = students.training
    students.eval()
    try:
        for batch in batches:
            with torch.no_grad(), precision.autocast():
                logits = students.logits(batch.to(precision.device).streams)
            logits = {name: values.float().cpu() for name, values in logits.items()}
            fused = fuse(logits, students.weights, space=students.space)  # type: ignore[arg-type]
            yield logits | {"fused": fused}, batch.label.cpu()
    finally:
        students.train(was_training)
