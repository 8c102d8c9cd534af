"""The signals that end a run early: what the main process does on them, and that the processes which load clips ignore them."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from videokd.files import leave_at_once

#: Ctrl-C, what batch systems send (SLURM sends SIGUSR1 ahead of its time limit where it is asked to), and a closed terminal.
_KINDS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, n)]
#: `timeout` and torchrun pass a signal on to processes that their group has given it already: two within this time are one.
_ONE_REQUEST_SECONDS = 2.0


class StopSignal:
    """While it lasts, Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 only ask to stop; a second Ctrl-C ends the process at once.

    The loop looks at `requested` after each step, saves, and leaves. Signals reach a program's main thread only:
    elsewhere nothing is caught. Under `nohup`, SIGHUP stays ignored.

    Args:
        resumes: the same command resumes from a checkpoint; what is printed at a second Ctrl-C says so.

    >>> with StopSignal() as stop:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     stop.requested
    True
    """

    def __init__(self, *, resumes: bool = False) -> None:
        self.requested = False
        promise = "; the same command resumes from the last checkpoint" if resumes else ""
        self._last_line = f"videokd: stopped at once{promise}."
        self._first_at: float | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            kinds = [kind for kind in _KINDS if signal.getsignal(kind) != signal.SIG_IGN or kind == signal.SIGINT]
            self._previous = {kind: signal.signal(kind, self._handle) for kind in kinds}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for caught, handler in self._previous.items():
            signal.signal(caught, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._first_at is None:
            self._first_at = now
        elif number == signal.SIGINT and now - self._first_at > _ONE_REQUEST_SECONDS:
            leave_at_once(self._last_line)
        self.requested = True


@contextmanager
def one_interrupt() -> Iterator[None]:
    """While it lasts, one Ctrl-C interrupts; a second one ends the process at once, or is the same request if it follows at once.

    So what leaves after an interruption, such as a pool of processes, is not interrupted itself. After an interruption, the process is
    expected to end, and this lasts until then.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield
        return
    first_at: float | None = None

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first_at
        now = time.monotonic()
        if first_at is None:
            first_at = now
            raise KeyboardInterrupt
        if now - first_at > _ONE_REQUEST_SECONDS:
            leave_at_once("videokd: stopped at once.")

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        if first_at is None:
            signal.signal(signal.SIGINT, before)


@contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Blocks these signals in this process and in those started meanwhile, until these ignore them."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _KINDS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_stop_signals(worker: int) -> None:
    """Ignores these signals in a worker: the main process still needs it to finish its step and save.

    Args:
        worker: its number, which loaders pass.
    """
    for kind in _KINDS:
        signal.signal(kind, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _KINDS)
