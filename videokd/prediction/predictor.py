"""What names the action in streams, whatever computes it: PyTorch, or another runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from videokd.prediction.wanted import Wanted


@dataclass(frozen=True)
class Answer:
    """What students say about B videos, fused.

    Args:
        probabilities: float32 [B, K].
        exits: {student: the exit at which each of the B videos left}, "deepest" for the whole network; empty without a threshold.
    """

    probabilities: npt.NDArray[np.float32]
    exits: Mapping[str, Sequence[str]] = field(default_factory=dict)


def softmax(logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Probabilities of classes, [B, K].

    Args:
        logits: [B, K].

    >>> softmax(np.array([[1, 1]], np.float32)).tolist()
    [[0.5, 0.5]]
    """
    wide = logits.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    shares: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


class Predictor(Protocol):
    """A set of students that can be asked about streams, wherever it computes."""

    @property
    def wanted(self) -> Wanted:
        """What it wants of a video."""

    def __call__(self, streams: Mapping[str, npt.NDArray[np.uint8]], *, names: Sequence[str]) -> Answer:
        """Names the action in B videos.

        Args:
            streams: {input: uint8 [B, S, C, H, W]}, as `videokd.prediction.reading.read_streams` gives them for one video.
            names: of the B videos, for errors.

        Raises:
            VideoKDError: what it computes is not finite.
            ConfigError: the memory is too small.
        """
