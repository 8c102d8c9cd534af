"""What surrounds a training loop: seed, device, precision, the run's folder and log, and how to stop it."""

from __future__ import annotations

import json
import math
import os
import random
import resource
import signal
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal

import numpy as np
import torch
import yaml
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from torch import Tensor
from torch.utils.tensorboard.writer import FileWriter

from videokd.errors import ConfigError, DataError, VideoKDError
from videokd.files import write_whole


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and PyTorch, on every device.

    Args:
        seed: 0 to 2**32 − 1.

    >>> seed_everything(7); a = torch.rand(1); seed_everything(7); bool(a == torch.rand(1))
    True
    """
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed is {seed} (accepted: 0 to {2**32 - 1}). Choose another one.")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def pick_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device to compute on; `auto` is CUDA where there is one.

    Raises:
        ConfigError: the name is unknown, or CUDA is asked for and not there.

    >>> pick_device("cpu")
    device(type='cpu')
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device is {name!r} (accepted: auto, cpu, cuda). Choose one of them.")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device is cuda, but PyTorch finds no CUDA device (accepted: auto, cpu). Pass `--device cpu`."
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


@dataclass(frozen=True)
class Precision:
    """The number format that networks compute in; weights and losses stay in float32.

    Args:
        name: `fp32`, `bf16`, or `fp16`, whose gradients need scaling.
        device: where the networks are.

    Raises:
        ConfigError: the name is unknown, or fp16 is asked for on a CPU.

    >>> precision = Precision("bf16", torch.device("cpu"))
    >>> with precision.autocast():
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.bfloat16
    >>> precision.scaler().is_enabled()
    False
    """

    name: Literal["fp32", "bf16", "fp16"]
    device: torch.device

    def __post_init__(self) -> None:
        if self.name not in ("fp32", "bf16", "fp16"):
            raise ConfigError(f"precision is {self.name!r} (accepted: fp32, bf16, fp16). Choose one of them.")
        if self.name == "fp16" and self.device.type != "cuda":
            raise ConfigError(
                f"precision is fp16 on {self.device.type} (accepted: fp32, bf16; fp16 on cuda only). "
                "Pass `--precision bf16`."
            )

    def autocast(self) -> torch.autocast:
        """A new context for the forward passes; it does nothing for fp32."""
        dtype = torch.float16 if self.name == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.name != "fp32")

    def scaler(self) -> torch.amp.GradScaler:
        """A new gradient scaler; it passes everything through but for fp16, so the loop needs no `if`."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")


def finite_values(
    parts: Mapping[str, Tensor],
    *,
    step: int,
    streams: Mapping[str, Sequence[str]] | None = None,
    beside: Mapping[str, Tensor] | None = None,
) -> dict[str, float]:
    """The parts of a loss as numbers, in one transfer from the device.

    Args:
        parts: {name: scalar}; the total, if it is among them, best comes last, as it only sums up what is wrong.
        step: the present one, for the error.
        streams: {student: the streams it sees}, for the error; a part's name starts with its student's.
        beside: further scalars for the same transfer, which may be anything: fp16's gradients are infinite until their scale is found.

    Returns:
        {name: number}, of both.

    Raises:
        VideoKDError: one of the parts is not finite; it names the step, the first such part, and the streams of its student.

    >>> finite_values({"a/ce": torch.tensor(0.5)}, step=3)
    {'a/ce': 0.5}
    """
    together = {**(beside or {}), **parts}
    if not together:
        return {}
    numbers = torch.stack([value.detach().float() for value in together.values()]).tolist()
    values = dict(zip(together, numbers, strict=True))
    for name in parts:
        if not math.isfinite(value := values[name]):
            seen = (streams or {}).get(name.partition("/")[0])
            where = f" (the student sees {', '.join(seen)})" if seen else ""
            raise VideoKDError(
                f"step {step}: {name} is {value}{where}. Lower the learning rate, warm up for longer, or pass `--precision fp32`; "
                "the last checkpoint is good."
            )
    return values


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
            checkpoint, are removed. Without it, the log starts anew.
        writes: False for all ranks but the first: nothing is written.
    """

    def __init__(self, folder: str | os.PathLike[str], *, resume_step: int | None = None, writes: bool = True) -> None:
        self.path = Path(folder) / "log.jsonl"
        self._writes = writes
        if not writes:
            return
        kept = b"" if resume_step is None else _lines_until(self.path, resume_step)
        write_whole(self.path, kept)
        self._file = self.path.open("a", encoding="utf-8")
        first_step = 0 if resume_step is None else resume_step + 1
        self._events = FileWriter(str(folder))
        # TensorBoard drops what an earlier start of the run wrote from this step on (its format's second version)
        self._events.add_event(Event(step=first_step, file_version="brain.Event:2"))
        self._events.add_event(Event(step=first_step, session_log=SessionLog(status=SessionLog.START)))

    def record(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Adds one line, written through at once.

        Args:
            step: number of the step, from 0.
            epoch: number of the epoch, from 0.
            values: {name: number}.
        """
        if not self._writes:
            return
        finite = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, "epoch": epoch} | finite, allow_nan=False) + "\n")
        self._file.flush()
        # one event for all: an event each would cost more than the rest of the logging together
        scalars = [Summary.Value(tag=name, simple_value=float(value)) for name, value in values.items()]
        self._events.add_summary(Summary(value=scalars), step)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Closes both files; also at the end of a `with` block."""
        if not self._writes:
            return
        self._file.close()
        self._events.close()  # type: ignore[no-untyped-call]

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


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes, and what its files are called.

    Args:
        path: the folder; it need not be there yet.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved settings, enough to run it again."""
        return self.path / "config.yaml"

    @property
    def checkpoint(self) -> Path:
        """Everything that is needed to resume."""
        return self.path / "checkpoint.pt"

    @property
    def best(self) -> Path:
        """The state that did best on the validation part."""
        return self.path / "best.pt"

    def prepare(self, settings: Mapping[str, Any], *, may_differ: Collection[str] = (), writes: bool = True) -> bool:
        """Makes the folder and writes the settings, unless a run with other settings is there.

        A folder without a checkpoint holds nothing to lose, so its settings are replaced.

        Args:
            settings: nested mappings, sequences, numbers, strings and paths.
            may_differ: dotted names of settings that a resumed run may change, such as the number of workers.
            writes: False for all ranks but the first, which call this after it: the folder is checked only.

        Returns:
            Whether there is a checkpoint to resume from.

        Raises:
            ConfigError: a run with other settings is there, or the path is a file.
            DataError: its settings cannot be read.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(
                f"{self.path} is a file (accepted: a folder, new or of the same run). Choose another --out."
            )
        if writes:
            self.path.mkdir(parents=True, exist_ok=True)
        plain = _plain(settings)
        resumes = self.checkpoint.is_file()
        if resumes:
            self._check_same(plain, may_differ=may_differ)
        if writes:
            text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
            write_whole(self.config, text.encode())
        return resumes

    def _check_same(self, settings: Mapping[str, Any], *, may_differ: Collection[str]) -> None:
        try:
            before = _flat(yaml.safe_load(self.config.read_text(encoding="utf-8")))
        except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
            raise DataError(f"{self.config}, beside a checkpoint, cannot be read. Choose another --out.") from error
        now = _flat(settings)
        for name in [*now, *before]:
            if name not in may_differ and before.get(name) != now.get(name):
                raise ConfigError(
                    f"{self.path} holds a run with {name} {before.get(name)}, not {now.get(name)}. Choose another --out, or "
                    "pass the same settings to resume that run."
                )


def _plain(value: Any) -> Any:
    """The value as YAML can hold it: the same after writing and reading."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, os.PathLike) else value


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


class StopSignal:
    """While it lasts, the first Ctrl-C or SIGTERM only asks to stop; the second one does, with KeyboardInterrupt.

    The loop looks at `requested` after each step, saves, and leaves. Signals reach a program's main thread only:
    elsewhere nothing is caught.

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
            self._previous = {kind: signal.signal(kind, self._handle) for kind in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for caught, handler in self._previous.items():
            signal.signal(caught, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
