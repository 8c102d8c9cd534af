"""Training clips of a run, to calibrate int8 with: as the students will see videos, and never a test clip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from videokd.datasets.dataset import ClipDataset
from videokd.datasets.manifest import Clip, Manifest, read_manifest
from videokd.errors import DataError
from videokd.prediction.torch_predictor import TorchPredictor
from videokd.runs.run_folder import TrainedRun, check_same_classes
from videokd.runs.trained_on import same_clips, tested_clips, trained_on


def calibration_clips(run: TrainedRun, *, most: int) -> ClipDataset:
    """Some of the clips that a run's weights were fitted to, evenly over its manifest, one central crop each.

    Args:
        run: with its manifest where it was, and its record of what it was trained on.
        most: clips at most.

    Raises:
        DataError: the manifest is missing or has other classes, what the run was trained on is not known, or none of those clips are left.
    """
    manifest = read_manifest(run.settings.manifest)
    check_same_classes(run, manifest)
    fitted = _fitted(run, manifest)
    chosen = [fitted[number * len(fitted) // min(most, len(fitted))] for number in range(min(most, len(fitted)))]
    students, wanted = run.students, TorchPredictor(run.students).wanted
    return ClipDataset(
        manifest, chosen, tuple(wanted.inputs), wanted.usual_segments, students.input_size, views="quick"
    )


def _fitted(run: TrainedRun, manifest: Manifest) -> list[Clip]:
    record = trained_on(run.path, run.settings)
    tested = {clip.video_id for clip in same_clips(manifest.clips, tested_clips(manifest, split=run.settings.split))}
    fitted = [clip for clip in record.seen(manifest.clips) if clip.video_id not in tested] if record else []
    if not fitted:
        raise DataError(
            f"{run.settings.manifest} has no clip that {run.path} was fitted to, which int8 is calibrated with (accepted: the manifest of the "
            "run, unchanged). Restore it, or export without `--int8`."
        )
    return fitted


def videos_of(clips: ClipDataset) -> Iterator[Mapping[str, npt.NDArray[np.uint8]]]:
    """The clips one by one, as {input: uint8 [1, S, C, H, W]}.

    Args:
        clips: from `calibration_clips`.

    Raises:
        DecodeError: a clip cannot be read.
    """
    for number in range(len(clips)):
        yield {key: np.ascontiguousarray(values[None]) for key, values in clips[number].streams.items()}
