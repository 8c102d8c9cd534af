"""One update of all students: forward, backward, unscale, clip, step; together or in turns, in one piece or several."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from videokd.distill.mixup import GroundTruth
from videokd.distill.objective import Objective
from videokd.errors import ConfigError
from videokd.models.backbone import channels_last
from videokd.models.students import Students
from videokd.runs.device import Precision
from videokd.runs.ranks import Ranks, exchange_after
from videokd.runs.run_settings import UpdateOrder
from videokd.runs.settings import OptimSettings
from videokd.training.schedule import build_optimizer, load_optimizer, set_learning_rate
from videokd.training.target import Target
from videokd.types import Batch, StudentOutput

# Gradients in fp16 are multiplied by 2^16 first, and by half as much after each step that was left out for them. So many in turn are no accident.
_LEAST_SCALE = 2.0**-10


@dataclass(frozen=True)
class Updated:
    """What an update tells the log.

    Args:
        total: the loss.
        parts: {name: weighted part}, Σ parts = total.
        predictions: {student: the class it predicts for each clip, int64 [B]}.
        gradient_norm: length of the gradient before clipping.
    """

    total: Tensor
    parts: Mapping[str, Tensor]
    predictions: Mapping[str, Tensor]
    gradient_norm: Tensor


class Update:
    """Takes students from one step to the next.

    Args:
        students: in training mode; they are moved to the device, channels last, which is up to twice as fast for small pictures.
        objective: the loss.
        optim: which optimizer, clipping, and in how many pieces a batch goes through.
        precision: of the networks.
        order: whether students step together, or one after the other.
        ranks: this process's place among those of torchrun; gradients are averaged over them.
    """

    #: Whether optimizers update all weights in one kernel on CUDA; a subclass without it shows what that is worth.
    fused = True

    def __init__(
        self,
        students: Students,
        objective: Objective,
        *,
        optim: OptimSettings,
        precision: Precision,
        order: UpdateOrder,
        ranks: Ranks | None = None,
    ) -> None:
        self._students, self._objective, self._precision = students, objective, precision
        channels_last(students.to(precision.device))
        self._pieces, self._clip_norm = optim.accumulate, optim.clip_norm
        self._scaler = precision.scaler()
        #: Steps that have changed weights, or begun to, since the start.
        self.num_begun = 0
        rounds: tuple[str | None, ...] = (None,) if order == "simultaneous" else tuple(students.specs)
        self._wrapped = (ranks or Ranks()).wrap(students, rounds)
        self._optimizers = {
            only: build_optimizer(
                students.parameter_groups(
                    weight_decay=optim.weight_decay,
                    body_factor=optim.body_factor,
                    input_factor=optim.input_factor,
                    only=only,
                ),
                name=optim.name,
                learning_rate=optim.lr,
                epsilon=optim.epsilon,
                fused=self.fused and precision.device.type == "cuda",
            )
            for only in rounds
        }

    def __call__(self, batch: Batch, label: GroundTruth, target: Target | None, *, rate: float) -> Updated:
        """One update.

        Args:
            batch: on the students' device.
            label: the batch's own, or those of its mixture.
            target: what the teachers give for the batch; None without teachers.
            rate: the learning rate.
        """
        totals: list[Tensor] = []
        norms: list[Tensor] = []
        parts: dict[str, Tensor] = {}
        predictions: dict[str, Tensor] = {}
        for only, optimizer in self._optimizers.items():
            set_learning_rate(optimizer, rate)
            optimizer.zero_grad(set_to_none=True)
            total, of_round = self._backward(batch, label, target, only=only, predictions=predictions)
            self._scaler.unscale_(optimizer)
            learning = [p for group in optimizer.param_groups for p in group["params"]]
            norms.append(nn.utils.clip_grad_norm_(learning, self._clip_norm or float("inf")))
            self.num_begun += not totals
            self._scaler.step(optimizer)
            totals.append(total)
            parts |= of_round
        self._scaler.update()
        return Updated(torch.stack(totals).sum(), parts, predictions, torch.stack(norms).max())

    def _backward(
        self,
        batch: Batch,
        label: GroundTruth,
        target: Target | None,
        *,
        only: str | None,
        predictions: dict[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Adds up gradients over the pieces of a batch, each weighed by its share of the clips."""
        totals: list[Tensor] = []
        parts: dict[str, Tensor] = {}
        pieces = batch.split(self._pieces)
        truths: list[GroundTruth] = [piece.label for piece in pieces]
        if not isinstance(label, Tensor):
            truths = [*label.split(self._pieces)]
        targets = [None] * len(pieces) if target is None else target.split(self._pieces)
        for number, (piece, truth, goal) in enumerate(zip(pieces, truths, targets, strict=True), start=1):
            share = len(piece) / len(batch)
            with exchange_after(self._wrapped[only], last=number == len(pieces)):
                with self._precision.autocast():
                    outputs = self._forward(piece, only=only)
                total, of_piece = self._loss(outputs, goal, truth, only=only)
                self._scaler.scale(total * share).backward()  # type: ignore[no-untyped-call]
            totals.append(total.detach() * share)
            for name, part in of_piece.items():
                parts[name] = parts.get(name, 0) + part * share
            for name in self._students.specs if only is None else (only,):
                predicted = outputs[name].logits.argmax(1)
                predictions[name] = torch.cat([predictions[name], predicted]) if name in predictions else predicted
        return torch.stack(totals).sum(), parts

    def _loss(
        self, outputs: dict[str, StudentOutput], target: Target | None, label: GroundTruth, *, only: str | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        fused, features = (None, None) if target is None else (target.fused, target.features)
        if only is None:
            return self._objective(outputs, fused, label, features)
        return self._objective.for_student(only, outputs, fused, label, features)

    def _forward(self, piece: Batch, *, only: str | None) -> dict[str, StudentOutput]:
        try:
            return self._outputs(piece, only=only)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ConfigError(
                f"a BatchNorm cannot learn from {len(piece)} clip at a time, as one number a channel has no deviation (accepted: pieces of 2 "
                "clips or more). Raise data.batch_size, data.num_segments or data.input_size, or lower optim.accumulate."
            ) from error

    def _outputs(self, piece: Batch, *, only: str | None) -> dict[str, StudentOutput]:
        needs_features = self._objective.needs_features
        if only is None:
            return self._wrapped[None](piece, with_features=needs_features)  # type: ignore[no-any-return]
        outputs = self._wrapped[only](piece, only=only, with_features=needs_features)
        if self._objective.beta:
            # peers are forwarded again in every round; their BatchNorms count the batch only in their own round
            with torch.no_grad(), untouched_batch_norm(self._students):
                for peer in self._students.specs:
                    if peer != only:
                        outputs |= self._students(piece, only=peer)
        return outputs  # type: ignore[no-any-return]

    @property
    def leaves_out_steps(self) -> bool:
        """Whether gradients in fp16 have not been finite for so long that the weights no longer learn; asking waits for the device."""
        return self._scaler.is_enabled() and self._scaler.get_scale() < _LEAST_SCALE

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to hold."""
        return {
            "optimizers": {only or "": optimizer.state_dict() for only, optimizer in self._optimizers.items()},
            "scaler": self._scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` gave."""
        for only, optimizer in self._optimizers.items():
            load_optimizer(optimizer, state["optimizers"][only or ""])
        self._scaler.load_state_dict(state["scaler"])


@contextmanager
def untouched_batch_norm(module: nn.Module) -> Iterator[None]:
    """While it lasts, BatchNorms in training mode use the batch's statistics without recording them.

    For peers that are forwarded again in alternating updates: they see each batch once, and must not count it twice.

    >>> norm = nn.BatchNorm1d(2)
    >>> with untouched_batch_norm(norm):
    ...     _ = norm(torch.randn(8, 2))
    >>> norm.running_mean.tolist(), norm.num_batches_tracked.item()
    ([0.0, 0.0], 0)
    """
    # A BatchNorm in evaluation mode reads its running statistics regardless of this flag, so it is safe too.
    tracking = [m for m in module.modules() if getattr(m, "track_running_stats", False) and m.training]
    for norm in tracking:
        norm.track_running_stats = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for norm in tracking:
            norm.track_running_stats = True  # type: ignore[assignment]
