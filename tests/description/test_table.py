from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from videokd.description.clip import ClipDescription
from videokd.description.table import TableRow, read_lines, read_table, write_table
from videokd.errors import ConfigError, DataError

KNOWN = TableRow(
    ClipDescription(
        path="=a/é 1.mp4", bytes=1000, seconds=2.5, width=64, height=48, codec="h264", frame_rate=29.97, frames=75, gops=7, exact=True,
        motion=0.25, motion_p95=1.5, motion_pixels=0.4, motion_pixels_p95=2.4, still=0.5, intra=0.01, camera=0.1, camera_x=-0.1,
        camera_y=0.0, shake=0.05, cuts=2, cut_seconds=(0.5, 1.25), hashes=("00ff00ff00ff00ff", "0123456789abcdef"),
        near_duplicate_of="b,c.mp4",
    ),
    1_700_000_000_123_456_789,
)  # fmt: skip
NO_CUTS = replace(
    KNOWN, description=replace(KNOWN.description, cuts=0, cut_seconds=(), near_duplicate_of=None, hashes=())
)
UNKNOWN = TableRow(ClipDescription("c.webm", 5, 1.0, 8, 8, "vp9", 25.0, 25, 1, exact=False), 1)
NO_COPY = replace(KNOWN, description=replace(KNOWN.description, near_duplicate_of=""))
COPY_OF_DASH = replace(KNOWN, description=replace(KNOWN.description, near_duplicate_of="-"))
ENTRIES = [KNOWN, NO_CUTS, UNKNOWN, NO_COPY, COPY_OF_DASH]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".CSV"])
def test_a_table_is_read_as_it_was_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    write_table(path, ENTRIES)
    assert read_table(path) == ENTRIES


def test_columns_have_types_even_where_nothing_is_known(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", [UNKNOWN])
    schema = pq.read_schema(tmp_path / "t.parquet")
    assert str(schema.field("motion").type) == "double"
    assert str(schema.field("cut_seconds").type).startswith("list<")


def test_lines_of_a_stopped_run(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    assert list(read_lines(path)) == []
    path.write_text(f"{KNOWN.to_json()}\n{UNKNOWN.to_json()}\n[1]\n{{}}\n{NO_CUTS.to_json()[:50]}", encoding="utf-8")
    assert list(read_lines(path)) == [KNOWN, UNKNOWN]


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"t\.txt \(accepted: a name that ends with \.parquet or \.csv\)"):
        write_table(tmp_path / "t.txt", ENTRIES)
    with pytest.raises(DataError, match=r"none\.csv is not a table of `videokd describe`"):
        read_table(tmp_path / "none.csv")
    for name, content in (
        ("a.csv", b"path,bytes\nx,1\n"),
        ("b.csv", b"\xff\xfe"),
        ("c.parquet", b"PAR1"),
        ("d.csv", b"path\nx,y,z\n"),
        ("e.csv", b"hello\n"),
        ("f.csv", b""),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="is not a table of `videokd describe`"):
            read_table(tmp_path / name)
