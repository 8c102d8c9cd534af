"""The search for videos in folders: by their suffix, at any depth."""

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
_MOST_SUFFIXES_SHOWN = 6


def videos_in(folder: Path) -> list[Path]:
    """Every path in a folder, at any depth, that has the suffix of a video; sorted.

    Broken links, pipes, and folders that are named like a video but hold none are listed too, so that `prepare` reports them
    and no clip is lost silently.
    """
    found, folders_named_like_videos = [], []
    for place, folders, files in walk_once(folder):
        found += [place / name for name in files if _is_video(name)]
        folders_named_like_videos += [place / name for name in folders if _is_video(name)]
    return sorted(
        found + [path for path in folders_named_like_videos if not any(path in video.parents for video in found)]
    )


def unreadable_folders(root: Path) -> list[tuple[Path, str]]:
    """(folder, reason) for each folder, at any depth, whose files cannot be listed."""
    refused: list[OSError] = []
    for _ in walk_once(root, refused):
        pass
    return sorted((Path(error.filename), error.strerror or str(error)) for error in refused)


def ignored_files(folders: Iterable[Path]) -> str | None:
    """A message about files in these folders that do not have the suffix of a video: how many, and which suffixes.

    None if there are no such files.
    """
    suffixes = Counter(
        Path(name).suffix.lower() or "no suffix"
        for folder in folders
        for _, _, files in walk_once(folder)
        for name in files
        if not name.startswith(".") and not _is_video(name)
    )
    if not suffixes:
        return None
    shown = ", ".join(f"{count} with {suffix}" for suffix, count in suffixes.most_common(_MOST_SUFFIXES_SHOWN))
    more = ", …" if len(suffixes) > _MOST_SUFFIXES_SHOWN else ""
    return (
        f"{suffixes.total()} files are ignored, because they do not have the suffix of a video ({shown}{more}). "
        "If they are videos, give them a suffix such as .mp4 or .mkv."
    )


def _is_video(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in VIDEO_SUFFIXES


def walk_once(folder: Path, refused: list[OSError] | None = None) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Like `os.walk`. Links to folders are followed, but no folder is visited twice, and no parent, where other classes are.

    Args:
        folder: where to begin.
        refused: gets the error of each folder that cannot be listed.
    """
    seen = {(status.st_dev, status.st_ino) for status in map(os.stat, folder.resolve().parents)}
    for place, folders, files in os.walk(folder, followlinks=True, onerror=None if refused is None else refused.append):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        yield Path(place), folders, files
