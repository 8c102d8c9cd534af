"""The training loop: batch, teach, learn, record. Teachers train in it too: as students without teachers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any

import numpy as np
import torch

from videokd.distill.mixup import GroundTruth, counted_over, mixup, number_labelled
from videokd.messages import say
from videokd.models.students import Students
from videokd.runs.device import Precision
from videokd.runs.session import Session
from videokd.runs.settings import OptimSettings
from videokd.stopping import StopSignal
from videokd.training.ending import done_steps_kept
from videokd.training.record import Recorder
from videokd.training.run_state import Progress, RunState
from videokd.training.schedule import schedule_of
from videokd.training.target import TeacherTarget
from videokd.training.training_clips import TrainingClips
from videokd.training.validate import validate
from videokd.types import Batch

#: What a network may be compiled for: with and without gradients, two sizes of pieces and then any, features; and some room.
_VARIANTS = 16


def learn(
    state: RunState, clips: TrainingClips, target: TeacherTarget | None, *, optim: OptimSettings, session: Session
) -> None:
    """Trains students from where the run stands to its end, and writes `checkpoint.pt`, `best.pt` and the log.

    Args:
        state: the students, their update and the run's progress.
        clips: to train on, and to choose the best epoch with.
        target: the teachers; None trains only on labels (and peers).
        optim: how many epochs, the learning rate of each step, mixup, and when to stop early.
        session: the folder, the precision and the ranks.

    Raises:
        DataError: the checkpoint is damaged or of another architecture.
        ConfigError: the memory of the GPU is too small for a step; the steps before it are saved.
        LoadingEnded: no clips come any more; the steps before are saved.
        VideoKDError: a loss is no longer finite.
        KeyboardInterrupt: Ctrl-C, SIGTERM, SIGHUP or SIGUSR1, after the checkpoint is written.
    """
    students, precision, ranks = state.students.train(), session.precision, session.ranks
    progress = _start(state, target, optim=optim, precision=precision)
    schedule = schedule_of(optim, clips.steps_per_epoch)
    if len(progress.history) >= optim.epochs or progress.stopped_early:
        say(f"{session.folder.path}: trained already ({len(progress.history)} epochs).")
        return
    if progress.step:
        say(f"{session.folder.path}: resuming from step {progress.step}.")
    _say_pieces(optim.accumulate, ranks.share(clips.batch_size))
    batches = clips.batches(first_step=progress.step, ranks=ranks)
    recorder = Recorder(session, students, first_step=progress.step, total_steps=schedule.total_steps)
    kept = done_steps_kept(state, clips, optim=optim, session=session)
    # Workers end before signals are what they were
    with recorder, StopSignal(resumes=True) as stop, closing(batches), kept:
        _end_unvalidated_epoch(state, clips, recorder, optim=optim, session=session)
        while progress.step < schedule.total_steps and not progress.stopped_early:
            step, epoch = progress.step, progress.step // clips.steps_per_epoch
            state.begin_step()
            recorder.begin_step()
            batch, label = _take(batches, clips, step, optim=optim, session=session)
            recorder.batch_is_here()
            ranks.seed_step(clips.seed, step)

            goal = None if target is None else target(batch, label, precision)

            rate = schedule.rate(step)
            updated = state.update(batch, label, goal, rate=rate)
            state.average()
            progress.step += 1

            recorder.step(step, epoch, updated, label, goal.predictions if goal else {}, rate=rate)

            ends_epoch = progress.step % clips.steps_per_epoch == 0
            stopping, overdue = ranks.any_of(stop.requested, state.is_overdue(optim.save_minutes, validates=ends_epoch))
            if stopping or overdue:
                recorder.flush()
                state.save()
            if stopping:
                raise KeyboardInterrupt
            if ends_epoch:
                _end_epoch(state, clips, recorder, optim=optim, session=session)


def _start(state: RunState, target: TeacherTarget | None, *, optim: OptimSettings, precision: Precision) -> Progress:
    """Brings the teachers to the device, restores the checkpoint, and compiles the networks where that is asked for."""
    for network in target.networks if target else ():
        precision.prepared(network)
    progress = state.restore()
    if optim.compile:
        _compile(state.students, target, mode=None if optim.compile is True else optim.compile)
    return progress


def _say_pieces(pieces: int, clips: int) -> None:
    if pieces > clips:
        say(f"optim.accumulate is {pieces}, but a process has {clips} clips of each batch: they go through one by one.")


def _end_unvalidated_epoch(
    state: RunState, clips: TrainingClips, recorder: Recorder, *, optim: OptimSettings, session: Session
) -> None:
    """Validates the epoch that a resumed run had trained, where the memory was too small for the validation."""
    if state.progress.step // clips.steps_per_epoch > len(state.progress.history):
        _end_epoch(state, clips, recorder, optim=optim, session=session)


def _end_epoch(
    state: RunState, clips: TrainingClips, recorder: Recorder, *, optim: OptimSettings, session: Session
) -> None:
    """Validates the epoch that the last step ended, keeps its weights where they are the best, and saves."""
    recorder.flush()
    piece = -(-session.ranks.share(clips.batch_size) // optim.accumulate)
    with state.averaged(), _uncompiled() if optim.compile else nullcontext():
        validation = validate(
            state.students,
            clips.held_out,
            session.precision,
            workers=clips.workers,
            most_clips=piece,
            ranks=session.ranks,
        )
        state.end_epoch(validation, patience=optim.early_stop, ranks=session.ranks)
    progress = state.progress
    recorder.epoch(progress.step - 1, len(progress.history) - 1, optim.epochs, validation)
    state.save()


def _take(
    batches: Iterator[Batch], clips: TrainingClips, step: int, *, optim: OptimSettings, session: Session
) -> tuple[Batch, GroundTruth]:
    """The next batch on the device, its clips mixed in pairs where that is asked for, and its ground truth."""
    if optim.compile == "reduce-overhead":  # what CUDA graphs gave in the last step may be overwritten from here on
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
    ranks = session.ranks
    batch = next(batches).to(session.precision.device)
    label: GroundTruth = batch.label
    if optim.mixup:
        rng = np.random.default_rng((clips.seed, step, ranks.rank))
        batch, label = mixup(batch, alpha=optim.mixup, rng=rng)
    if clips.has_unlabelled:
        label = counted_over(label, ranks.mean({"": number_labelled(label)})[""])
    return batch, label


def _compile(students: Students, target: TeacherTarget | None, *, mode: str | None) -> None:
    networks = [*students.members.values(), *students.exits.values(), *(target.networks if target else ())]
    # Networks of one class share their code, and PyTorch's limit is for each piece of code: beyond it, it stops compiling.
    config: Any = torch._dynamo.config
    for limit in ("recompile_limit", "accumulated_recompile_limit"):
        setattr(config, limit, max(getattr(config, limit), _VARIANTS * len(networks)))
    for network in networks:
        network.compile(mode=mode)


def _uncompiled() -> AbstractContextManager[None]:
    """While it lasts, networks run as they are written: for validation they would all be compiled again, in evaluation mode."""
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance
