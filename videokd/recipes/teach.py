"""`videokd teach`: one stream's teacher, trained on hard labels."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from videokd.distill.objective import Objective
from videokd.messages import say
from videokd.models.backbone import NetworkSpec, default_backbone
from videokd.models.students import build_students
from videokd.recipes.command_line import parse
from videokd.training.device import Precision, pick_device, seed_everything
from videokd.training.loop import learn
from videokd.training.ranks import join_ranks
from videokd.training.run_folder import RunFolder, prepared_run, read_manifest
from videokd.training.run_settings import Teach
from videokd.training.training_clips import TrainedOn, training_clips


def main(arguments: Sequence[str]) -> None:
    """The verb."""
    teach(parse(Teach, arguments, verb="teach"))


def teach(settings: Teach) -> RunFolder:
    """Trains, or goes on training, one teacher; returns its run folder."""
    manifest = read_manifest(settings.manifest)
    run = RunFolder(Path(settings.out))
    with join_ranks(pick_device(settings.device)) as ranks, ExitStack() as until_done:
        precision = Precision(settings.precision, ranks.device)
        uses = TrainedOn.of(manifest, split=settings.split, val_fraction=settings.data.val_fraction)
        until_done.enter_context(prepared_run(run, {"verb": "teach"} | asdict(settings), ranks, uses))
        seed_everything(settings.seed)
        spec = NetworkSpec(
            streams=(settings.stream,),
            backbone=settings.backbone or default_backbone([settings.stream]),
            num_classes=len(manifest.class_names),
            input_size=settings.data.input_size,
            temporal_shift=settings.temporal_shift,
        )
        teachers_to_be = build_students(
            {settings.stream: spec},
            class_names=manifest.class_names,
            num_segments=settings.data.num_segments,
            seed=settings.seed,
            encoding=dict(manifest.settings),
            pretrained=settings.pretrained,
            dropout=settings.optim.dropout,
        )
        learn(
            teachers_to_be,
            target=None,
            objective=Objective(label_smoothing=settings.optim.label_smoothing),
            order="simultaneous",
            clips=training_clips(
                manifest, None, (settings.stream,), split=settings.split, seed=settings.seed, data=settings.data
            ),
            seed=settings.seed,
            data=settings.data,
            optim=settings.optim,
            precision=precision,
            ranks=ranks,
            run=run,
            role="teacher",
        )
        if ranks.is_first:
            say(f"{run.path}: done. Next: videokd evaluate {run.path}")
    return run
