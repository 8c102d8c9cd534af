"""Predictions of students for whole datasets, and their accuracy on the validation set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from videokd.datasets.batches import evaluation_batches
from videokd.datasets.dataset import ClipDataset
from videokd.distill.fusion import fuse
from videokd.models.finite import check_logits
from videokd.models.students import Students
from videokd.runs.device import Precision
from videokd.runs.ranks import Ranks
from videokd.types import Batch

_EVALUATION_BATCH = 16


def validate(
    students: Students,
    held_out: ClipDataset | None,
    precision: Precision,
    *,
    workers: int,
    most_clips: int = _EVALUATION_BATCH,
    ranks: Ranks,
) -> dict[str, float]:
    """{"val/top1": of the fused prediction, "val/<student>": of each, if there are several}, as fractions.

    Args:
        students: on the device of `precision`.
        held_out: the clips; None where nothing is held out.
        precision: number format and device.
        workers: processes that load clips.
        most_clips: as many as fit into the memory in training fit in validation too.
        ranks: those of torchrun, which share the clips.
    """
    if held_out is None:
        return {}
    ranks.copy_buffers(students)
    hits = dict.fromkeys((*students.specs, "fused"), 0)
    own = replace(held_out, clips=held_out.clips[ranks.rank :: ranks.num_ranks])
    batches = evaluation_batches(
        own, batch_size=min(most_clips, _EVALUATION_BATCH), workers=workers, device=precision.device
    )
    for logits, label in predict_batches(students, batches, precision):
        for name, values in logits.items():
            hits[name] += int((values.argmax(1) == label).sum())
    counts = ranks.total([*hits.values()])
    shares = {name: count / len(held_out) for name, count in zip(hits, counts, strict=True)}
    fused = {"val/top1": shares.pop("fused")}
    return fused if len(shares) == 1 else fused | {f"val/{name}": share for name, share in shares.items()}


def predict_batches(
    students: Students, batches: Iterator[Batch], precision: Precision, *, num_views: int = 1, with_exits: bool = False
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """Predictions of students for batches, in evaluation mode.

    Args:
        students: on the device of `precision`.
        batches: each with the streams of every student.
        precision: number format and device.
        num_views: crops that lie one after the other among a batch's segments; the mean of their logits is taken.
        with_exits: give the logits of shallow exits too, as `student:exit1` and so on.

    Returns:
        For each batch, on the CPU: {student: logits [B, K], "fused": those of all students, fused}, and the labels, int64 [B].

    Raises:
        VideoKDError: logits are not finite.
    """
    was_training = students.training
    students.eval()
    try:
        for batch in batches:
            streams = {name: v.to(precision.device, non_blocking=True) for name, v in batch.streams.items()}
            with torch.no_grad(), precision.autocast():
                logits = students.logits(streams, num_views=num_views, with_exits=with_exits)
            logits = {name: values.float().cpu() for name, values in logits.items()}
            check_logits(logits, video_ids=batch.video_ids)
            deepest = {name: logits[name] for name in students.weights}
            fused = fuse(deepest, students.weights, space=students.space)  # type: ignore[arg-type]
            yield logits | {"fused": fused}, batch.label.cpu()
    finally:
        students.train(was_training)
