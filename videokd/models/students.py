"""One or several students, and what is needed to run them on new video."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from videokd.drawing.notebook import students_html
from videokd.errors import ConfigError, DataError
from videokd.models.backbone import Network, module_dict, streams_of
from videokd.models.exits import DEEPEST, Exits, first_confident_exit
from videokd.models.network_spec import NetworkSpec
from videokd.models.transfer import InitialWeights, start_from
from videokd.types import Batch, StudentOutput, input_key

FORMAT = "videokd-students"
VERSION = 1


@dataclass(frozen=True)
class PredictionSpec:
    """What is needed, in addition to the networks, to run students on new video.

    Args:
        class_names: K names, in the order of the logits.
        num_segments: S, how many places of a video they saw in training.
        weights: {student: w ≥ 0} for fusing their logits; equal ones if omitted.
        space: whether logits or probabilities are fused.
        encoding: how the videos they learned from were encoded (codec, GOP length, size).
    """

    class_names: Sequence[str]
    num_segments: int
    weights: Mapping[str, float] | None = None
    space: Literal["logits", "probs"] = "logits"
    encoding: Mapping[str, Any] | None = None


class Students(nn.Module):
    """One or more networks that learn together and predict together, their logits fused with weights.

    Args:
        members: {student: network}, with as many classes as there are names; input sizes may differ.
        spec: classes, segments and fusion.
        exits: {student: shallow exits}, for training, and for predictions that need not go all the way.

    Raises:
        ConfigError: names, weights or numbers of classes do not fit each other.

    >>> spec = NetworkSpec(("motion",), "test_resnet", 2, 32)
    >>> students = build_students({"a": spec, "b": spec}, PredictionSpec(["wave", "clap"], 3), seed=0)
    >>> students({"motion": torch.zeros(4, 3, 2, 32, 32, dtype=torch.uint8)})["a"]
    StudentOutput(logits=float32[4, 2], exits={}, hints={}, features=None, adapted={})
    """

    def __init__(
        self,
        members: Mapping[str, Network],
        spec: PredictionSpec,
        *,
        exits: Mapping[str, Exits] | None = None,
    ) -> None:
        super().__init__()
        self.members = module_dict(members, where="students")
        weights = dict.fromkeys(members, 1.0) if spec.weights is None else spec.weights
        self.weights = {name: float(weight) for name, weight in weights.items()}
        self.space = spec.space
        self.class_names = tuple(spec.class_names)
        self.num_segments = spec.num_segments
        self.encoding = dict(spec.encoding or {})
        self.exits = nn.ModuleDict(dict(exits or {}))
        #: {student: adapters to its teachers' features}, for training only; see `videokd.models.adapters`.
        self.adapters = nn.ModuleDict()
        _check_students(self, specs={name: network.spec for name, network in members.items()})

    _repr_html_ = students_html

    @property
    def specs(self) -> dict[str, NetworkSpec]:
        """{student: its spec}."""
        return {name: network.spec for name, network in self._networks()}

    def set_normalisation(self, values: Mapping[str, tuple[Any, Any]]) -> None:
        """Normalises the pictures of each student as a resumed run did; {student: mean and std as in its spec}."""
        for name, network in self._networks():
            network.set_normalisation(*values[name])

    @property
    def streams(self) -> tuple[str, ...]:
        """All streams that some student needs, each once."""
        return streams_of(self.members)

    @property
    def input_size(self) -> int:
        """Height and width of the largest input in pixels: the main size of a batch that is made for these students."""
        return max(spec.input_size for spec in self.specs.values())

    def inputs_at(self, main_size: int, *, only: Collection[str] | None = None) -> tuple[str, ...]:
        """Keys of the inputs that the students need in a batch (`videokd.types.input_key`).

        Args:
            main_size: side in pixels of the streams that are keyed by their names alone.
            only: the students to look at; all without it.
        """
        chosen = [spec for name, spec in self.specs.items() if only is None or name in only]
        keys = [input_key(name, spec.input_size, main_size=main_size) for spec in chosen for name in spec.streams]
        return tuple(dict.fromkeys(keys))

    def forward(
        self, batch: Batch | Mapping[str, Tensor], *, only: str | None = None, with_features: bool = False
    ) -> dict[str, StudentOutput]:
        """The output of each student for a batch.

        Args:
            batch: with the streams of every student, or only the streams: {stream: uint8 [B, S, C, H, W]}.
            only: the one student to run; all without it.
            with_features: give the students' features too, behind their adapters where they have some.

        Returns:
            {student: logits [B, K], and exits and hints where the student has exits}.

        Raises:
            ConfigError: a stream is missing.
            ValueError: a stream's shape or dtype is wrong.
        """
        streams = batch.streams if isinstance(batch, Batch) else batch
        outputs = {}
        for name, network in self._networks():
            if only is None or name == only:
                outputs[name] = self._output(name, network, streams, with_features=with_features)
        return outputs

    def _output(
        self, name: str, network: Network, streams: Mapping[str, Tensor], *, with_features: bool
    ) -> StudentOutput:
        if name in self.exits:
            output: StudentOutput = self.exits[name](network, streams)
        elif with_features:
            logits, features = network(streams, with_features=True)
            output = StudentOutput(logits, features=features)
        else:
            output = StudentOutput(network(streams))
        if with_features and name in self.adapters:
            output = replace(output, adapted=self.adapters[name](output.features))
        return output

    @property
    def sees_order(self) -> bool:
        """Whether some student looks at segments in their order: then give `logits` the number of views."""
        return any(spec.sees_order for spec in self.specs.values())

    def logits(
        self, streams: Mapping[str, Tensor], *, num_views: int = 1, with_exits: bool = False
    ) -> dict[str, Tensor]:
        """{student: [B, K]}; fuse them with `weights` and `space` for one prediction.

        Args:
            streams: {stream: uint8 [B, (V S), C, H, W]}, all segments of the first view, then those of the next.
            num_views: V. Views are predicted apart, and the mean of their logits is returned: the same to rounding for
                networks that see one segment at a time, and needed by those that see their order.
            with_exits: add `student:exit1` and so on, of students that have exits.

        Raises:
            ValueError: the second dimension is not a multiple of V.
        """
        if num_views == 1:
            return self._all_logits(streams, with_exits=with_exits)
        wrong = {name: list(values.shape) for name, values in streams.items() if values.shape[1] % num_views}
        if wrong:
            raise ValueError(f"streams are {wrong} (accepted: [B, (V S), C, H, W] of {num_views} views)")
        apart = {n: rearrange(v, "b (v s) c h w -> (b v) s c h w", v=num_views) for n, v in streams.items()}
        logits = self._all_logits(apart, with_exits=with_exits)
        return {name: reduce(values, "(b v) k -> b k", "mean", v=num_views) for name, values in logits.items()}

    def _all_logits(self, streams: Mapping[str, Tensor], *, with_exits: bool) -> dict[str, Tensor]:
        logits: dict[str, Tensor] = {}
        for name, network in self._networks():
            if with_exits and name in self.exits:
                output: StudentOutput = self.exits[name](network, streams)
                logits |= {name: output.logits} | {f"{name}:{key}": values for key, values in output.exits.items()}
            else:
                logits[name] = network(streams)
        return logits

    def early_logits(
        self, streams: Mapping[str, Tensor], *, threshold: float
    ) -> tuple[dict[str, Tensor], dict[str, tuple[str, ...]]]:
        """Logits of the first exit that is confident enough; deeper layers are not computed.

        Each student decides by itself, and video by video: an exit is confident enough where its largest probability, of the mean
        of its logits over segments, is above the threshold. A batch goes as deep as its least sure video needs. Students without exits
        go all the way.

        Args:
            streams: {stream: uint8 [B, S, C, H, W]}.
            threshold: 0 to 1; nothing is above 1, so then every video goes all the way.

        Returns:
            {student: logits [B, K]}, to be fused with `weights` and `space`; {student: the exit of each video}, "deepest"
            where none was confident enough.

        Raises:
            ConfigError: the threshold is out of range, or no student has exits.
        """
        self.check_threshold(threshold)
        logits, left_by = {}, {}
        for name, network in self._networks():
            if name in self.exits:
                exits = self.exits[name]
                assert isinstance(exits, Exits)
                logits[name], left_by[name] = first_confident_exit(
                    exits.stagewise(network, streams), threshold=threshold
                )
            else:
                logits[name] = network(streams)
                left_by[name] = (DEEPEST,) * len(logits[name])
        return logits, left_by

    def check_threshold(self, threshold: float) -> None:
        """Whether students can leave early at this confidence.

        Raises:
            ConfigError: it is out of range, 0 to 1, or no student has exits.
        """
        if not 0 <= threshold <= 1:
            raise ConfigError(f"exit_threshold is {threshold} (accepted: 0 to 1). Correct the setting.")
        if not self.exits:
            raise ConfigError(
                f"students {', '.join(self.specs)} have no exits to leave by (accepted: a run with `objective.exits`, exported "
                "with `videokd export RUN --out DIR --exits`). Export them so, or leave the threshold away."
            )

    def parameter_groups(
        self, *, weight_decay: float = 0.0, body_factor: float = 1.0, input_factor: float = 1.0, only: str | None = None
    ) -> list[dict[str, Any]]:
        """The parameters of all members, exits and adapters, or `only` of one student; see `Network.parameter_groups`."""
        groups = []
        for name, network in self._networks():
            if only is None or name == only:
                groups += network.parameter_groups(
                    weight_decay=weight_decay, body_factor=body_factor, input_factor=input_factor
                )
        beside = [
            p
            for name, module in (*self.exits.items(), *self.adapters.items())
            if only in (None, name)
            for p in module.parameters()
            if p.requires_grad
        ]
        for decay, matrices in ((weight_decay, True), (0.0, False)):
            if chosen := [parameter for parameter in beside if (parameter.ndim > 1) == matrices]:
                groups.append({"params": chosen, "weight_decay": decay, "lr_factor": 1.0})
        return groups

    def check_finite(self, *, where: str) -> None:
        """Refuses networks that diverged.

        Args:
            where: their file, for the message.

        Raises:
            DataError: a weight, or what a BatchNorm recorded, is not finite.
        """
        broken = not_finite(self.state_dict())
        if broken:
            raise DataError(
                f"{where}: {broken} has values that are not finite: the training diverged, or the file is damaged. Train again with a lower "
                "learning rate, or restore the file from a copy."
            )

    def kept_state(self, *, with_exits: bool = True) -> dict[str, Tensor]:
        """What is needed to predict, as `description` describes it: the state without the adapters.

        Args:
            with_exits: keep the exits, where there are any; a bottleneck goes with its classifier, which stands on it.
        """
        left_out = ("adapters.",) if with_exits else ("adapters.", "exits.")
        return {name: values for name, values in self.state_dict().items() if not name.startswith(left_out)}

    def description(self, *, with_exits: bool = True) -> dict[str, Any]:
        """Everything but the weights of the networks, as JSON can hold it.

        Args:
            with_exits: name the stages of students' exits too, where there are any.
        """
        stages = {name: list(exits.stages) for name, exits in self.exits.items() if isinstance(exits, Exits)}
        return {
            "format": FORMAT,
            "version": VERSION,
            "members": {name: spec.to_dict() for name, spec in self.specs.items()},
            "weights": self.weights,
            "space": self.space,
            "class_names": list(self.class_names),
            "num_segments": self.num_segments,
            "encoding": self.encoding,
        } | ({"exits": stages} if with_exits and stages else {})

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Students:
        """Students of the same kind, with random weights, and with exits where the description names their stages.

        Raises:
            ConfigError: the description is not one that `description` gives.
        """
        if description.get("format") != FORMAT or description.get("version") != VERSION:
            given = f"format {description.get('format')}, version {description.get('version')}"
            raise ConfigError(f"{given} (accepted: {FORMAT}, version {VERSION}). Export the students again.")
        try:
            specs = {name: NetworkSpec.from_dict(values) for name, values in description["members"].items()}
            settings = {
                name: description[name] for name in ("class_names", "num_segments", "weights", "space", "encoding")
            }
            members = {name: Network(spec) for name, spec in specs.items()}
            stages = description.get("exits", {})  # exports made before exits were kept do not have it
            exits = {name: Exits(members[name], stages=numbers) for name, numbers in stages.items()}
            return cls(members, PredictionSpec(**settings), exits=exits)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ConfigError(
                f"the description of students is damaged ({error!r}). Export the students again."
            ) from error

    def _networks(self) -> Iterator[tuple[str, Network]]:
        for name, network in self.members.items():
            if isinstance(network, Network):
                yield name, network


def _check_students(students: Students, *, specs: Mapping[str, NetworkSpec]) -> None:
    names, weights = ", ".join(specs), students.weights
    if set(weights) != set(specs):
        given = ", ".join(weights) or "nothing"
        raise ConfigError(f"weights are given for {given} (accepted: one for each of {names}). Correct the names.")
    if not all(math.isfinite(w) and w >= 0 for w in weights.values()) or not any(weights.values()):
        raise ConfigError(f"weights are {weights} (accepted: finite, 0 or more, one above 0). Correct the weights.")
    if students.space not in ("logits", "probs"):
        raise ConfigError(f"space is {students.space!r} (accepted: logits, probs). Choose one of them.")
    if students.num_segments < 1:
        raise ConfigError(f"num_segments is {students.num_segments} (accepted: 1 or more). Correct the setting.")
    classes = {name: spec.num_classes for name, spec in specs.items()}
    if set(classes.values()) != {len(students.class_names)}:
        raise ConfigError(
            f"num_classes are {classes} (accepted: {len(students.class_names)}, the number of class names)."
        )
    if homeless := sorted(set(students.exits) - set(specs)):
        raise ConfigError(f"exits are given for {', '.join(homeless)} (accepted: {names}). Correct the names.")


def build_students(
    specs: Mapping[str, NetworkSpec],
    prediction: PredictionSpec,
    *,
    seed: int,
    initial: Mapping[str, InitialWeights] | None = None,
    dropout: float = 0.0,
    with_exits: bool = False,
) -> Students:
    """New students, each started from a seed of its own, so that equal ones differ and have something to teach.

    Args:
        specs: {student: what to build}.
        prediction: classes, segments and fusion.
        seed: of the run; the global random state is left as it was.
        initial: {student: trained weights that it starts from}; students that start from the same differ only in their classifiers.
        dropout: before the classifiers.
        with_exits: give every student shallow exits.

    Raises:
        ConfigError: as for `Students`, `Network`, `Exits` and `start_from`.
    """
    members, exits = {}, {}
    for index, (name, spec) in enumerate(specs.items()):
        with torch.random.fork_rng(devices=[]):
            # Mixed and not added up, or student 1 of run 0 would start like student 0 of run 1.
            torch.default_generator.manual_seed(int(np.random.SeedSequence((seed, index)).generate_state(1)[0]))
            members[name] = Network(spec, dropout=dropout)
            if with_exits:
                exits[name] = Exits(members[name])
        if initial and name in initial:
            start_from(members[name], initial[name], class_names=prediction.class_names)
    return Students(members, prediction, exits=exits)


def not_finite(state: Mapping[str, Tensor]) -> str | None:
    """The first name in a state dict whose values are not all finite, in one transfer from the device.

    >>> not_finite({"weight": torch.ones(2), "bias": torch.tensor([0.0, torch.nan])})
    'bias'
    """
    floating = {name: values for name, values in state.items() if values.is_floating_point()}
    if not floating:
        return None
    sound = torch.stack([values.detach().isfinite().all() for values in floating.values()]).tolist()
    return next((name for name, fine in zip(floating, sound, strict=True) if not fine), None)
