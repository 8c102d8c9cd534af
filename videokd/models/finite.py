"""Predictions that are numbers: students that diverged are refused before anybody takes their answers for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from videokd.errors import VideoKDError
from videokd.models.students import Students
from videokd.types import STREAMS, stream_and_size


def check_logits(logits: Mapping[str, Tensor], *, video_ids: Sequence[str]) -> None:
    """Refuses predictions that are not finite: the largest of them would be taken for a class.

    Args:
        logits: {student: [B, K]}.
        video_ids: B names.

    Raises:
        VideoKDError: names the student and the video.
    """
    for name, values in logits.items():
        broken = (~values.isfinite().all(dim=1)).nonzero().flatten().tolist()
        if broken:
            raise VideoKDError(
                f"{name}'s logits for {video_ids[broken[0]]} are not finite: it has diverged, or its precision is too low. Train with a lower "
                "learning rate or a longer warm-up, or pass `--precision fp32`."
            )


def check_finite_predictions(students: Students, *, where: str) -> None:
    """Refuses students whose weights are finite but too large: their logits for a random video are not.

    Args:
        students: in evaluation mode.
        where: they come from, for the error.

    Raises:
        VideoKDError: a student's logits are not finite.
    """
    with torch.no_grad():
        logits = students.logits(random_videos(students, batch=1, segments=students.num_segments), with_exits=True)
    check_logits(logits, video_ids=[f"a random video ({where})"])


def random_videos(students: Students, *, batch: int, segments: int) -> Mapping[str, Tensor]:
    """Noise in the shape of videos, the same at each call.

    Args:
        students: whose inputs it has.
        batch: B.
        segments: S.

    Returns:
        {input: uint8 [B, S, C, H, W]}.
    """
    generator = torch.Generator().manual_seed(0)
    main_size = students.input_size
    videos = {}
    for key in students.inputs_at(main_size):
        stream, size = stream_and_size(key, main_size=main_size)
        shape = (batch, segments, STREAMS[stream].channels, size, size)
        videos[key] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return videos
