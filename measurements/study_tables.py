"""The generated tables that come from the study: of README.md, docs/study.md and docs/measured.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from markdown import Results, grid, link, percent, points, source
from record import newest

STUDY_COMMANDS = ("measurements/study.py", "measurements/study_sum.py")
#: {run: what it trains}
STUDY_RUNS = {
    "hard": "students, only hard labels",
    "own": "students, each from the teacher of its stream",
    "fused": "students, from the fused teachers",
    "mutual": "students, from each other",
    "mutual-fused": "students, from each other and the fused teachers",
    "exits": "students with exits (self-distillation)",
    "everything": "students, with all of these",
    "one-hard": "one student on all streams, hard labels",
    "one-fused": "one student on all streams, from the fused teachers",
    "one-hard-longer": "one student on all streams, hard labels, twice as long",
    "one-fused-longer": "one student on all streams, from the fused teachers, twice as long",
    "from-iframe": "students, only from the I-frame teacher",
    "from-motion": "students, only from the motion teacher",
    "from-residual": "students, only from the residual teacher",
    "fitted": "students, from the teachers fused with fitted weights",
    "hard-mixup": "students, hard labels, mixup",
    "fused-mixup": "students, from the fused teachers, mixup",
    "hard-longer": "students, hard labels, twice as long",
    "fused-longer": "students, from the fused teachers, twice as long",
    "fused-T4": "students, from the fused teachers, T = 4",
    "dist": "students, DIST from the fused teachers",
    "standardised": "students, standardised logits from the fused teachers",
    "four": "four students, from each other and the fused teachers",
    "two-stream": "students on RGB frames and optical flow (two-stream), hard labels",
    "r2plus1d": "r2plus1d_18 on 16 RGB frames, hard labels",
}


#: Runs that docs/measured.md shows; docs/study.md has all.
STUDY_SHORT = (
    "teachers",
    "hard",
    "own",
    "fused",
    "fitted",
    "mutual",
    "mutual-fused",
    "exits",
    "everything",
    "hard-longer",
    "fused-longer",
    "one-hard",
    "one-fused",
    "two-stream",
)


STUDY_FUSED = ("fused 1:1:1 logits", "fused fitted logits")


#: Rows of the README: what it is, its run in the study, and the file and system that say how long it takes.
FRONT = (
    ("the small network on RGB frames", "two-stream:rgb", "bench_latency-cpu-study", "rgb"),
    (
        "two of them, on RGB frames and on optical flow",
        "two-stream:fused",
        "bench_latency-cpu-study",
        "two-stream-dis-fast",
    ),
    ("one student, on I-frames", "fused:iframe", "bench_latency-cpu-study", "iframe"),
    ("three students, on I-frames, motion and residuals", "fused:fused", "bench_latency-cpu-study", "three"),
    (
        "their three teachers, with four times the parameters",
        "teachers:fused 1:1:1 logits",
        "bench_latency-cpu-teachers",
        "three",
    ),
)


def study_name(run: str, entry: str) -> str | None:
    """What a row of the summary is called; None: it is in the JSON alone."""
    if run == "teachers":
        return f"teacher, {entry}" if not entry.startswith("fused") else f"teachers fused {entry[6:]}"
    if run == "two-stream" and entry == "rgb":
        return "student on RGB frames, hard labels"
    wanted = "all" if run.startswith("one-") else "rgb" if run == "r2plus1d" else "fused"
    return STUDY_RUNS.get(run) if entry == wanted else None


def in_some_cells(counted: Mapping[str, int], cells: Mapping[str, int]) -> str:
    """A remark where not every cell has a run: its neighbours in the table are then of other clips, its differences of the same."""
    return "" if counted == cells else f" ({sum(counted.values())} of {sum(cells.values())} cells)"


def in_columns(
    shown: Callable[[Mapping[str, float]], str], values: Mapping[str, Any], datasets: Iterable[str]
) -> list[str]:
    """One cell for each dataset, empty where there is no value."""
    return [shown(values[dataset]) if dataset in values else "" for dataset in datasets]


def in_short_study(run: str, entry: str) -> bool:
    """Whether docs/measured.md shows the entry."""
    return run in STUDY_SHORT and (not entry.startswith("fused ") or entry in STUDY_FUSED)


def study_rows(results: Results, chosen: Callable[[str, str], bool]) -> list[str]:
    """The table of accuracies."""
    datasets = columns_of(results)
    rows = [
        (
            name + in_some_cells(row["cells"], results["cells"]),
            *in_columns(percent, row["top1"], datasets),
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['macs_per_video'] / 1e9:.2f}",
        )
        for row in results["rows"]
        if (name := study_name(row["run"], row["entry"])) and chosen(row["run"], row["entry"])
    ]
    return grid(("top-1 % (95 %)", *datasets, "parameters", "GMACs a video"), rows)


def columns_of(results: Results) -> list[str]:
    """The datasets, and all together where there are several."""
    return [*results["cells"], *(["all"] if len(results["cells"]) > 1 else [])]


def study_head(results: Results) -> str:
    """Networks, clips and cells of the study, in words."""
    counted = ", ".join(
        f"{name}: {results['videos'][name]} predictions on {results['groups'][name]} groups, {cells} cells of split and seed"
        for name, cells in results["cells"].items()
    )
    return (
        "Three teachers (test_resnet) and three students (test_efficientnet), one a stream, on six classes of UCF101 and five actions "
        f"of UTD-MHAD, from scratch at 64 pixels; 8 segments, one crop. {counted}. Intervals are bootstraps over groups (scenes, people)."
    )


def short_study_table(results: Results) -> list[str]:
    """What is asked first, and a picture of all differences."""
    return [
        "### Does distilling pay?",
        "",
        study_head(results),
        "",
        *study_rows(results, in_short_study),
        "",
        "![What each way of learning adds, with intervals](pictures/study.svg)",
        "",
        f"[The study](study.md) has every row, every difference, and how to make them again. {source(results, *STUDY_COMMANDS)}",
    ]


def study_table(results: Results) -> list[str]:
    """Accuracies of every way of learning, what each adds, and the command of each row."""
    datasets = columns_of(results)
    gains = [
        (
            each["asked"] + in_some_cells(each["cells"], results["cells"]),
            *in_columns(points, each["top1_difference"], datasets),
        )
        for each in results["comparisons"]
    ]
    limits = ", ".join(
        f"{name} {each['points']:.1f}" for name, each in results["choice"]["smallest_detectable"].items()
    )
    seconds = {row["run"]: row["seconds"] for row in results["rows"]}
    commands = [
        (f"`{run}`", STUDY_RUNS.get(run, "the three teachers, single and fused"), f"{seconds[run]:.0f}")
        for run in seconds
    ]
    return [
        "## Accuracies",
        "",
        study_head(results),
        "",
        *study_rows(results, lambda run, entry: True),
        "",
        "## Differences",
        "",
        f"In points, paired by video; **bold** where the interval excludes zero. Before any test, two seeds on held-out clips "
        f"showed that the whole study can detect {limits} points.",
        "",
        *grid(("what it adds", *datasets), gains),
        "",
        "## Runs",
        "",
        "`measurements/study.py run … --runs NAME` repeats one; the third column is the median time of a cell, in seconds of one core.",
        "",
        *grid(("name", "what it trains", "seconds"), commands),
        "",
        source(results, *STUDY_COMMANDS),
    ]


def front_table(results: Results) -> list[str]:
    """Accuracy and time of five ways to recognise an action."""
    top1 = results["beside_baselines"]["top1"]
    rows = []
    for name, run, kind, system in FRONT:
        (accuracy,) = top1[run].values()
        latency = newest(kind)
        milliseconds = latency["forms"]["training form"]["systems"][system]["p50_ms"] if latency else None
        rows.append((name, percent(accuracy), "" if milliseconds is None else f"{milliseconds:.0f}"))
    measured = {found["file"]: found for _, _, kind, _ in FRONT if (found := newest(kind))}
    shown = ", ".join(map(link, (results, *measured.values())))
    return [
        *grid(("", "top-1 % (95 %)", "ms a video, file to label"), rows),
        "",
        f"UCF101 (six classes, mean of three official splits, 64 pixels, from scratch), one CPU thread. From {shown}.",
    ]
