"""OpenCV's optical flow as the second stream of a two-stream network (Simonyan and Zisserman 2014; Wang et al. 2016).

What `bench_latency` times and `study` trains beside videokd's own streams. Needs OpenCV: `pip install videokd[bench]`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from unittest.mock import patch

import cv2
import numpy as np

from videokd.codec.index import VideoIndex
from videokd.codec.rgb import read_rgb
from videokd.datasets.dataset import ClipDataset
from videokd.datasets.manifest import Clip
from videokd.datasets.view import Pictures, apply_crops
from videokd.types import STREAMS, StreamSpec

Flow = Callable[[np.ndarray, np.ndarray, None], np.ndarray]
FIELDS = 5  # of a stack: 10 channels, as in both papers
_ZERO = 128
#: Values are steps of a byte: ±20 pixels fill it, as in TSN.
FLOW = StreamSpec(
    "flow", 2 * FIELDS, 0, (-1, 1) * FIELDS, 1, _ZERO, (0.5,) * 2 * FIELDS, (1.0,) * 2 * FIELDS, True, "resnet18", True
)


def _dis(preset: int) -> Callable[[], Flow]:
    return lambda: cv2.DISOpticalFlow_create(preset).calc  # type: ignore[attr-defined]


def _farneback(first: np.ndarray, second: np.ndarray, _: None) -> np.ndarray:
    return cv2.calcOpticalFlowFarneback(first, second, None, 0.5, 3, 15, 3, 5, 1.2, 0)  # type: ignore[call-overload, no-any-return]


#: Each makes a function from two grey pictures to float32 [H, W, 2]; "fast" is OpenCV's default preset of DIS.
METHODS: Mapping[str, Callable[[], Flow]] = {
    "dis-fast": _dis(cv2.DISOPTICAL_FLOW_PRESET_FAST),
    "dis-medium": _dis(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM),
    "farneback": lambda: _farneback,
}


def fields_of(pictures: np.ndarray, flow: Flow) -> list[np.ndarray]:
    """RGB pictures [T, H, W, 3] to T − 1 fields, uint8 [H, W, 2], between neighbours."""
    grey = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures]
    flows = (flow(first, second, None) for first, second in itertools.pairwise(grey))
    return [cv2.addWeighted(values, 127.5 / 20, values, 0, _ZERO, dtype=cv2.CV_8U) for values in flows]


@contextmanager
def as_a_stream(method: str = "dis-fast") -> Iterator[None]:
    """Makes `flow` a stream like the others: datasets, caches and networks take it, `teach --stream flow` trains on it."""
    plain = ClipDataset._read
    cv2.setNumThreads(1)

    def read(
        self: ClipDataset, clip: Clip, index: VideoIndex, streams: tuple[str, ...], positions: Sequence[tuple[int, int]]
    ) -> dict[str, Pictures]:
        others = tuple(name for name in streams if name != "flow")
        found = plain(self, clip, index, others, positions) if others else {}
        if "flow" in streams:
            starts = np.array([index.gops[gop].frame_numbers[position] for gop, position in positions])
            numbers = np.minimum(starts[:, None] + np.arange(FIELDS + 1), index.num_frames - 1)  # [P, FIELDS + 1]
            frames = read_rgb(self.manifest.root / clip.path, numbers.ravel().tolist())
            flow = METHODS[method]()
            stacks = (fields_of(some, flow) for some in frames.reshape(*numbers.shape, *frames.shape[1:]))
            found["flow"] = [np.concatenate(fields, axis=2).astype(np.int16) - _ZERO for fields in stacks]
        return found

    def decoded(self: ClipDataset, clip: Clip, rng: np.random.Generator) -> dict[str, np.ndarray]:
        index = VideoIndex.from_json(clip.index)
        view = self.view(index, rng)
        pictures = self._read(clip, index, self._stream_names, view.segments)
        return apply_crops(pictures, view.crops, of=view.size, inputs=self._inputs)

    changed = patch.multiple(ClipDataset, _read=read, _decoded=decoded)
    with patch.dict(STREAMS, {"flow": FLOW}), changed:
        yield
