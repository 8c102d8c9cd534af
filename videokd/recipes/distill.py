"""`videokd distill`: one or several students, from teachers and from each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from videokd.datasets.manifest import Clip, Manifest
from videokd.distill.objective import Objective
from videokd.errors import ConfigError, DataError
from videokd.messages import say
from videokd.models.backbone import Network, NetworkSpec, default_backbone
from videokd.models.students import Students, build_students
from videokd.models.teachers import Teachers
from videokd.recipes.command_line import parse
from videokd.recipes.learn import Target, Weighting, learn, streams_to_load
from videokd.recipes.overlap import check_teacher
from videokd.recipes.runs import check_same_classes, load_teacher, network_of, prepared_run, read_manifest
from videokd.recipes.settings import (
    DataSettings,
    Device,
    OptimSettings,
    PrecisionName,
    RunSettings,
    check_early_stop,
    check_weights,
)
from videokd.recipes.trained_on import TrainedOn, same_clips
from videokd.recipes.training_clips import training_clips
from videokd.recipes.update import UpdateOrder
from videokd.training.ranks import join_ranks
from videokd.training.run_folder import RunFolder
from videokd.training.session import Precision, pick_device, seed_everything
from videokd.types import STREAMS, check_streams


@dataclass(frozen=True)
class StudentSettings:
    """One student.

    Args:
        streams: what it sees; several are stacked as channels.
        backbone: timm's name; by default ResNet-18.
        temporal_shift: let the segments of a ResNet see their neighbours (Temporal Shift Module, Lin et al. 2019).
    """

    streams: tuple[str, ...]
    backbone: str = "resnet18"
    temporal_shift: bool = False


@dataclass(frozen=True)
class ObjectiveSettings:
    """What the students learn from.

    Args:
        alpha: share of the teachers' target in the loss, 0 to 1; by default 0.5 with teachers, 0 without.
        beta: weight of mutual learning; by default 1 for several students, 0 for one.
        temperature: of the distillation.
        target_loss: how far from the teachers' target: kd (Hinton et al. 2015), dist (Huang et al. 2022), dkd (Zhao et al. 2022).
        target_weights: the two weights of dist or dkd; by default the papers'.
        standardise: compare logits by z-score, without their size (Sun et al. 2024); T is then better 1 or 2.
        peers: each peer by itself, or the peers' mean.
        update: all students step together, or in turns, each seeing its peers as they are by then.
        exits: give every student shallow exits that learn from labels and from its deepest one (Be Your Own Teacher).
        gamma: share of the deepest exit's predictions in what shallow exits learn, 0 to 1; see `videokd.distill.objective`.
        hint_weight: of the distance between the exits' features and the deepest ones.
    """

    alpha: float | None = None
    beta: float | None = None
    temperature: float = 4.0
    target_loss: Literal["kd", "dist", "dkd"] = "kd"
    target_weights: tuple[float, float] | None = None
    standardise: bool = False
    peers: Literal["separate", "ensemble"] = "separate"
    update: UpdateOrder = "simultaneous"
    exits: bool = False
    gamma: float = 0.05
    hint_weight: float = 0.03

    def loss(self, *, label_smoothing: float) -> Objective:
        """The loss function."""
        return Objective(
            alpha=self.alpha or 0.0,
            beta=self.beta or 0.0,
            temperature=self.temperature,
            target_loss=self.target_loss,
            target_weights=self.target_weights,
            standardise=self.standardise,
            peers=self.peers,
            gamma=self.gamma,
            hint_weight=self.hint_weight,
            label_smoothing=label_smoothing,
        )

    def resolved(self, *, num_teachers: int, num_students: int) -> ObjectiveSettings:
        """With the defaults that depend on who is there.

        Raises:
            ConfigError: a part needs somebody who is not there, or nobody hears the teachers.
        """
        alpha = (0.5 if num_teachers else 0.0) if self.alpha is None else self.alpha
        beta = (1.0 if num_students > 1 else 0.0) if self.beta is None else self.beta
        if alpha and not num_teachers:
            raise ConfigError(f"objective.alpha is {alpha} without teachers. Name teachers, or set it to 0.")
        if num_teachers and not alpha:
            raise ConfigError(
                "objective.alpha is 0, so the teachers would not be heard. Raise it, or name no teachers."
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
        unlabelled: the manifest of clips without labels (`videokd prepare folder --unlabelled`) to train on beside the others: on
            them the students follow the teachers and each other.
        teachers: {name: run folder of one network}; none trains on labels and peers alone. A teacher is named by its stream; a second
            one on it, or one on several streams, by a stream it sees and an ending of your own: iframe_large, motion_all.
        weights: {teacher: weight} for fusing the teachers; equal ones if left out.
        weighting: the weights alone, or times each teacher's confidence in the right label, clip by clip (CA-MKD, Zhang et al. 2022).
        temperatures: {teacher: T} that a teacher's logits are divided by before fusing; `videokd fuse --calibrate` finds them.
        space: fuse the teachers' logits or probabilities.
        students: {name: its streams and backbone}.
        student_weights: {name: weight} for fusing the students; equal ones if left out.
        objective: what the students learn from.
        pretrained: start the students from timm's ImageNet weights.
        split: 1, 2 or 3.
        seed: of weights, order and views.
        device: auto takes CUDA where there is one.
        precision: fp32, bf16, or fp16 (CUDA only).
        data: what the networks see.
        optim: how the students are trained.
    """

    out: str
    manifest: str
    unlabelled: str | None = None
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
    pretrained: bool = False
    split: int = 1
    seed: int = 0
    device: Device = "auto"
    precision: PrecisionName = "fp32"
    data: DataSettings = DataSettings()
    optim: OptimSettings = OptimSettings()

    def __post_init__(self) -> None:
        check_early_stop(self.data, self.optim)
        check_weights(self.weights, "weights")
        check_weights(self.student_weights, "student_weights")
        RunSettings(self.out, self.manifest, self.split, self.seed, self.device, self.precision)
        for name in self.teachers:
            _stream_of(name)
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
                "unlabelled clips teach one student without teachers nothing. Name teachers, add a student, or omit --unlabelled."
            )
        resolved = self.objective.resolved(num_teachers=len(self.teachers), num_students=len(self.students))
        resolved.loss(label_smoothing=self.optim.label_smoothing)  # refuses numbers before anything is written
        object.__setattr__(self, "objective", resolved)


def _stream_of(teacher: str) -> str:
    """The stream that a teacher's name starts with: `iframe` of `iframe` and of `iframe_large`."""
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


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    distill(parse(Distill, arguments, verb="distill"))


def distill(settings: Distill) -> RunFolder:
    """Trains, or goes on training, a set of students; returns the run folder."""
    manifest = read_manifest(settings.manifest)
    unlabelled = _read_unlabelled(settings, manifest)
    run = RunFolder(Path(settings.out))
    with join_ranks(pick_device(settings.device)) as ranks, ExitStack() as until_done:
        precision = Precision(settings.precision, ranks.device)
        target, uses = _target_and_clips(settings, manifest, unlabelled.clips if unlabelled else ())
        until_done.enter_context(prepared_run(run, {"verb": "distill"} | asdict(settings), ranks, uses))
        seed_everything(settings.seed)
        students = _new_students(settings, manifest)
        clips = training_clips(
            manifest,
            unlabelled,
            streams_to_load(students, target),
            split=settings.split,
            seed=settings.seed,
            data=settings.data,
        )
        learn(
            students,
            target=target,
            objective=settings.objective.loss(label_smoothing=settings.optim.label_smoothing),
            order=settings.objective.update,
            clips=clips,
            seed=settings.seed,
            data=settings.data,
            optim=settings.optim,
            precision=precision,
            ranks=ranks,
            run=run,
            role="student",
        )
        if ranks.is_first:
            say(f"{run.path}: done. Next: videokd evaluate {run.path}")
    return run


def _read_unlabelled(settings: Distill, manifest: Manifest) -> Manifest | None:
    """The clips without labels, if there are any.

    Raises:
        DataError: they have labels, files of them are missing, or some are tested or held out.
    """
    if settings.unlabelled is None:
        return None
    unlabelled = read_manifest(settings.unlabelled, labelled=False)
    parts: list[Literal["test", "val"]] = ["test", "val"] if settings.data.val_fraction else ["test"]
    for part in parts:
        clips = manifest.select(part, split=settings.split, val_fraction=settings.data.val_fraction, seed=0)
        seen = same_clips(unlabelled.clips, clips)
        if seen:
            raise DataError(
                f"{len(seen)} clips of {settings.unlabelled} are {part} clips of split {settings.split} of {settings.manifest} "
                f"(first: {seen[0].source_path or seen[0].path}). Remove them from the unlabelled ones, and prepare these again."
            )
    return unlabelled


def _target_and_clips(
    settings: Distill, manifest: Manifest, unlabelled: Sequence[Clip]
) -> tuple[Target | None, TrainedOn]:
    """The teachers as one target, if there are any; what they and the students are trained on."""
    networks, weights_files = {}, {}
    by_teachers: set[str] = set()
    for name, path in settings.teachers.items():
        run = load_teacher(path)
        check_same_classes(run, manifest)
        if run.students.input_size != settings.data.input_size:
            raise ConfigError(
                f"teachers.{name} sees {run.students.input_size} pixels, the students {settings.data.input_size}; they share "
                f"one view. Pass `--data.input_size {run.students.input_size}`."
            )
        stream, sees = _stream_of(name), run.students.streams
        if stream not in sees or (name == stream and sees != (stream,)):
            fit = " or ".join(sees if len(sees) == 1 else [f"{one}_…" for one in sees])
            raise ConfigError(
                f"teachers.{name} is a run on {', '.join(sees)} (accepted: {fit} for this run). Name it by what it sees."
            )
        known = check_teacher(name, run, manifest, split=settings.split, data=settings.data)
        by_teachers |= known.fitted if known else set()
        networks[name] = network_of(run)
        weights_files[name] = run.weights
    uses = TrainedOn.of(
        manifest,
        split=settings.split,
        val_fraction=settings.data.val_fraction,
        unlabelled=unlabelled,
        by_teachers=by_teachers,
        teachers=weights_files,
    )
    return (_target(settings, networks) if networks else None), uses


def _target(settings: Distill, networks: Mapping[str, Network]) -> Target:
    weights = settings.weights or dict.fromkeys(networks, 1.0)
    temperatures = settings.temperatures or dict.fromkeys(networks, 1.0)
    return Target(
        Teachers(networks),
        weights,
        temperatures,
        weighting=settings.weighting,
        space=settings.space,
        temperature=settings.objective.temperature,
    )


def _new_students(settings: Distill, manifest: Manifest) -> Students:
    specs = {
        name: NetworkSpec(
            streams=tuple(student.streams),
            backbone=student.backbone or default_backbone(student.streams),
            num_classes=len(manifest.class_names),
            input_size=settings.data.input_size,
            temporal_shift=student.temporal_shift,
        )
        for name, student in settings.students.items()
    }
    return build_students(
        specs,
        class_names=manifest.class_names,
        num_segments=settings.data.num_segments,
        seed=settings.seed,
        weights=settings.student_weights or None,
        encoding=dict(manifest.settings),
        pretrained=settings.pretrained,
        dropout=settings.optim.dropout,
        with_exits=settings.objective.exits,
    )
