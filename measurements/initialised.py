"""Do ImageNet weights help where only motion tells actions apart? Teachers of motion and residuals, by what their weights start from.

    .venv/bin/python measurements/initialised.py run --data DIR --ucf101-6 RUNS [--jobs 2] [--hours 3]
    .venv/bin/python measurements/initialised.py sum

DIR is utd-mhad-5, prepared (data/README.md): five actions of eight people, split by person. Teachers are EfficientNet-Lite0 at 96 pixels on motion
and on residuals, from random weights, from ImageNet's, or from teachers that learned ucf101-6: RUNS is the folder of
`measurements/labels_fused.py`'s teachers (OUT/ucf101-6-1-0/100). One small student on both streams learns from hard labels, and from each pair of
teachers, fused 1:1. Lines go to results/initialised_runs.jsonl; `sum` pools them, with intervals over people, into results/initialised-DATE.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from record import RESULTS, provenance, write
from study_records import CellKey, Record, read_records
from study_runs import cost_of, fused_scores, hits, keep, measured, perform, scores_of, top1_text
from study_sum import interval
from study_workers import exit_status, run_all
from videokd.datasets.manifest import Manifest
from videokd.evaluation.scores import Scores

RECORDS = RESULTS / "initialised_runs.jsonl"
DATASET, SPLITS, SEEDS = "utd-mhad-5", (1, 2), (0, 1, 2)
STREAMS = ("motion", "residual")
STARTS = ("none", "imagenet", "ucf101-6")
BACKBONE, SIZE, STEPS, BATCH = "tf_efficientnet_lite0", 96, 360, 16
STUDENT, STUDENT_SIZE, STUDENT_STEPS = "test_efficientnet", 64, 540
SEGMENTS_IN_TEST, POSITIONS, VIEWS = 8, 16, 32


class Cell:
    """One split and seed.

    Args:
        given: data, out and the runs on ucf101-6.
        split: 1 or 2.
        seed: of weights, order and views.
    """

    def __init__(self, given: argparse.Namespace, split: int, seed: int) -> None:
        self.data, self.out, self.other = given.data, given.out, given.ucf101_6
        self.split, self.seed = split, seed
        self.key = CellKey(DATASET, split, seed)
        self.folder = self.out / str(self.key)
        self.places = {
            self.other: "runs/labels/ucf101-6-1-0/100",
            self.out: "runs/initialised",
            self.data: f"data/{DATASET}/prepared",
        }
        self.epochs = len(Manifest.read(self.data).select("train", split=split)) // BATCH

    def common(self, *, out: Path, size: int, steps: int, rate: float) -> list[str]:
        """Options that all trainings share."""
        epochs = round(steps / self.epochs)
        return [
            *("--manifest", str(self.data), "--split", str(self.split), "--seed", str(self.seed), "--device", "cpu"),
            *("--out", str(out), "--data.input_size", str(size), "--data.num_segments", "1"),
            *("--data.batch_size", str(BATCH), "--data.workers", "0", "--data.val_fraction", "0"),
            *("--data.cache", str(self.out / "cache"), "--data.cache_positions", str(POSITIONS)),
            *("--optim.epochs", str(epochs), "--optim.warmup_epochs", f"{epochs * 0.04:g}"),
            *("--optim.lr", str(rate), "--optim.weight_decay", "0.05"),
        ]

    def teacher(self, start: str, stream: str) -> list[str]:
        """The command that trains a teacher."""
        init = str(self.other / f"teacher-{stream}") if start == "ucf101-6" else start
        chosen = ["--stream", stream, "--backbone", BACKBONE, "--init", init]
        out = self.folder / f"{start}-{stream}"
        return ["teach", *chosen, *self.common(out=out, size=SIZE, steps=STEPS, rate=0.001)]

    def student(self, start: str) -> list[str]:
        """The command that trains the student: "hard", or the start of its teachers."""
        member = {"both": {"streams": list(STREAMS), "backbone": STUDENT}}
        common = self.common(out=self.folder / f"student-{start}", size=STUDENT_SIZE, steps=STUDENT_STEPS, rate=0.003)
        command = ["distill", "--students", json.dumps(member), *common]
        if start == "hard":
            return command
        teachers = [f for s in STREAMS for f in (f"--teachers.{s}", str(self.folder / f"{start}-{s}"))]
        target = ["--objective.alpha", "1.0", "--objective.temperature", "2.0", "--data.stored_views", str(VIEWS)]
        return [*command, *teachers, *target]


def teachers_record(cell: Cell, start: str) -> dict[str, Any]:
    """Trains and tests both teachers, and tests their fusion."""
    commands = [cell.teacher(start, stream) for stream in STREAMS]
    scores: dict[str, Scores] = {}
    entries: dict[str, Any] = {}
    for stream, command in zip(STREAMS, commands, strict=True):
        of_run, results = scores_of(perform(command), segments=SEGMENTS_IN_TEST)
        scores[stream] = of_run[stream]
        entries[stream] = {"hits": hits(of_run[stream])} | cost_of(results["entries"][stream])
    entries["fused"] = {"hits": hits(fused_scores(scores, dict.fromkeys(STREAMS, 1.0), "logits"))}
    return {"commands": commands, "entries": entries}


def student_record(cell: Cell, start: str) -> dict[str, Any]:
    """Trains and tests the student."""
    command = cell.student(start)
    scores, results = scores_of(perform(command), segments=SEGMENTS_IN_TEST)
    return {
        "commands": [command],
        "entries": {"both": {"hits": hits(scores["both"])} | cost_of(results["entries"]["both"])},
    }


def run_cell(cell: Cell, until: float) -> None:
    """Trains and tests what has no record yet."""
    torch.set_num_threads(1)
    recorded = read_records(RECORDS).get(cell.key, {})
    runs = {f"teachers/{start}": partial(teachers_record, cell, start) for start in STARTS}
    runs |= {f"student/{start}": partial(student_record, cell, start) for start in ("hard", *STARTS)}
    for run, work in runs.items():
        if run in recorded or time.time() > until:
            continue
        tested = Manifest.read(cell.data).select("test", split=cell.split)
        record = measured(work) | {"videos": dict(sorted((clip.video_id, clip.group) for clip in tested))}
        keep(RECORDS, cell.key, run, record, places=cell.places)
        tqdm.write(f"{cell.key}: {run}: {top1_text(record)}")


def run(given: argparse.Namespace) -> None:
    """Runs the cells, several at a time."""
    until = time.time() + 3600 * given.hours
    cells = [Cell(given, split, seed) for seed in SEEDS for split in SPLITS]
    run_all(run_cell, [(cell, until) for cell in cells], processes=given.jobs, unit="cell")


def pooled(
    cells: Mapping[CellKey, Mapping[str, Record]], entry: tuple[str, str], less: tuple[str, str] | None = None
) -> Any:
    """Top-1 of an entry, or its difference to another, with an interval over people; None where no cell has it."""
    having = [c for c in cells.values() if entry[0] in c and (less is None or less[0] in c)]
    if not having:
        return None
    people: list[str] = []
    values: list[int] = []
    for cell in having:
        found, other = (_hits(cell, each) if each else None for each in (entry, less))
        assert found is not None
        values += [a - b for a, b in zip(found, other or [0] * len(found), strict=True)]
        people += [group.rpartition("/")[2] for group in cell[entry[0]]["videos"].values()]
    names, number = np.unique(people, return_inverse=True)
    table = np.stack([np.bincount(number, values, len(names)), np.bincount(number, minlength=len(names))], axis=1)
    return {"cells": len(having)} | interval([table])


def _hits(cell: Mapping[str, Record], entry: tuple[str, str]) -> list[int]:
    return [int(hit) for hit in cell[entry[0]]["entries"][entry[1]]["hits"]]


def summarise() -> Path:
    """Pools the lines."""
    cells = read_records(RECORDS)
    teachers = [(f"teachers/{start}", name) for start in STARTS for name in (*STREAMS, "fused")]
    students = [(f"student/{start}", "both") for start in ("hard", *STARTS)]
    asked = [
        ((f"teachers/{start}", name), ("teachers/none", name)) for start in STARTS[1:] for name in (*STREAMS, "fused")
    ]
    asked += [((f"student/{start}", "both"), ("student/hard", "both")) for start in STARTS]
    found = {
        "rows": [
            {"run": a, "entry": b, "top1": value} for a, b in (*teachers, *students) if (value := pooled(cells, (a, b)))
        ],
        "comparisons": [
            {"a": list(a), "b": list(b), "top1_difference": value} for a, b in asked if (value := pooled(cells, a, b))
        ],
    }
    print(json.dumps(found, indent=1))
    return write("initialised", provenance() | found)


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "sum"))
    parser.add_argument("--data", type=Path, metavar="DIR")
    parser.add_argument("--ucf101-6", type=Path, metavar="RUNS")
    parser.add_argument("--out", type=Path, default=Path("runs/initialised"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--hours", type=float, default=24.0, help="start no run after this time")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if given.what == "sum":
        print(summarise())
        return 0
    if not given.data or not given.ucf101_6:
        parser.error("run needs --data and --ucf101-6")
    return exit_status(partial(run, given))


if __name__ == "__main__":
    sys.exit(main())
