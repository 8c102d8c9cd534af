"""The study's table of runs: `results/study_runs.jsonl`, one line of JSON for each run of each cell (dataset, split, seed)."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from record import RESULTS
from videokd.files import write_whole

RECORDS = RESULTS / "study_runs.jsonl"
Record = dict[str, Any]


@dataclass(frozen=True, order=True)
class CellKey:
    """What a cell of the study is: one dataset, split and seed."""

    dataset: str
    split: int
    seed: int

    def __str__(self) -> str:
        return f"{self.dataset}-{self.split}-{self.seed}"


def read_records(table: Path) -> dict[CellKey, dict[str, Record]]:
    """{cell: {run: its record}}, in the order of cells and runs; empty where there is no table yet."""
    cells: dict[CellKey, dict[str, Record]] = {}
    for line in table.read_text(encoding="utf-8").splitlines() if table.is_file() else []:
        record = json.loads(line)
        key = CellKey(record["dataset"], record["split"], record["seed"])
        cells.setdefault(key, {})[record["run"]] = record
    return {key: dict(sorted(runs.items())) for key, runs in sorted(cells.items())}


def add_record(table: Path, key: CellKey, run: str, text: str) -> None:
    """Adds a run to the table, or replaces it; several processes may do so at once.

    Args:
        table: the file.
        key: the run's cell.
        run: its name.
        text: its record, a JSON object without the names of cell and run.
    """
    named: Record = {"dataset": key.dataset, "split": key.split, "seed": key.seed, "run": run}
    table.parent.mkdir(parents=True, exist_ok=True)
    with _locked(table.parent):
        cells = read_records(table)
        cells.setdefault(key, {})[run] = named | json.loads(text)
        lines = [_line(record) for _, runs in sorted(cells.items()) for _, record in sorted(runs.items())]
        write_whole(table, ("\n".join(lines) + "\n").encode())


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Waits for the folder's lock: the table itself is replaced whenever it is written, and cannot carry one."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
