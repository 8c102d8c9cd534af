"""The table of an archive's labels: Parquet, CSV, JSON lines or JSON, by the file's name."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

from videokd.archives.labelling import LabelledFile
from videokd.errors import ConfigError, DataError
from videokd.files import csv_text, from_cell, parsed_json, written_whole
from videokd.prediction.prediction import STEPS, csv_columns, csv_rows

_FACTS = ("bytes", "modified_ns", "made_with")
_ROWS_AT_ONCE = 10_000
_EXIT = "exit_"


def check_labels_name(path: Path) -> None:
    """Checks the ending of a table's name.

    Raises:
        ConfigError: it is none of those that are accepted, or PyArrow is not there for Parquet.
    """
    if path.suffix.lower() not in _FORMATS:
        raise ConfigError(f"{path} (accepted: a name that ends with {', '.join(_FORMATS)}). Choose another name.")
    if path.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        others = ", ".join(ending for ending in _FORMATS if ending != ".parquet")
        raise ConfigError(
            f"{path} needs pyarrow (accepted without it: {others}). Run `pip install pyarrow`, or choose another ending."
        )


def write_labels(path: Path, rows: Iterable[LabelledFile]) -> None:
    """Writes the table, whole or not at all, with no more than a few thousand rows in memory.

    Args:
        path: the file, .parquet, .csv, .jsonl or .json. CSV has one row a label, the others one a file.
        rows: of the table.

    Raises:
        ConfigError: the name has another ending.
        DataError: it cannot be written.
    """
    check_labels_name(path)
    with written_whole(path) as aside:
        _FORMATS[path.suffix.lower()][0](aside, iter(rows))


def read_labels(path: Path) -> Iterator[LabelledFile]:
    """The rows of a table that `write_labels` wrote.

    Args:
        path: the file.

    Raises:
        ConfigError: its name has another ending.
        DataError: it cannot be read, or is not such a table.
    """
    check_labels_name(path)
    try:
        yield from map(LabelledFile.of, _FORMATS[path.suffix.lower()][1](path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, csv.Error) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise DataError(
            f"{path} is not a table of `videokd predict` ({type(error).__name__}: {reason:.200}). Choose another name, or remove it."
        ) from error


def _write_csv_table(path: Path, rows: Iterator[LabelledFile]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        for number, row in enumerate(rows):
            if not number:
                file.write(csv_text([[*csv_columns(row.prediction), *_FACTS]]))
            facts = [row.bytes, row.modified_ns, row.made_with]
            file.write(csv_text([*cells, *facts] for cells in csv_rows(row.prediction)))


def _read_csv_table(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames and "path" not in reader.fieldnames:
            raise ValueError("no column path")
        for name, lines in groupby(reader, lambda line: line["path"]):
            each = list(lines)
            cells = each[0]
            yield {
                "path": from_cell(name),
                "labels": [{"name": from_cell(c["label"]), "probability": c["probability"]} for c in each],
                "seconds": {step: cells[f"{step}_seconds"] for step in STEPS},
                "exits": {key[len(_EXIT) :]: from_cell(cells[key]) for key in cells if key.startswith(_EXIT)},
                "route": cells["route"],
                **{fact: from_cell(cells[fact]) for fact in _FACTS},
            }


def _write_jsonl(path: Path, rows: Iterator[LabelledFile]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{row.to_json()}\n" for row in rows)


def _read_jsonl(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from map(parsed_json, file)


def _write_json(path: Path, rows: Iterator[LabelledFile]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        file.writelines(f"{',' if number else ''}\n {row.to_json()}" for number, row in enumerate(rows))
        file.write("\n]\n")


def _read_json(path: Path) -> Iterator[Mapping[str, Any]]:
    yield from parsed_json(path.read_text(encoding="utf-8"))


def _write_parquet(path: Path, rows: Iterator[LabelledFile]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    first = next(rows, None)
    exits = tuple(first.prediction.exits) if first is not None else ()
    schema = pa.schema(
        [
            ("path", pa.string()),
            ("labels", pa.list_(pa.string())),
            ("probabilities", pa.list_(pa.float64())),
            *((f"{step}_seconds", pa.float64()) for step in STEPS),
            ("route", pa.string()),
            *((f"{_EXIT}{student}", pa.string()) for student in exits),
            *zip(_FACTS, (pa.int64(), pa.int64(), pa.string()), strict=True),
        ]
    )
    waiting = rows if first is None else chain((first,), rows)
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while some := [_parquet_row(row) for row in islice(waiting, _ROWS_AT_ONCE)]:
            writer.write_table(pa.Table.from_pylist(some, schema))


def _parquet_row(row: LabelledFile) -> dict[str, Any]:
    prediction = row.prediction
    return {
        "path": prediction.path,
        "labels": [label.name for label in prediction.labels],
        "probabilities": [label.probability for label in prediction.labels],
        **{f"{step}_seconds": prediction.seconds[step] for step in STEPS},
        "route": prediction.route,
        **{f"{_EXIT}{student}": name for student, name in prediction.exits.items()},
        **{fact: getattr(row, fact) for fact in _FACTS},
    }


def _read_parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS_AT_ONCE):
                yield from map(_labelled, batch.to_pylist())
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error


def _labelled(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of a Parquet table, in the form of a JSON line."""
    labels = zip(row["labels"], row["probabilities"], strict=True)
    return {
        **row,
        "labels": [{"name": name, "probability": probability} for name, probability in labels],
        "seconds": {step: row[f"{step}_seconds"] for step in STEPS},
        "exits": {key[len(_EXIT) :]: row[key] for key in row if key.startswith(_EXIT)},
    }


_Writer = Callable[[Path, Iterator[LabelledFile]], None]
_Reader = Callable[[Path], Iterator[Mapping[str, Any]]]
_FORMATS: Mapping[str, tuple[_Writer, _Reader]] = {
    ".parquet": (_write_parquet, _read_parquet),
    ".csv": (_write_csv_table, _read_csv_table),
    ".jsonl": (_write_jsonl, _read_jsonl),
    ".json": (_write_json, _read_json),
}
