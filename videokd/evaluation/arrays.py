"""Arrays out of an .npz file, whoever wrote it: nothing is executed, and no more memory is taken than the file has bytes."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_MOST_UNPACKED = 256 * 2**20  # of arrays that are compressed


def read_arrays(path: Path, names: Sequence[str]) -> list[npt.NDArray[Any]]:
    """Arrays of an .npz file, by name.

    An array's header says how large it is, and NumPy reserves as much before it reads; so the header is compared with the
    size of what is there first.

    Args:
        path: of the file.
        names: of the arrays.

    Raises:
        ValueError: it is no .npz file, lacks an array, or an array is damaged, of Python objects, or unpacks to very much.
    """
    if not path.is_file():
        raise ValueError("no file")
    try:
        with zipfile.ZipFile(path) as archive:
            return [_read(archive, name) for name in names]
    except (ValueError, OSError):
        raise
    except KeyError as error:
        raise ValueError(f"no array {error.args[0]:.200}") from error
    except Exception as error:  # a damaged archive can raise almost anything
        raise ValueError(f"{str(error) or type(error).__name__:.200}") from error


def _read(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    member = archive.getinfo(f"{name}.npy")
    if member.compress_type != zipfile.ZIP_STORED and member.file_size > _MOST_UNPACKED:
        raise ValueError(f"{name} unpacks to {member.file_size} bytes (accepted: at most {_MOST_UNPACKED})")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{name} has version {version} of NumPy's format")
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = reader(file)
        needed = math.prod(shape) * dtype.itemsize
        there = member.file_size - file.tell()
        if dtype.hasobject or min(shape, default=0) < 0 or needed != there:
            raise ValueError(f"{name} is {dtype}{list(shape)} in {there} bytes")
        content = file.read()
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C").copy()
