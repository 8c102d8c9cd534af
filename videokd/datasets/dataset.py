"""The datasets that training and evaluation read: rows of a manifest to samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from videokd.codec.index import VideoIndex
from videokd.codec.reader import open_video
from videokd.datasets.cache import DecodedCache, checked_sha256
from videokd.datasets.manifest import Clip, Manifest
from videokd.datasets.shared_clips import SharedClips
from videokd.datasets.view import (
    Crop,
    Pictures,
    View,
    apply_crops,
    central_crop,
    first_position_of,
    random_crop,
    read_inputs,
    read_pictures,
    sample_positions,
    ten_crops,
)
from videokd.errors import DataError
from videokd.types import Sample, check_streams, stream_and_size

#: training: a random crop at random positions; quick and full: one crop, or ten, at the middle of each segment.
Views = Literal["training", "quick", "full"]


@dataclass(frozen=True)
class ClipDataset(Dataset[Sample]):
    """Clips as samples. A sample depends only on (seed, epoch, number), not on the process that loads it.

    Args:
        manifest: has the clips' folder, and whether they may be mirrored.
        clips: the rows to load.
        streams: keys of the inputs of a sample: streams' names, and those of `input_key` for further sizes of their pictures.
        num_segments: S.
        input_size: side of the pictures of streams without a size of their own, in pixels.
        views: training, quick (middle of each segment, one crop) or full (the same with ten crops).
        seed: seed of the training views.
        cache: where decoded clips are kept; None: every sample is decoded again.
        stored_views: V: a training sample is one of V views of its clip that depend neither on the seed nor on the clip's
            number, so that what a network says of them can be stored; 0: every epoch has new views.

    Raises:
        ConfigError: a stream is unknown.
    """

    manifest: Manifest
    clips: Sequence[Clip]
    streams: tuple[str, ...]
    num_segments: int
    input_size: int
    views: Views
    seed: int = 0
    cache: DecodedCache | None = None
    stored_views: int = 0

    def __post_init__(self) -> None:
        check_streams(self._stream_names, where="streams of the dataset")

    @property
    def _inputs(self) -> dict[str, tuple[str, int]]:
        """{key of an input: its stream, and the side of its pictures}."""
        return {key: stream_and_size(key, main_size=self.input_size) for key in self.streams}

    @property
    def _stream_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(stream for stream, _ in self._inputs.values()))

    def __len__(self) -> int:
        return len(self.clips)

    def shared(self) -> ClipDataset:
        """The same samples, as a dataset that another process is quickly handed."""
        return replace(self, manifest=replace(self.manifest, clips=()), clips=SharedClips(self.clips))

    def __getitem__(self, item: int | tuple[int, int]) -> Sample:
        """The sample of a clip's number in `clips`, or of (epoch, number).

        Raises:
            DecodeError: the clip cannot be read; the message names it.
            DataError: the clip has no position that the streams need; the message names it.
        """
        epoch, number = item if isinstance(item, tuple) else (0, item)
        if self.stored_views and self.views == "training":
            return self.stored_view(number, self._view_in_epoch(epoch, number))
        return self._sample(number, lambda: (self.seed, epoch, number))

    def stored_view(self, number: int, view: int) -> Sample:
        """One of the views of a clip that do not depend on the epoch.

        With a cache, it follows from the clip's content, the view's number, the number of segments, and the cache's positions
        and sizes.

        Args:
            number: of the clip in `clips`.
            view: 0 up to, not including, `stored_views`.

        Raises:
            DecodeError: as for a sample.
            DataError: as for a sample, or the clip's sha256 is not one.
        """
        clip = self.clips[number]
        sample = self._sample(number, lambda: (int(checked_sha256(clip.sha256)[:16], 16), view))
        return replace(sample, view=view)

    def _view_in_epoch(self, epoch: int, number: int) -> int:
        """A clip goes through all its views in a random order before it repeats one."""
        turn, place = divmod(epoch, self.stored_views)
        return int(np.random.default_rng((self.seed, turn, number)).permutation(self.stored_views)[place])

    def _sample(self, number: int, seed: Callable[[], tuple[int, ...]]) -> Sample:
        clip = self.clips[number]
        try:
            rng = np.random.default_rng(seed())
            streams = self._cached(clip, rng) if self.cache is not None else self._decoded(clip, rng)
        except DataError as error:
            raise DataError(f"{self.manifest.root / clip.path}: {error}") from error
        return Sample(streams, clip.label, clip.video_id, number)

    @property
    def num_views(self) -> int:
        """Crops of each segment: ten (five without mirroring) in full views, otherwise one."""
        return len(ten_crops(8, 8, flip=self.manifest.flip)) if self.views == "full" else 1

    def __getitems__(self, items: Sequence[int | tuple[int, int]]) -> Sequence[Sample]:
        """The samples of a batch, each loaded when it is asked for, so that the next can use its memory."""
        return _LazySamples(self, items)

    def view(self, index: VideoIndex, rng: np.random.Generator) -> View:
        """The view of one sample, shared by all its streams.

        Args:
            index: the clip's index.
            rng: randomness of a training view.
        """
        lengths = [len(packets) for packets in index.anchors]
        return self._view_of(lengths, first_position_of(self._stream_names), (index.width, index.height), rng)

    def _view_of(
        self, lengths: Sequence[int], first_position: int, size: tuple[int, int], rng: np.random.Generator
    ) -> View:
        training = self.views == "training"
        segments = sample_positions(
            lengths, num_segments=self.num_segments, first_position=first_position, rng=rng if training else None
        )
        flip = self.manifest.flip
        if training:
            crops: tuple[Crop, ...] = (random_crop(*size, flip=flip, rng=rng),)
        else:
            crops = ten_crops(*size, flip=flip) if self.views == "full" else (central_crop(*size),)
        return View(segments, crops, size)

    def _decoded(self, clip: Clip, rng: np.random.Generator) -> dict[str, npt.NDArray[np.uint8]]:
        """The inputs of a view, from the clip's file."""
        index = VideoIndex.from_json(clip.index)
        with open_video(self.manifest.root / clip.path, index=index) as video:
            return read_inputs(video, self.view(index, rng), self._inputs)

    def _cached(self, clip: Clip, rng: np.random.Generator) -> dict[str, npt.NDArray[np.uint8]]:
        """The inputs of a view, from the cache, which holds small quantised pictures.

        Crops are drawn in the clip's own pixels, so that a cache of another size shows the same part of the picture.
        """
        assert self.cache is not None
        index = cache(lambda: VideoIndex.from_json(clip.index))
        pictures_of = self.cache.read(
            clip.sha256,
            index,
            self._stream_names,
            lambda streams, positions: self._read(clip, index(), streams, positions),
        )
        view = self._view_of([self.cache.num_positions], 0, (clip.width, clip.height), rng)
        places = [position for _, position in view.segments]
        pictures = {name: [pictures[place] for place in places] for name, pictures in pictures_of.items()}
        return apply_crops(pictures, view.crops, of=view.size, inputs=self._inputs, quantised=True)

    def _read(
        self, clip: Clip, index: VideoIndex, streams: tuple[str, ...], positions: Sequence[tuple[int, int]]
    ) -> dict[str, Pictures]:
        """{stream: a picture [H, W, C] for each (gop, position)} in the streams' own units."""
        with open_video(self.manifest.root / clip.path, index=index) as video:
            return read_pictures(video, streams, positions)


@dataclass(frozen=True)
class JoinedClips(Dataset[Sample]):
    """Several datasets as one, such as labelled and unlabelled clips; numbers of clips count through them in order.

    Args:
        parts: the datasets.
    """

    parts: tuple[ClipDataset, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def shared(self) -> JoinedClips:
        """As for `ClipDataset`."""
        return JoinedClips(tuple(part.shared() for part in self.parts))

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        """The sample of (epoch, number); errors as for `ClipDataset`."""
        part, number = self._place(item[1])
        return replace(part[item[0], number], clip=item[1])

    def stored_view(self, number: int, view: int) -> Sample:
        """The sample of a clip's number at one of its stored views; errors as for `ClipDataset.stored_view`."""
        part, own_number = self._place(number)
        return replace(part.stored_view(own_number, view), clip=number)

    def _place(self, number: int) -> tuple[ClipDataset, int]:
        """The part that a clip is in, and its number there."""
        rest = number
        for part in self.parts:
            if rest < len(part):
                return part, rest
            rest -= len(part)
        raise IndexError(f"no clip {number} (accepted: 0 to {len(self) - 1})")

    def __getitems__(self, items: Sequence[tuple[int, int]]) -> Sequence[Sample]:
        """The samples of a batch, each loaded when it is asked for."""
        return _LazySamples(self, items)


@dataclass(frozen=True)
class _LazySamples(Sequence[Sample]):
    dataset: Dataset[Sample]
    items: Sequence[Any]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: Any) -> Any:
        return self.dataset[self.items[number]]
