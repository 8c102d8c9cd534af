"""Pools the study's runs into results/study-DATE.json: accuracies and paired differences, with intervals.

    .venv/bin/python measurements/study_sum.py [--plot docs/pictures/study.svg]

Intervals are 95% percentile bootstraps over groups (scenes, people): a group is drawn with all its videos, in all splits and seeds.
Differences are paired by video, split and seed. A cell (dataset, split, seed) counts when all its core runs are there; a run outside
the core counts in those of these cells that have it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from record import CODEC_STREAMS as STREAMS
from record import newest_or_fail, provenance, write
from study_questions import EACH, QUESTIONS, Entry
from study_records import RECORDS, Record, read_records
from study_runs import CORE

RESAMPLES = 4000
#: The runs that make a cell complete.
WHOLE = ("teachers", *CORE)
#: What the summary repeats of the choice of hyper-parameters; what was tried stays in its own file.
CHOSEN = ("distillation", "mutual", "weights", "teachers_on_held_out", "how", "smallest_detectable")
#: Datasets whose groups are people, who act in all classes.
OF_PEOPLE = ("utd-mhad-5",)


def complete_cells() -> dict[str, list[dict[str, Record]]]:
    """{dataset: complete cells, each {run: record}}."""
    complete: dict[str, list[dict[str, Record]]] = {}
    for key, runs in read_records(RECORDS).items():
        if set(WHOLE) <= set(runs):
            complete.setdefault(key.dataset, []).append(runs)
    return complete


def unit(group: str, cell: Mapping[str, Mapping[str, Any]]) -> str:
    """What is drawn whole: a scene of one class (`Archery/g01`), or a person in all classes (`s2` of `clap/s2`)."""
    return group.partition("/")[2] if cell["teachers"]["dataset"] in OF_PEOPLE else group


class Pool:
    """Hits of an entry over all cells of one dataset, by group.

    Args:
        cells: {run: record} of each.
    """

    def __init__(self, cells: Sequence[Mapping[str, Mapping[str, Any]]]) -> None:
        self.cells = cells
        groups = [unit(name, cell) for cell in cells for name in cell["teachers"]["videos"].values()]
        names, self._group_of = np.unique(groups, return_inverse=True)
        self.num_groups = len(names)

    def hits(self, entry: Entry) -> np.ndarray:
        """1 for each correctly classified video of all cells, 0 for each misclassified one."""
        run, name = entry
        if name == EACH:
            return np.mean([self.hits((run, stream)) for stream in STREAMS], axis=0)
        return np.array([int(hit) for cell in self.cells for hit in cell[run]["entries"][name]["hits"]])

    def by_group(self, values: np.ndarray) -> np.ndarray:
        """[groups, 2]: sum and count."""
        sums = np.bincount(self._group_of, values, self.num_groups)
        return np.stack([sums, np.bincount(self._group_of, minlength=self.num_groups)], axis=1)


def interval(tables: Sequence[np.ndarray]) -> dict[str, float]:
    """Mean over all videos of all tables; groups are drawn within their dataset."""
    rng = np.random.default_rng(0)
    total = np.zeros((RESAMPLES, 2))
    for table in tables:
        weights = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), size=RESAMPLES)
        total += weights @ table
    low, high = np.percentile(total[:, 0] / total[:, 1], (2.5, 97.5))
    value = sum(table[:, 0].sum() for table in tables) / sum(table[:, 1].sum() for table in tables)
    return {"value": float(value), "low": float(low), "high": float(high)}


def over(pools: Mapping[str, Pool], values: Callable[[Pool], np.ndarray]) -> dict[str, dict[str, float]]:
    """The interval for each dataset, and for all together."""
    tables = {name: pool.by_group(values(pool)) for name, pool in pools.items()}
    found = {name: interval([table]) for name, table in tables.items()}
    return found | ({"all": interval(list(tables.values()))} if len(tables) > 1 else {})


def with_entries(pools: Mapping[str, Pool], *entries: Entry) -> dict[str, Pool]:
    """The cells that have all of these entries; datasets without any are left out."""
    having = {
        dataset: [c for c in pool.cells if all(_is_in(c, entry) for entry in entries)]
        for dataset, pool in pools.items()
    }
    return {dataset: Pool(cells) for dataset, cells in having.items() if cells}


def _is_in(cell: Mapping[str, Mapping[str, Any]], entry: Entry) -> bool:
    run, name = entry
    return run in cell and set(STREAMS if name == EACH else (name,)) <= set(cell[run]["entries"])


def entries_of(pools: Mapping[str, Pool]) -> Iterator[Entry]:
    """Runs and their entries that any cell has, each once."""
    cells = [cell for pool in pools.values() for cell in pool.cells]
    runs = (*WHOLE, *sorted({run for cell in cells for run in cell} - set(WHOLE)))
    found = ((run, name) for run in runs for cell in cells if run in cell for name in cell[run]["entries"])
    return iter(dict.fromkeys(found))


def row(pools: Mapping[str, Pool], entry: Entry) -> dict[str, Any]:
    """Accuracy, cost and commands of one entry."""
    run, name = entry
    having = with_entries(pools, entry)
    cells = [cell for pool in having.values() for cell in pool.cells]
    cost = cells[0][run]["entries"][name]
    return {
        "run": run,
        "entry": name,
        "cells": {dataset: len(pool.cells) for dataset, pool in having.items()},
        "top1": over(having, lambda pool: pool.hits(entry)),
        "parameters": cost["parameters"],
        "macs_per_video": cost["macs_per_video"],
        "seconds": float(np.median([cell[run]["cpu_seconds"] for cell in cells])),
        "commands": cells[0][run]["commands"],
        "evaluation": cells[0][run]["evaluation"],
    }


def difference(pools: Mapping[str, Pool], asked: str, a: Entry, b: Entry) -> dict[str, Any] | None:
    """The difference of two entries on the cells that have both; None where there are none."""
    having = with_entries(pools, a, b)
    if not having:
        return None
    gain = over(having, lambda pool: pool.hits(a) - pool.hits(b))
    cells = {dataset: len(pool.cells) for dataset, pool in having.items()}
    return {"asked": asked, "a": list(a), "b": list(b), "cells": cells, "top1_difference": gain}


def best_single(pools: Mapping[str, Pool], weights: str) -> dict[str, Any]:
    """Fused teachers against the stream whose teacher is best on these very clips, dataset by dataset: if anything, too hard."""
    best = {name: max(STREAMS, key=lambda s: pool.hits(("teachers", s)).mean()) for name, pool in pools.items()}
    by_pool = {id(pool): ("teachers", best[name]) for name, pool in pools.items()}
    fused = ("teachers", f"fused {weights} logits")
    return {
        "asked": f"teachers fused {weights} over the best single one",
        "a": list(fused),
        "b": ["teachers", "best single"],
        "best": best,
        "cells": {name: len(pool.cells) for name, pool in pools.items()},
        "top1_difference": over(pools, lambda pool: pool.hits(fused) - pool.hits(by_pool[id(pool)])),
    }


def early_exit(pools: Mapping[str, Pool], run: str) -> dict[str, Any]:
    """{dataset: {student: [{threshold, accuracy, share of the whole network's MACs}]}}, means over cells."""
    curves: dict[str, Any] = {}
    for dataset, pool in pools.items():
        for student in pool.cells[0][run].get("early_exit", {}):
            points = [cell[run]["early_exit"][student] for cell in pool.cells]
            whole = pool.cells[0][run]["entries"][student]["macs_per_video"]
            curves.setdefault(dataset, {})[student] = [
                {
                    "threshold": at[0]["threshold"],
                    "top1": float(np.mean([point["top1"]["value"] for point in at])),
                    "share_of_macs": float(np.mean([point["macs_per_video"] for point in at])) / whole,
                }
                for at in zip(*points, strict=True)
            ]
    return curves


def beside_baselines(pools: Mapping[str, Pool]) -> dict[str, Any]:
    """Accuracies of the students and of what else could be run, on the cells that have all of these."""
    known: tuple[Entry, ...] = (("two-stream", "rgb"), ("two-stream", "fused"), ("r2plus1d", "rgb"))
    baselines = [entry for entry in known if with_entries(pools, entry)]
    having = with_entries(pools, *baselines) if baselines else {}
    teachers = ("teachers", "fused 1:1:1 logits")
    shown = (("hard", "fused"), ("fused", "fused"), ("fused", "iframe"), teachers, *baselines) if having else ()
    return {
        "cells": {dataset: len(pool.cells) for dataset, pool in having.items()},
        "top1": {f"{run}:{name}": over(having, partial(Pool.hits, entry=(run, name))) for run, name in shown},
    }


def plot(comparisons: Sequence[Mapping[str, Any]], target: Path) -> None:
    """Each difference with its interval, of all datasets together; blue where the interval leaves zero out."""
    figure = Figure(figsize=(9, 0.27 * len(comparisons) + 0.9), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    for height, each in enumerate(reversed(comparisons)):
        gain = each["top1_difference"].get("all") or next(iter(each["top1_difference"].values()))
        value, low, high = (100 * gain[key] for key in ("value", "low", "high"))
        colour = "#2f6fed" if low > 0 else "#d64550" if high < 0 else "#7a8699"
        axes.plot((low, high), (height, height), color=colour, linewidth=2.2, solid_capstyle="round")
        axes.plot(value, height, "o", color=colour, markersize=6)
    axes.axvline(0, color="#171c26", linewidth=0.8)
    axes.set_yticks(range(len(comparisons)), [each["asked"] for each in reversed(comparisons)], fontsize=9)
    axes.set_ylim(-0.7, len(comparisons) - 0.3)
    axes.set_xlabel("top-1, points, paired by video; 95% interval over groups")
    axes.grid(axis="x", color="#d9dee6", linewidth=0.7)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    figure.savefig(target, format="svg", metadata={"Date": None})


def summary() -> dict[str, Any] | None:
    """What the runs show together; None where no cell is complete."""
    complete = complete_cells()
    if not complete:
        return None
    pools = {dataset: Pool(cells) for dataset, cells in complete.items()}
    choice = newest_or_fail("study_choice")
    asked = [difference(pools, *question) for question in QUESTIONS]
    return {
        "made": next(iter(pools.values())).cells[0]["hard"]["made"],
        "cells": {dataset: len(cells) for dataset, cells in complete.items()},
        "videos": {name: len(pool.hits(("hard", "fused"))) for name, pool in pools.items()},
        "groups": {name: pool.num_groups for name, pool in pools.items()},
        "choice": {key: choice[key] for key in CHOSEN},
        "rows": [row(pools, entry) for entry in entries_of(pools)],
        "comparisons": [
            *(best_single(pools, weights) for weights in ("1:1:1", "fitted")),
            *(each for each in asked if each),
        ],
        "beside_baselines": beside_baselines(pools),
        "early_exit": {run: early_exit(pools, run) for run in ("exits", "everything")},
    }


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the differences")
    given = parser.parse_args()
    found = summary()
    if found is None:
        sys.stderr.write(f"{RECORDS} has no complete cell. Run measurements/study.py first.\n")
        return 2
    target = write("study", provenance() | found)
    if given.plot:
        in_detail = (" student: ", "one by one")
        plot([each for each in found["comparisons"] if not any(d in each["asked"] for d in in_detail)], given.plot)
    for comparison in found["comparisons"]:
        shown = ", ".join(
            f"{name} {100 * gain['value']:+.1f} ({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})"
            for name, gain in comparison["top1_difference"].items()
        )
        print(f"{comparison['asked']}: {shown}")
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
