"""What a large teacher costs: fitting a frozen one, and a student's epoch with stored targets, with a teacher that looks, and without.

    .venv/bin/python measurements/bench_teaching.py --data DIR [--out runs/bench_teaching] [--epochs 4] [--repeats 3]

DIR is ucf101-6, prepared (data/README.md). One thread. A frozen EfficientNet-Lite2 of 160 pixels is fitted to 48 labelled clips twice, the
decoded clips being cached: first computing its features, then reading stored ones. Then a student of 0.1 M parameters at 64 pixels trains on
all 432 clips in three ways, in turns; an epoch's time is the median over the log's steps, times the steps of an epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from labels_runs import STUDENTS, LabelCell, student_command, teacher_command
from record import provenance, write
from study_runs import perform
from timing import timed

_SETTINGS = {"steps": 540, "lr": 0.003, "alpha": 1.0, "temperature": 1.0, "beta": 0.0, "mixup": 0.0}


def command_of(way: str, cell: LabelCell, *, epochs: int) -> list[str]:
    """One way of training the student, for so many epochs."""
    arm = "hard" if way == "hard labels" else "kl"
    command = student_command(
        cell, "iframe", arm, {"iframe": {"hard": _SETTINGS, "distilled": _SETTINGS}}, name="timed"
    )
    command[command.index("--optim.epochs") + 1] = str(epochs)
    if way == "teacher looks":
        command[command.index("--data.stored_views") + 1] = "0"
    return command


def seconds_of_epoch(run: Path, steps: int) -> float:
    """Median time of a step, waiting for data included, times the steps of an epoch; the first epoch warms up."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    seconds = [24 / line["samples_per_second"] for line in lines if "samples_per_second" in line][steps:]
    return steps * statistics.median(seconds)


def fit_twice(cell: LabelCell) -> dict[str, Any]:
    """`teach --freeze` with decoded clips in the cache: without stored features, and with them."""
    perform(teacher_command(cell))  # fills the cache
    found = {}
    for stored in (False, True):
        shutil.rmtree(cell.teacher)
        if not stored:
            shutil.rmtree(cell.out / "cache" / "outputs")
        name = "features stored" if stored else "clips decoded"
        found[name] = timed(perform, teacher_command(cell))
    return found


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("runs/bench_teaching"))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    few = LabelCell(given.data, 1, 0, "10", given.out)
    everything = LabelCell(given.data, 1, 0, "100", given.out)
    freezing = fit_twice(few)
    perform(teacher_command(everything))
    labelled, _, _ = everything.parts
    steps = len(labelled) // 24
    ways = ("hard labels", "stored targets", "teacher looks")
    epochs: Mapping[str, list[float]] = {way: [] for way in ways}
    for _ in range(given.repeats):
        for way in ways:
            run = perform(command_of(way, everything, epochs=given.epochs))
            epochs[way].append(seconds_of_epoch(run, steps))
            shutil.rmtree(run)
    ratios = {way: [a / b for a, b in zip(epochs[way], epochs["hard labels"], strict=True)] for way in ways[1:]}
    found = {
        "command": "measurements/bench_teaching.py --data data/ucf101-6/prepared",
        "freezing": freezing,
        "labelled": len(few.parts[0]),
        "epoch_seconds": epochs,
        "over_hard_labels": {way: {"median": statistics.median(r), "all": r} for way, r in ratios.items()},
        "student": STUDENTS["iframe"],
    }
    print(write("bench_teaching", provenance(("torch", "timm"), threads=1) | found))
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
