"""End to end on six classes of UCF101, official split 1, small and from scratch; within an hour on two CPU cores.

    .venv/bin/python measurements/ucf101_6.py CLIPS [OUT]

CLIPS has one folder for each class (Archery, BasketballDunk, HorseRace, PlayingPiano, PlayingViolin, Surfing), with UCF101's own file
names; OUT is runs/ucf101-6 by default. Two trainings run at a time with one thread each, which uses two cores better than one training
with two. The same command resumes. At the end it writes results/ucf101-6-DATE.json, from which `measurements/pages.py` makes a table.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from collect import collect
from record import CODEC_STREAMS, ROOT

NOTE = "168 test clips, 432 training clips, 96 pixels, 25 segments, one crop, one seed. Made by `measurements/ucf101_6.py`."


def videokd(*command: object) -> None:
    """Runs a verb.

    Raises:
        SystemExit: it failed.
    """
    wait_for(start(*command))


def start(*command: object, threads: int | None = None) -> subprocess.Popen[bytes]:
    """Starts a verb."""
    limit = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen([sys.executable, "-m", "videokd", *map(str, command)], cwd=ROOT, env=os.environ | limit)


def wait_for(*running: subprocess.Popen[bytes]) -> None:
    """Waits for verbs.

    Raises:
        SystemExit: one of them failed.
    """
    statuses = [process.wait() for process in running]
    if any(statuses):
        sys.exit(max(statuses, key=abs))


def train(data: Path, out: Path) -> None:
    """Trains the three teachers, and the students with and without them."""
    common = ("--manifest", data, "--data.workers", 1)

    def teacher(stream: str) -> subprocess.Popen[bytes]:
        command = ("teach", "--config", "ucf101-6-teacher", "--stream", stream, "--out", out / stream, *common)
        return start(*command, threads=1)

    wait_for(teacher("motion"), teacher("residual"))
    wait_for(teacher("iframe"))
    teachers = [word for stream in CODEC_STREAMS for word in (f"--teachers.{stream}", out / stream)]
    hard = ("distill", "--config", "ucf101-6-hard", "--out", out / "hard", *common)
    distilled = ("distill", "--config", "ucf101-6-distill", "--out", out / "distilled", *common, *teachers)
    wait_for(start(*hard, threads=1), start(*distilled, threads=1))


def evaluate(out: Path) -> list[Path]:
    """Evaluates all runs, fuses the teachers and writes the report; returns the runs."""
    for run in (*CODEC_STREAMS, "hard", "distilled"):
        videokd("evaluate", out / run, "--views", "quick", "--num_segments", 25)
    scores = [w for s in CODEC_STREAMS for w in (f"--scores.{s}", out / s / f"scores-{s}.npz")]
    videokd("fuse", *scores, "--out", out / "teachers-fused")
    runs = [out / run for run in (*CODEC_STREAMS, "teachers-fused", "hard", "distilled")]
    videokd("report", *runs, "--save", out / "report.html", "--title", "Six classes of UCF101, split 1")
    return runs


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, metavar="CLIPS")
    parser.add_argument("out", type=Path, metavar="OUT", nargs="?", default=ROOT / "runs" / "ucf101-6")
    given = parser.parse_args()
    out = given.out.resolve()
    videokd("prepare", "folder", given.clips.resolve(), "--out", out / "prepared", "--frame-rate", 25)
    train(out / "prepared", out)
    title = "Six classes of UCF101, official split 1, from scratch"
    compared = ("distilled:hard", "teachers-fused:hard")
    print(collect("ucf101-6", evaluate(out), title=title, note=NOTE, compare=compared))


if __name__ == "__main__":
    main()
