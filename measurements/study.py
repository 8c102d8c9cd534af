"""Does distilling pay? Teachers and students on small sets of real clips, over all splits and several seeds.

    .venv/bin/python measurements/study.py run --data ucf101-6=DIR --data utd-mhad-5=DIR [--jobs 2] [--extras] [--hours 3]
    .venv/bin/python measurements/study.py run --data ucf101-6=DIR --records runs/again.jsonl --runs hard fused --only ucf101-6-1-0
    .venv/bin/python measurements/study.py tune --data ucf101-6=DIR --data utd-mhad-5=DIR

DIR is a folder that `videokd prepare folder` wrote. `tune` chooses the hyper-parameters on clips held out of the training groups of
split 1, before any test clip is used, and writes results/study_choice-DATE.json. `run` trains and tests every run of every cell
(dataset, split, seed), in processes of one thread. Each run adds one line to results/study_runs.jsonl; runs that have a line are not
run again. `measurements/study_sum.py` pools these lines, with intervals.

With --records the runs go into another table, and their accuracies are printed beside those of the repository's table.

The core runs show what distilling, mutual learning and exits add; --extras adds further ways of learning. --runs chooses from both,
and from two baselines: `two-stream` (the same backbone on RGB frames, and on OpenCV's optical flow; needs `pip install videokd[bench]`)
and `r2plus1d` (r2plus1d_18 on 16 RGB frames; half an hour of one core).

The study is small on purpose, for two CPU cores: 64 pixels, one segment a step, decoded clips in a cache, students with
test_efficientnet (0.1 M parameters) of teachers with test_resnet (0.4 M), all from scratch. Each line holds the commands of its run.
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

from record import CODEC_STREAMS, newest_or_fail
from study_choice import tune
from study_records import RECORDS, read_records
from study_runs import (
    BASELINES,
    CORE,
    EXTRAS,
    SEED_OF_TUNING,
    SEEDS,
    SPLITS,
    WITHOUT_TEACHERS,
    Cell,
    keep,
    measured,
    run_students,
    run_teachers,
)
from study_workers import exit_status, run_all
from videokd.datasets.manifest import Manifest
from videokd.errors import VideoKDError


def run_cell(cell: Cell, runs: Sequence[str], choice: Mapping[str, Any], until: float) -> None:
    """Runs everything of one cell that has no record yet; deletes the students when all of them are recorded."""
    torch.set_num_threads(1)
    recorded = read_records(cell.records).get(cell.key, {})
    missing = [name for name in runs if name not in recorded]
    with_teachers = not set(missing) <= set(WITHOUT_TEACHERS)
    taught = all((cell.teacher(stream) / "best.pt").is_file() for stream in CODEC_STREAMS)
    if with_teachers and not (taught and "teachers" in recorded):
        missing.insert(0, "teachers")
    for run in missing:
        if time.time() > until:
            return
        work = partial(run_teachers, cell) if run == "teachers" else partial(run_students, cell, run)
        record = measured(partial(work, choice))
        places = {cell.out: "runs/study", cell.data: f"data/{cell.dataset}/prepared"}
        keep(cell.records, cell.key, run, record, places=places)
        print_accuracies(cell, run, record["entries"])
    for folder in cell.folder.glob("*"):
        if not folder.name.startswith("teacher-"):
            shutil.rmtree(folder)


def print_accuracies(cell: Cell, run: str, entries: Mapping[str, Any]) -> None:
    """Prints the accuracies of a run, and beside them those of the repository's table where another one is written."""
    own = read_records(RECORDS).get(cell.key, {}) if cell.records != RECORDS else {}
    known = own.get(run, {}).get("entries", {})
    for name, entry in entries.items():
        before = f" (in the repository: {100 * accuracy(known[name]):.1f} %)" if name in known else ""
        top1 = f"{100 * accuracy(entry):.1f} %{before}"
        tqdm.write(f"{cell.dataset}, split {cell.split}, seed {cell.seed}: {run}, {name}: {top1}")


def accuracy(entry: Mapping[str, Any]) -> float:
    """Top-1 of an entry, as a fraction."""
    hits: str = entry["hits"]
    return hits.count("1") / len(hits)


def cells_of(data: Mapping[str, Path], given: argparse.Namespace) -> Iterator[Cell]:
    """All splits of a seed before the next seed, so that an unfinished study is even."""
    for seed in given.seeds:
        for dataset, folder in data.items():
            for split in SPLITS[dataset]:
                yield Cell(dataset, folder, split, seed, given.out, given.records)


def run(cells: Sequence[Cell], given: argparse.Namespace) -> None:
    """Runs the cells, several at a time."""
    choice = newest_or_fail("study_choice")
    runs = given.runs or CORE + (EXTRAS if given.extras else ())
    until = time.time() + 3600 * given.hours
    run_all(run_cell, [(cell, runs, choice, until) for cell in cells], processes=given.jobs, unit="cell")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "tune"))
    parser.add_argument("--data", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    parser.add_argument(
        "--records", type=Path, default=RECORDS, help="table to write; another one than the repository's repeats runs"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--extras", action="store_true", help="run further ways of learning after the core")
    accepted = (*CORE, *EXTRAS, *BASELINES)
    parser.add_argument(
        "--runs", nargs="+", choices=accepted, metavar="RUN", help=f"only these runs: {', '.join(accepted)}"
    )
    parser.add_argument("--hours", type=float, default=24.0, help="start no run after this time")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--only", help="a single cell, as DATASET-SPLIT-SEED")
    return parser.parse_args()


def fail(message: str) -> int:
    """Prints a message on standard error; returns the exit status of wrong arguments."""
    sys.stderr.write(f"{message}\n")
    return 2


def main() -> int:
    """The program."""
    given = arguments()
    data = {name: Path(folder) for name, _, folder in (each.partition("=") for each in given.data)}
    if unknown := sorted(set(data) - set(SPLITS)):
        return fail(f"--data {', '.join(unknown)} (accepted: {', '.join(SPLITS)} as NAME=DIR).")
    try:
        for folder in data.values():
            Manifest.read(folder)
    except VideoKDError as error:
        return fail(str(error))
    os.environ["OMP_NUM_THREADS"] = "1"
    cells = [cell for cell in cells_of(data, given) if given.only in (None, str(cell.key))]
    if not cells:
        return fail(f"--only {given.only} (accepted: DATASET-SPLIT-SEED of --data, such as ucf101-6-1-0).")
    if given.what == "tune":
        tuned = [Cell(name, folder, 1, SEED_OF_TUNING, given.out) for name, folder in data.items()]
        return exit_status(partial(tune, tuned, given.jobs))
    return exit_status(partial(run, cells, given))


if __name__ == "__main__":
    sys.exit(main())
