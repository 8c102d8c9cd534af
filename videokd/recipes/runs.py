"""Run folders as other recipes find them: the trained networks, and the settings they were trained with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from videokd.config import checked, read_yaml
from videokd.datasets.manifest import Manifest
from videokd.errors import ConfigError, DataError
from videokd.files import is_held
from videokd.messages import say
from videokd.models.backbone import Network
from videokd.models.saved import ShapesDiffer, build_described
from videokd.models.students import Students
from videokd.preparation.prepare_clip import sha256_of
from videokd.recipes.settings import DataSettings
from videokd.recipes.trained_on import FILE_NAME, TrainedOn
from videokd.training.checkpoint import check_state, load_checkpoint, strict_load
from videokd.training.ranks import Ranks
from videokd.training.run_folder import RunFolder, flat_settings


@dataclass(frozen=True)
class TrainedRun:
    """What a run folder holds.

    Args:
        path: the folder.
        role: teacher or student.
        students: the trained networks, in evaluation mode, on the CPU.
        settings: of the recipe that trained them, as in config.yaml.
        weights: sha256 of best.pt as it was loaded; a training that is under way replaces the file.
    """

    path: Path
    role: str
    students: Students
    settings: dict[str, Any]
    weights: str


#: Settings that may change when a run is resumed: they say how it computes, not what.
RESUMABLE = ("out", "device", "data.workers", "optim.compile")


@contextmanager
def prepared_run(run: RunFolder, settings: Mapping[str, Any], ranks: Ranks, uses: TrainedOn) -> Iterator[None]:
    """Makes the run's folder, by the first rank before the others look at it, and keeps it to this run while it trains.

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
    with run.kept() if ranks.is_first else nullcontext():
        if ranks.is_first:
            known = _check_same_clips(run, uses)
            run.prepare(settings, may_differ=_may_differ(run, settings, known=known))
            uses.write(run.path)
        ranks.barrier()
        yield


def _may_differ(run: RunFolder, settings: Mapping[str, Any], *, known: bool) -> set[str]:
    """Names of settings that a resumed run may change: where its clips are known by content, their place is one of them."""
    names = {"manifest", "unlabelled", *(f"teachers.{name}" for name in settings.get("teachers", ()))}
    before, now = run.settings_before(), flat_settings(settings)
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


def load_run(path: str | Path) -> TrainedRun:
    """The best networks of a run.

    Raises:
        DataError: there is no such run, it has not finished an epoch, or its files are damaged.
    """
    run = RunFolder(Path(path))
    if not run.path.is_dir() or not run.config.is_file():
        raise DataError(
            f"{path} is no run folder (accepted: the --out of `videokd teach` or `videokd distill`). Check the path."
        )
    if not run.best.is_file():
        raise DataError(
            f"{path} has no best.pt: no epoch of it is finished. Run the command that made it again to go on."
        )
    settings = read_settings(run)
    weights, payload = _read_best(run)
    try:
        check_state(payload["state"], path=run.best)
        students = build_described(payload["description"], {n: tuple(t.shape) for n, t in payload["state"].items()})
        strict_load(students, payload["state"], path=run.best)
        students.check_finite(where=str(run.best))
        role, epoch = str(payload["role"]), int(payload.get("epoch", 0))
    except KeyError as error:
        raise DataError(f"{run.best} lacks {error}: it is not a trained network. Train it again.") from error
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise DataError(f"{run.best} is damaged ({error!s:.200}). Train it again.") from error
    except ShapesDiffer as error:
        raise DataError(f"{run.best} is of another architecture: {error}. Train it again.") from error
    except ConfigError as error:
        raise DataError(f"{run.best}: {error}") from error
    if is_held(run.lock):
        say(f"{path} is still being trained: this is its best epoch so far, {epoch + 1}.")
    return TrainedRun(run.path, role, students.eval(), settings, weights)


def _read_best(run: RunFolder) -> tuple[str, dict[str, Any]]:
    """sha256 and content of best.pt: of the same file, although a training may replace it meanwhile."""
    digest, payload = "", dict[str, Any]()
    while digest != (digest := sha256_of(run.best)):
        payload = load_checkpoint(run.best)
    return digest, payload


def read_settings(run: RunFolder) -> dict[str, Any]:
    """The settings that a run was trained with; those that other recipes use are what a run writes.

    Raises:
        DataError: config.yaml is damaged, or none of a run.
    """
    try:
        settings = read_yaml(run.config.read_text(encoding="utf-8"), where="the file")
        known = settings if isinstance(settings, dict) else {}
        data = known.get("data", {})
        checked(str, known.get("manifest"), where="manifest")
        checked(Literal[1, 2, 3], known.get("split"), where="split")
        if not isinstance(data, dict):
            raise ConfigError("data is no mapping.")
        DataSettings(val_fraction=checked(float, data.get("val_fraction", 0.0), where="data.val_fraction"))
        checked(bool, data.get("blank_invalid", False), where="data.blank_invalid")
    except (OSError, ValueError, ConfigError) as error:
        raise DataError(f"{run.config} is damaged: {error} Restore it from a copy, or train the run again.") from error
    return known


def load_teacher(path: str | Path) -> TrainedRun:
    """A run of `videokd teach`: one network.

    Raises:
        DataError: as for `load_run`, or the run has several networks.
    """
    run = load_run(path)
    if len(run.students.specs) != 1:
        names = ", ".join(run.students.specs)
        raise DataError(f"{path} has several networks ({names}); a teacher is one. Name a run of `videokd teach`.")
    return run


def network_of(run: TrainedRun) -> Network:
    """The one network of a teacher's run."""
    (network,) = run.students.members.values()
    assert isinstance(network, Network)
    return network


def read_manifest(path: str | Path, *, labelled: bool = True) -> Manifest:
    """The manifest, its files found where it says.

    Raises:
        DataError: it cannot be read, its clips have no labels where they are needed or labels where there are to be none, or
            clips are missing.
    """
    manifest = Manifest.read(path)
    if labelled and not manifest.class_names:
        raise DataError(
            f"{path} holds clips without labels (accepted: clips in one folder a class). Pass it to `videokd distill --unlabelled`."
        )
    if not labelled and manifest.class_names:
        raise DataError(
            f"{path} holds clips with labels (accepted: what `videokd prepare folder --unlabelled` makes). Prepare it so, or omit "
            "--unlabelled."
        )
    manifest.check_files()
    return manifest


def check_same_classes(run: TrainedRun, manifest: Manifest) -> None:
    """Refuses networks that were trained for other classes.

    Raises:
        DataError: the class names differ.
    """
    theirs, ours = run.students.class_names, manifest.class_names
    if theirs != ours:
        different = next((f"{a} and {b}" for a, b in zip(theirs, ours, strict=False) if a != b), "their number")
        raise DataError(
            f"{run.path} knows {len(theirs)} classes, {manifest.root} has {len(ours)}; they differ in {different}. "
            "Train and evaluate on manifests with the same classes."
        )
