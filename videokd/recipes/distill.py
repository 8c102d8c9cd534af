"""`videokd distill`: one or several students, from teachers and from each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from videokd.datasets.manifest import Clip, Manifest, read_manifest
from videokd.errors import ConfigError
from videokd.evaluation.overlap import check_teacher, fitted_of_initial
from videokd.models.adapters import add_adapters
from videokd.models.network_spec import NetworkSpec
from videokd.models.students import PredictionSpec, Students, build_students
from videokd.models.teachers import Teachers
from videokd.recipes.command_line import parse
from videokd.recipes.evaluation_run import evaluate_after_training
from videokd.runs.initial import Initial, load_initial
from videokd.runs.run_folder import RunFolder, TrainedRun, check_same_classes, load_teacher, network_of
from videokd.runs.run_settings import Distill, stream_of
from videokd.runs.session import Session, training_session
from videokd.runs.trained_on import TrainedOn
from videokd.runs.unlabelled_clips import read_unlabelled
from videokd.training.loop import learn
from videokd.training.run_state import RunState
from videokd.training.stored_teachers import stored_teachers
from videokd.training.target import TeacherSource, TeacherTarget
from videokd.training.training_clips import TrainingClips, training_clips
from videokd.training.update import Update


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    distill(parse(Distill, arguments, verb="distill"))


def distill(settings: Distill) -> RunFolder:
    """Trains a set of students, or resumes their training; returns the run folder."""
    manifest = read_manifest(settings.manifest)
    unlabelled = read_unlabelled(settings, manifest)
    data, optim, objective = settings.data, settings.optim, settings.objective
    runs, trained_on = _teachers_and_clips(settings, manifest, unlabelled.clips if unlabelled else ())
    specs = _student_specs(settings, manifest)
    sources = {name: student.init or settings.init for name, student in settings.students.items()}
    initial = load_initial(sources, specs, out=settings.out)
    fitted = fitted_of_initial(initial, manifest, split=settings.split, val_fraction=data.val_fraction)
    with training_session(settings, trained_on.started_from(initial.sources, fitted=fitted)) as session:
        students = _new_students(settings, manifest, specs, initial)
        networks = (students, *(() if data.stored_views else (run.students for run in runs.values())))
        inputs = tuple(dict.fromkeys(key for each in networks for key in each.inputs_at(data.input_size)))
        clips = training_clips(manifest, unlabelled, inputs, split=settings.split, seed=settings.seed, data=data)
        target = _target(settings, runs, clips, session) if runs else None
        if target and objective.feature_weight:
            add_adapters(students, target.feature_widths, seed=settings.seed)
        update = Update(
            students,
            objective.loss(),
            optim=optim,
            precision=session.precision,
            order=objective.update,
            ranks=session.ranks,
        )
        state = RunState(students, update, session, role="student", ema_decay=optim.ema)
        learn(state, clips, target, optim=optim, session=session)
    if session.ranks.is_first:
        evaluate_after_training(settings)
    return session.folder


def _teachers_and_clips(
    settings: Distill, manifest: Manifest, unlabelled: Sequence[Clip]
) -> tuple[dict[str, TrainedRun], TrainedOn]:
    """The teachers' runs, if there are any; what they and the students are trained on."""
    runs: dict[str, TrainedRun] = {}
    by_teachers: set[str] = set()
    for name, path in settings.teachers.items():
        run = load_teacher(path)
        check_same_classes(run, manifest)
        stream, sees = stream_of(name), run.students.streams
        if stream not in sees or (name == stream and sees != (stream,)):
            fit = " or ".join(sees if len(sees) == 1 else [f"{one}_…" for one in sees])
            raise ConfigError(
                f"teachers.{name} is a run on {', '.join(sees)} (accepted: {fit} for this run). Name it by what it sees."
            )
        known = check_teacher(name, run, manifest, split=settings.split, data=settings.data)
        by_teachers |= known.fitted if known else set()
        runs[name] = run
    uses = TrainedOn.of(
        manifest,
        split=settings.split,
        val_fraction=settings.data.val_fraction,
        unlabelled=unlabelled,
        by_teachers=by_teachers,
        teachers={name: run.weights for name, run in runs.items()},
    )
    return runs, uses


def _target(settings: Distill, runs: Mapping[str, TrainedRun], clips: TrainingClips, session: Session) -> TeacherTarget:
    """The teachers as one target: looked up where views are stored, else computed in each step."""
    weights = settings.weights or dict.fromkeys(runs, 1.0)
    temperatures = settings.temperatures or dict.fromkeys(runs, 1.0)
    with_features = settings.objective.loss().needs_features
    teachers: TeacherSource
    if settings.data.stored_views:
        teachers = stored_teachers(clips.fit, runs, session, with_features=with_features)
    else:
        teachers = Teachers({name: network_of(run) for name, run in runs.items()})
    return TeacherTarget(
        teachers,
        weights,
        temperatures,
        weighting=settings.weighting,
        space=settings.space,
        temperature=settings.objective.temperature,
        with_features=with_features,
    )


def _student_specs(settings: Distill, manifest: Manifest) -> dict[str, NetworkSpec]:
    return {
        name: NetworkSpec.new(
            student.streams,
            student.backbone,
            num_classes=len(manifest.class_names),
            input_size=student.input_size or settings.data.input_size,
            temporal_shift=student.temporal_shift,
        )
        for name, student in settings.students.items()
    }


def _new_students(
    settings: Distill, manifest: Manifest, specs: Mapping[str, NetworkSpec], initial: Initial
) -> Students:
    return build_students(
        specs,
        PredictionSpec(
            manifest.class_names,
            settings.data.num_segments,
            weights=settings.student_weights or None,
            encoding=dict(manifest.settings),
        ),
        seed=settings.seed,
        initial=initial.weights,
        dropout=settings.optim.dropout,
        with_exits=settings.objective.exits,
    )
