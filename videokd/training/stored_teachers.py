"""Teachers that have spoken already: their logits for the stored views of clips, looked up instead of computed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from videokd.datasets.dataset import JoinedClips
from videokd.errors import DataError
from videokd.runs.run_folder import Session, TrainedRun, network_of
from videokd.runs.run_settings import Teach
from videokd.training.frozen import stored_features
from videokd.training.stored_outputs import StoredOutputs
from videokd.types import Batch


class StoredTeachers:
    """A table of each teacher's logits, in the place of `Teachers`: students and teachers still see the same view.

    Args:
        tables: {teacher: float32 [N, V, K]}, for each clip and view.

    >>> teachers = StoredTeachers({"iframe": torch.arange(8.0).reshape(2, 2, 2)})
    >>> clips, views = torch.tensor([1, 0]), torch.tensor([0, 1])
    >>> teachers(Batch({}, torch.tensor([0, 1]), ("a", "b"), clips, views))["iframe"].tolist()
    [[4.0, 5.0], [2.0, 3.0]]
    """

    #: They need none of a batch's streams.
    streams: tuple[str, ...] = ()

    def __init__(self, tables: Mapping[str, Tensor]) -> None:
        self._tables = dict(tables)

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """The logits of each teacher for a batch, [B, K], on the batch's device.

        Raises:
            DataError: the batch has a view that is not stored.
        """
        if int(batch.views.min()) < 0:
            raise DataError("a batch has views that are drawn anew (accepted: stored ones). Set data.stored_views.")
        device = batch.label.device
        if any(table.device != device for table in self._tables.values()):
            self._tables = {name: table.to(device) for name, table in self._tables.items()}
        return {name: table[batch.clips, batch.views] for name, table in self._tables.items()}


def stored_teachers(clips: JoinedClips, runs: Mapping[str, TrainedRun], session: Session) -> StoredTeachers:
    """The teachers' logits for all stored views of all clips; those that no earlier run has stored are computed first.

    Args:
        clips: with stored views.
        runs: {teacher: its run}.
        session: precision, device and ranks.

    Raises:
        ConfigError: a frozen teacher's backbone does not make its logits of its features.
        DataError: a file cannot be written, or a clip cannot be read.
    """
    return StoredTeachers({name: _logits(name, run, clips, session) for name, run in runs.items()})


def _logits(name: str, run: TrainedRun, clips: JoinedClips, session: Session) -> Tensor:
    """One teacher's, float32 [N, V, K], on the CPU."""
    network = network_of(run).to(session.precision.device).eval()
    title = f"teacher {name}"
    if isinstance(run.settings, Teach) and run.settings.freeze:  # its body is shared with teachers of other labels
        features = stored_features(clips, network, session, title=title)
        with torch.no_grad():
            classifier = network.classifier.cpu()
            return torch.stack([classifier(of_clip).mean(1) for of_clip in features])
    store = StoredOutputs(clips, network, {"output": "logits", "weights": run.weights}, session)
    return store.table(lambda batch: network(batch.streams), title=title)
