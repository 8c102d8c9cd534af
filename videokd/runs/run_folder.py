"""A run's folder: what its files are called, who may write there, and the trained networks in it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from videokd.config import without_retired
from videokd.datasets.manifest import Manifest
from videokd.errors import ConfigError, DataError
from videokd.files import held, is_held, sha256_of, write_whole
from videokd.messages import say
from videokd.models.backbone import Network
from videokd.models.students import Students
from videokd.models.students_file import ShapesDiffer, build_described
from videokd.runs.checkpoint import check_state, load_checkpoint, strict_load
from videokd.runs.run_settings import Distill, Teach, read_settings


@dataclass(frozen=True)
class RunFolder:
    """Where a run writes, and what its files are called.

    Args:
        path: the folder; it need not be there yet.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The resolved settings, enough to run it again."""
        return self.path / "config.yaml"

    @property
    def checkpoint(self) -> Path:
        """Everything that is needed to resume."""
        return self.path / "checkpoint.pt"

    @property
    def best(self) -> Path:
        """The state that did best on the validation part."""
        return self.path / "best.pt"

    @property
    def lock(self) -> Path:
        """What a training holds while it lasts; it stays, empty."""
        return self.path / "lock"

    def make(self) -> None:
        """Makes the folder.

        Raises:
            ConfigError: it cannot be made.
        """
        try:
            if self.path.exists() and not self.path.is_dir():
                raise ConfigError(
                    f"{self.path} is a file (accepted: a folder, new or of the same run). Choose another --out."
                )
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{self.path} cannot be made ({error.strerror}) (accepted: a folder that may be written). Choose another --out."
            ) from error

    def kept(self) -> AbstractContextManager[None]:
        """Creates the folder, and locks it for this process while it trains.

        Raises:
            ConfigError: the folder cannot be made.
            DataError: another process trains in it.
        """
        self.make()
        return held(
            self.lock,
            refusal=f"{self.path} is being trained by another process (accepted: one at a time). Wait until it is done, or choose "
            "another --out.",
        )

    def prepare(self, settings: Mapping[str, Any], *, may_differ: Collection[str] = (), writes: bool = True) -> bool:
        """Makes the folder and writes the settings, unless a run with other settings is there.

        A folder without a checkpoint holds nothing to lose, so its settings are replaced.

        Args:
            settings: nested mappings, sequences, numbers, strings and paths.
            may_differ: dotted names of settings that a resumed run may change, such as the number of workers.
            writes: False for all ranks but the first, which call this after it: the folder is checked only.

        Returns:
            Whether there is a checkpoint to resume from.

        Raises:
            ConfigError: a run with other settings is there, or the folder cannot be made.
            DataError: its settings cannot be read.
        """
        if writes:
            self.make()
        plain = _plain(settings)
        resumes = self.checkpoint.is_file()
        if resumes:
            self._check_same(plain, may_differ=may_differ)
        if writes:
            self.write(plain)
        return resumes

    def write(self, settings: Mapping[str, Any]) -> None:
        """Writes the settings: mappings, sequences, numbers and strings."""
        write_whole(self.config, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).encode())

    def settings_before(self) -> dict[str, Any]:
        """{dotted name: value} of the run that is there; empty without a checkpoint.

        A setting that is newer than the run has its default: that is how the run was trained.

        Raises:
            DataError: they cannot be read.
        """
        if not self.checkpoint.is_file():
            return {}
        try:
            text = self.config.read_text(encoding="utf-8")
            if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
                raise ValueError("aliases, which no run writes, can multiply")
            written = flat_settings(without_retired(yaml.safe_load(text)))
        except (OSError, ValueError, AttributeError, RecursionError, yaml.YAMLError, ConfigError) as error:
            raise DataError(f"{self.config}, beside a checkpoint, cannot be read. Choose another --out.") from error
        try:
            return flat_settings(_plain(read_settings(self.config).to_dict())) | written
        except DataError:  # not what a verb writes: then nothing is known of defaults
            return written

    def _check_same(self, settings: Mapping[str, Any], *, may_differ: Collection[str]) -> None:
        before = self.settings_before()
        now = flat_settings(settings)
        for name in [*now, *before]:
            if name not in may_differ and before.get(name) != now.get(name):
                raise ConfigError(
                    f"{self.path} holds a run with {name} {before.get(name)}, not {now.get(name)}. {_WHY_NOT.get(name, '')}Choose another "
                    "--out, or pass the same settings to resume that run."
                )


#: Why settings that say how much a computation takes may not change when a run is resumed.
_WHY_NOT = {
    "data.batch_size": "Its steps, of which an epoch has a number that follows from the batch size, are counted so far in batches of "
    "that size. To need less memory, raise `--optim.accumulate`, which may change. ",
    "precision": "Its weights are trained in that one. ",
}


def _plain(value: Any) -> Any:
    """The value as YAML can hold it: the same after writing and reading."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, os.PathLike) else value


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{dotted name: value} of nested settings.

    >>> flat_settings({"optim": {"lr": 0.1}, "seed": 0})
    {'optim.lr': 0.1, 'seed': 0}
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flat_settings(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


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
    settings: Teach | Distill
    weights: str


def load_run(path: str | Path) -> TrainedRun:
    """The best networks of a run.

    Raises:
        DataError: there is no such run, it has not finished an epoch, or its files are damaged.
    """
    run = RunFolder(Path(path))
    if not run.path.is_dir() or not run.config.is_file():
        raise DataError(
            f"{path} is not a run folder (accepted: the --out of `videokd teach` or `videokd distill`). Check the path."
        )
    if not run.best.is_file():
        raise DataError(
            f"{path} has no best.pt: no epoch of it is finished. Run the command that made it again to go on."
        )
    settings = read_settings(run.config)
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
    return only_network(run.students)


def only_network(students: Students) -> Network:
    """The network of a set of one."""
    (network,) = students.members.values()
    assert isinstance(network, Network)
    return network


def check_same_classes(run: TrainedRun, manifest: Manifest) -> None:
    """Refuses networks that were trained for other classes.

    Args:
        run: the trained networks.
        manifest: of the clips that they are to see.

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
