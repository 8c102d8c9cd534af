"""A manifest's columns as they come from a file: what they may hold, whoever wrote them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from videokd.datasets.splits import NUM_SPLITS, Part
from videokd.errors import DataError
from videokd.types import NO_LABEL

#: Each row has two hashes, which do not compress: a file of few bytes and more rows than these is no manifest.
_ROWS_IN_ANY_FILE, _BYTES_A_ROW = 100_000, 32
_LONGEST_TEXT, _LONGEST_INDEX = 10_000, 50_000_000
_LONGEST_HEAD = 50_000_000

#: Texts that a column must match: (regular expression, what is accepted)
_HASH = (r"^[0-9a-f]{64}$", "64 hexadecimal digits")
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
#: What no path has: a start at the root or at a drive, a way up, an empty name
_WAY_OUT = r"^([A-Za-z]:)?[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)|\x00|^$"
_NO_PATH = r"\x00|^$"
_AT_LEAST = {"label": NO_LABEL, "width": 1, "height": 1, "num_frames": 1, "bytes": 0, "seconds": 0, "source_bytes": 0}


def check_size(file: pq.ParquetFile, num_bytes: int) -> None:
    """Refuses a file that unpacks to far more than a manifest of its size could hold.

    Raises:
        DataError: it does.
    """
    most = _ROWS_IN_ANY_FILE + num_bytes // _BYTES_A_ROW
    if not 0 <= file.metadata.num_rows <= most:
        raise DataError(f"{file.metadata.num_rows} rows in {num_bytes} bytes (accepted: at most {most})")


def texts(column: pa.Array, name: str, *, kept: bool = False) -> list[str]:
    """A column of texts, checked; equal ones are one object.

    Args:
        column: dictionary-encoded, so that a long text that many rows share is not unpacked for each.
        name: of the column.
        kept: whether clips were left where they lie (`prepare --keep`), which is outside the manifest's folder.

    Raises:
        DataError: a text is missing, too long, or not of this column.
    """
    _check_present(column, name)
    words = column.dictionary
    longest = _LONGEST_INDEX if name == "index" else _LONGEST_TEXT
    length = pc.max(pc.binary_length(words)).as_py() or 0
    if length > longest:
        raise DataError(f"{name} has a text of {length} bytes (accepted: at most {longest})")
    if name in _MATCHES:
        pattern, accepted = _MATCHES[name]
        _refuse_first(words, pc.invert(pc.match_substring_regex(words, pattern)), name, accepted)
    if name == "path":
        leaves = pc.match_substring_regex(words, _NO_PATH if kept else _WAY_OUT)
        _refuse_first(words, leaves, name, "a path inside the manifest's folder")
    known = words.to_pylist()
    return [known[number] for number in column.indices.to_pylist()]


def numbers(column: pa.Array, name: str) -> list[Any]:
    """A column of numbers, checked.

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
    """The manifest's class names and settings.

    Raises:
        DataError: they are not what a manifest has.
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
        raise DataError("class_names is no list of names (accepted: texts of 1 to 1000 letters)")
    if not isinstance(about.get("flip"), bool) or not isinstance(about.get("settings"), dict):
        raise DataError("flip or settings is missing (accepted: true or false, and an object)")
    return about


def _check_present(column: pa.Array, name: str) -> None:
    if column.null_count:
        raise DataError(f"{name} is missing in {column.null_count} rows (accepted: a value in each)")


def _refuse_first(values: pa.Array, wrong: pa.Array, name: str, accepted: str) -> None:
    first = pc.index(wrong, True).as_py()
    if first >= 0:
        raise DataError(f"{name} is {values[first].as_py()!r:.80} (accepted: {accepted})")
