"""`videokd report`: one HTML page from any number of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videokd.evaluation.report import write_report
from videokd.recipes.command_line import parse, say


@dataclass(frozen=True)
class Report:
    """Writes one self-contained HTML page with tables, plots and pictures.

    Args:
        runs: run folders that `videokd evaluate` or `videokd fuse --out` has been through.
        save: the page to write.
        title: of the page.
    """

    runs: tuple[str, ...]
    save: str
    title: str = "videokd"


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    settings = parse(Report, arguments, verb="report", positional=("runs",))
    say(f"report: {write_report([Path(run) for run in settings.runs], Path(settings.save), title=settings.title)}")
