"""Worker processes of the study, whose trainings save a checkpoint when the study is interrupted."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing import resource_tracker
from multiprocessing.pool import Pool
from typing import Any

from tqdm import tqdm

from videokd.errors import VideoKDError
from videokd.jobs.workers import interrupts_held_back


def workers(jobs: int) -> Pool:
    """Processes that ignore Ctrl-C; this process ends them with SIGTERM."""
    resource_tracker.ensure_running()  # starting it later would let interrupts through again
    with interrupts_held_back():  # from its workers too, which inherit that, those started later among them
        return multiprocessing.get_context("spawn").Pool(jobs, stop_with_the_parent, maxtasksperchild=1)


def stop_with_the_parent() -> None:
    """Makes a training save its checkpoint however the parent process ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()


def until_stopped(work: Callable[..., Any], *job: Any) -> Any:
    """What the work returns; None where it was asked to stop, which a training reports after it saved its checkpoint."""
    with contextlib.suppress(KeyboardInterrupt):
        return work(*job)
    return None


def run_all(work: Callable[..., Any], jobs: Sequence[Sequence[Any]], *, processes: int, unit: str) -> None:
    """Does the work for every job, several at a time, with a progress bar.

    Args:
        work: called with a job's items; it keeps what it finds.
        jobs: in order.
        processes: how many at a time.
        unit: what a job is called.
    """
    with workers(processes) as pool:
        waiting = [pool.apply_async(until_stopped, (work, *job)) for job in jobs]
        for done in tqdm(waiting, unit=unit, disable=None):
            done.get()


def exit_status(program: Callable[[], object]) -> int:
    """Runs a program: 0, 2 where videokd refuses something, 130 where it is interrupted; the last two with a line on standard error."""
    try:
        program()
    except VideoKDError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again to resume\n")
        return 130
    return 0
