"""`videokd teach`: one stream's teacher, trained on labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from videokd.datasets.manifest import read_manifest
from videokd.distill.objective import Objective
from videokd.evaluation.overlap import fitted_of_initial
from videokd.models.network_spec import NetworkSpec
from videokd.models.students import PredictionSpec, build_students
from videokd.recipes.command_line import parse
from videokd.recipes.evaluation_run import evaluate_after_training
from videokd.runs.initial import load_initial
from videokd.runs.run_folder import RunFolder, only_network
from videokd.runs.run_settings import Teach
from videokd.runs.session import training_session
from videokd.runs.trained_on import TrainedOn
from videokd.training.frozen import freeze_body, learn_head
from videokd.training.loop import learn
from videokd.training.run_state import RunState
from videokd.training.training_clips import training_clips
from videokd.training.update import Update


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    teach(parse(Teach, arguments, verb="teach"))


def teach(settings: Teach) -> RunFolder:
    """Trains a teacher, or resumes its training; returns the run folder."""
    manifest = read_manifest(settings.manifest)
    data, optim = settings.data, settings.optim
    spec = NetworkSpec.new(
        [settings.stream],
        settings.backbone,
        num_classes=len(manifest.class_names),
        input_size=data.input_size,
        temporal_shift=settings.temporal_shift,
    )
    spec = replace(spec, head_units=settings.head_units)
    initial = load_initial({settings.stream: settings.init}, {settings.stream: spec}, out=settings.out)
    fitted = fitted_of_initial(initial, manifest, split=settings.split, val_fraction=data.val_fraction)
    trained_on = TrainedOn.of(manifest, split=settings.split, val_fraction=data.val_fraction)
    trained_on = trained_on.started_from(initial.sources, fitted=fitted)
    with training_session(settings, trained_on) as session:
        teacher = build_students(  # a student of nobody: only the objective differs
            {settings.stream: spec},
            PredictionSpec(manifest.class_names, data.num_segments, encoding=dict(manifest.settings)),
            seed=settings.seed,
            initial=initial.weights,
            dropout=optim.dropout,
        )
        network = only_network(teacher)
        if settings.freeze:
            freeze_body(network)
        clips = training_clips(manifest, None, teacher.streams, split=settings.split, seed=settings.seed, data=data)
        update = Update(
            teacher, Objective(), optim=optim, precision=session.precision, order="simultaneous", ranks=session.ranks
        )
        state = RunState(teacher, update, session, role="teacher", ema_decay=optim.ema)
        if settings.freeze:
            learn_head(state, network, clips, session=session)
        else:
            learn(state, clips, None, optim=optim, session=session)
    if session.ranks.is_first:
        evaluate_after_training(settings)
    return session.folder
