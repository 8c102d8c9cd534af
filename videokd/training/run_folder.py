"""A run's folder: what its files are called, its settings, and who may write there."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from videokd.errors import ConfigError, DataError
from videokd.files import held, write_whole


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
        """Makes the folder, and keeps it to this process for as long as it trains.

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
            text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
            write_whole(self.config, text.encode())
        return resumes

    def settings_before(self) -> dict[str, Any]:
        """{dotted name: value} of the run that is there; empty without a checkpoint.

        Raises:
            DataError: they cannot be read.
        """
        if not self.checkpoint.is_file():
            return {}
        try:
            text = self.config.read_text(encoding="utf-8")
            if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
                raise ValueError("aliases, which no run writes, can multiply")
            return flat_settings(yaml.safe_load(text))
        except (OSError, ValueError, AttributeError, RecursionError, yaml.YAMLError) as error:
            raise DataError(f"{self.config}, beside a checkpoint, cannot be read. Choose another --out.") from error

    def _check_same(self, settings: Mapping[str, Any], *, may_differ: Collection[str]) -> None:
        before = self.settings_before()
        now = flat_settings(settings)
        for name in [*now, *before]:
            if name not in may_differ and before.get(name) != now.get(name):
                raise ConfigError(
                    f"{self.path} holds a run with {name} {before.get(name)}, not {now.get(name)}. Choose another --out, or "
                    "pass the same settings to resume that run."
                )


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
