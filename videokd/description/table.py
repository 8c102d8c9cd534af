"""The table of an archive's descriptions: Parquet or CSV, by the file's name; one row a clip."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from videokd.description.clip import ClipDescription
from videokd.errors import ConfigError, DataError
from videokd.files import csv_text, from_cell, write_whole, written_whole

_SUFFIXES = (".parquet", ".csv")
#: (name of the column, type) in order; a type as the annotations of `ClipDescription` have it
COLUMNS = (*((field.name, str(field.type)) for field in fields(ClipDescription)), ("modified_ns", "int"))
#: In CSV, an empty text of a column that may be unknown; a clip of this name has an apostrophe before it
_EMPTY = "-"
_ARROW_TYPES = {
    "str": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "tuple[float, ...]": pa.list_(pa.float64()),
    "tuple[str, ...]": pa.list_(pa.string()),
}
_FROM_TEXT: Mapping[str, Any] = {
    "str": from_cell,
    "int": int,
    "float": float,
    "bool": {"true": True, "false": False}.__getitem__,
    "tuple[float, ...]": lambda text: tuple(map(float, text.split())),
    "tuple[str, ...]": lambda text: tuple(text.split()),
}


@dataclass(frozen=True)
class TableRow:
    """One row of the table.

    Args:
        description: of the clip.
        modified_ns: when the file was last changed, in nanoseconds: if it or the size changes, the clip is described again.
    """

    description: ClipDescription
    modified_ns: int

    def values(self) -> dict[str, Any]:
        """{column: value}."""
        return {**asdict(self.description), "modified_ns": self.modified_ns}

    def to_json(self) -> str:
        """One line, which `from_json` reads."""
        return json.dumps(self.values(), ensure_ascii=True)

    @classmethod
    def from_json(cls, line: str) -> TableRow:
        """The row that `to_json` wrote.

        Raises:
            ValueError: the line is not one.
        """
        return cls.of(json.loads(line))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> TableRow:
        """The row with these values of columns; columns that it does not know are omitted.

        Raises:
            ValueError: a column is missing.
        """
        needed = [field.name for field in fields(ClipDescription) if field.default is MISSING] + ["modified_ns"]
        missing = [name for name in needed if values.get(name) is None]
        if missing:
            raise ValueError(f"no {', '.join(missing)}")
        known = {name: _as_tuple(values[name]) for name, _ in COLUMNS if name in values}
        if known.get("cuts") == 0:  # CSV does not tell an empty list from none
            known["cut_seconds"] = ()
        return cls(modified_ns=known.pop("modified_ns"), description=ClipDescription(**known))


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def check_table_name(path: Path) -> None:
    """Checks the ending of a table's name.

    Raises:
        ConfigError: it is neither .parquet nor .csv.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"{path} (accepted: a name that ends with {' or '.join(_SUFFIXES)}). Choose another name.")


def write_table(path: Path, rows: Sequence[TableRow]) -> None:
    """Writes the table, whole or not at all.

    Args:
        path: the file, .parquet or .csv. In CSV, values of lists are separated by spaces, unknown values are empty, and an empty
            `near_duplicate_of` is a dash.
        rows: of the table.

    Raises:
        ConfigError: the name has another ending.
        DataError: it cannot be written.
    """
    check_table_name(path)
    values = [row.values() for row in rows]
    if path.suffix.lower() == ".csv":
        names = [name for name, _ in COLUMNS]
        write_whole(
            path, csv_text([names, *([_cell(row[name], kind) for name, kind in COLUMNS] for row in values)]).encode()
        )
        return
    columns = {name: pa.array([row[name] for row in values], _ARROW_TYPES[_plain(kind)]) for name, kind in COLUMNS}
    with written_whole(path) as aside:
        pq.write_table(pa.table(columns), aside, compression="zstd")


def read_table(path: Path) -> list[TableRow]:
    """Reads a table that `write_table` wrote.

    Args:
        path: the file.

    Raises:
        ConfigError: its name ends with neither .parquet nor .csv.
        DataError: it is missing or not such a table.
    """
    check_table_name(path)
    try:
        names, rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _parquet_rows(path)
        if "path" not in names:  # which tables without rows have too
            raise ValueError("no path")
        return [TableRow.of(row) for row in rows]
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise DataError(
            f"{path} is not a table of `videokd describe` ({reason:.200}). Choose another name, or run `videokd describe` to write it."
        ) from error


def _parquet_rows(path: Path) -> tuple[Sequence[str], list[dict[str, Any]]]:
    table = pq.read_table(path)
    return table.column_names, table.to_pylist()


def _csv_rows(path: Path) -> tuple[Sequence[str], list[dict[str, Any]]]:
    kinds = dict(COLUMNS)
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = [{name: _parsed(text, kinds[name]) for name, text in row.items() if name in kinds} for row in reader]
    return reader.fieldnames or (), rows


def _parsed(text: str, kind: str) -> Any:
    if not text and kind.endswith("| None"):
        return None
    if text == _EMPTY and kind == "str | None":
        return ""
    return _FROM_TEXT[_plain(kind)](text)


def _plain(kind: str) -> str:
    return kind.removesuffix(" | None")


class _Dash:
    """Written as it is, where a text would get an apostrophe."""

    def __str__(self) -> str:
        return _EMPTY


def _cell(value: Any, kind: str) -> object:
    if value == "" and kind == "str | None":
        return _Dash()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "" if value is None else value


def read_lines(path: Path) -> Iterable[TableRow]:
    """The rows of a file of lines, as far as they are whole: a run that was stopped may have left half a line.

    Args:
        path: the file; without it, there are none.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                yield TableRow.from_json(line)
            except (ValueError, TypeError, AttributeError):
                continue
