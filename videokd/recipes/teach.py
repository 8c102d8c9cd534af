"""`videokd teach`: one stream's teacher, trained on hard labels."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from videokd.distill.objective import Objective
from videokd.messages import say
from videokd.models.backbone import NetworkSpec, default_backbone
from videokd.models.students import build_students
from videokd.recipes.command_line import parse
from videokd.recipes.learn import learn
from videokd.recipes.runs import prepared_run, read_manifest
from videokd.recipes.settings import DataSettings, Device, OptimSettings, PrecisionName, RunSettings, check_early_stop
from videokd.recipes.trained_on import TrainedOn
from videokd.recipes.training_clips import training_clips
from videokd.training.ranks import join_ranks
from videokd.training.run_folder import RunFolder
from videokd.training.session import Precision, pick_device, seed_everything
from videokd.types import check_streams


@dataclass(frozen=True)
class Teach:
    """Trains one stream's teacher.

    Args:
        out: the run folder; the same command with the same folder resumes.
        manifest: manifest.parquet, or the folder that holds it.
        stream: iframe, motion, residual, or rgb: fully decoded frames.
        backbone: timm's name, or video:r2plus1d_18 and the like for a 3-D network of torchvision; by default CoViAR's for the stream (ResNet-152 for iframe, else ResNet-18).
        temporal_shift: let the segments of a ResNet see their neighbours (Temporal Shift Module, Lin et al. 2019).
        pretrained: start from timm's ImageNet weights.
        split: 1, 2 or 3.
        seed: of weights, order and views.
        device: auto takes CUDA where there is one.
        precision: fp32, bf16, or fp16 (CUDA only).
        data: what the network sees.
        optim: how it is trained.
    """

    out: str
    manifest: str
    stream: str
    backbone: str = ""
    temporal_shift: bool = False
    pretrained: bool = False
    split: int = 1
    seed: int = 0
    device: Device = "auto"
    precision: PrecisionName = "fp32"
    data: DataSettings = DataSettings()
    optim: OptimSettings = OptimSettings()

    def __post_init__(self) -> None:
        check_streams([self.stream], where="stream")
        check_early_stop(self.data, self.optim)
        RunSettings(self.out, self.manifest, self.split, self.seed, self.device, self.precision)


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
