"""Students with shallow exits in the test protocol: each exit, all exits of a student together, and early exit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from videokd.distill.fusion import fuse
from videokd.errors import DataError
from videokd.evaluation.cost import Cost, macs
from videokd.evaluation.metrics import top1
from videokd.evaluation.results import EarlyExitPoint
from videokd.evaluation.scores import Scores
from videokd.models.backbone import Network
from videokd.models.exits import DEEPEST, Exits, first_confident_exit
from videokd.models.students import Students

#: The confidence that an exit must exceed at each point of the early-exit curve; none exceeds 1, so that is the whole network.
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
ENSEMBLE = "ensemble"


class PathToExit(nn.Module):
    """A student's network up to one of its exits, as a network of its own.

    Args:
        students: the trained ones.
        student: whose network.
        stop: the exit, or "deepest".
        through: further exits that are computed on the way.

    >>> from videokd.models.network_spec import NetworkSpec
    >>> from videokd.models.students import PredictionSpec, build_students
    >>> spec = NetworkSpec(("motion",), "test_resnet", 5, 32)
    >>> students = build_students({"a": spec}, PredictionSpec(tuple("vwxyz"), 3), seed=0, with_exits=True).eval()
    >>> PathToExit(students, "a", stop="exit1")({"motion": torch.zeros(2, 3, 2, 32, 32, dtype=torch.uint8)}).shape
    torch.Size([2, 5])
    """

    def __init__(self, students: Students, student: str, *, stop: str, through: Collection[str] = ()) -> None:
        super().__init__()
        network, exits = students.members[student], students.exits[student]
        assert isinstance(network, Network)
        assert isinstance(exits, Exits)
        self.network, self.exits = network, exits
        self._stop, self._names = stop, {*through, stop}

    def forward(self, streams: Mapping[str, Tensor]) -> Tensor:
        """Logits [B, K] of the exit; the layers after it are not computed."""
        return self._logits_up_to_stop(streams)[self._stop]

    def num_parameters(self, streams: Mapping[str, Tensor]) -> int:
        """Number of parameters that take part in what is computed."""
        own = [parameter for parameter in self.parameters() if parameter.requires_grad]
        with torch.enable_grad():
            outputs = torch.stack([*self._logits_up_to_stop(streams).values()])
            gradients = torch.autograd.grad(outputs.sum(), own, allow_unused=True)
        return sum(p.numel() for p, gradient in zip(own, gradients, strict=True) if gradient is not None)

    def _logits_up_to_stop(self, streams: Mapping[str, Tensor]) -> dict[str, Tensor]:
        logits: dict[str, Tensor] = {}
        for name, values in self.exits.stagewise(self.network, streams, names=self._names):
            logits[name] = values
            if name == self._stop:
                break
        return logits


def path_to(students: Students, name: str) -> PathToExit:
    """The network behind an entry such as `student:exit1`, or `student:ensemble`, which computes all exits."""
    student, _, stop = name.partition(":")
    exits = students.exits[student]
    assert isinstance(exits, Exits)
    if stop == ENSEMBLE:
        return PathToExit(students, student, stop=DEEPEST, through=exits.names)
    return PathToExit(students, student, stop=stop)


def with_ensembles(scores: Mapping[str, Scores]) -> dict[str, Scores]:
    """The scores, those of a student followed by those of its exits, and by the mean of the logits of all of them."""
    ordered: dict[str, Scores] = {}
    for name in [name for name in scores if ":" not in name]:
        ordered[name] = scores[name]
        own = {key: each for key, each in scores.items() if key.startswith(f"{name}:")}
        if own:
            mean = np.stack([each.logits for each in (*own.values(), scores[name])]).mean(axis=0, dtype=np.float32)
            ordered |= own | {f"{name}:{ENSEMBLE}": Scores(mean, scores[name].labels, scores[name].video_ids)}
    return ordered


def cost_of(path: PathToExit, view: Mapping[str, Tensor], *, num_views: int) -> Cost:
    """What an exit costs.

    Args:
        path: from `path_to`.
        view: one video's first view, {stream: uint8 [1, S, C, H, W]}; the others cost the same.
        num_views: V.
    """
    return Cost(path.num_parameters(view), num_views * macs(path, view))


def early_exit_curves(
    students: Students,
    scores: Mapping[str, Scores],
    view: Mapping[str, Tensor],
    *,
    num_views: int,
    groups: Sequence[str],
    thresholds: Sequence[float] = THRESHOLDS,
) -> dict[str, tuple[EarlyExitPoint, ...]]:
    """Accuracy against mean MACs a video; empty without exits.

    Args:
        students: the trained ones.
        scores: {student: scores, "student:exit1": scores, …}.
        view: as for `cost_of`.
        num_views: V.
        groups: of each video, for the intervals.
        thresholds: one for each point.
    """
    exits = {name: each.names for name, each in students.exits.items() if isinstance(each, Exits)}
    if not exits:
        return {}
    costs = {
        name: {stop: num_views * cost for stop, cost in _costs_of_leaving(students, name, view).items()}
        for name in students.specs
    }
    curves: dict[str, list[EarlyExitPoint]] = {name: [] for name in (*exits, *(["fused"] if len(costs) > 1 else []))}
    for threshold in thresholds:
        chosen, spent, shares = {}, {}, {}
        for name, cost_of_exit in costs.items():
            own = {stop: scores[name if stop == DEEPEST else f"{name}:{stop}"] for stop in cost_of_exit}
            chosen[name], stops = early_exit_scores(own, threshold=threshold)
            spent[name] = np.array([cost_of_exit[stop] for stop in stops])
            shares[name] = {stop: stops.count(stop) / len(groups) for stop in cost_of_exit}
        for name in exits:
            point = EarlyExitPoint(threshold, top1(chosen[name], groups), float(spent[name].mean()), shares[name])
            curves[name].append(point)
        if "fused" in curves:
            accuracy = top1(_fused_scores(students, chosen), groups)
            macs_per_video = float(np.sum([*spent.values()], axis=0).mean())
            mean_shares = _mean_shares([shares[name] for name in exits])
            curves["fused"].append(EarlyExitPoint(threshold, accuracy, macs_per_video, mean_shares))
    return {name: tuple(points) for name, points in curves.items()}


def _costs_of_leaving(students: Students, name: str, view: Mapping[str, Tensor]) -> dict[str, int]:
    """{exit: MACs of one view}, the exits that were passed included."""
    if name not in students.exits:
        return {DEEPEST: macs(students.members[name], view)}
    exits = students.exits[name]
    assert isinstance(exits, Exits)
    stops = (*exits.names, DEEPEST)
    return {
        stop: macs(PathToExit(students, name, stop=stop, through=stops[:number]), view)
        for number, stop in enumerate(stops)
    }


def _fused_scores(students: Students, scores: Mapping[str, Scores]) -> Scores:
    logits = {name: torch.from_numpy(each.logits) for name, each in scores.items()}
    fused = fuse(logits, students.weights, space=students.space)  # type: ignore[arg-type]
    first = next(iter(scores.values()))
    return Scores(fused.numpy(), first.labels, first.video_ids)


def _mean_shares(shares: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = sorted({name for each in shares for name in each}, key=lambda name: (name == DEEPEST, len(name), name))
    return {name: sum(each.get(name, 0.0) for each in shares) / len(shares) for name in names}


def early_exit_scores(exits: Mapping[str, Scores], *, threshold: float) -> tuple[Scores, tuple[str, ...]]:
    """The predictions of a network that stops at its first confident exit.

    Args:
        exits: {exit: its scores}, the shallowest first, "deepest" last, of the same videos in one order.
        threshold: what an exit's largest probability must be above.

    Returns:
        The scores of each video's exit; N names of exits.

    Raises:
        DataError: the videos or their order differ.

    >>> exit1 = Scores(np.array([[9, 0], [0, 1]], np.float32), np.array([0, 0]), ("a", "b"))
    >>> deepest = Scores(np.array([[1, 0], [3, 0]], np.float32), np.array([0, 0]), ("a", "b"))
    >>> early_exit_scores({"exit1": exit1, "deepest": deepest}, threshold=0.9)[1]
    ('exit1', 'deepest')
    """
    deepest = exits[DEEPEST]
    for name, each in exits.items():
        if each.video_ids != deepest.video_ids:
            raise DataError(
                f"exits {name} and {DEEPEST} saw other videos, or in another order. Evaluate them together."
            )
    logits, names = first_confident_exit(
        ((name, torch.from_numpy(each.logits)) for name, each in exits.items()), threshold=threshold
    )
    return Scores(logits.numpy(), deepest.labels, deepest.video_ids), names
