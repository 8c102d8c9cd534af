"""Runs many tasks in parallel, on processes of this machine or on a Ray cluster."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_any
from typing import Any, Literal, TypeVar, get_args

from tqdm import tqdm

from videokd.errors import ConfigError, DataError, DecodeError, VideoKDError
from videokd.files import leave_at_once

Engine = Literal["local", "ray"]
Task = TypeVar("Task")
Result = TypeVar("Result")

#: Tasks submitted for each worker: few enough for memory, enough that no worker waits.
QUEUED_PER_JOB = 4
_MOST_DEATHS = 8  # of workers in a row; then the machine is at fault, not the files
_CONNECT_SECONDS = 10
_RETRIES = 3  # of a bundle of tasks whose Ray worker died
# Ray needs about a millisecond per task, whatever it does; with one clip per task, it could not keep hundreds of cores busy
_LARGEST_BUNDLE = 16
_MOST_TASK_SECONDS = 1e7  # a third of a year; timers do not reach much further than some hundred years
_BUNDLES_PER_CPU = 64  # at least, so that CPUs that are done do not wait long for the last bundles


@dataclass(frozen=True)
class Workers:
    """Where tasks run, and how many at a time.

    Args:
        engine: local (processes of this machine) or ray (an existing Ray cluster, whose workers see the same paths and have
            videokd installed).
        jobs: tasks run at the same time; None: one per CPU that this process may use, or that the cluster has.
        address: the Ray cluster's, as `ray.init` takes it; None: RAY_ADDRESS, or the cluster this machine belongs to.
        task_seconds: a worker that needs longer for one task is ended, as if it had died; None: none is. Tasks that run in this process
            have no limit.

    Raises:
        ConfigError: a setting is out of its range.
    """

    engine: Engine = "local"
    jobs: int | None = None
    address: str | None = None
    task_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.engine not in get_args(Engine):
            raise ConfigError(f"engine {self.engine!r} (accepted: {', '.join(get_args(Engine))}). Choose one of these.")
        if self.jobs is not None and self.jobs < 1:
            raise ConfigError(f"jobs {self.jobs} (accepted: 1 or more, or none for one per CPU).")
        if self.task_seconds is not None and not 0 < self.task_seconds <= _MOST_TASK_SECONDS:
            raise ConfigError(
                f"most_seconds {self.task_seconds:g} (accepted: above 0, up to {_MOST_TASK_SECONDS:g}). Choose another number."
            )
        if self.address is not None and self.engine != "ray":
            raise ConfigError(f"address {self.address} needs the engine ray (given: {self.engine}). Pass --engine ray.")

    def at_most(self, jobs: int) -> Workers:
        """The same, with no more jobs than this; as many as there are CPUs, if there are fewer."""
        return replace(self, jobs=min(self.jobs or _num_cpus(), jobs))

    def num_jobs(self, tasks: int) -> int:
        """How many of so many tasks run at the same time on this machine."""
        return min(self.jobs or _num_cpus(), tasks)

    def outcomes(
        self,
        function: Callable[[Task], Result],
        tasks: Collection[Task],
        start: Callable[[], None] | None = None,
    ) -> Iterator[tuple[Task, Result | DecodeError]]:
        """Runs a function on each task, and yields each result when it is there.

        Args:
            function: of one argument; defined at the top of a module, so that other processes can import it.
            tasks: the arguments; of Ray, a sequence. On this machine no more than `QUEUED_PER_JOB` for each job are taken at a time.
            start: called in each process of this machine before its first task; not where tasks run in this process.

        Yields:
            (task, result), in order of completion. The result is a DecodeError where the function raised one, or where the
            worker died again when it repeated the task.

        Raises:
            VideoKDError: the function raised another error; several local workers in a row died; there is no Ray cluster.
        """
        if not tasks:
            return iter(())
        if self.engine == "ray":
            return _on_ray(partial(_in_time, function, self.task_seconds), list(tasks), self.jobs, self.address)
        jobs = self.num_jobs(len(tasks))
        if jobs > 1 and self.task_seconds is not None:
            function = partial(_in_time, function, self.task_seconds)
        return _in_processes(function, tasks, jobs, start) if jobs > 1 else ((t, _attempt(function, t)) for t in tasks)


def with_bar(
    function: Callable[[Task], Result],
    tasks: Collection[Task],
    workers: Workers,
    *,
    what: str,
    done: int,
    start: Callable[[], None] | None = None,
) -> Generator[tuple[Task, Result | DecodeError], None, None]:
    """The outcomes of tasks, with a progress bar on stderr if that is a terminal.

    Args:
        function: see `Workers.outcomes`.
        tasks: see `Workers.outcomes`.
        workers: where the work is done.
        what: the bar's title.
        done: number of clips that were done before; the bar starts there.
        start: see `Workers.outcomes`.

    Yields:
        As `Workers.outcomes`.
    """
    disabled = not sys.stderr.isatty()
    with tqdm(total=done + len(tasks), initial=done, desc=what, unit="clip", disable=disabled) as bar:
        for outcome in workers.outcomes(function, tasks, start):
            yield outcome
            bar.update()


def _attempt(function: Callable[[Task], Result], task: Task) -> Result | DecodeError:
    """The result; a DecodeError is returned, to be reported with the others. Other errors, such as a full disk, end the run."""
    try:
        return function(task)
    except DecodeError as error:
        return error


def _in_time(function: Callable[[Task], Result], seconds: float | None, task: Task) -> Result:
    """Calls a function, and ends this process if that takes too long, in whatever code it hangs: so far as anybody sees, it dies."""
    if seconds is None:
        return function(task)
    with open(os.devnull, "w") as nowhere:
        faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
        try:
            return function(task)
        finally:
            faulthandler.cancel_dump_traceback_later()


def _num_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_processes(
    function: Callable[[Task], Result], tasks: Collection[Task], jobs: int, start: Callable[[], None] | None
) -> Iterator[tuple[Task, Result | DecodeError]]:
    """Runs tasks in a pool. If a worker dies, its pool's tasks are repeated, each in a pool of its own, to find the cause."""
    waiting, deaths = iter(tasks), 0
    while lost := (yield from _in_pool(function, waiting, jobs, start)):
        for task in lost:
            died = yield from _in_pool(function, iter([task]), 1, start)
            deaths = deaths + 1 if died else 0
            if deaths == _MOST_DEATHS:
                raise DataError(
                    f"{deaths} worker processes in a row died: out of memory, or FFmpeg crashed. "
                    "Run the same command again with fewer `jobs`."
                )
            if died:
                yield (
                    task,
                    DecodeError(
                        "The worker process of this file died: out of memory, FFmpeg crashed, or it took too long."
                    ),
                )


def _in_pool(
    function: Callable[[Task], Result], waiting: Iterator[Task], jobs: int, start: Callable[[], None] | None
) -> Generator[tuple[Task, Result | DecodeError], None, list[Task]]:
    """Yields the outcomes; returns the tasks that have none because a worker died, or an empty list."""
    # Spawned: a forked copy of a process with threads (torch, FFmpeg) can deadlock
    context = multiprocessing.get_context("spawn")
    watched, held_open = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(jobs, context, _start_worker, (watched, start))
    running: dict[Future[Result | DecodeError], Task] = {}
    task: Task | None = None
    try:
        while True:
            with interrupts_held_back():
                while len(running) < jobs * QUEUED_PER_JOB and (task := next(waiting, None)) is not None:
                    running[executor.submit(_attempt, function, task)] = task
                    task = None
            if not running:
                return []
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                outcome = future.result()
                yield running.pop(future), outcome
    except BrokenProcessPool:
        wait(running)
        for future in [future for future in running if future.exception() is None]:
            yield running.pop(future), future.result()
        return [*running.values(), *([] if task is None else [task])]
    finally:
        # Workers end as soon as `held_open` is closed, also where an interruption skips these lines: then the frame's end closes it.
        # An interrupted `shutdown` may leave workers waiting for ever, and this process for them
        with interrupts_held_back():
            if running:
                held_open.close()
            executor.shutdown(cancel_futures=True)
            held_open.close()
            watched.close()


def _start_worker(watched: Connection, start: Callable[[], None] | None) -> None:
    """Ignores Ctrl-C, which the parent handles, and makes this process end when the parent ends, in whatever way, or leaves the pool.

    The pool itself sends SIGTERM to all its workers when one of them ends. That must leave no half-written file either, so it wakes the
    same thread; a handler would wait for a long call into FFmpeg.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ends: list[Any] = [watched]
    if (parent := multiprocessing.parent_process()) is not None:
        ends.append(parent.sentinel)
    if hasattr(signal, "pthread_sigmask"):  # not Windows, where nothing can catch the end of a process
        woken, wakes = socket.socketpair()
        wakes.setblocking(False)
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        signal.set_wakeup_fd(wakes.detach())
        ends.append(woken)
    threading.Thread(target=_exit_after, args=(ends,), daemon=True).start()
    if start is not None:
        start()


def _exit_after(watched: Sequence[Any]) -> None:
    wait_for_any(watched)
    leave_at_once("", status=1)


@contextlib.contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Delays Ctrl-C until the block ends, so that processes started in it are not interrupted before they ignore it.

    They inherit that the signal is blocked. This process gets it in spite of that where some thread of a library does not block it, so
    its handler waits too.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    came: list[int] = []
    handled = (
        threading.current_thread() is threading.main_thread()
    )  # only there may Python change handlers, and runs them
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number)) if handled else None
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        if handled:
            signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
        if came:
            signal.raise_signal(signal.SIGINT)


def _on_ray(
    function: Callable[[Task], Result], tasks: Sequence[Task], jobs: int | None, address: str | None
) -> Iterator[tuple[Task, Result | DecodeError]]:
    def attempt(bundle: Sequence[Task]) -> list[Result | VideoKDError]:
        outcomes: list[Result | VideoKDError] = []
        for task in bundle:
            try:
                outcomes.append(function(task))
            except VideoKDError as error:  # returned: if it were raised, it would arrive wrapped in Ray's own error
                outcomes.append(error)
        return outcomes

    with _cluster(address) as ray:
        remote = ray.remote(num_cpus=1, max_retries=_RETRIES, scheduling_strategy="SPREAD")(attempt)
        cpus = max(int(ray.cluster_resources().get("CPU", 1)), 1)
        limit = jobs or QUEUED_PER_JOB * cpus
        size = min(max(len(tasks) // (_BUNDLES_PER_CPU * cpus), 1), _LARGEST_BUNDLE)
        waiting = iter([tasks[start : start + size] for start in range(0, len(tasks), size)])
        repeated: list[Sequence[Task]] = []
        running: dict[Any, Sequence[Task]] = {}
        while True:
            while len(running) < limit and (bundle := repeated.pop() if repeated else next(waiting, None)) is not None:
                running[remote.remote(list(bundle))] = bundle
            if not running:
                return
            for reference in ray.wait(list(running))[0]:
                bundle = running.pop(reference)
                outcomes = _bundle_outcomes(ray, reference)
                if outcomes is not None:
                    yield from zip(bundle, outcomes, strict=True)
                elif len(bundle) > 1:
                    repeated += [
                        bundle[at : at + 1] for at in range(len(bundle))
                    ]  # one by one, to find the task that is the cause
                else:
                    yield (
                        bundle[0],
                        DecodeError(
                            f"{_RETRIES + 1} Ray workers died with this file. Remove the file, or give the workers more memory."
                        ),
                    )


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """The module ray, connected to a cluster; a connection that existed before is used and kept."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError("engine ray needs Ray. Install it with `pip install videokd[ray]`.") from error
    if ray.is_initialized():
        yield ray
        return
    try:
        _check_reachable(address)
        ray.init(address=address or "auto", log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"no Ray cluster at {address or 'this machine'} ({reason}). Start one with `ray start --head`, or pass --address."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Raises an OSError where nothing listens at host:port; Ray itself would try for minutes."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()


def _bundle_outcomes(ray: Any, reference: Any) -> Any:
    """The outcomes of a bundle of tasks; None where its workers died."""
    died = (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError)
    try:
        outcomes = ray.get(reference)
    except died:
        return None
    for outcome in outcomes:
        if isinstance(outcome, VideoKDError) and not isinstance(outcome, DecodeError):
            raise outcome
    return outcomes
