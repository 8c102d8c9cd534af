"""Run folders as the recipes leave them, with made-up figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from videokd.evaluation.metrics import metrics
from videokd.evaluation.results import (
    Comparison,
    EarlyExitPoint,
    Entry,
    Example,
    Interval,
    Latency,
    Results,
    ScoredPart,
    read_results,
    write_results,
)
from videokd.evaluation.scores import Scores

CLASSES = ("Archery", "BabyCrawling", "BaseballPitch", "Biking", "Bowling", "CleanAndJerk")


def made_up_scores(skill: float, *, seed: int = 0, videos: int = 168, classes: int = len(CLASSES)) -> Scores:
    rng = np.random.default_rng(seed)
    labels = np.arange(videos) % classes
    logits = rng.normal(size=(videos, classes)) + skill * np.eye(classes)[labels]
    return Scores(logits.astype(np.float32), labels, tuple(f"video{number:03d}" for number in range(videos)))


def made_up_entry(role: str, streams: tuple[str, ...], skill: float, *, seed: int, size: float) -> Entry:
    scores = made_up_scores(skill, seed=seed)
    groups = [f"g{number // 24}" for number in range(len(scores))]
    return Entry(
        role=role,
        streams=streams,
        backbone="resnet18" if size < 30e6 else "resnet50",
        parameters=int(size),
        macs_per_video=int(100 * size),
        latency_ms=Latency(4.0, size / 1e6, 4.0 + size / 1e6, 9.0),
        metrics=metrics(scores, class_names=CLASSES, groups=groups, bootstrap=50),
    )


def made_up_run(folder: Path, *, name: str = "demo") -> Path:
    parts = ("iframe", "motion", "residual")
    entries = {
        f"teacher-{s}": made_up_entry("teacher", (s,), 2 + 0.2 * i, seed=i, size=2.35e7) for i, s in enumerate(parts)
    }
    entries["teachers"] = made_up_entry("fused teachers", parts, 3.4, seed=5, size=7.05e7)
    entries["small"] = made_up_entry("student", parts, 2.7, seed=6, size=1.12e7)
    entries["tiny"] = made_up_entry("student", ("iframe", "motion"), 2.3, seed=7, size=3.1e6)
    entries["students"] = made_up_entry("students fused", parts, 3.1, seed=8, size=1.43e7)
    results = Results(
        run=name,
        verb="distill",
        command=f"videokd distill --out {name}",
        created="2026-03-01T12:00:00+00:00",
        versions={"videokd": "0.1.0", "torch": "2.6.0", "python": "3.11.7"},
        dataset=ScoredPart("data/ucf101-6/manifest.parquet", 1, "test", 168, CLASSES),
        views="quick",
        num_segments=25,
        entries=entries,
        comparisons=(
            Comparison("students", "teachers", Interval(-0.021, -0.04, 0.003)),
            Comparison("students", "tiny", Interval(0.0834, 0.041, 0.122)),
        ),
    )
    write_results(folder / "results.json", results)
    return folder


def made_up_predictions(folder: Path) -> None:
    """Scores files of two of a made-up run's models, and an example clip."""
    for name, skill, seed in (("teachers", 3.4, 5), ("small", 2.7, 6)):
        made_up_scores(skill, seed=seed).save(folder / f"scores-{name}.npz")
    examples = (
        Example("streams-01-Archery.png", "video000", "Archery"),
        Example("streams-02-Biking.png", "video003", "Biking"),
    )
    write_results(folder / "results.json", replace(read_results(folder), examples=examples))


def made_up_exits(folder: Path) -> None:
    """Two exits of one of a made-up run's students, and its early-exit curve."""
    results = read_results(folder)
    entries, whole = dict(results.entries), results.entries["small"].macs_per_video
    assert whole is not None
    for number, skill in enumerate((1.9, 2.3), start=1):
        entry = made_up_entry("exit", ("iframe", "motion", "residual"), skill, seed=20 + number, size=3e6 * number)
        entries[f"small:exit{number}"] = replace(entry, macs_per_video=int(0.3 * number * whole))
    curve = tuple(
        EarlyExitPoint(
            threshold,
            top1=Interval(0.7 + 0.2 * share, 0.64 + 0.2 * share, 0.76 + 0.2 * share),
            macs_per_video=(0.35 + 0.65 * share) * whole,
            exits={"exit1": 1 - share, "exit2": 0.0, "deepest": share},
        )
        for threshold, share in ((0.5, 0.1), (0.8, 0.5), (1.0, 1.0))
    )
    write_results(folder / "results.json", replace(results, entries=entries, early_exit={"small": curve}))


def made_up_log(folder: Path, *, epochs: int = 8) -> None:
    lines = []
    for step in range(10 * epochs):
        loss = 1.8 * 0.97**step
        lines.append({"step": step, "epoch": step // 10, "loss/total": loss, "student/ce": 0.7 * loss, "lr": 0.1})
    for epoch in range(epochs):
        lines.append({"epoch": epoch, "val/top1": 0.9 - 0.6 * 0.7**epoch, "val/small": 0.85 - 0.6 * 0.8**epoch})
    text = "\n".join(json.dumps(line) for line in lines)
    (folder / "log.jsonl").write_text(f'{text}\n{{"step": 99, "epo')
