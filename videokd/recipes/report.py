"""`videokd report`: one HTML page from any number of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videokd.datasets.manifest import Manifest
from videokd.errors import DataError
from videokd.evaluation.report import write_report
from videokd.evaluation.results import results_of
from videokd.messages import say
from videokd.recipes.command_line import parse


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
    runs = [Path(run) for run in settings.runs]
    say(f"report: {write_report(runs, Path(settings.save), title=settings.title, groups=_groups(runs))}")


def _groups(runs: Sequence[Path]) -> dict[str, str]:
    """{video id: group} of the runs' manifests, as far as they are where they were."""
    groups: dict[str, str] = {}
    for run in runs:
        try:
            manifest = Manifest.read(results_of(run)["dataset"]["manifest"])
        except DataError:
            continue
        groups |= {clip.video_id: clip.group for clip in manifest.clips}
    return groups
