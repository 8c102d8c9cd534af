"""How processes that load clips are started: where a run has several processes, never as a copy of one of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from types import ModuleType

import torch.distributed as dist

from videokd.errors import DataError
from videokd.stopping import ignore_stop_signals, stop_signals_blocked

_SERVER = "forkserver"


class LoadingEnded(DataError):
    """No clips come any more, although none of them is at fault: their processes were killed, or hang."""


def start_server() -> None:
    """Starts the process that later ones, which load clips, are copies of; it imports what they need meanwhile.

    It is a program of its own, with a single thread. A copy of this process could hang from its first moment: the threads with which
    gloo and NCCL connect processes lock Python's list of threads at any time, and a copy that is made meanwhile finds it locked for
    ever (CPython before 3.12, `PyOS_AfterFork_Child`).
    """
    if _SERVER not in multiprocessing.get_all_start_methods():
        return
    multiprocessing.get_context(_SERVER).set_forkserver_preload(["videokd.datasets.batches"])
    # What is sent to the whole group of processes must not end the servers: they inherit what is blocked here.
    with stop_signals_blocked():
        resource_tracker.ensure_running()  # in some versions of Python this unblocks signals, hence a block of its own
    with stop_signals_blocked():
        forkserver.ensure_running()


def start_method() -> str | None:
    """How to start a process that loads clips: from the server where this process is one of several that are connected.

    A single process has no other threads that take Python's locks unasked: those of autograd, tqdm and pinned memory
    do so when they start, or hold the interpreter's lock while they do, as the process that forks does. So it is copied, which is faster and
    hands over datasets of any kind.
    """
    if dist.is_available() and dist.is_initialized() and _SERVER in multiprocessing.get_all_start_methods():
        return _SERVER
    return "fork" if sys.platform == "linux" else None


def begin(worker: int) -> None:
    """What a process does before it loads its first clip: it leaves signals to the main process, and ends when that ends, in whatever way.

    Args:
        worker: its number, which loaders pass.
    """
    ignore_stop_signals(worker)
    main = multiprocessing.parent_process()
    if (
        main is not None and main.pid != os.getppid()
    ):  # PyTorch watches the server, which stays as long as there are copies of it
        threading.Thread(target=_end_after, args=(main,), daemon=True).start()


def _end_after(main: BaseProcess) -> None:
    main.join()
    os._exit(1)


@contextmanager
def starting() -> Iterator[None]:
    """For the moment in which a loader starts its processes: they leave signals that stop a training to this one, and this one's script alone."""
    if start_method() == _SERVER:
        start_server()  # it has ended, or nobody knew before that it would be needed
    with stop_signals_blocked(), _handler_of_ended_children_kept(), _script_hidden():
        yield


@contextmanager
def _handler_of_ended_children_kept() -> Iterator[None]:
    """Keeps PyTorch's handler of SIGCHLD from staying after a loader has started.

    It raises an error wherever the main thread is when a worker is killed, such as in the middle of an optimizer's step. Without
    it, whoever waits for a batch is told, within seconds.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)


@contextmanager
def _script_hidden() -> Iterator[None]:
    """Keeps processes of the server from importing the script that Python runs: one that trains when it is imported would train there too."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script
