"""The choice of hyper-parameters of the study of few labels, on groups held out of the training clips of split 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from labels_runs import (
    HELD_OUT,
    SEEDS,
    SEEDS_OF_CHOICE,
    SPLITS,
    LabelCell,
    student_command,
    teacher_command,
    train_and_score,
)
from record import provenance, write
from study_workers import until_stopped, workers
from videokd.datasets.manifest import Manifest

LABELS = "10"
CHOSEN_FOR = ("iframe", "streams")
_HARD = {"steps": 540, "mixup": 0.0, "lr": 0.003}
_DISTILLED = {"steps": 540, "lr": 0.003, "alpha": 1.0, "temperature": 1.0, "beta": 0.5, "confidence": 0.0}
#: {trial: (arm, hyper-parameters)}; the best of each kind is taken, kind by kind, student by student.
TRIALS: Mapping[str, tuple[str, dict[str, Any]]] = {
    **{f"hard mixup {m:g}, {s} steps": ("hard", _HARD | {"mixup": m, "steps": s}) for m in (0.0, 0.4) for s in (540, 1080)},
    "kl T 1": ("kl", _DISTILLED),
    "kl T 2": ("kl", _DISTILLED | {"temperature": 2.0}),
    "kl T 4": ("kl", _DISTILLED | {"temperature": 4.0}),
    "kl T 1, alpha 0.8": ("kl", _DISTILLED | {"alpha": 0.8}),
    "kl T 1, 1080 steps": ("kl", _DISTILLED | {"steps": 1080}),
    "pseudo, all": ("pseudo", _DISTILLED),
    "pseudo, confidence 0.8": ("pseudo", _DISTILLED | {"confidence": 0.8}),
    "mutual beta 0.25": ("kl-mutual", _DISTILLED | {"beta": 0.25}),
    "mutual beta 1": ("kl-mutual", _DISTILLED | {"beta": 1.0}),
}  # fmt: skip
#: A student that does not see what its teacher sees: does it learn more from features than from logits?
TRIALS_OF_MOTION: Mapping[str, tuple[str, dict[str, Any]]] = {
    "hard mixup 0.4, 1080 steps": ("hard", _HARD | {"mixup": 0.4, "steps": 1080}),
    "kl T 1": ("kl", _DISTILLED),
    "kl T 2": ("kl", _DISTILLED | {"temperature": 2.0}),
    "features 0.3": ("features", _DISTILLED | {"features": 0.3}),
    "features 1": ("features", _DISTILLED | {"features": 1.0}),
    "relations 1": ("relations", _DISTILLED | {"relations": 1.0}),
    "relations 10": ("relations", _DISTILLED | {"relations": 10.0}),
}


def choose(data: Path, out: Path, jobs: int, *, motion: bool = False) -> Path:
    """Trains and scores every trial, and writes what is taken.

    Args:
        data: the prepared folder.
        out: the study's folder.
        jobs: trainings at a time.
        motion: try `TRIALS_OF_MOTION` with the student on motion, instead of the trials of the others.

    Returns:
        The result file.
    """
    cells = [LabelCell(data, 1, seed, LABELS, out, choosing=True) for seed in SEEDS_OF_CHOICE]
    students, trials = (("motion",), TRIALS_OF_MOTION) if motion else (CHOSEN_FOR, TRIALS)
    jobs_of_trials = [
        (cell, student, trial, *trials[trial]) for student in students for trial in trials for cell in cells
    ]
    tried: dict[str, dict[str, list[dict[str, Any]]]] = {student: {} for student in students}
    with workers(jobs) as pool:
        teachers = pool.map(partial(until_stopped, _teach), cells)
        found = pool.imap(partial(until_stopped, _try), jobs_of_trials)
        for (_, student, trial, *_), result in zip(jobs_of_trials, tqdm(found, total=len(jobs_of_trials)), strict=True):
            tried[student].setdefault(trial, []).append(result)
    chosen = {student: _best(of_student, trials) for student, of_student in tried.items()}
    if not motion:
        chosen["lite0"] = _for_lite0(chosen["streams"])
    videos = {clip.video_id: clip.group for clip in cells[0].parts[2]}
    return write(
        "labels_choice_motion" if motion else "labels_choice",
        provenance(("torch", "timm"), threads=1)
        | {
            "command": f"measurements/labels.py choose --data data/ucf101-6/prepared{' --students motion' if motion else ''}",
            "chosen": chosen,
            "how": f"top-1 on {HELD_OUT:.0%} of the training groups of split 1, {LABELS} % of the labels of the others, seeds "
            f"{', '.join(map(str, SEEDS_OF_CHOICE))}; kind by kind: hard labels, KL, then confidence and beta with the other settings at "
            "their first values; no test clip was used",
            "teachers": teachers,
            "tried": {
                student: {trial: {"top1": [each["top1"] for each in results]} for trial, results in of_student.items()}
                for student, of_student in tried.items()
            },
            "smallest_detectable": {s: _smallest_detectable(tried[s]["kl T 1"], videos, data) for s in students},
        },
    )


def _teach(cell: LabelCell) -> float:
    torch.set_num_threads(1)
    return _top1(train_and_score([teacher_command(cell)]))


def _try(job: tuple[LabelCell, str, str, str, dict[str, Any]]) -> dict[str, Any]:
    torch.set_num_threads(1)
    cell, student, trial, arm, settings = job
    command = student_command(
        cell,
        student,
        arm,
        {student: {"hard": settings, "distilled": settings}},
        name=f"{student}-{trial}".replace(" ", "-").replace(",", ""),
    )
    record = train_and_score([command])
    return {"top1": _top1(record), "hits": _hits_of(record)}


def _hits_of(record: Mapping[str, Any]) -> list[str]:
    """Of each student by itself."""
    return [entry["hits"] for name, entry in record["entries"].items() if name != "fused" and ":" not in name]


def _top1(record: Mapping[str, Any]) -> float:
    """Mean over students."""
    return float(np.mean([hit == "1" for hits in _hits_of(record) for hit in hits]))


def _best(
    tried: Mapping[str, Sequence[Mapping[str, Any]]], trials: Mapping[str, tuple[str, dict[str, Any]]]
) -> dict[str, dict[str, Any]]:
    """The settings of the trials with the highest mean, kind by kind."""
    mean = {trial: np.mean([each["top1"] for each in results]) for trial, results in tried.items()}

    def of_kind(kind: str) -> dict[str, Any]:
        of_it = [trial for trial in mean if trial.startswith(kind)]
        return trials[max(of_it, key=lambda trial: float(mean[trial]))][1] if of_it else {}

    distilled = dict(of_kind("kl"))
    kinds = {"confidence": "pseudo", "beta": "mutual", "features": "features", "relations": "relations"}
    distilled |= {name: found[name] for name, kind in kinds.items() if name in (found := of_kind(kind))}
    return {"hard": dict(of_kind("hard")), "distilled": distilled}


def _for_lite0(chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pretrained students learn in fewer steps, at a lower rate: chosen by hand, for lack of time, and the same with and without teachers."""
    return {kind: dict(settings) | {"steps": 360, "lr": 0.001} for kind, settings in chosen.items()}


def _smallest_detectable(
    results: Sequence[Mapping[str, Any]], group_of: Mapping[str, str], data: Path
) -> dict[str, Any]:
    """The smallest difference that the whole study can detect, from two trainings that differ by seed and labels."""
    one, other = (result["hits"][0] for result in results)
    gains: dict[str, list[int]] = {}
    for video, a, b in zip(sorted(group_of), one, other, strict=True):
        gains.setdefault(group_of[video], []).append(int(a) - int(b))
    sums = np.array([sum(values) for values in gains.values()])
    deviation = float(np.sqrt(len(sums)) * sums.std(ddof=1) / sum(map(len, gains.values())))
    manifest = Manifest.read(data)
    tested = {clip.group for split in SPLITS for clip in manifest.select("test", split=split)}
    pooled = deviation * np.sqrt(len(sums) / len(tested) / len(SEEDS))
    return {
        "points": 280 * float(pooled),
        "how": f"2.8 standard errors (5 % two-sided, power 80 %) of a paired difference over {len(tested)} test groups and {len(SEEDS)} "
        f"seeds, from two seeds on {len(group_of)} held-out clips of {len(sums)} groups",
    }
