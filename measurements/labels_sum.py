"""Pools the study of few labels into results/labels-DATE.json: accuracies and paired differences, with intervals; draws the curves.

    .venv/bin/python measurements/labels_sum.py [--plot docs/pictures/labels.svg]

Intervals are 95 % percentile bootstraps over the tested scenes: a scene is drawn with all its videos, in all splits and seeds. Differences
are paired by video, split and seed, on the cells (split and seed) that have both runs. Two mutual students count as the mean of both.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from labels_fused import STUDENT
from labels_runs import ARMS, GROUPS_WITH_LABELS, RECORDS, STUDENTS
from record import newest_or_fail, provenance, write
from study_records import CellKey, Record, read_records
from study_sum import interval

Cells = Mapping[CellKey, Mapping[str, Record]]
TEACHER = "teacher"
#: Share of the labels that stands for all of them.
ALL = "100"
NAMES = {
    "teacher": "teacher (frozen EfficientNet-Lite2)",
    "hard": "hard labels",
    "kd-labelled": "teacher's logits, on clips with labels",
    "pseudo": "teacher's pseudo-labels, on all clips",
    "kl": "teacher's logits, on all clips",
    "kl-longer": "the same, as many steps as with hard labels",
    "kl-mutual": "the same, two mutual students",
    "everything": "the same, with exits",
    "features": "teacher's logits and features",
    "relations": "teacher's logits and relations",
}
COLOURS = {"teacher": "#7a8699", "hard": "#d64550", "pseudo": "#e0982e", "kl": "#2f6fed"}


def top1_of(record: Record) -> npt.NDArray[np.float64]:
    """1 for each correctly classified video; the mean over students where there are several, but of teachers their fusion."""
    return np.mean([[int(hit) for hit in entry["hits"]] for entry in entries_of(record)], axis=0)


def entries_of(record: Record) -> list[dict[str, Any]]:
    """What a run counts as: its students one by one, without their exits; or the fused teachers."""
    entries: dict[str, dict[str, Any]] = record["entries"]
    if "weights" in entries.get("fused", {}):
        return [entries["fused"]]
    return [entry for name, entry in entries.items() if name != "fused" and ":" not in name]


def by_scene(
    cells: Sequence[Mapping[str, Record]], values: Sequence[npt.NDArray[np.float64]]
) -> npt.NDArray[np.float64]:
    """[scenes, 2]: sum and count of a value for each video of each cell."""
    scenes = [scene for cell in cells for scene in videos_of(cell).values()]
    names, number = np.unique(scenes, return_inverse=True)
    sums = np.bincount(number, np.concatenate(values), len(names))
    return np.stack([sums, np.bincount(number, minlength=len(names))], axis=1)


def videos_of(cell: Mapping[str, Record]) -> dict[str, str]:
    """{tested video: its scene}, in the order of hits."""
    videos: dict[str, str] = next(record["videos"] for record in cell.values() if "videos" in record)
    return videos


def accuracy(cells: Cells, run: str) -> dict[str, Any] | None:
    """Top-1 of a run with its interval, and what it costs; None where no cell has it."""
    having = [cell for cell in cells.values() if run in cell]
    if not having:
        return None
    cost = entries_of(having[0][run])[0]
    return {
        "run": run,
        "cells": len(having),
        "top1": interval([by_scene(having, [top1_of(cell[run]) for cell in having])]),
        "parameters": cost["parameters"],
        "macs_per_video": cost["macs_per_video"],
        "seconds": float(np.median([cell[run]["cpu_seconds"] for cell in having])),
        "commands": having[0][run]["commands"],
    }


def difference(cells: Cells, asked: str, a: str, b: str) -> dict[str, Any] | None:
    """a − b in points, paired; None where no cell has both."""
    having = [cell for cell in cells.values() if a in cell and b in cell]
    if not having:
        return None
    gains = [top1_of(cell[a]) - top1_of(cell[b]) for cell in having]
    return {
        "asked": asked,
        "a": a,
        "b": b,
        "cells": len(having),
        "top1_difference": interval([by_scene(having, gains)]),
    }


def questions(student: str) -> list[tuple[str, str, str]]:
    """(what is asked, a, b) for one student."""
    asked = []
    for labels in GROUPS_WITH_LABELS:
        own = f"{labels}/{student}"
        asked += [
            (f"{student}, {labels} %: {NAMES[arm]}, over hard labels", f"{own}/{arm}", f"{own}/hard")
            for arm in ARMS
            if arm != "hard"
        ]
        asked += [
            (f"{student}, {labels} %: logits over pseudo-labels", f"{own}/kl", f"{own}/pseudo"),
            (
                f"{student}, {labels} %: clips without labels over labelled ones alone",
                f"{own}/kl",
                f"{own}/kd-labelled",
            ),
            (f"{student}, {labels} %: as many steps as with hard labels over fewer", f"{own}/kl-longer", f"{own}/kl"),
            (f"{student}, {labels} %: two mutual students over one", f"{own}/kl-mutual", f"{own}/kl"),
            (f"{student}, {labels} %: exits over none, mutual students", f"{own}/everything", f"{own}/kl-mutual"),
            (f"{student}, {labels} %: features over logits alone", f"{own}/features", f"{own}/kl"),
            (f"{student}, {labels} %: relations over logits alone", f"{own}/relations", f"{own}/kl"),
            (f"{student}, {labels} %: against its teacher", f"{own}/kl", f"{labels}/{TEACHER}"),
        ]
        if labels != ALL:
            asked.append((f"{student}, {labels} %: against all true labels", f"{own}/kl", f"{ALL}/{student}/hard"))
    return asked


def _of_pretrained_students() -> list[tuple[str, str, str]]:
    asked = []
    for labels in GROUPS_WITH_LABELS:
        own, name = f"{labels}/{STUDENT}/fused-logits", f"pretrained student, {labels} %"
        asked += [
            (f"{name}: three fused teachers' logits over hard labels", own, f"{labels}/{STUDENT}/hard"),
            (f"{name}: against the three fused teachers", own, f"{labels}/teachers"),
        ]
    return asked


def plot(rows: Sequence[Mapping[str, Any]], target: Path) -> None:
    """Accuracy against the share of the labels, a panel a student."""
    students = [
        student for student in ("iframe", "streams") if any(row["run"].split("/")[1] == student for row in rows)
    ]
    figure = Figure(figsize=(4.4 * len(students) + 0.6, 3.9), facecolor="white", layout="constrained")
    panels = figure.subplots(1, len(students), sharey=True, squeeze=False)[0]
    for axes, student in zip(panels, students, strict=True):
        for arm in ("teacher", "hard", "pseudo", "kl"):
            points = {row["run"].split("/")[0]: row["top1"] for row in rows if _is(row["run"], student, arm)}
            shares = [labels for labels in GROUPS_WITH_LABELS if labels in points]
            places = [list(GROUPS_WITH_LABELS).index(labels) for labels in shares]
            values, low, high = (
                np.array([100 * points[labels][key] for labels in shares]) for key in ("value", "low", "high")
            )
            style = "--" if arm == "teacher" else "-"
            axes.plot(places, values, f"o{style}", color=COLOURS[arm], label=NAMES[arm], linewidth=1.8, markersize=5)
            axes.fill_between(places, low, high, color=COLOURS[arm], alpha=0.1, linewidth=0)
        axes.set_xticks(range(len(GROUPS_WITH_LABELS)), [f"{labels} %" for labels in GROUPS_WITH_LABELS])
        axes.set_xlim(-0.3, len(GROUPS_WITH_LABELS) - 0.7)
        axes.set_xlabel("training clips with a label")
        axes.set_title(
            {"iframe": "student on I-frames", "streams": "student on three streams"}.get(student, student), fontsize=10
        )
        axes.grid(axis="y", color="#d9dee6", linewidth=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("top-1, %")
    panels[-1].legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(target, format="svg", metadata={"Date": None})


def _is(run: str, student: str, arm: str) -> bool:
    parts = run.split("/")[1:]
    return parts == ([TEACHER] if arm == "teacher" else [student, arm])


def summary(cells: Cells) -> dict[str, Any]:
    """What the runs show together."""
    choice = newest_or_fail("labels_choice")
    runs = [f"{labels}/{TEACHER}" for labels in GROUPS_WITH_LABELS]
    runs += [f"{labels}/{student}/{arm}" for student in STUDENTS for labels in GROUPS_WITH_LABELS for arm in ARMS]
    runs += [f"{labels}/{run}" for labels in GROUPS_WITH_LABELS for run in ("teachers", f"{STUDENT}/fused-logits")]
    asked = [question for student in STUDENTS for question in questions(student)] + _of_pretrained_students()
    some_cell = next(iter(cells.values()))
    clips = {run.partition("/")[0]: record["clips"] for run, record in some_cell.items() if run.endswith(f"/{TEACHER}")}
    return {
        "made": next(iter(some_cell.values()))["made"],
        "cells": len(cells),
        "clips": {labels: clips[labels] for labels in GROUPS_WITH_LABELS if labels in clips},
        "choice": {key: choice[key] for key in ("chosen", "how", "smallest_detectable", "file")},
        "rows": [row for row in (accuracy(cells, run) for run in runs) if row],
        "comparisons": [found for found in (difference(cells, *each) for each in asked) if found],
    }


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw accuracy against the share of the labels")
    given = parser.parse_args()
    cells = read_records(RECORDS)
    if not cells:
        sys.stderr.write(f"{RECORDS} has no run. Run measurements/labels.py first.\n")
        return 2
    found = summary(cells)
    target = write("labels", provenance() | found)
    if given.plot:
        plot(found["rows"], given.plot)
    for row in found["rows"]:
        print(f"{row['run']}: {_shown(row['top1'])} ({row['cells']} cells)")
    for each in found["comparisons"]:
        print(f"{each['asked']}: {_shown(each['top1_difference'])} ({each['cells']} cells)")
    print(target)
    return 0


def _shown(value: Mapping[str, float]) -> str:
    return f"{100 * value['value']:.1f} ({100 * value['low']:.1f} to {100 * value['high']:.1f})"


if __name__ == "__main__":
    sys.exit(main())
