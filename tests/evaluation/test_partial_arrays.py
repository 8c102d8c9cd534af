"""Arrays from strangers' .npz files: refused in one line, without the memory that they ask for."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from videokd.evaluation.partial_scores import read_arrays


def member(shape: str, content: bytes = b"", *, descr: str = "'<f4'") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def archive(path: Path, content: bytes, *, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("a.npy", content)
    return path


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (member("(1000000000000,)"), "a is float32[1000000000000] in 0 bytes"),
        (member("(1000000, 1000000)", b"1234"), "in 4 bytes"),
        (member("(-1,)", b""), "a is float32[-1]"),
        (member("(-1, -4)", b"1" * 16), "a is float32[-1, -4]"),
        (member("(3,)", b"1" * 13), "a is float32[3] in 13 bytes"),
        (member("(1,)", pickle.dumps(print), descr="'|O'"), "a is object[1]"),
        (member("(1,)", b"1" * 8, descr="[('x', '|O')]"), "('x', 'O')"),
        (member("('a',)"), "a"),
        (member("__import__('os')"), "a"),
        (b"\x93NUMPY\x09\x00", "version (9, 0)"),
        (b"nothing", "a"),
        (b"", "a"),
    ],
)
def test_headers_that_lie(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        read_arrays(archive(tmp_path / "a.npz", content), ("a",))
    assert reason in str(refused.value)


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.zeros(3))
    with pytest.raises(ValueError, match="no array"):
        read_arrays(path, ("b",))
    with pytest.raises(ValueError, match="no file"):
        read_arrays(tmp_path, ("a",))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"."):
        read_arrays(path, ("a",))


def test_what_numpy_wrote_is_read(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(["é", "xyz"]), "c": np.zeros((0, 3))}
    arrays["d"] = np.asfortranarray(arrays["a"])
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        for expected, found in zip(arrays.values(), read_arrays(tmp_path / "a.npz", tuple(arrays)), strict=True):
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected)


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    """300 MB of zeros in 300 kB, read with 1 GB of address space more than Python has."""
    buffer = io.BytesIO(member("(75000000,)", bytes(300_000_000)))
    path = archive(tmp_path / "a.npz", buffer.getvalue(), compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1_000_000
    code = (
        "import resource, sys; from pathlib import Path; from videokd.evaluation.partial_scores import read_arrays\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: read_arrays(Path(sys.argv[1]), ('a',))\nexcept ValueError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["a unpacks to 300000128 bytes (accepted: at most 268435456)", "True"]
