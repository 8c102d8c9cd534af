"""The training loop: batch, teach, learn, record. Teachers train in it too: as students without teachers."""

from __future__ import annotations

import signal
import threading
from contextlib import closing
from types import FrameType, TracebackType
from typing import Any

import numpy as np

from videokd.distill.mixup import GroundTruth, mixup
from videokd.files import leave_at_once
from videokd.messages import say
from videokd.models.backbone import channels_last
from videokd.models.students import Students
from videokd.runs.run_folder import Session
from videokd.runs.settings import OptimSettings
from videokd.training.record import Recorder
from videokd.training.run_state import RunState
from videokd.training.schedule import schedule_of
from videokd.training.target import TeacherTarget
from videokd.training.training_clips import TrainingClips
from videokd.training.validate import validate
from videokd.types import Batch

_STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


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
        VideoKDError: a loss is no longer finite.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after the checkpoint is written.
    """
    students, precision, ranks = state.students.train(), session.precision, session.ranks
    for network in target.networks if target else ():
        channels_last(network.to(precision.device))
    progress = state.restore()
    if optim.compile:
        _compile(students, target)
    schedule = schedule_of(optim, clips.steps_per_epoch)
    if progress.step >= schedule.total_steps or progress.stopped_early:
        say(f"{session.folder.path}: trained already ({len(progress.history)} epochs).")
        return
    if progress.step and ranks.is_first:
        say(f"{session.folder.path}: resuming from step {progress.step}.")
    batches = clips.batches(first_step=progress.step, ranks=ranks)
    recorder = Recorder(session, students, first_step=progress.step, total_steps=schedule.total_steps)
    with recorder, StopSignal() as stop, closing(batches):  # workers end before signals are what they were
        while progress.step < schedule.total_steps and not progress.stopped_early:
            recorder.begin_step()
            batch = next(batches).to(precision.device)
            batch, label = _mixed(batch, alpha=optim.mixup, seed=(clips.seed, progress.step, ranks.rank))
            recorder.batch_is_here()

            goal = None if target is None else target(batch, label, precision)

            rate = schedule.rate(progress.step)
            updated = state.update(batch, label, goal, rate=rate)
            state.average()

            epoch = progress.step // clips.steps_per_epoch
            recorder.step(progress.step, epoch, updated, batch.label, goal.predictions if goal else {}, rate=rate)
            progress.step += 1

            stopping, ends_epoch = ranks.any(stop.requested), progress.step % clips.steps_per_epoch == 0
            if ends_epoch:
                with state.averaged():
                    validation = validate(students, clips.held_out, precision, workers=clips.workers)
                    state.end_epoch(validation, patience=optim.early_stop, ranks=ranks)
                recorder.epoch(progress.step - 1, epoch, optim.epochs, validation)
            if ends_epoch or stopping:
                state.save()
            if stopping:
                raise KeyboardInterrupt


def _mixed(batch: Batch, *, alpha: float, seed: tuple[int, ...]) -> tuple[Batch, GroundTruth]:
    """The batch, its clips mixed in pairs where `alpha` is above 0, and its ground truth."""
    return mixup(batch, alpha=alpha, rng=np.random.default_rng(seed)) if alpha else (batch, batch.label)


def _compile(students: Students, target: TeacherTarget | None) -> None:
    networks = [*students.members.values(), *students.exits.values()]
    for network in [*networks, *(target.networks if target else ())]:
        network.compile()


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
