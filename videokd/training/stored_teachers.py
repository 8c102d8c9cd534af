"""Teachers that have spoken already: their logits for the stored views of clips, looked up instead of computed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from videokd.datasets.dataset import JoinedClips
from videokd.errors import DataError
from videokd.models.backbone import Network
from videokd.runs.run_folder import TrainedRun, network_of
from videokd.runs.run_settings import Teach
from videokd.runs.session import Session
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
        self._tables, self._checked = dict(tables), False

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """The logits of each teacher for a batch, [B, K], on the batch's device.

        Raises:
            DataError: the batch has a view that is not stored.
        """
        self._check(batch)
        self._tables = _on(batch.label.device, self._tables)
        return _looked_up(self._tables, batch)

    def _check(self, batch: Batch) -> None:
        """Once: a dataset has stored views, or it has none, and a look at the numbers waits for the device."""
        if not self._checked and int(batch.views.min()) < 0:
            raise DataError("a batch has views that are drawn anew (accepted: stored ones). Set data.stored_views.")
        self._checked = True


class StoredFeatures(StoredTeachers):
    """Tables of features beside those of logits, where students are to follow features too.

    Args:
        tables: {teacher: float32 [N, V, K]} logits.
        features: {teacher: float32 [N, V, D]}.
    """

    def __init__(self, tables: Mapping[str, Tensor], features: Mapping[str, Tensor]) -> None:
        super().__init__(tables)
        self._features = dict(features)

    @property
    def feature_widths(self) -> dict[str, int]:
        """{teacher: D}."""
        return {name: values.shape[2] for name, values in self._features.items()}

    def with_features(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """{teacher: logits [B, K]}, {teacher: features [B, D]}; errors as for the call."""
        self._features = _on(batch.label.device, self._features)
        return self(batch), _looked_up(self._features, batch)


def stored_teachers(
    clips: JoinedClips, runs: Mapping[str, TrainedRun], session: Session, *, with_features: bool = False
) -> StoredTeachers:
    """The teachers' logits for all stored views of all clips; those that no earlier run has stored are computed first.

    Args:
        clips: with stored views.
        runs: {teacher: its run}.
        session: precision, device and ranks.
        with_features: keep features too.

    Raises:
        ConfigError: features are needed, and a backbone does not make its logits of its pooled features.
        DataError: a file cannot be written, or a clip cannot be read.
    """
    logits, features = {}, {}
    for name, run in runs.items():
        network = network_of(run).to(session.precision.device).eval()
        frozen = isinstance(run.settings, Teach) and run.settings.freeze
        if frozen or with_features:  # a frozen body is shared with teachers of other labels
            of_segments = stored_features(clips, network, session, title=f"teacher {name}")  # [N, V, S, D]
            features[name] = of_segments.mean(2)
            logits[name] = _classified(network, of_segments)
        else:
            store = StoredOutputs(clips, network, {"output": "logits", "weights": run.weights}, session)
            logits[name] = store.table(
                partial(_logits_of, network), of_view=(network.spec.num_classes,), title=f"teacher {name}"
            )
    return StoredFeatures(logits, features) if with_features else StoredTeachers(logits)


def _logits_of(network: Network, batch: Batch) -> Tensor:
    logits: Tensor = network(batch.streams)
    return logits


def _classified(network: Network, features: Tensor) -> Tensor:
    """[N, V, S, D] to logits [N, V, K], the mean over segments."""
    classifier = network.classifier.cpu()
    with torch.no_grad():
        return torch.stack([classifier(of_clip).mean(1) for of_clip in features])


def _on(device: torch.device, tables: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: table if table.device == device else table.to(device) for name, table in tables.items()}


def _looked_up(tables: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    return {name: table[batch.clips, batch.views] for name, table in tables.items()}
