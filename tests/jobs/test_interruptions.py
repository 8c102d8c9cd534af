"""Ctrl-C while processes work, with real processes and signals."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.small_datasets import write_clip
from videokd.__main__ import main
from videokd.description.table import read_table
from videokd.jobs.workers import interrupts_held_back
from videokd.stopping import one_interrupt

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")

LONG_TASKS = """
import os, time
from pathlib import Path
from videokd.files import written_whole
from videokd.jobs.workers import Workers

def long_task(number):
    with written_whole(Path(f"{number}.txt")) as aside:
        aside.write_text("half")
        Path(f"{os.getpid()}.started").touch()
        time.sleep(600)

if __name__ == "__main__":
    list(Workers(jobs=2).outcomes(long_task, range(8)))
"""


def started(command: list[str], folder: Path, ready: Callable[[], bool]) -> subprocess.Popen[bytes]:
    """A process in a session of its own, as soon as it is ready for its signals."""
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 120
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    return process


def interrupt_twice(process: subprocess.Popen[bytes], apart_seconds: float) -> str:
    """What the process says when it ends after two signals to its whole session, as a terminal sends them."""
    for _ in range(2):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(apart_seconds)
    try:
        return process.communicate(timeout=300)[1].decode()
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise


def session_ends(session: int, *, seconds: int = 10) -> bool:
    """Whether all its processes end in time."""
    for _ in range(100 * seconds):
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def test_tasks_are_ended_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(LONG_TASKS)
    process = started([sys.executable, "run.py"], tmp_path, lambda: len(list(tmp_path.glob("*.started"))) == 2)
    interrupt_twice(process, 0.02)
    assert process.returncode != 0
    assert session_ends(process.pid), "workers outlived the run"
    assert {path.suffix for path in tmp_path.iterdir()} == {".py", ".started"}  # nothing half-written


def test_a_worker_that_dies_leaves_no_half_written_files_of_others(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text(LONG_TASKS)
    process = started([sys.executable, "run.py"], tmp_path, lambda: len(list(tmp_path.glob("*.started"))) == 2)
    half = set(tmp_path.glob(".*.part"))
    killed = int(next(tmp_path.glob("*.started")).stem)
    os.kill(killed, signal.SIGKILL)  # the pool then ends its other worker, and starts another one
    deadline = time.monotonic() + 60
    while len(half & set(tmp_path.glob(".*.part"))) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(half & set(tmp_path.glob(".*.part"))) == 1  # what the killed one was writing
    interrupt_twice(process, 0.02)
    assert session_ends(process.pid)


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_describe_stops_while_it_compares(tmp_path: Path, times: int) -> None:
    write_clip(tmp_path / "in" / "0.mp4", num_frames=60)
    for number in range(1, 40):
        shutil.copy(tmp_path / "in" / "0.mp4", tmp_path / "in" / f"{number}.mp4")
    out = tmp_path / "u.parquet"
    assert (
        main(["describe", str(tmp_path / "in"), "--save", str(out), "--near-duplicates", "false", "--jobs", "1"]) == 0
    )
    command = [sys.executable, "-m", "videokd", "describe", "in", "--save", "u.parquet", "--jobs", "2"]
    not_compared = out.read_bytes()
    rng = random.Random(times)
    for _ in range(times):
        out.write_bytes(not_compared)
        (tmp_path / "u.parquet.unfinished").unlink(missing_ok=True)
        process = started(command, tmp_path, (tmp_path / "u.parquet.unfinished").exists)
        time.sleep(rng.uniform(0, 2))
        said = interrupt_twice(process, rng.uniform(0, 0.05))
        # A signal that comes when the work is done or left ends what Python does at its end
        assert process.returncode in (0, 130, -signal.SIGINT)
        assert "40 clips" in said or said == "videokd: describe stopped; the same command resumes.\n"
        assert session_ends(process.pid), "workers outlived the run"
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    assert sum(bool(row.description.near_duplicate_of) for row in read_table(out)) == 39
    assert {path.name for path in tmp_path.iterdir()} == {"in", "u.parquet"}


def test_interrupts_wait_also_where_another_thread_gets_them() -> None:
    def interrupted_work() -> None:
        with interrupts_held_back():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
            end.set()

    end = threading.Event()
    thread = threading.Thread(target=end.wait, args=(60,))
    thread.start()  # it does not block signals, so the kernel gives them to it
    with pytest.raises(KeyboardInterrupt):
        interrupted_work()
    assert end.is_set()
    thread.join()


def test_one_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    with one_interrupt():
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    left: list[str] = []
    now = [100.0]
    monkeypatch.setattr("videokd.stopping.leave_at_once", left.append)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    try:
        with pytest.raises(KeyboardInterrupt), one_interrupt():
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # the same request
        assert left == []
        now[0] += 3
        signal.raise_signal(signal.SIGINT)
        assert left == ["videokd: stopped at once."]
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_other_threads_catch_no_signals() -> None:
    def enter() -> None:
        with one_interrupt():
            seen.append(signal.getsignal(signal.SIGINT))

    seen: list[object] = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
