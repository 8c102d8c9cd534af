"""Students that predict with PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from videokd.distill.fusion import fuse
from videokd.errors import ConfigError
from videokd.models.finite import check_logits
from videokd.models.students import Students
from videokd.prediction.predictor import Answer
from videokd.prediction.wanted import Wanted
from videokd.runs.device import Precision
from videokd.runs.memory import out_of_memory_in_a_line
from videokd.types import stream_and_size

_BATCH_ON_GPU = 16


class TorchPredictor:
    """Students, asked about streams; they are put into evaluation mode.

    Args:
        students: on any device, in any precision.
        precision: what they compute in; None: what their weights are in.
        exit_threshold: each student stops computing at its first exit whose probability is above this, 0 to 1; their logits are then
            fused as without a threshold. None: every student computes its whole network.

    Raises:
        ConfigError: the threshold is out of range, the students have no exits, or they are on "meta", where weights have no values.
    """

    def __init__(
        self, students: Students, *, precision: Precision | None = None, exit_threshold: float | None = None
    ) -> None:
        if any(weight.is_meta for weight in students.parameters()):
            raise ConfigError(
                "the students are on the device meta, where weights have no values (accepted: cpu, cuda). Load them with `videokd.load_students`."
            )
        if exit_threshold is not None:
            students.check_threshold(exit_threshold)
        self.students = students
        self._precision = precision
        self._exit_threshold = exit_threshold

    @property
    def wanted(self) -> Wanted:
        """What the students want of a video."""
        students, main_size = self.students, self.students.input_size
        return Wanted(
            students.class_names,
            {key: stream_and_size(key, main_size=main_size) for key in students.inputs_at(main_size)},
            students.num_segments,
            students.sees_order,
            students.encoding,
        )

    @property
    def usual_batch(self) -> int:
        """How many videos compute fastest together: on CPUs, one video's segments are batch enough."""
        return 1 if next(self.students.parameters()).device.type == "cpu" else _BATCH_ON_GPU

    def __call__(self, streams: Mapping[str, npt.NDArray[np.uint8]], *, names: Sequence[str]) -> Answer:
        """Names the action in B videos; see `Predictor`."""
        students = self.students.eval()
        segments = next(iter(streams.values())).shape[1]
        too_large = (
            f"{', '.join(names)} in {segments} segments. Pass fewer: `--num_segments {max(segments // 2, 1)}`; "
            "in Python `num_segments=`."
        )
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(out_of_memory_in_a_line(lambda: too_large))
            if self._precision is not None:
                stack.enter_context(self._precision.in_effect())
                stack.enter_context(self._precision.autocast())
            device = next(students.parameters()).device
            logits, exits = self._logits({name: torch.from_numpy(v).to(device) for name, v in streams.items()})
            logits = {name: values.float() for name, values in logits.items()}
            check_logits(logits, video_ids=names)
            fused = fuse(logits, students.weights, space=students.space)  # type: ignore[arg-type]
            return Answer(fused.softmax(1).cpu().numpy(), exits)

    def _logits(self, streams: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, tuple[str, ...]]]:
        if self._exit_threshold is None:
            return self.students.logits(streams), {}
        return self.students.early_logits(streams, threshold=self._exit_threshold)
