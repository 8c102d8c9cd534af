"""What surrounds a training: its folder, held while it lasts, the ranks, the precision; and what may change when it resumes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from videokd.errors import DataError
from videokd.files import remove_unfinished
from videokd.messages import say
from videokd.runs.device import Precision, pick_device, pick_precision, seed_everything
from videokd.runs.ranks import Ranks, join_ranks
from videokd.runs.run_folder import RunFolder, flat_settings
from videokd.runs.run_settings import Distill, Teach
from videokd.runs.trained_on import FILE_NAME, TrainedOn

#: Settings that may change when a run is resumed: they say how it computes, not what.
RESUMABLE = ("out", "device", "test", "data.workers", "optim.accumulate", "optim.compile", "optim.save_minutes")


@dataclass(frozen=True)
class Session:
    """Where and how a training computes.

    Args:
        folder: of the run, which this training holds.
        precision: number format and device of the networks.
        ranks: this process's place among those of torchrun.
    """

    folder: RunFolder
    precision: Precision
    ranks: Ranks


@contextmanager
def training_session(settings: Teach | Distill, trained_on: TrainedOn) -> Iterator[Session]:
    """Joins the ranks, writes the settings into the run's folder, holds the folder while the block lasts, and seeds generators.

    Args:
        settings: of the verb.
        trained_on: the clips and teachers that the run trains with.

    Raises:
        ConfigError: a run with other settings is in the folder, or the precision does not fit the device.
        DataError: a run on other clips is in the folder, or another process trains there.
    """
    folder = RunFolder(Path(settings.out))
    with join_ranks(pick_device(settings.device), workers=settings.data.workers) as ranks:
        precision = _precision_of(settings, folder, ranks)
        resolved = settings.to_dict() | {"precision": precision.name}
        with precision.in_effect(), _fastest_kernels(), prepared_run(folder, resolved, ranks, trained_on):
            seed_everything(settings.seed)
            yield Session(folder, precision, ranks)
            say(f"{folder.path}: done." + ("" if settings.test != "none" else f" Next: videokd evaluate {folder.path}"))


@contextmanager
def _fastest_kernels() -> Iterator[None]:
    """While it lasts, cuDNN times its ways to compute a convolution of a new shape and takes the fastest: a training has few shapes."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _precision_of(settings: Teach | Distill, folder: RunFolder, ranks: Ranks) -> Precision:
    """The same on all ranks; `auto` is what a run that is resumed was started with, whatever the device."""
    name = settings.precision
    if name == "auto":
        name = folder.settings_before().get("precision", name)
    precision = pick_precision(name, ranks.device)
    return Precision("fp16", ranks.device) if ranks.any(precision.name == "fp16") else precision


@contextmanager
def prepared_run(run: RunFolder, settings: Mapping[str, Any], ranks: Ranks, uses: TrainedOn) -> Iterator[None]:
    """Creates the run's folder, on the first rank before the others read it, and locks it while the run trains.

    Where clips and teachers are, and how their paths are written, may change between one start and the next; what they hold
    may not.

    Args:
        run: the folder.
        settings: of the recipe.
        ranks: this process's place.
        uses: the clips and teachers that it trains with.

    Raises:
        ConfigError: a run with other settings is there.
        DataError: a run on other clips is there, or another process trains in the folder.
    """
    with ExitStack() as stack:
        if ranks.is_first:
            stack.enter_context(run.kept())
            remove_unfinished(run.path)
            stack.enter_context(_pieces_are_those_of_steps(run))
            known = _check_same_clips(run, uses)
            before, now = run.settings_before(), flat_settings(settings)
            _say_what_changes(run, before, now)
            run.prepare(
                settings, may_differ=_may_differ(before, now, known=known, same_start=known and bool(uses.initial))
            )
            uses.write(run.path)
        ranks.barrier()
        yield


@contextmanager
def _pieces_are_those_of_steps(run: RunFolder) -> Iterator[None]:
    """Where the block adds no steps to a run, such as to a finished one, its config.yaml still says how these were computed."""
    before, pieces = _version(run.checkpoint), run.settings_before().get("optim.accumulate")
    yield
    if before is None or pieces is None or before != _version(run.checkpoint):
        return
    settings = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    if settings["optim"]["accumulate"] != pieces:
        settings["optim"]["accumulate"] = pieces
        run.write(settings)


def _version(file: Path) -> tuple[int, int] | None:
    return (file.stat().st_ino, file.stat().st_mtime_ns) if file.is_file() else None


def _say_what_changes(run: RunFolder, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """One line where the steps to come differ a little from those before."""
    name = "optim.accumulate"
    if name in before and before[name] != now.get(name):
        say(
            f"{run.path}: {name} is {now.get(name)}, and was {before[name]}: the mean gradient of a batch stays the same, but BatchNorms, and losses that compare "
            "the clips of a batch (dist, relation_weight), now see other pieces of it."
        )


def _may_differ(before: Mapping[str, Any], now: Mapping[str, Any], *, known: bool, same_start: bool) -> set[str]:
    """Names of settings that a resumed run may change: where its clips are known by content, their place is one of them."""
    names = {"manifest", "unlabelled", *(name for name in now if name.startswith("teachers."))}
    if same_start:
        names |= {name for name in now if name == "init" or name.endswith(".init")}
    same = {name for name in (*names, "data.cache") if _same_path(before.get(name), now.get(name))}
    if before.get("data.cache") and now.get("data.cache"):
        same.add("data.cache")  # another place; what is kept there follows from the clips
    return {*RESUMABLE, *same, *(names if known else ())}


def _same_path(before: object, now: object) -> bool:
    return bool(before and now) and os.path.realpath(str(before)) == os.path.realpath(str(now))


def _check_same_clips(run: RunFolder, uses: TrainedOn) -> bool:
    """Whether the clips of the run that is there are known; refuses others."""
    if not run.checkpoint.is_file():
        return False
    before = TrainedOn.read(run.path)
    if before is None:
        say(f"{run.path}: it has no {FILE_NAME}, so whether its clips are still the same cannot be checked.")
        return False
    difference = before.difference(uses)
    if difference:
        raise DataError(
            f"{run.path} holds a run on other data: {difference}. Bring the clips and teachers back as they were to resume it, or "
            "choose another --out."
        )
    return True
