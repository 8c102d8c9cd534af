"""What a set of students wants of a video: all that reading needs to know about them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_NUM_SEGMENTS = 8


@dataclass(frozen=True)
class Wanted:
    """What students see of a video and what they answer, without their networks.

    Args:
        class_names: K names, in the order of the probabilities.
        inputs: {key: (stream, side in pixels)} of what they take, keyed as in a batch (`videokd.types.input_key`).
        num_segments: S, how many places of a video they saw in training.
        sees_order: whether some student looks at segments in their order.
        encoding: how the videos they learned from were encoded (codec, GOP length, size).
    """

    class_names: tuple[str, ...]
    inputs: Mapping[str, tuple[str, int]]
    num_segments: int
    sees_order: bool = False
    encoding: Mapping[str, Any] = field(default_factory=dict)

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the streams, each once."""
        return tuple(dict.fromkeys(stream for stream, _ in self.inputs.values()))

    @property
    def usual_segments(self) -> int:
        """Places looked at where nobody asks for a number: 8, or as many as in training where students see their order."""
        return self.num_segments if self.sees_order else _NUM_SEGMENTS
