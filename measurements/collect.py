"""Collects evaluated runs into one result file, results/KIND-DATE.json, for the tables of docs/measured.md.

    .venv/bin/python measurements/collect.py KIND --title TITLE --note NOTE [--compare A:B] RUN…

Paths are written as they would be with runs in runs/KIND, wherever the runs are.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from record import provenance, write
from videokd.datasets.manifest import Manifest
from videokd.evaluation.metrics import paired_difference
from videokd.evaluation.results import as_plain, read_results
from videokd.evaluation.scores import Scores

KEPT = ("streams", "backbone", "parameters", "macs_per_video", "latency_ms")


def rows_of(run: Path) -> list[dict[str, object]]:
    """One row for each entry of a run."""
    results = as_plain(read_results(run))
    rows = []
    for name, entry in results["entries"].items():
        alone = len(results["entries"]) == 1
        shown = run.name if alone else f"{run.name}: {name}"
        rows.append(
            {"name": shown, "role": entry["role"]}
            | {key: entry[key] for key in KEPT}
            | {"top1": entry["metrics"]["top1"]}
        )
    return rows


def fused_scores_of(run: Path) -> Scores:
    """The scores of a run's students together, or of its only network."""
    path = run / "scores-fused.npz"
    # without "fused" there is one network, and its own name is the shortest: the names of its exits start with it
    return Scores.load(path if path.exists() else min(run.glob("scores-*.npz"), key=lambda one: len(one.name)))


def comparisons_of(pairs: Iterable[str], runs: dict[str, Path], groups: dict[str, str]) -> list[dict[str, Any]]:
    """Paired differences of top-1, each of two runs given as A:B."""
    found = []
    for pair in pairs:
        names = dict(zip("ab", pair.split(":"), strict=True))
        a, b = (fused_scores_of(runs[name]) for name in names.values())
        difference = paired_difference(a, b, [groups[video] for video in a.video_ids])
        found.append(names | {"top1_difference": as_plain(difference)})
    return found


def collect(kind: str, folders: Sequence[Path], *, title: str, note: str, compare: Sequence[str] = ()) -> Path:
    """Writes the result file of some runs.

    Args:
        kind: what the file's name starts with.
        folders: of the runs, evaluated.
        title: of the table.
        note: the sentence above the table.
        compare: pairs of runs, as A:B.

    Returns:
        The file's path.
    """
    runs = {run.name: run for run in folders}
    first = as_plain(read_results(folders[0]))
    manifest = first["dataset"]["manifest"]
    groups = {clip.video_id: clip.group for clip in Manifest.read(manifest).clips}
    configs = {name: run / "config.yaml" for name, run in runs.items()}
    found = {
        "title": title,
        "note": note,
        "dataset": {key: value for key, value in first["dataset"].items() if key != "manifest"},
        "rows": [row for run in folders for row in rows_of(run)],
        "comparisons": comparisons_of(compare, runs, groups),
        "commands": {name: read_results(run).command for name, run in runs.items()},
        "settings": {name: yaml.safe_load(path.read_text()) for name, path in configs.items() if path.exists()},
    }
    text = json.dumps(found, ensure_ascii=False).replace(manifest, f"runs/{kind}/prepared")
    text = text.replace(str(folders[0].parent), f"runs/{kind}")
    return write(kind, provenance(("torch",)) | json.loads(text))


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind")
    parser.add_argument("--title", required=True)
    parser.add_argument("--note", required=True)
    parser.add_argument("--compare", action="append", default=[], metavar="A:B")
    parser.add_argument("runs", nargs="+", type=Path)
    given = parser.parse_args()
    print(collect(given.kind, given.runs, title=given.title, note=given.note, compare=given.compare))


if __name__ == "__main__":
    main()
