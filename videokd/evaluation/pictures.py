"""Pictures of a run that a report may show: PNG files in its own folder of pictures, by bare name."""

from __future__ import annotations

from pathlib import Path

from videokd.errors import DataError

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST_BYTES, _LONGEST_SIDE = 20_000_000, 30_000


def named_picture(run: Path, name: str) -> Path:
    """Where a picture of a run is, or would be.

    Args:
        run: the run's folder.
        name: as results.json has it.

    Raises:
        DataError: it is not a bare name of a PNG file.
    """
    if not name.endswith(".png") or name != Path(name).name or any(letter in name for letter in "/\\\0:"):
        raise DataError(
            f"{run}/results.json names the picture {name!r:.200} (accepted: the bare name of a PNG file in {run}/pictures). "
            f"Run `videokd evaluate {run}` to make it again."
        )
    return run / "pictures" / name


def png_of(path: Path) -> bytes:
    """The content of a PNG file in a run's folder of pictures.

    Raises:
        DataError: it is not a PNG file, is a link out of the folder, is larger than any picture of a run, or cannot be read.
    """
    folder = path.parent
    try:
        inside = path.resolve().parent == folder.parent.resolve() / folder.name
        size = path.stat().st_size if inside and path.is_file() else 0
        content = path.read_bytes() if 24 < size <= _MOST_BYTES else b""
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Remove it, or make it readable.") from error
    sides = [int.from_bytes(content[place : place + 4], "big") for place in (16, 20)]
    if (
        not content.startswith(_SIGNATURE)
        or content[12:16] != b"IHDR"
        or not 0 < min(sides) <= max(sides) <= _LONGEST_SIDE
    ):
        raise DataError(
            f"{path} is not a picture of a run (accepted: PNG files of the run itself, up to {_MOST_BYTES // 10**6} MB and "
            f"{_LONGEST_SIDE} pixels a side). Remove it."
        )
    return content
