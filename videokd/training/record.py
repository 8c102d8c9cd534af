"""What a run records: the parts of its loss as numbers, its memory, and the log."""

from __future__ import annotations

import json
import math
import os
import resource
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import torch
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from torch import Tensor
from tqdm import tqdm

from videokd.distill.mixup import GroundTruth
from videokd.errors import DataError, VideoKDError
from videokd.files import write_whole
from videokd.messages import say
from videokd.models.students import Students
from videokd.runs.session import Session
from videokd.training.step_numbers import ReadSteps, StepNumbers, StepsOnDevice, accuracy_and_agreement
from videokd.training.update import Updated


def check_finite(parts: Mapping[str, float], *, step: int, streams: Mapping[str, Sequence[str]] | None = None) -> None:
    """Refuses a loss that is not finite.

    Args:
        parts: {name: number}; list the total last, as it does not tell which part is wrong.
        step: whose they are, for the error.
        streams: {student: the streams it sees}, for the error; a part's name starts with its student's.

    Raises:
        VideoKDError: one of the parts is not finite; it names the step, the first such part, and the streams of its student.

    >>> check_finite({"a/ce": 0.5}, step=3)
    """
    for name, value in parts.items():
        if not math.isfinite(value):
            seen = (streams or {}).get(name.partition("/")[0])
            where = f" (the student sees {', '.join(seen)})" if seen else ""
            raise VideoKDError(
                f"step {step}: {name} is {value}{where}. Lower the learning rate, warm up for longer, or pass `--precision fp32`; "
                "a checkpoint that was saved before is good."
            )


def memory_gib(device: torch.device) -> dict[str, float]:
    """What this process holds: `resident_gib` now, and on CUDA `cuda_peak_gib` since it began; workers count apart.

    >>> memory_gib(torch.device("cpu"))["resident_gib"] > 0
    True
    """
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        resident = pages * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # only Linux has it; elsewhere the peak stands in, which macOS gives in bytes
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = {"resident_gib": resident / 2**30}
    if device.type == "cuda":
        memory["cuda_peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return memory


class RunLog:
    """A run's log: one line of JSON per record in `log.jsonl`, and the same as TensorBoard events.

    Each line holds `step`, `epoch` and the values by name; a value that is not finite is null.

    Args:
        folder: of the run.
        resume_step: the step that the run continues after: later records, of a run that got further than its last
            checkpoint, are removed. Without it, a new log begins.
        writes: False for all ranks but the first: nothing is written.
    """

    def __init__(self, folder: str | os.PathLike[str], *, resume_step: int | None = None, writes: bool = True) -> None:
        self.path = Path(folder) / "log.jsonl"
        self._writes = writes
        if not writes:
            return
        kept = b"" if resume_step is None else _lines_until(self.path, resume_step)
        write_whole(self.path, kept)
        first_step = 0 if resume_step is None else resume_step + 1
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{time.time_ns()}"
        with self._writing():
            self._file = self.path.open("a", encoding="utf-8")
            self._events_file = (self.path.parent / name).open("ab")
            self._events = RecordWriter(self._events_file)
            # TensorBoard drops what an earlier start of the run wrote from this step on (its format's second version)
            self._add_event(Event(step=first_step, file_version="brain.Event:2"))
            self._add_event(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def record(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Adds one line, written through at once.

        Args:
            step: number of the step, from 0.
            epoch: number of the epoch, from 0.
            values: {name: number}.

        Raises:
            DataError: the line cannot be written, for example because the disk is full.
        """
        if not self._writes:
            return
        finite = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        # one event for all: an event each would cost more than the rest of the logging together
        scalars = [Summary.Value(tag=name, simple_value=float(value)) for name, value in values.items()]
        with self._writing():
            self._file.write(json.dumps({"step": step, "epoch": epoch} | finite, allow_nan=False) + "\n")
            self._file.flush()
            self._add_event(Event(step=step, summary=Summary(value=scalars)))

    def _add_event(self, event: Event) -> None:
        # Written here and not by TensorBoard's own thread, whose error on a full disk nobody could catch
        event.wall_time = time.time()
        self._events.write(event.SerializeToString())  # type: ignore[no-untyped-call]
        self._events_file.flush()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(
                f"{self.path} could not be written ({error.strerror or error}); a checkpoint that was saved before is good. Check free space and "
                "permissions, then run the same command to resume."
            ) from error

    def close(self) -> None:
        """Closes both files; also at the end of a `with` block."""
        if not self._writes:
            return
        for file in (self._file, self._events_file):
            with suppress(OSError):  # every line is written already; what could not be was told
                file.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _lines_until(path: Path, step: int) -> bytes:
    """The log's lines up to and with a step; a last line that was cut off while it was written is left out."""
    kept = []
    for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else []:
        try:
            if line.endswith(b"\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    return b"".join(kept)


class Recorder:
    """Records a training run: its log, a progress bar, and a line for each epoch.

    Args:
        session: the run's folder and ranks; only the first rank writes.
        students: for messages, which name the streams that a student sees.
        first_step: the step that the run starts or resumes at.
        total_steps: of the whole run.
        steps_at_once: how many steps are read from the device together, at most; by default it depends on the device.
    """

    def __init__(
        self,
        session: Session,
        students: Students,
        *,
        first_step: int,
        total_steps: int,
        steps_at_once: int | None = None,
    ) -> None:
        folder, self._ranks = session.folder.path, session.ranks
        self._name = folder.name
        self._streams = {name: spec.streams for name, spec in students.specs.items()}
        self._log = RunLog(folder, resume_step=first_step - 1, writes=self._ranks.is_first)
        # quiet where standard error is not a terminal: there a line for each epoch shows the progress
        hidden = None if self._ranks.is_first else True
        self._bar = tqdm(
            total=total_steps, initial=first_step, desc=folder.name, unit="step", disable=hidden, mininterval=0.5
        )
        self._device = session.precision.device
        self._steps = StepsOnDevice(self._device, session.ranks, most_steps=steps_at_once)
        self._of_pseudo_labels = dict[str, float]()  # {part of the loss: its largest value in the first epoch}

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.flush()
            else:  # other ranks may be elsewhere, and the error that ends the run is the one to tell
                with suppress(Exception):
                    self._write(self._steps.read(exchange=False))
        finally:
            self._bar.close()
            self._log.close()

    def begin_step(self) -> None:
        """Starts the clock of a step; validation and checkpoints are not counted."""
        self._steps.begin_step()

    def batch_is_here(self) -> None:
        """Ends the time spent waiting for data."""
        self._steps.batch_is_here()

    def step(
        self,
        step: int,
        epoch: int,
        updated: Updated,
        label: GroundTruth,
        teacher_predictions: Mapping[str, Tensor],
        *,
        rate: float,
    ) -> None:
        """Records one step; its numbers stay on the device until a block of steps is read and written.

        Args:
            step: its number, from 0.
            epoch: number of its epoch, from 0.
            updated: loss, parts and predictions.
            label: the batch's own, or those of its mixture, of which the clips themselves count.
            teacher_predictions: {teacher: int64 [B]}.
            rate: the learning rate.

        Raises:
            VideoKDError: a part of the loss is not finite, of this step or of one since the last block.
            DataError: the log cannot be written.
        """
        losses = {**updated.parts, "loss/total": updated.total}
        itself = label if isinstance(label, Tensor) else label.label
        others = accuracy_and_agreement(updated, label, teacher_predictions)
        if self._steps.keep(StepNumbers(step, epoch, rate, len(itself), losses, others)):
            self.flush()

    def flush(self) -> None:
        """Writes the steps that are still on the device: before a validation and a checkpoint, on all ranks alike.

        Raises:
            VideoKDError: a part of the loss is not finite.
            DataError: the log cannot be written.
        """
        self._write(self._steps.read())

    def _write(self, read: ReadSteps | None) -> None:
        if read is None:
            return
        beside = {"samples_per_second": read.clips_per_second, "data_wait_share": read.data_wait_share}
        beside |= memory_gib(self._device)
        for each, values in zip(read.steps, read.values, strict=True):
            check_finite({name: values[name] for name in each.losses}, step=each.step, streams=self._streams)
            # a batch without a label has no accuracy
            there = {name: v for name, v in values.items() if not (name.endswith("/train_top1") and math.isnan(v))}
            self._log.record(each.step, each.epoch, there | {"lr": each.rate} | beside)
            for name in (name for name in each.losses if name.endswith("/hard") and not each.epoch):
                self._of_pseudo_labels[name] = max(values[name], self._of_pseudo_labels.get(name, 0.0))
        last = read.steps[-1]
        self._bar.set_postfix_str(f"epoch {last.epoch + 1} loss {read.values[-1]['loss/total']:.3f}", refresh=False)
        self._bar.update(len(read.steps))

    def values(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Records further numbers of a step.

        Args:
            step: its number, from 0.
            epoch: number of its epoch, from 0.
            values: {name: number}.
        """
        self._log.record(step, epoch, values)

    def epoch(self, step: int, epoch: int, epochs: int, validation: Mapping[str, float]) -> None:
        """Records the validation of an epoch, and prints a line; of many epochs, for every few.

        Args:
            step: the epoch's last one.
            epoch: its number, from 0.
            epochs: how many there are.
            validation: {name: accuracy as a fraction}; may be empty.
        """
        if validation:
            self._log.record(step, epoch, validation)
        self._say_where_no_clip_counted(epoch)
        rarely = (epoch + 1) % max(epochs // 20, 1) and epoch + 1 < epochs
        if rarely or not self._ranks.is_first:
            return
        shown = "".join(f", {name} {100 * value:.1f}%" for name, value in validation.items())
        with tqdm.external_write_mode(file=sys.stderr):
            say(f"{self._name}: epoch {epoch + 1}/{epochs}{shown}")

    def _say_where_no_clip_counted(self, epoch: int) -> None:
        """Teachers are as sure in later epochs as in the first: a threshold that no clip reached then is too high."""
        if epoch or any(self._of_pseudo_labels.values()) or not self._of_pseudo_labels or not self._ranks.is_first:
            return
        with tqdm.external_write_mode(file=sys.stderr):
            say(
                f"{self._name}: no clip of the first epoch had a pseudo-label, as the teachers were never as sure as objective.confidence asks: "
                "students learned nothing from them. Lower it."
            )
