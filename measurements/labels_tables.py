"""The generated tables of the study of few labels, and of what a large teacher costs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from markdown import Results, grid, machine_text, percent, points, source

_WAYS = {
    "hard": "hard labels",
    "kd-labelled": "teacher's logits, labelled clips only",
    "pseudo": "teacher's pseudo-labels, all clips",
    "kl": "teacher's logits, all clips",
    "kl-longer": "the same, as many steps as with hard labels",
    "kl-mutual": "the same, two mutual students (mean)",
    "everything": "the same, and exits",
    "features": "teacher's logits and features, all clips",
    "relations": "teacher's logits and relations (RKD), all clips",
    "fused-logits": "three pretrained teachers' fused logits, all clips",
}
_STUDENTS = {
    "iframe": "student on I-frames, 0.10 M parameters",
    "streams": "student on three streams, 0.10 M parameters",
    "motion": "student on motion, whose teacher sees I-frames, 0.10 M parameters",
    "lite0": "student on three streams, EfficientNet-Lite0 with ImageNet weights",
}
_SEES = {"iframe": "I-frames", "streams": "three streams", "motion": "motion"}


def labels_table(results: Results) -> list[str]:
    """Accuracy of every student by way of learning and share of labels; then paired differences."""
    rows = {row["run"]: row for row in results["rows"]}
    shares = [share for share in results["clips"] if any(run.startswith(f"{share}/") for run in rows)]
    head = ("top-1 % (95 %)", *(f"{share} %: {results['clips'][share]['labelled']} clips" for share in shares))
    lines = ["## How many labels does a small model need?", "", _what(results), ""]
    table = [
        _row("teacher: frozen EfficientNet-Lite2, one I-frame", [rows.get(f"{share}/teacher") for share in shares])
    ]
    for student, title in _STUDENTS.items():
        found = {way: [rows.get(f"{share}/{student}/{way}") for share in shares] for way in _WAYS}
        if any(any(cells) for cells in found.values()):
            table.append((f"**{title}**", *("" for _ in shares)))
            table += [_row(_WAYS[way], cells) for way, cells in found.items() if any(cells)]
    lines += [*grid(head, table), "", "Points, paired by video; **bold** where the interval excludes zero:", ""]
    gains = [(each["asked"], points(each["top1_difference"]), str(each["cells"])) for each in results["comparisons"]]
    commands = ("measurements/labels.py run", "measurements/labels_sum.py")
    return [*lines, *grid(("difference", "top-1", "cells"), gains), "", source(results, *commands)]


def choice_table(results: Results) -> list[str]:
    """What was tried on held-out clips, and what of it was taken."""
    tried = results["tried"]
    best = {name: max(_mean(each) for each in of_student.values()) for name, of_student in tried.items()}
    rows = []
    for trial in next(iter(tried.values())):
        means = {name: _mean(of_student[trial]) for name, of_student in tried.items()}
        rows.append((trial, *(f"**{m:.1f}**" if m == best[name] else f"{m:.1f}" for name, m in means.items())))
    head = (
        "top-1 %, mean of two seeds",
        *(f"student on {_SEES[name]}" for name in tried),
    )
    return [
        f"## What was tried on held-out scenes{' for the student on motion' if 'motion' in tried else ''}",
        "",
        f"{results['how']}.",
        "",
        *grid(head, rows),
        "",
        source(results, results["command"]),
    ]


def _mean(trial: Mapping[str, Any]) -> float:
    return 100 * statistics.mean(trial["top1"])


def few_labels_table(results: Results) -> list[str]:
    """The rows of the front page: hard labels against the teacher's logits, by share of labels."""
    rows = {row["run"]: row for row in results["rows"]}
    gain = {(each["a"], each["b"]): each["top1_difference"] for each in results["comparisons"]}
    table = []
    for student in ("iframe", "streams"):
        for share, clips in results["clips"].items():
            hard, kl = (rows.get(f"{share}/{student}/{way}") for way in ("hard", "kl"))
            if hard and kl:
                added = points(gain[f"{share}/{student}/kl", f"{share}/{student}/hard"])
                table.append(
                    (
                        _SEES[student],
                        f"{clips['labelled']} of {_total(clips)}",
                        percent(hard["top1"]),
                        percent(kl["top1"]),
                        added,
                    )
                )
    head = ("student sees", "clips with a label", "hard labels", "from the teacher", "points")
    return [*grid(head, table), "", source(results, "measurements/labels.py run", "measurements/labels_sum.py")]


def teaching_table(results: Results) -> list[str]:
    """What fitting a frozen teacher takes, and what a student's epoch takes beside one without teachers."""
    fitting = [(name, f"{each['processor_seconds']:.0f}") for name, each in results["freezing"].items()]
    epochs = [
        (way, f"{min(seconds):.2f}", f"{results['over_hard_labels'].get(way, {'median': 1.0})['median']:.2f}")
        for way, seconds in results["epoch_seconds"].items()
    ]
    return [
        "### What a large teacher costs",
        "",
        f"{machine_text(results)}. `teach --freeze` of EfficientNet-Lite2 at 160 pixels on {results['labelled']} clips of 32 views, and an epoch of 432 "
        "clips for a student of 0.1 M parameters at 64 pixels.",
        "",
        *grid(("fitting the frozen teacher", "processor seconds"), fitting),
        "",
        *grid(("a student's epoch", "seconds", "over hard labels"), epochs),
        "",
        source(results, results["command"]),
    ]


def _what(results: Results) -> str:
    least = results["choice"]["smallest_detectable"]
    shown = ", ".join(f"{each['points']:.1f} points for the student on {name}" for name, each in least.items())
    return (
        f"Six classes of UCF101, {results['cells']} cells of split and seed; labels in some scenes of each class, the other training clips without labels. "
        f"Intervals are bootstraps over the tested scenes. Before any test, two seeds on held-out scenes showed that the whole study can detect {shown}."
    )


def _row(name: str, cells: list[Mapping[str, Any] | None]) -> tuple[str, ...]:
    return (name, *(percent(cell["top1"]) + _of_cells(cell) if cell else "" for cell in cells))


def _of_cells(cell: Mapping[str, Any]) -> str:
    return "" if cell["cells"] >= 9 else f" ({cell['cells']} cells)"


def _total(clips: Mapping[str, int]) -> int:
    return clips["labelled"] + clips["unlabelled"]
