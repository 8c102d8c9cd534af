"""The settings of a training run: what `videokd teach` and `videokd distill` take, and config.yaml holds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from videokd.config import built, checked, read_yaml, without_retired
from videokd.distill.feature_losses import FeatureLoss
from videokd.distill.objective import Objective, TargetLoss
from videokd.errors import ConfigError, DataError
from videokd.runs.settings import (
    DataSettings,
    Device,
    OptimSettings,
    PrecisionName,
    check_early_stop,
    check_run,
    check_unlabelled_share,
    check_weights,
)
from videokd.types import STREAMS, check_streams

#: How teachers are weighed: by fixed weights, or by these and their confidence in the ground truth.
Weighting = Literal["fixed", "confidence"]
#: Deep Mutual Learning (Zhang et al. 2018): all students step together, or each in turn sees its peers as they are now.
UpdateOrder = Literal["simultaneous", "alternate"]


@dataclass(frozen=True)
class Teach:
    """Trains one stream's teacher.

    Args:
        out: the run folder; the same command with the same folder resumes.
        manifest: manifest.parquet, or the folder that holds it.
        stream: iframe, motion, residual, or rgb: fully decoded frames.
        backbone: timm's name, or video:r2plus1d_18 and the like for a 3-D network of torchvision; by default CoViAR's for the stream (ResNet-152 for iframe, else ResNet-18).
        temporal_shift: let the segments of a ResNet see their neighbours (Temporal Shift Module, Lin et al. 2019).
        init: what the weights start from: none, imagenet (Kinetics for video: backbones), a file of weights (.safetensors, .pth), or a run folder with the same backbone.
        freeze: keep the body as it is, BatchNorm statistics included, and fit only the classifier, to features of stored views that are
            computed once; optim is not used. It needs initial weights, data.cache and data.stored_views.
        head_units: units of a hidden layer in the classifier, for data that a linear one does not separate; 0: no hidden layer.
        split: 1, 2 or 3.
        seed: of weights, order and views.
        device: auto takes CUDA where there is one.
        precision: auto, fp32, tf32 (CUDA only), bf16 or fp16 (CUDA only); auto is bf16 on a GPU that has it, fp16 on another, fp32 on a CPU.
        test: none, or quick or full: run the test protocol afterwards, as `videokd evaluate --views` does, and print the accuracy.
        data: what the network sees.
        optim: how it is trained.
    """

    out: str
    manifest: str
    stream: str
    backbone: str = ""
    temporal_shift: bool = False
    init: str = "none"
    freeze: bool = False
    head_units: int = 0
    split: int = 1
    seed: int = 0
    device: Device = "auto"
    precision: PrecisionName = "auto"
    test: Literal["none", "quick", "full"] = "none"
    data: DataSettings = DataSettings()
    optim: OptimSettings = OptimSettings()

    def to_dict(self) -> dict[str, Any]:
        """What config.yaml holds."""
        return {"verb": "teach"} | asdict(self)

    def __post_init__(self) -> None:
        check_streams([self.stream], where="stream")
        if self.freeze:
            _check_frozen(self)
        check_early_stop(self.data, self.optim)
        check_unlabelled_share(self.data, None)
        check_run(out=self.out, manifest=self.manifest, split=self.split, seed=self.seed)


def _check_frozen(settings: Teach) -> None:
    if not settings.data.stored_views:
        raise ConfigError("freeze needs stored views (data.stored_views is 0). Pass `--data.stored_views 8`.")
    if settings.init == "none":
        raise ConfigError(
            "freeze keeps a body whose weights are random (init none). Pass `--init imagenet`, a file or a run."
        )
    if settings.optim.mixup:
        raise ConfigError(f"freeze mixes no clips (optim.mixup is {settings.optim.mixup}; accepted: 0). Omit it.")


@dataclass(frozen=True)
class StudentSettings:
    """One student.

    Args:
        streams: what it sees; several are stacked as channels.
        backbone: timm's name; by default ResNet-18.
        temporal_shift: let the segments of a ResNet see their neighbours (Temporal Shift Module, Lin et al. 2019).
        init: as the run's setting of this name, for this student only; empty: the run's.
        input_size: side of its input, in pixels; 0: data.input_size. Teachers keep the size that they were trained with: all
            networks see the same part of the picture.
    """

    streams: tuple[str, ...]
    backbone: str = "resnet18"
    temporal_shift: bool = False
    init: str = ""
    input_size: int = 0

    def __post_init__(self) -> None:
        if self.input_size and not 16 <= self.input_size <= 4096:
            raise ConfigError(
                f"a student's input_size is {self.input_size} (accepted: 16 to 4096, or 0 for data.input_size). Correct the setting."
            )


@dataclass(frozen=True)
class ObjectiveSettings:
    """What the students learn from.

    Args:
        alpha: share of the teachers' target in the loss, 0 to 1; by default 0.9 with teachers, 0 without.
        beta: weight of mutual learning; by default 0 for one student; for several 0.25 with teachers, 1 without.
        temperature: of the distillation.
        target_loss: how the distance to the teachers' target is measured: kd (Hinton et al. 2015), dist (Huang et al. 2022), dkd (Zhao et al. 2022), hard (pseudo-labels, Lee 2013).
        target_weights: the two weights of dist or dkd; by default the papers'.
        standardise: compare logits by z-score, without their size (Sun et al. 2024); T is then better 1 or 2.
        confidence: for hard: clips whose fused teachers give no class at least this probability do not count (FixMatch, Sohn et al. 2020); 0 counts all.
        feature_weight: of the distance between a student's features and each teacher's, through a linear adapter.
        feature_loss: that distance: cosine, or l2 (FitNets, Romero et al. 2015) to the teacher's features at size 1.
        relation_weight: of how distances and angles between the clips of a batch differ from the teachers' (RKD, Park et al. 2019).
        peers: each peer by itself, or the peers' mean.
        update: all students step together, or in turns, each seeing its peers as they are by then.
        exits: give every student shallow exits that learn from labels and from its deepest one (Be Your Own Teacher).
        gamma: share of the deepest exit's predictions in what shallow exits learn, 0 to 1; see `videokd.distill.objective`.
        hint_weight: of the distance between the exits' features and the deepest ones.
    """

    alpha: float | None = None
    beta: float | None = None
    temperature: float = Objective.temperature
    target_loss: TargetLoss = Objective.target_loss
    target_weights: tuple[float, float] | None = None
    standardise: bool = False
    confidence: float = Objective.confidence
    feature_weight: float = Objective.feature_weight
    feature_loss: FeatureLoss = Objective.feature_loss
    relation_weight: float = Objective.relation_weight
    peers: Literal["separate", "ensemble"] = Objective.peers
    update: UpdateOrder = "simultaneous"
    exits: bool = False
    gamma: float = Objective.gamma
    hint_weight: float = Objective.hint_weight

    def loss(self) -> Objective:
        """The loss function, which has all of these settings but `update` and `exits`; a weight that is not set is 0."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(Objective)}
        return Objective(**values | {"alpha": self.alpha or 0.0, "beta": self.beta or 0.0})

    def resolved(self, *, num_teachers: int, num_students: int) -> ObjectiveSettings:
        """With the defaults that depend on who is there.

        Raises:
            ConfigError: a part needs somebody who is not there, or nobody hears the teachers.
        """
        alpha = (0.9 if num_teachers else 0.0) if self.alpha is None else self.alpha
        usual = 0.0 if num_students < 2 else 0.25 if num_teachers else 1.0
        beta = usual if self.beta is None else self.beta
        if alpha and not num_teachers:
            raise ConfigError(f"objective.alpha is {alpha} without teachers. Name teachers, or set it to 0.")
        by_features = self.feature_weight or self.relation_weight
        if by_features and not num_teachers:
            raise ConfigError(
                f"objective.feature_weight is {self.feature_weight}, objective.relation_weight {self.relation_weight} without teachers. "
                "Name teachers, or set both to 0."
            )
        if num_teachers and not alpha and not by_features:
            raise ConfigError(
                "objective.alpha is 0, so the teachers would have no effect. Raise it, objective.feature_weight or "
                "objective.relation_weight, or name no teachers."
            )
        if beta and num_students < 2:
            raise ConfigError(f"objective.beta is {beta} with one student. Add a student, or set it to 0.")
        return replace(self, alpha=alpha, beta=beta)


@dataclass(frozen=True)
class Distill:
    """Trains students from teachers and from each other.

    Args:
        out: the run folder; the same command with the same folder resumes.
        manifest: manifest.parquet, or the folder that holds it.
        unlabelled: the manifest of clips without labels (`videokd prepare folder --unlabelled`) to train on in addition to the others: on
            them the students follow the teachers and each other.
        overlap: clips without labels that are test or validation clips, or re-encoded, resized or trimmed copies of them: refuse, or omit
            them and say how many.
        teachers: {name: run folder of one network}; without teachers, students learn only from labels and peers. A teacher is named by its stream; a second
            one on it, or one on several streams, by a stream it sees and an ending of your own: iframe_large, motion_all.
        weights: {teacher: weight} for fusing the teachers; equal ones if omitted.
        weighting: fixed weights, or weights times each teacher's confidence in the ground truth, clip by clip (CA-MKD, Zhang et al. 2022).
        temperatures: {teacher: T} that a teacher's logits are divided by before fusing; `videokd fuse --calibrate` finds them.
        space: fuse the teachers' logits or probabilities.
        students: {name: its streams and backbone}.
        student_weights: {name: weight} for fusing the students; equal ones if omitted.
        objective: what the students learn from.
        init: what the students' weights start from: none, imagenet (Kinetics for video: backbones), a file of weights (.safetensors, .pth), or a run folder with the same backbone.
        split: 1, 2 or 3.
        seed: of weights, order and views.
        device: auto takes CUDA where there is one.
        precision: auto, fp32, tf32 (CUDA only), bf16 or fp16 (CUDA only); auto is bf16 on a GPU that has it, fp16 on another, fp32 on a CPU.
        test: none, or quick or full: run the test protocol afterwards, as `videokd evaluate --views` does, and print the accuracies.
        data: what the networks see.
        optim: how the students are trained.
    """

    out: str
    manifest: str
    unlabelled: str | None = None
    overlap: Literal["refuse", "omit"] = "refuse"
    teachers: dict[str, str] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    weighting: Weighting = "fixed"
    temperatures: dict[str, float] = field(default_factory=dict)
    space: Literal["logits", "probs"] = "logits"
    students: dict[str, StudentSettings] = field(
        default_factory=lambda: {name: StudentSettings((name,)) for name in ("iframe", "motion", "residual")}
    )
    student_weights: dict[str, float] = field(default_factory=dict)
    objective: ObjectiveSettings = ObjectiveSettings()
    init: str = "none"
    split: int = 1
    seed: int = 0
    device: Device = "auto"
    precision: PrecisionName = "auto"
    test: Literal["none", "quick", "full"] = "none"
    data: DataSettings = DataSettings()
    optim: OptimSettings = OptimSettings()

    def to_dict(self) -> dict[str, Any]:
        """What config.yaml holds."""
        return {"verb": "distill"} | asdict(self)

    def __post_init__(self) -> None:
        check_early_stop(self.data, self.optim)
        check_unlabelled_share(self.data, self.unlabelled)
        check_weights(self.weights, "weights")
        check_weights(self.student_weights, "student_weights")
        check_run(out=self.out, manifest=self.manifest, split=self.split, seed=self.seed)
        for name in self.teachers:
            stream_of(name)
        _check_keys(self.weights, self.teachers, where="weights", owners="teachers")
        _check_keys(self.temperatures, self.teachers, where="temperatures", owners="teachers")
        if not all(0 < temperature < math.inf for temperature in self.temperatures.values()):
            raise ConfigError(f"temperatures: {self.temperatures} (accepted: above 0). Correct them.")
        _check_keys(self.student_weights, self.students, where="student_weights", owners="students")
        for name, student in self.students.items():
            check_streams(student.streams, where=f"students.{name}.streams")
        if "fused" in self.students or not self.students:
            raise ConfigError(
                "students: one or more, none called fused (that is all of them together). Choose other names."
            )
        if self.unlabelled is not None and not self.teachers and len(self.students) < 2:
            raise ConfigError(
                "one student without teachers learns nothing from unlabelled clips. Name teachers, add a student, or omit --unlabelled."
            )
        if self.teachers and self.data.stored_views and self.optim.mixup:
            raise ConfigError(
                f"optim.mixup is {self.optim.mixup}, but teachers whose targets are stored have not seen the mixtures (accepted: 0). Omit it, "
                "or set data.stored_views to 0."
            )
        resolved = self.objective.resolved(num_teachers=len(self.teachers), num_students=len(self.students))
        resolved.loss()  # refuses numbers before anything is written
        object.__setattr__(self, "objective", resolved)


def stream_of(teacher: str) -> str:
    """The stream that a teacher's name starts with: `iframe` of `iframe` and of `iframe_large`.

    Raises:
        ConfigError: it starts with no stream.
    """
    stream = teacher.partition("_")[0]
    if stream not in STREAMS:
        raise ConfigError(
            f"teachers: {teacher} (accepted: {', '.join(STREAMS)}, or one of these with an ending, such as iframe_large). Correct the "
            "name: it starts with a stream that the teacher sees."
        )
    return stream


def _check_keys(given: Mapping[str, object], owners_by_name: Mapping[str, object], *, where: str, owners: str) -> None:
    if given and set(given) != set(owners_by_name):
        accepted = ", ".join(owners_by_name) or f"none, as there are no {owners}"
        raise ConfigError(f"{where}: {', '.join(given)} (accepted: {accepted}). Give one for each of the {owners}.")


_VERBS: dict[str, type[Teach] | type[Distill]] = {"teach": Teach, "distill": Distill}


def read_settings(config: Path) -> Teach | Distill:
    """The settings that a run was trained with.

    Args:
        config: its config.yaml.

    Raises:
        DataError: the file is damaged, or not that of a run.
    """
    try:
        values = read_yaml(config.read_text(encoding="utf-8"), where="the file")
        if not isinstance(values, dict):
            raise ConfigError("it is not a mapping.")
        verb = checked(Literal["teach", "distill"], values.get("verb"), where="verb")
        given = {name: value for name, value in values.items() if name != "verb"}
        return built(_VERBS[verb], checked(_VERBS[verb], without_retired(given), where="the file"))
    except (OSError, ValueError, TypeError, ConfigError) as error:
        raise DataError(f"{config} is damaged: {error} Restore it from a copy, or train the run again.") from error
