"""Predictions of many videos, in order, one after the other as they are asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

from videokd.bitstream.source import Openable, Source, source_of
from videokd.errors import DataError, DecodeError
from videokd.prediction.batch import Read, predictions_of, usual_batch
from videokd.prediction.prediction import Prediction
from videokd.prediction.predictor import Predictor
from videokd.prediction.reading import Transcode, read_streams


class Predictions(Iterator[Prediction]):
    """What `videokd.predict` gives for an iterable: a `Prediction` of each video, in order, read when it is asked for.

    A video that cannot be read raises its error when it is its turn; the next call goes on with the video after it. `good` skips such
    videos. On CUDA, several videos are read ahead and computed together.

    Args:
        videos: paths, bytes or file objects.
        predictor: the students.
        top: as for `videokd.predict`.
        num_segments: as for `videokd.predict`.
        transcode: as for `videokd.predict`.
    """

    def __init__(
        self,
        videos: Iterable[Openable | Source],
        predictor: Predictor,
        *,
        top: int,
        num_segments: int | None,
        transcode: Transcode,
    ) -> None:
        self.failed: list[tuple[str, str]] = []  # (name, reason) of each video that `good` skipped
        self._videos = iter(videos)
        self._predictor = predictor
        self._top, self._num_segments, self._transcode = top, num_segments, transcode
        self._ready: deque[tuple[str, Prediction | DecodeError | DataError]] = deque()

    def __iter__(self) -> Predictions:
        return self

    def __next__(self) -> Prediction:
        _, outcome = self._next()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def good(self) -> Iterator[Prediction]:
        """Those of the videos that can be read; `failed` then has (name, reason) of each of the others."""
        while True:
            try:
                name, outcome = self._next()
            except StopIteration:
                return
            if isinstance(outcome, Exception):
                self.failed.append((name, str(outcome)))
            else:
                yield outcome

    def _next(self) -> tuple[str, Prediction | DecodeError | DataError]:
        if not self._ready:
            self._ready.extend(self._outcomes())
        if not self._ready:
            raise StopIteration
        return self._ready.popleft()

    def _outcomes(self) -> list[tuple[str, Prediction | DecodeError | DataError]]:
        """Of as many videos as the students like to see together."""
        sources = map(source_of, islice(self._videos, usual_batch(self._predictor)))
        read = [self._read(source) for source in sources]
        together = [one for one in read if not isinstance(one[1], Exception)]
        predictions = iter(predictions_of(together, self._predictor, top=self._top) if together else ())  # type: ignore[arg-type]
        return [(one[0], one[1] if isinstance(one[1], Exception) else next(predictions)) for one in read]

    def _read(self, source: Source) -> Read | tuple[str, DecodeError | DataError]:
        try:
            read = read_streams(
                source, self._predictor.wanted, num_segments=self._num_segments, transcode=self._transcode
            )
        except (DecodeError, DataError) as error:
            return str(source), error
        return str(source), *read
