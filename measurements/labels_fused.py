"""Do pretrained students match three pretrained teachers? One network on three streams against the fused teachers it learns from.

    .venv/bin/python measurements/labels_fused.py choose --data DIR      # the teachers' weights, on held-out groups of split 1
    .venv/bin/python measurements/labels_fused.py run --data DIR [--jobs 2] [--hours 3] [--labels 100 10] [--seeds 0]

Teachers: frozen EfficientNet-Lite2 on I-frames of 160 pixels, and EfficientNet-Lite0 on motion and on residuals of 96 pixels, fine-tuned from
ImageNet weights. Student: one EfficientNet-Lite0 on all three streams, from ImageNet weights, with hard labels or with the fused teachers'
logits on all clips. Lines go to results/labels_runs.jsonl, beside those of `measurements/labels.py`, whose cells these are.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from labels_runs import (
    BATCH,
    RECORDS,
    SEEDS_OF_CHOICE,
    SEGMENTS_IN_TEST,
    SPLITS,
    LabelCell,
    student_command,
    teacher_command,
    train_and_score,
)
from record import newest_or_fail, provenance, write
from study_records import read_records
from study_runs import cost_of, fused_scores, hits, keep, measured, perform, scores_of, top1_text
from study_workers import exit_status, run_all
from videokd.distill.fusion import sweep_weights
from videokd.evaluation.scores import Scores, align

STUDENT, BACKBONE, SIZE = "lite0", "tf_efficientnet_lite0", 96
STEPS, RATE = 360, 0.001
ARMS = ("hard", "fused-logits")


def teacher_commands(cell: LabelCell) -> dict[str, list[str]]:
    """{stream: the command that trains its teacher}."""
    labelled, _, _ = cell.parts
    epochs = max(round(STEPS / max(len(labelled) // BATCH, 1)), 1)
    commands = {"iframe": teacher_command(cell)}
    for stream in ("motion", "residual"):
        chosen = ["--stream", stream, "--backbone", BACKBONE, "--init", "imagenet"]
        common = cell.common(out=cell.folder / f"teacher-{stream}", size=SIZE)
        optim = ["--optim.epochs", str(epochs), "--optim.warmup_epochs", f"{epochs * 0.04:g}", "--optim.lr", str(RATE)]
        commands[stream] = ["teach", *chosen, *common, *optim, "--optim.weight_decay", "0.05"]
    return commands


def student(cell: LabelCell, arm: str, weights: Mapping[str, float]) -> list[str]:
    """The command that trains the student."""
    settings = {"steps": STEPS, "lr": RATE, "mixup": 0.0, "alpha": 1.0, "temperature": 1.0, "beta": 0.0}
    choice = {STUDENT: {"hard": settings, "distilled": settings}}
    command = student_command(cell, STUDENT, "hard" if arm == "hard" else "kl", choice, name=f"{STUDENT}-{arm}")
    if arm == "hard":
        return command
    more = [f for s in ("motion", "residual") for f in (f"--teachers.{s}", str(cell.folder / f"teacher-{s}"))]
    return [*command, *more, "--weights", json.dumps(dict(weights))]


def teachers_record(cell: LabelCell, weights: Mapping[str, float] | None) -> tuple[dict[str, Any], dict[str, Scores]]:
    """Trains and scores the three teachers, and their fusion where its weights are known."""
    commands = teacher_commands(cell)
    entries: dict[str, Any] = {}
    scores: dict[str, Scores] = {}
    for stream, command in commands.items():
        of_run, results = scores_of(perform(command), segments=SEGMENTS_IN_TEST)
        scores[stream] = of_run[stream]
        entries[stream] = {"hits": hits(of_run[stream])} | cost_of(results["entries"][stream])
    if weights is not None:
        total = {key: sum(each[key] for each in entries.values()) for key in ("parameters", "macs_per_video")}
        entries["fused"] = {"hits": hits(fused_scores(scores, weights, "logits")), "weights": dict(weights)} | total
    return {"commands": list(commands.values()), "entries": entries}, scores


def choose(given: argparse.Namespace) -> Path:
    """The teachers' weights, from clips held out of the training groups of split 1; no test clip is used."""
    cell = LabelCell(given.data, 1, SEEDS_OF_CHOICE[0], "100", given.out, choosing=True)
    record, scores = teachers_record(cell, None)
    together = align(scores)
    logits = {name: torch.from_numpy(each.logits) for name, each in together.items()}
    weights, _ = sweep_weights(logits, torch.from_numpy(together["iframe"].labels), space="logits")
    top1 = {name: entry["hits"].count("1") / len(entry["hits"]) for name, entry in record["entries"].items()}
    found = {
        "command": "measurements/labels_fused.py choose --data data/ucf101-6/prepared",
        "weights": weights,
        "teachers_on_held_out": top1,
        "commands": record["commands"],
    }
    return write("labels_fusion", provenance(("torch", "timm"), threads=1) | found)


def run_cell(cell: LabelCell, weights: Mapping[str, float], until: float) -> None:
    """Trains and tests what has no record yet."""
    torch.set_num_threads(1)
    recorded = read_records(RECORDS).get(cell.key, {})
    runs = {f"{cell.labels}/teachers": "", **{f"{cell.labels}/{STUDENT}/{arm}": arm for arm in ARMS}}
    for run, arm in runs.items():
        if run in recorded or time.time() > until:
            continue
        if arm:
            record = measured(partial(train_and_score, [student(cell, arm, weights)]))
        else:
            record = measured(lambda: teachers_record(cell, weights)[0]) | {"videos": cell.videos}
        keep(RECORDS, cell.key, run, record, places=cell.places)
        tqdm.write(f"split {cell.split}, seed {cell.seed}: {run}: {top1_text(record)} ({record['seconds']:.0f} s)")
        if arm:
            shutil.rmtree(cell.folder / f"{STUDENT}-{arm}")


def run(given: argparse.Namespace) -> None:
    """Runs the cells, several at a time."""
    weights = newest_or_fail("labels_fusion")["weights"]
    until = time.time() + 3600 * given.hours
    cells = [
        LabelCell(given.data, split, seed, labels, given.out)
        for labels in given.labels
        for seed in given.seeds
        for split in SPLITS
    ]
    run_all(run_cell, [(cell, weights, until) for cell in cells], processes=given.jobs, unit="cell")


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("choose", "run"))
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("runs/labels"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--hours", type=float, default=24.0, help="start no run after this time")
    parser.add_argument("--labels", nargs="+", default=("100", "10"), help="percent")
    parser.add_argument("--seeds", nargs="+", type=int, default=(0,))
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    if given.what == "choose":
        torch.set_num_threads(1)
        return exit_status(lambda: print(choose(given)))
    return exit_status(partial(run, given))


if __name__ == "__main__":
    sys.exit(main())
