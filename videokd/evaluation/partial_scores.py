"""Logits of an evaluation that has not finished, kept in files so that it resumes."""

from __future__ import annotations

import io
import math
import shutil
import time
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from videokd.files import write_whole

_SECONDS_A_CHUNK = 10.0
_Rows = npt.NDArray[np.float32]


class PartialScores:
    """Rows of logits in the order of an evaluation's videos, in chunks: each file holds consecutive videos.

    Args:
        folder: of the chunks of this evaluation; its name must change where an evaluation cannot resume.
        num_videos: of the whole evaluation.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp()) / "partial"
    >>> scores = PartialScores(folder, num_videos=3)
    >>> scores.add({"motion": np.ones((2, 5), np.float32)})
    >>> scores.flush()
    >>> PartialScores(folder, num_videos=3).num_done
    2
    """

    def __init__(self, folder: Path, *, num_videos: int) -> None:
        self._folder = folder
        self._chunks = _read(folder, num_videos)
        self._saved = self.num_done
        self._last_saved = time.monotonic()

    @classmethod
    def of_run(cls, run: Path, *, key: str, num_videos: int) -> PartialScores:
        """What an interrupted evaluation of a run has scored.

        Args:
            run: the run's folder.
            key: "scores" of `videokd.evaluation.protocol.keys_of`.
            num_videos: of the whole evaluation.
        """
        return cls(run / ".partial-scores" / key, num_videos=num_videos)

    @property
    def num_done(self) -> int:
        """Videos whose logits are known."""
        return sum(len(next(iter(chunk.values()))) for chunk in self._chunks)

    def add(self, logits: Mapping[str, _Rows]) -> None:
        """Adds rows of the next videos, {network: float32 [B, K]}; they are written every ten seconds.

        Raises:
            DataError: they cannot be written.
        """
        self._chunks.append(dict(logits))
        if time.monotonic() - self._last_saved > _SECONDS_A_CHUNK:
            self.flush()

    def flush(self) -> None:
        """Writes the rows that are not written yet.

        Raises:
            DataError: it cannot be written.
        """
        done = self.num_done
        if done > self._saved:
            rows = {name: values[self._saved :] for name, values in self.rows().items()}
            buffer = io.BytesIO()
            arrays: dict[str, Any] = dict(zip(_keys(len(rows)), rows.values(), strict=True))
            np.savez(buffer, names=np.array(list(rows)), **arrays)
            write_whole(self._folder / f"{self._saved:08d}-{done:08d}.npz", buffer.getvalue())
        self._saved, self._last_saved = done, time.monotonic()

    def rows(self) -> dict[str, _Rows]:
        """{network: float32 [N, K]} of the videos that are done."""
        return {name: np.concatenate([chunk[name] for chunk in self._chunks]) for name in self._chunks[0]}

    def remove(self) -> None:
        """Removes the chunks, once the results are written."""
        shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):  # the chunks of another evaluation are there
            self._folder.parent.rmdir()


def _keys(count: int) -> list[str]:
    return [f"rows{number}" for number in range(count)]


def _read(folder: Path, num_videos: int) -> list[dict[str, _Rows]]:
    """The chunks that follow each other from the first video on."""
    ends: dict[int, int] = {}
    for path in folder.glob("*.npz"):
        start, _, end = path.stem.partition("-")
        if start.isdecimal() and end.isdecimal():
            ends[int(start)] = max(int(end), ends.get(int(start), 0))
    chunks: list[dict[str, _Rows]] = []
    done = 0
    while done in ends and done < ends[done] <= num_videos:
        chunk = _read_chunk(folder / f"{done:08d}-{ends[done]:08d}.npz", videos=ends[done] - done)
        if chunk is None or (chunks and _shapes(chunk) != _shapes(chunks[0])):
            break
        chunks.append(chunk)
        done = ends[done]
    return chunks


def _shapes(chunk: Mapping[str, _Rows]) -> dict[str, int]:
    return {name: values.shape[1] for name, values in chunk.items()}


def _read_chunk(path: Path, *, videos: int) -> dict[str, _Rows] | None:
    """One chunk; None where it is damaged: its videos are then scored again."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = [str(name) for name in arrays["names"]]
            rows = {name: arrays[key] for name, key in zip(names, _keys(len(names)), strict=True)}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    sound = (v.dtype == np.float32 and v.ndim == 2 and len(v) == videos and np.isfinite(v).all() for v in rows.values())
    return rows if rows and all(sound) else None


_MOST_UNPACKED = 256 * 2**20  # of arrays that are compressed


def read_arrays(path: Path, names: Sequence[str]) -> list[npt.NDArray[Any]]:
    """Arrays of an .npz file, by name.

    NumPy reserves as much memory as an array's header names before it reads; so the header is compared with the size of the
    file's content first.

    Args:
        path: of the file.
        names: of the arrays.

    Raises:
        ValueError: it is not an .npz file, lacks an array, or an array is damaged, holds Python objects, or is too large unpacked.
    """
    if not path.is_file():
        raise ValueError("no file")
    try:
        with zipfile.ZipFile(path) as archive:
            return [_read_member(archive, name) for name in names]
    except (ValueError, OSError):
        raise
    except KeyError as error:
        raise ValueError(f"no array {error.args[0]:.200}") from error
    except Exception as error:  # a damaged archive can raise almost anything
        raise ValueError(f"{str(error) or type(error).__name__:.200}") from error


def _read_member(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
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
