"""A run's folder: what its files are called, its settings, and who may write there."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from videokd.errors import ConfigError, DataError
from videokd.files import write_whole


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
            ConfigError: a run with other settings is there, or the path is a file.
            DataError: its settings cannot be read.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(
                f"{self.path} is a file (accepted: a folder, new or of the same run). Choose another --out."
            )
        if writes:
            self.path.mkdir(parents=True, exist_ok=True)
        plain = _plain(settings)
        resumes = self.checkpoint.is_file()
        if resumes:
            self._check_same(plain, may_differ=may_differ)
        if writes:
            text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
            write_whole(self.config, text.encode())
        return resumes

    def _check_same(self, settings: Mapping[str, Any], *, may_differ: Collection[str]) -> None:
        try:
            before = _flat(yaml.safe_load(self.config.read_text(encoding="utf-8")))
        except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
            raise DataError(f"{self.config}, beside a checkpoint, cannot be read. Choose another --out.") from error
        now = _flat(settings)
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


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
