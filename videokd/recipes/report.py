"""`videokd report`: one HTML page from any number of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videokd.errors import ConfigError
from videokd.evaluation.report import groups_of_runs, write_report
from videokd.messages import say
from videokd.recipes.command_line import parse


@dataclass(frozen=True)
class Report:
    """Writes one self-contained HTML page with tables, plots and pictures.

    Args:
        runs: folders with the results of `videokd evaluate` or `videokd fuse --out`.
        save: the page to write.
        title: of the page.
    """

    runs: tuple[str, ...]
    save: str
    title: str = "videokd"


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    settings = parse(Report, arguments, verb="report", positional=("runs",))
    if Path(settings.save).suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--save {settings.save} (accepted: a name that ends with .html). Choose another name.")
    runs = [Path(run) for run in settings.runs]
    say(f"report: {write_report(runs, Path(settings.save), title=settings.title, groups=groups_of_runs(runs))}")
