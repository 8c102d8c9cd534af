"""Checks of a manifest's columns when they are read from a file of an unknown source."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from videokd.datasets.splits import NUM_SPLITS, Part
from videokd.errors import DataError
from videokd.files import SHA256
from videokd.types import NO_LABEL

#: Each row has two hashes, which do not compress. A small file with more rows than this is not a manifest.
_ROWS_IN_ANY_FILE, _BYTES_A_ROW = 100_000, 32
_LONGEST_TEXT, _LONGEST_INDEX = 10_000, 50_000_000
_LONGEST_HEAD = 50_000_000

#: Texts that a column must match: (regular expression, what is accepted)
_HASH = (f"^{SHA256.pattern}$", "64 hexadecimal digits")
_MATCHES = {
    "sha256": _HASH,
    "source_sha256": _HASH,
    "video_id": (r"^[^\x00]+$", "a name"),
    "codec": (r"^[a-z0-9_]+$", "FFmpeg's name of a decoder"),
    **{
        f"split{number + 1}": (f"^({'|'.join(get_args(Part))})$", ", ".join(get_args(Part)))
        for number in range(NUM_SPLITS)
    },
}
#: Paths that leave the manifest's folder or are empty: from the root or a drive, or with ".."
_OUTSIDE = r"^([A-Za-z]:)?[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)|\x00|^$"
_NOT_A_PATH = r"\x00|^$"
_AT_LEAST = {"label": NO_LABEL, "width": 1, "height": 1, "num_frames": 1, "bytes": 0, "seconds": 0, "source_bytes": 0}


def check_size(file: pq.ParquetFile, num_bytes: int) -> None:
    """Refuses a file that unpacks to more rows than a manifest of its size can have.

    Args:
        file: the open file.
        num_bytes: its size.

    Raises:
        DataError: it has too many rows.
    """
    most = _ROWS_IN_ANY_FILE + num_bytes // _BYTES_A_ROW
    if not 0 <= file.metadata.num_rows <= most:
        raise DataError(f"{file.metadata.num_rows} rows in {num_bytes} bytes (accepted: at most {most})")


def texts(column: pa.Array, name: str, *, kept: bool = False) -> list[str]:
    """Checks a column of texts; equal texts become one object.

    Args:
        column: dictionary-encoded, so that a long text that many rows share is unpacked only once.
        name: the column's name.
        kept: whether clips may be outside of the manifest's folder, where their sources are (`prepare --keep`).

    Returns:
        The texts.

    Raises:
        DataError: a text is missing, too long, or not valid in this column.
    """
    _check_present(column, name)
    distinct = column.dictionary
    longest = _LONGEST_INDEX if name == "index" else _LONGEST_TEXT
    length = pc.max(pc.binary_length(distinct)).as_py() or 0
    if length > longest:
        raise DataError(f"{name} has a text of {length} bytes (accepted: at most {longest})")
    if name in _MATCHES:
        pattern, accepted = _MATCHES[name]
        _refuse_first(distinct, pc.invert(pc.match_substring_regex(distinct, pattern)), name, accepted)
    if name == "path":
        outside = pc.match_substring_regex(distinct, _NOT_A_PATH if kept else _OUTSIDE)
        _refuse_first(distinct, outside, name, "a path inside the manifest's folder")
    values = distinct.to_pylist()
    return [values[number] for number in column.indices.to_pylist()]


def numbers(column: pa.Array, name: str) -> list[Any]:
    """Checks a column of numbers.

    Args:
        column: int64 or float64.
        name: the column's name.

    Returns:
        The numbers.

    Raises:
        DataError: one is missing or out of its range.
    """
    _check_present(column, name)
    if pa.types.is_floating(column.type):
        _refuse_first(column, pc.invert(pc.is_finite(column)), name, "a finite number")
    if name in _AT_LEAST:
        _refuse_first(column, pc.less(column, _AT_LEAST[name]), name, f"{_AT_LEAST[name]} or more")
    return list(column.to_pylist())


def read_head(head: bytes, *, version: int) -> Mapping[str, Any]:
    """Reads the JSON in the file's metadata: version, class_names, flip and settings.

    Args:
        head: the JSON.
        version: the version that is accepted.

    Raises:
        DataError: it is not JSON, of another version, or lacks one of these.
    """
    if len(head) > _LONGEST_HEAD:
        raise DataError(f"its settings have {len(head)} bytes (accepted: at most {_LONGEST_HEAD})")
    try:
        about = json.loads(head)
    except (ValueError, RecursionError) as error:
        raise DataError(f"its settings are damaged ({str(error) or 'nested too deeply'})") from error
    if not isinstance(about, dict) or about.get("version") != version:
        given = about.get("version") if isinstance(about, dict) else type(about).__name__
        raise DataError(f"it is of version {given!r:.40} (accepted: {version})")
    names = about.get("class_names")
    if not isinstance(names, list) or not all(isinstance(name, str) and 0 < len(name) <= 1000 for name in names):
        raise DataError("class_names is not a list of names (accepted: texts of 1 to 1000 letters)")
    if not isinstance(about.get("flip"), bool) or not isinstance(about.get("settings"), dict):
        raise DataError("flip or settings is missing (accepted: true or false, and an object)")
    return about


def _check_present(column: pa.Array, name: str) -> None:
    if column.null_count:
        raise DataError(f"{name} is missing in {column.null_count} rows (accepted: a value in each)")


def _refuse_first(values: pa.Array, is_wrong: pa.Array, name: str, accepted: str) -> None:
    first = pc.index(is_wrong, True).as_py()
    if first >= 0:
        raise DataError(f"{name} is {values[first].as_py()!r:.80} (accepted: {accepted})")
