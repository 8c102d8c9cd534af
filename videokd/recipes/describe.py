"""`videokd describe`: what moves, stands still and cuts in an archive; `videokd.describe` in Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videokd.description.archive import Described, describe_archive
from videokd.description.distributions import check_picture_name, write_distributions
from videokd.files import check_place
from videokd.jobs.archive_files import failures_of, failures_of_folders, files_of
from videokd.jobs.workers import Engine, Workers
from videokd.messages import say
from videokd.recipes.command_line import parse


@dataclass(frozen=True)
class Describe:
    """Writes what each clip of an archive holds and how it moves into a table; run again, it describes what is missing.

    Args:
        files: videos, or folders with videos at any depth.
        save: the table, .parquet or .csv: one row a clip. docs/describe.md defines its columns.
        near_duplicates: look for clips that show what an earlier clip shows; where many clips look alike, this decodes them again.
        plot: write the distributions of the columns into this picture, .svg or .png.
        jobs: clips described at the same time; by default one per CPU.
        engine: local (processes) or ray (an existing Ray cluster).
        address: address of the Ray cluster; by default the one that this machine belongs to.
    """

    files: tuple[str, ...]
    save: str = "clips.parquet"
    near_duplicates: bool = True
    plot: str | None = None
    jobs: int | None = None
    engine: Engine = "local"
    address: str | None = None


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    settings = parse(Describe, arguments, verb="describe", positional=("files",))
    if settings.plot is not None:
        check_picture_name(Path(settings.plot))
        check_place(Path(settings.plot))
    out = Path(settings.save)
    done = describe_archive(
        files_of(settings.files),
        out,
        workers=Workers(settings.engine, settings.jobs, settings.address),
        near_duplicates=settings.near_duplicates,
    )
    if settings.plot is not None:
        write_distributions([row.description for row in done.rows], Path(settings.plot))
    say(f"{out}: {_summary(done)}.")
    for folder, reason in failures_of_folders(settings.files):
        say(f"warning: {folder}: its files cannot be listed ({reason}). Correct its permissions.")
    if done.failed:
        say(f"warning: {len(done.failed)} files could not be described; {failures_of(out)} says why.")


def _summary(done: Described) -> str:
    descriptions = [row.description for row in done.rows]
    hours = sum(description.seconds for description in descriptions) / 3600
    copies = sum(bool(description.near_duplicate_of) for description in descriptions)
    without = sum(description.motion is None for description in descriptions)
    parts = [f"{len(descriptions)} clips, {hours:.2f} hours", f"{sum(bool(d.cuts) for d in descriptions)} with cuts"]
    parts += [f"{copies} near-duplicates"] if copies else []
    parts += [f"{without} without motion vectors"] if without else []
    parts += [f"{done.reused} described before"] if done.reused else []
    return ", ".join(parts)
