"""Which files of a folder are videos, by their names; and which are not taken."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

# fmt: off
VIDEO_SUFFIXES = (
    ".264", ".265", ".3g2", ".3gp", ".3gpp", ".amv", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h261", ".h263", ".h264",
    ".h265", ".hevc", ".ivf", ".m1v", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts",
    ".mxf", ".nut", ".obu", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".swf", ".ts", ".vob", ".webm", ".wmv", ".wtv", ".xvid", ".y4m",
)
# fmt: on
_MOST_KINDS = 6


def videos_in(folder: Path) -> list[Path]:
    """Everything in a folder, at any depth, that has the name of a video, sorted.

    A link that leads nowhere, a pipe, and a folder that is named like a video and holds none are listed too, so that preparing
    reports them instead of losing a clip in silence.
    """
    found, named_like_videos = [], []
    for place, folders, files in _walk(folder):
        found += [place / name for name in files if _is_video(name)]
        named_like_videos += [place / name for name in folders if _is_video(name)]
    return sorted(found + [path for path in named_like_videos if not any(path in video.parents for video in found)])


def unreadable_folders(root: Path) -> list[tuple[Path, str]]:
    """(folder, reason) of each folder that the system refuses to list, at any depth."""
    refused: list[OSError] = []
    for _ in _walk(root, refused):
        pass
    return sorted((Path(error.filename), error.strerror or str(error)) for error in refused)


def not_taken(folders: Iterable[Path]) -> str | None:
    """Says how many files in these folders have not the name of a video, and which suffixes; None if all have."""
    kinds = Counter(
        Path(name).suffix.lower() or "no suffix"
        for folder in folders
        for _, _, files in _walk(folder)
        for name in files
        if not name.startswith(".") and not _is_video(name)
    )
    if not kinds:
        return None
    shown = ", ".join(f"{count} with {kind}" for kind, count in kinds.most_common(_MOST_KINDS))
    more = ", …" if len(kinds) > _MOST_KINDS else ""
    return (
        f"{kinds.total()} files beside the clips are not taken, as they are not named like videos ({shown}{more}). "
        "If they are videos, give them a suffix such as .mp4 or .mkv."
    )


def _is_video(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in VIDEO_SUFFIXES


def _walk(folder: Path, refused: list[OSError] | None = None) -> Iterator[tuple[Path, list[str], list[str]]]:
    """As `os.walk`; links to folders are followed, but neither twice nor upwards, to where other classes are."""
    real = folder.resolve()
    seen = {(status.st_dev, status.st_ino) for status in map(os.stat, real.parents)}
    for place, folders, files in os.walk(folder, followlinks=True, onerror=None if refused is None else refused.append):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        yield Path(place), folders, files
