"""The CSV file that gives groups and splits: an edited plan, or your own table."""

from __future__ import annotations

import csv
import difflib
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from videokd.datasets.splits import NUM_SPLITS, Part, Splits
from videokd.errors import ConfigError, DataError
from videokd.files import from_cell

_SPLIT_COLUMNS = tuple(f"split{number + 1}" for number in range(NUM_SPLITS))
#: The columns of a plan. `label` and `class_name` repeat what the folders say; they cannot change it.
_COLUMNS = ("path", "group", *_SPLIT_COLUMNS, "label", "class_name")
_FORMAT = "a CSV file with columns path and group, optionally split1 to split3"


@dataclass(frozen=True)
class GroupsFile:
    """A CSV file with the columns path (relative to the dataset's root) and group, and optionally split1, split2, split3.

    Clips with the same group belong together, in whatever classes they are: `s3` is one person. The name of a scene of only
    one class starts with the class: `wave/g01`. If the file has split columns, they are the splits, and a split without a
    column is unused. `prepare --plan` writes such a file; its columns label and class_name must agree with the folders.

    Separators are `,`, `;` or tabs. The file is UTF-8, with or without a byte order mark, or UTF-16 with one.

    Args:
        file: the CSV file.
        rows: {path: {column: value}}.
        columns: the file's columns.
    """

    file: Path
    rows: Mapping[str, Mapping[str, str]]
    columns: tuple[str, ...]

    @classmethod
    def read(cls, file: Path) -> GroupsFile:
        """Reads and checks such a file.

        Args:
            file: the CSV file.

        Raises:
            ConfigError: the file cannot be read, a column is missing or unknown, a clip is listed twice, or a part is unknown.
        """
        try:
            text = _decoded_text(file)
            lines = csv.reader(io.StringIO(text, newline=""), delimiter=_separator(text), strict=True)
            header = tuple(name.strip().lower() for name in next(lines, ()))
            _check_columns(file, header)
            found = [
                (lines.line_num, [from_cell(cell.strip()) for cell in row]) for row in lines if any(map(str.strip, row))
            ]
        except (OSError, ValueError, csv.Error) as error:
            raise ConfigError(
                f"{file} does not list groups (accepted: {_FORMAT}; found: {_reason(error)}). Correct it."
            ) from error
        rows: dict[str, Mapping[str, str]] = {}
        for number, cells in found:
            if len(cells) != len(header):
                raise ConfigError(
                    f"{file}, line {number}: {len(cells)} values for {len(header)} columns (accepted: one each; quote values that "
                    'contain the separator, as in "a,b"). Correct it.'
                )
            row = dict(zip(header, cells, strict=True))
            path = row["path"].replace("\\", "/").removeprefix("./")
            if path in rows:
                raise ConfigError(f"{file} lists {path} twice (accepted: one line per clip). Remove one.")
            for name in _SPLIT_COLUMNS:
                if row.get(name, "unused") not in get_args(Part):
                    raise ConfigError(
                        f"{file}: {name} of {path} is {row[name]!r} (accepted: {', '.join(get_args(Part))}). Correct it."
                    )
            rows[path] = row
        return cls(file, rows, header)

    @property
    def has_splits(self) -> bool:
        """Whether the file has split columns."""
        return bool(set(_SPLIT_COLUMNS) & set(self.columns))

    def groups_of(self, root: Path, classes: Mapping[str, Sequence[Path]]) -> dict[Path, str]:
        """The group of each clip.

        Args:
            root: the dataset's folder.
            classes: {class: its clips}.

        Raises:
            DataError: clips are not in the file, or have no group there.
            ConfigError: a clip's label or class in the file differs from its folder's.
        """
        named = {path: path.relative_to(root).as_posix() for paths in classes.values() for path in paths}
        without_group = [name for name in named.values() if not self.rows.get(name, {}).get("group")]
        if without_group:
            close = difflib.get_close_matches(without_group[0], set(self.rows) - set(named.values()), n=1)
            hint = f" It lists {close[0]}, which does not exist: correct that path." if close else ""
            raise DataError(
                f"{self.file} gives no group for {without_group[0]} ({len(without_group)} of {len(named)} clips have none).{hint} "
                "Add a line for each, or move them out of the dataset."
            )
        for label, class_name in enumerate(sorted(classes)):
            for path in classes[class_name]:
                self._check_class(named[path], label, class_name)
        return {path: self.rows[name]["group"] for path, name in named.items()}

    def _check_class(self, name: str, label: int, class_name: str) -> None:
        row = self.rows[name]
        for column, value in (("class_name", class_name), ("label", str(label))):
            if row.get(column) and row[column] != value:
                raise ConfigError(
                    f"{self.file}: {column} of {name} is {row[column]!r}, but by its folder it is {value!r} (accepted: the same as "
                    "the folder's). Move the clip into the folder of its class, or restore the value."
                )

    def splits_of(self, root: Path, classes: Mapping[str, Sequence[Path]]) -> dict[Path, Splits] | None:
        """Each clip's part in each split, "unused" where a split has no column; None where the file has no split columns.

        Args:
            root: the dataset's folder.
            classes: {class: its clips}, all of them in the file.

        Raises:
            DataError: in a split that the file gives, a class has no clips to train on; or no split uses any clip.
        """
        if not self.has_splits:
            return None
        rows = {path: self.rows[path.relative_to(root).as_posix()] for paths in classes.values() for path in paths}
        splits = {
            path: cast(Splits, tuple(row.get(name, "unused") for name in _SPLIT_COLUMNS)) for path, row in rows.items()
        }
        if all(part == "unused" for parts in splits.values() for part in parts):
            raise DataError(f"{self.file}: every clip is unused in every split. Mark clips `train` and `test`.")
        for number in range(NUM_SPLITS):
            found = {name: {splits[path][number] for path in paths} for name, paths in classes.items()}
            untrained = [name for name, parts in found.items() if "train" not in parts]
            if untrained and any(parts != {"unused"} for parts in found.values()):
                raise DataError(
                    f"{self.file}: split{number + 1} has no training clips for {len(untrained)} of {len(classes)} classes "
                    f"(first: {untrained[0]}). Mark some of its clips `train`."
                )
        return splits

    def unknown_paths(self, paths: Sequence[Path]) -> list[str]:
        """The paths in the file that are not clips of the dataset.

        Args:
            paths: the dataset's clips, relative to its folder.
        """
        known = {path.as_posix() for path in paths}
        return [name for name in self.rows if name not in known]


def _decoded_text(file: Path) -> str:
    content = file.read_bytes()
    # Spreadsheets write a byte order mark: Excel's "Unicode text" is UTF-16
    return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")


def _separator(text: str) -> str:
    counts = Counter(text.partition("\n")[0])
    return max(",;\t", key=lambda separator: counts[separator])


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8; save it as CSV in UTF-8"
    return getattr(error, "strerror", None) or str(error)


def _check_columns(file: Path, header: Sequence[str]) -> None:
    missing = [name for name in ("path", "group") if name not in header]
    if missing:
        given = ", ".join(header) or "no columns"
        raise ConfigError(
            f"{file} does not list groups (accepted: {_FORMAT}; found: {given}). Add the column {missing[0]}."
        )
    unknown = [name for name in header if name not in _COLUMNS]
    if unknown:
        close = difflib.get_close_matches(unknown[0], sorted(_COLUMNS, key=len), n=1)
        close = ["split1"] if unknown[0].startswith("split") else close
        hint = f"Rename it to {close[0]}, or remove it" if close else "Remove it"
        raise ConfigError(f"{file}: unknown column {unknown[0]!r} (accepted: {', '.join(_COLUMNS)}). {hint}.")
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise ConfigError(f"{file} has the column {twice[0]} twice (accepted: each once). Remove one.")
