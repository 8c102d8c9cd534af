"""The study's choice of hyper-parameters, on clips held out of the training groups of split 1."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from record import CODEC_STREAMS as STREAMS
from record import provenance, write
from study_runs import SEEDS, SPLITS, Cell, distill_commands, hits, perform, scores_of, teach_command
from study_workers import until_stopped, workers
from videokd.datasets.manifest import Manifest
from videokd.distill.fusion import sweep_weights
from videokd.evaluation.scores import align

_PLAIN: dict[str, Any] = {"distillation": {"alpha": 0.5, "temperature": 4.0}, "mutual": {"beta": 0.5}}
_TRIALS: dict[str, tuple[str, dict[str, Any], int]] = {  # name: (run, choice, seed added)
    "hard 0": ("hard", _PLAIN, 0),
    "hard 1": ("hard", _PLAIN, 1),
    **{
        f"fused alpha {alpha} T {temperature:g}": (
            "fused",
            _PLAIN | {"distillation": {"alpha": alpha, "temperature": temperature}},
            0,
        )
        for alpha, temperature in itertools.product((0.5, 0.9), (1.0, 4.0))
    },
    **{f"mutual beta {beta:g}": ("mutual", _PLAIN | {"mutual": {"beta": beta}}, 0) for beta in (0.25, 1.0)},
}
_HELD_OUT = 0.25


def tune(cells: Sequence[Cell], jobs: int) -> Path:
    """Chooses α and T of the distillation, β of mutual learning and the teachers' weights on held-out clips of split 1.

    Args:
        cells: one for each dataset.
        jobs: trainings at a time.

    Returns:
        The result file.
    """
    tried: dict[str, dict[str, Any]] = {}
    with workers(jobs) as pool:
        evaluated = pool.map(partial(until_stopped, _train_teachers), cells)
        trials = list(itertools.product(cells, _TRIALS))
        results = pool.imap(partial(until_stopped, _try), trials)
        for (cell, trial), result in zip(trials, tqdm(results, total=len(trials)), strict=True):
            tried.setdefault(trial, {})[cell.dataset] = result
    teachers = dict(zip((cell.dataset for cell in cells), evaluated, strict=True))
    chosen = {
        "distillation": _TRIALS[_best(tried, "fused")][1]["distillation"],
        "mutual": _TRIALS[_best(tried, "mutual")][1]["mutual"],
        "weights": {dataset: each["weights"] for dataset, each in teachers.items()},
        "teachers_on_held_out": {dataset: each["top1"] for dataset, each in teachers.items()},
        "tried": tried,
        "how": "fused top-1 on clips held out of the training groups of split 1 (a quarter of the groups), mean over the last ten "
        "epochs and both datasets; weights by `videokd fuse --sweep`'s search on the same clips; no test clip was used",
        "smallest_detectable": {
            cell.dataset: _smallest_detectable(cell, tried["hard 0"][cell.dataset], tried["hard 1"][cell.dataset])
            for cell in cells
        },
    }
    return write("study_choice", provenance(("torch",), threads=1) | chosen)


def _best(tried: Mapping[str, Mapping[str, Any]], kind: str) -> str:
    """The trial of a kind with the highest mean top-1 over the datasets."""
    mean = {trial: np.mean([each["top1"] for each in of_dataset.values()]) for trial, of_dataset in tried.items()}
    return max((trial for trial in mean if trial.startswith(kind)), key=lambda trial: float(mean[trial]))


def _train_teachers(cell: Cell) -> dict[str, Any]:
    torch.set_num_threads(1)
    runs = [perform(teach_command(cell, stream, held_out=_HELD_OUT)) for stream in STREAMS]
    scores = align({s: scores_of(run, part="val")[0][s] for s, run in zip(STREAMS, runs, strict=True)})
    logits = {name: torch.from_numpy(each.logits) for name, each in scores.items()}
    labels = torch.from_numpy(scores["iframe"].labels)
    weights = {space: sweep_weights(logits, labels, space=space)[0] for space in ("logits", "probs")}  # type: ignore[arg-type]
    return {
        "weights": weights,
        "top1": {n: float((each.argmax(1) == labels).float().mean()) for n, each in logits.items()},
    }


def _try(job: tuple[Cell, str]) -> dict[str, Any]:
    torch.set_num_threads(1)
    cell, trial = job
    run, choice, more = _TRIALS[trial]
    (command,) = distill_commands(cell, run, choice, held_out=_HELD_OUT)
    # the same teachers, another folder and seed
    command[command.index("--seed") + 1] = str(cell.seed + more)
    command[command.index("--out") + 1] = str(cell.folder / trial.replace(" ", "-"))
    path = perform(command)
    seen = [json.loads(line).get("val/top1") for line in (path / "log.jsonl").read_text().splitlines()]
    last = [value for value in seen if value is not None][-10:]
    scores, _ = scores_of(path, part="val")
    return {"top1": float(np.mean(last)), "hits": hits(scores["fused"])}


def _smallest_detectable(cell: Cell, one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The smallest difference that the whole study can detect, from two trainings that differ only by their seed."""
    manifest = Manifest.read(cell.data)
    held_out = manifest.select("val", split=cell.split, val_fraction=_HELD_OUT, seed=0)
    group_of = {clip.video_id: clip.group for clip in held_out}
    gains: dict[str, list[int]] = {}
    for video, a, b in zip(sorted(group_of), one["hits"], other["hits"], strict=True):
        gains.setdefault(group_of[video], []).append(int(a) - int(b))
    sums = np.array([sum(values) for values in gains.values()])
    videos = sum(map(len, gains.values()))
    deviation = float(np.sqrt(len(sums)) * sums.std(ddof=1) / videos)
    tested = {clip.group for split in SPLITS[cell.dataset] for clip in manifest.select("test", split=split)}
    pooled = deviation * np.sqrt(len(sums) / len(tested) / len(SEEDS))
    return {
        "points": 280 * float(pooled),
        "how": f"2.8 standard errors (5% two-sided, power 80%) of a paired difference over {len(tested)} test groups and "
        f"{len(SEEDS)} seeds, from two seeds on {videos} held-out clips of {len(sums)} groups",
    }
