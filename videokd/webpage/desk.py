"""Takes clips from the page and gives answers as HTML; removes what was uploaded."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from videokd.errors import ConfigError, DataError, VideoKDError, printable
from videokd.jobs.video_files import videos_in
from videokd.prediction.predictor import Answer, Predictor
from videokd.prediction.wanted import Wanted
from videokd.webpage import markup
from videokd.webpage.answers import PageLimits, answer_clip
from videokd.webpage.uploads import remove_left

_MOST_RECENT = 4
Tell = Callable[[float, str], None]


class ClipDesk:
    """Answers one clip after the other.

    Args:
        sets: {name: students}.
        limits: what is accepted.
        uploads: the folder that holds what was uploaded, and nothing else.
        folder: whose videos can be chosen; None: only uploads are answered.

    Raises:
        DataError: the folder has no videos.
    """

    def __init__(
        self, sets: Mapping[str, Predictor], *, limits: PageLimits, uploads: Path, folder: Path | None = None
    ) -> None:
        self.limits = limits
        self.uploads = uploads.resolve()
        self.folder = None if folder is None else folder.resolve()
        videos = () if self.folder is None else _videos_inside(self.folder)
        self._videos = {str(number): video for number, video in enumerate(videos)}
        self.stopping = threading.Event()
        self.sets = {name: _Stoppable(predictor, self.stopping) for name, predictor in sets.items()}
        self._recent: dict[Path, str] = {}

    @property
    def choices(self) -> list[tuple[str, str]]:
        """(name, key) of each video of the folder: a page can only send a key, so no path outside of the folder."""
        assert self.folder is not None
        return [(printable(video.relative_to(self.folder).as_posix()), key) for key, video in self._videos.items()]

    def chosen(self, key: object, tell: Tell) -> str:
        """The answer about a video of the folder.

        Args:
            key: one of `choices`, as the page sends it: anything else is refused; None: nothing is chosen.
            tell: as for `answer_clip`.
        """
        if key is None:
            return ""
        video = self._videos.get(key) if isinstance(key, str) else None
        if self.folder is None or video is None:
            return markup.problem("There is no such video in the list. Reload the page.")
        name = video.relative_to(self.folder).as_posix()
        if not _is_inside(video, self.folder):
            return markup.problem(f"{name} is not there any more. Choose another one.")
        return self._answer(video, name, tell)

    def uploaded(self, path: object, tell: Tell) -> str:
        """The answer about a file that was uploaded; the file is removed.

        Args:
            path: of the file, as the page sends it: anything that is not the path of an upload is refused.
            tell: as for `answer_clip`.
        """
        file = self._upload_at(path)
        if file is None:
            return markup.problem("This file was not uploaded. Drop it again.")
        try:
            if not file.is_file():  # dropped twice at the same time: the other one has been answered, and removed
                gone = markup.problem(f"{file.name} has been removed meanwhile. Drop it again.")
                return self._recent.get(file, gone)
            html = self._answer(file, file.name, tell)
            self._recent = dict([*self._recent.items(), (file, html)][-_MOST_RECENT:])
            return html
        finally:
            with suppress(OSError):
                file.unlink()
            remove_left(self.uploads)

    def _upload_at(self, path: object) -> Path | None:
        try:
            file = Path(path).resolve() if isinstance(path, str) else None
        except (OSError, ValueError):  # a loop of links, a zero byte
            return None
        return file if file is not None and file != self.uploads and file.is_relative_to(self.uploads) else None

    def _answer(self, path: Path, name: str, tell: Tell) -> str:
        def tell_unless_stopping(share: float, text: str) -> None:
            _check_going_on(self.stopping)
            tell(share, text)

        try:
            found = answer_clip(path, self.sets, name=name, limits=self.limits, tell=tell_unless_stopping)
            return markup.answer(found, self.limits)
        except VideoKDError as error:
            return markup.problem(str(error))
        except Exception as error:  # whatever it is, the page goes on, and whoever runs it can see why
            traceback.print_exc()
            return markup.problem(f"{name} cannot be answered ({type(error).__name__}). The terminal has the details.")


class _Stoppable:
    """Students that refuse to go on once the page is told to stop."""

    def __init__(self, predictor: Predictor, stopping: threading.Event) -> None:
        self._predictor = predictor
        self._stopping = stopping

    @property
    def wanted(self) -> Wanted:
        return self._predictor.wanted

    def __call__(self, streams: Mapping[str, npt.NDArray[np.uint8]], *, names: Sequence[str]) -> Answer:
        _check_going_on(self._stopping)
        return self._predictor(streams, names=names)


def _check_going_on(stopping: threading.Event) -> None:
    if stopping.is_set():
        raise ConfigError("The page is being stopped. Start it again.")


def _videos_inside(folder: Path) -> tuple[Path, ...]:
    """The videos of a folder; links that lead out of it are left out."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder (accepted: a folder of videos). Correct `--folder`.")
    found = tuple(path for path in videos_in(folder) if _is_inside(path, folder))
    if not found:
        raise DataError(f"{folder} has no videos (accepted: files with the suffix of a video). Correct `--folder`.")
    return found


def _is_inside(path: Path, folder: Path) -> bool:
    return path.is_file() and path.resolve().is_relative_to(folder)
