"""The runs of the study of few labels: how labels are taken away, and how each student is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from record import CODEC_STREAMS, RESULTS
from study_records import CellKey
from study_runs import cost_of, hits, perform, scores_of
from videokd.datasets.manifest import Clip, Manifest
from videokd.types import NO_LABEL

RECORDS = RESULTS / "labels_runs.jsonl"
DATASET = "ucf101-6"
SEEDS, SPLITS = (0, 1, 2), (1, 2, 3)
#: Share of the labels, in percent: groups (scenes) with labels in each class, of 18.
GROUPS_WITH_LABELS: Mapping[str, int] = {"5": 1, "10": 2, "25": 4, "100": 18}
TEACHER, TEACHER_SIZE = "tf_efficientnet_lite2", 160
#: student: (streams, backbone, where its weights start from, input size)
STUDENTS: Mapping[str, tuple[tuple[str, ...], str, str, int]] = {
    "iframe": (("iframe",), "test_efficientnet", "none", 64),
    "streams": (CODEC_STREAMS, "test_efficientnet", "none", 64),
    "motion": (("motion",), "test_efficientnet", "none", 64),
    "lite0": (CODEC_STREAMS, "tf_efficientnet_lite0", "imagenet", 96),
}
#: Ways of learning: what of the teachers' target is followed, and on which clips.
ARMS = ("hard", "kd-labelled", "pseudo", "kl", "kl-longer", "kl-mutual", "everything", "features", "relations")
WITHOUT_TEACHERS = ("hard",)
ON_ALL_CLIPS = ("pseudo", "kl", "kl-longer", "kl-mutual", "everything", "features", "relations")
SEGMENTS_IN_TEST, POSITIONS, VIEWS, BATCH = 8, 16, 32, 24
WARMUP = 0.04  # share of the steps
#: Share of the training groups of each class that the choice of hyper-parameters is scored on, instead of test clips.
HELD_OUT = 0.33
SEEDS_OF_CHOICE = (100, 101)


@dataclass(frozen=True)
class LabelCell:
    """One split and seed, with labels in some groups of its training clips; and where its runs are.

    Args:
        data: the prepared folder.
        split: 1, 2 or 3.
        seed: of the groups with labels, of weights, order and views.
        labels: a key of `GROUPS_WITH_LABELS`.
        out: the study's folder.
        choosing: hold out groups of the training clips, and score these: for hyper-parameters. Test clips are not used at all.
    """

    data: Path
    split: int
    seed: int
    labels: str
    out: Path
    choosing: bool = False

    @property
    def key(self) -> CellKey:
        """The cell in the table of runs: all shares of labels are in one."""
        return CellKey(DATASET, self.split, self.seed)

    @property
    def folder(self) -> Path:
        """The folder of its runs."""
        return self.out / f"{'choice-' if self.choosing else ''}{self.key}" / self.labels

    @property
    def teacher(self) -> Path:
        """The teacher's run."""
        return self.folder / "teacher"

    @cached_property
    def parts(self) -> tuple[tuple[Clip, ...], tuple[Clip, ...], tuple[Clip, ...]]:
        """Clips with labels, clips whose labels are taken away, and clips to score."""
        manifest = Manifest.read(self.data)
        if self.choosing:
            train = manifest.select("fit", split=self.split, val_fraction=HELD_OUT)
            scored = manifest.select("val", split=self.split, val_fraction=HELD_OUT)
        else:
            train = manifest.select("train", split=self.split)
            scored = manifest.select("test", split=self.split)
        rng = np.random.default_rng((self.split, self.seed))
        count = GROUPS_WITH_LABELS[self.labels]
        known: set[str] = set()
        for label in range(len(manifest.class_names)):
            groups = sorted({clip.group for clip in train if clip.label == label})
            known |= set(rng.permutation(groups)[:count])  # of one seed, more labels include fewer
        labelled = tuple(clip for clip in train if clip.group in known)
        return labelled, tuple(clip for clip in train if clip.group not in known), scored

    @property
    def videos(self) -> dict[str, str]:
        """{tested video: its scene}."""
        return dict(sorted((clip.video_id, clip.group) for clip in self.parts[2]))

    @property
    def places(self) -> dict[Path, str]:
        """How its folders are called in the table of runs."""
        return {self.out: "runs/labels", self.data: f"data/{DATASET}/prepared"}

    @cached_property
    def manifests(self) -> tuple[Path, Path | None]:
        """Two manifests, written beside the clips, one of clips with labels and scored ones, one of clips without labels (if any).

        Returns:
            Their paths, the same each time.
        """
        manifest = Manifest.read(self.data)
        labelled, rest, scored = self.parts
        name = f"{'choice' if self.choosing else 'study'}-{self.split}-{self.seed}-{self.labels}"
        here: dict[str, Any] = {"train": {f"split{self.split}": "train"}, "test": {f"split{self.split}": "test"}}
        rows = (
            *(replace(clip, **here["train"]) for clip in labelled),
            *(replace(clip, **here["test"]) for clip in scored),
        )
        with_labels = replace(manifest, clips=rows).write(self.data / f"{name}.parquet")
        if not rest:
            return with_labels, None
        everywhere: dict[str, Any] = {f"split{split}": "train" for split in SPLITS}
        hidden = tuple(replace(clip, label=NO_LABEL, class_name="", **everywhere) for clip in rest)
        without = replace(manifest, clips=hidden, class_names=()).write(self.data / f"{name}-unlabelled.parquet")
        return with_labels, without

    def common(self, *, out: Path, size: int) -> list[str]:
        """Options that all trainings share."""
        manifest, _ = self.manifests
        return [
            *("--manifest", str(manifest), "--split", str(self.split), "--seed", str(self.seed), "--device", "cpu"),
            *("--out", str(out), "--data.input_size", str(size), "--data.num_segments", "1"),
            *("--data.batch_size", str(BATCH), "--data.workers", "0", "--data.val_fraction", "0"),
            *("--data.cache", str(self.out / "cache"), "--data.cache_positions", str(POSITIONS)),
        ]


def teacher_command(cell: LabelCell) -> list[str]:
    """The command that fits the teacher: a frozen body with ImageNet weights, and a linear classifier."""
    chosen = ["--stream", "iframe", "--backbone", TEACHER, "--init", "imagenet", "--freeze", "true"]
    return ["teach", *chosen, *cell.common(out=cell.teacher, size=TEACHER_SIZE), "--data.stored_views", str(VIEWS)]


def student_command(cell: LabelCell, student: str, arm: str, choice: Mapping[str, Any], *, name: str = "") -> list[str]:
    """The command that trains a student, or two that learn from each other.

    Args:
        cell: the split, seed and labels.
        student: a key of `STUDENTS`.
        arm: one of `ARMS`.
        choice: hyper-parameters: steps and mixup without teachers; steps, α, T, β with them.
        name: of the run's folder; by default that of student and arm.
    """
    streams, backbone, init, size = STUDENTS[student]
    mutual = arm in ("kl-mutual", "everything")
    one = {"streams": list(streams), "backbone": backbone, "init": init}
    members = {"a": one, "b": one} if mutual else {student: one}
    kind = "hard" if arm in WITHOUT_TEACHERS else "distilled"
    chosen = choice[student][kind]
    if arm == "kl-longer":  # as many steps as with hard labels
        chosen = chosen | {"steps": choice[student]["hard"]["steps"]}
    labelled, rest, _ = cell.parts
    clips = len(labelled) + (len(rest) if arm in ON_ALL_CLIPS else 0)
    epochs = max(round(chosen["steps"] / max(clips // BATCH, 1)), 1)
    options = [
        *("--students", json.dumps(members), *cell.common(out=cell.folder / (name or f"{student}-{arm}"), size=size)),
        *("--optim.epochs", str(epochs), "--optim.warmup_epochs", f"{epochs * WARMUP:g}"),
        *("--optim.lr", str(chosen["lr"]), "--optim.weight_decay", "0.05"),
        *("--optim.mixup", str(chosen.get("mixup", 0.0)), "--objective.beta", str(chosen["beta"] if mutual else 0)),
    ]
    if arm in WITHOUT_TEACHERS:
        return ["distill", *options]
    options += ["--teachers.iframe", str(cell.teacher), "--data.stored_views", str(VIEWS)]
    options += ["--objective.alpha", str(chosen["alpha"]), "--objective.temperature", str(chosen["temperature"])]
    _, without = cell.manifests
    if arm in ON_ALL_CLIPS and without is not None:
        options += ["--unlabelled", str(without), "--overlap", "omit"]  # UCF101 has footage in two groups
    if arm == "pseudo":
        options += ["--objective.target_loss", "hard", "--objective.confidence", str(chosen["confidence"])]
    if arm in ("features", "relations"):
        option = "--objective.feature_weight" if arm == "features" else "--objective.relation_weight"
        options += [option, str(chosen[arm])]
    if arm == "everything":
        options += ["--objective.exits", "true"]
    return ["distill", *options]


def train_and_score(commands: Sequence[list[str]]) -> dict[str, Any]:
    """Runs the commands of one run, and tests what they trained; returns the record."""
    entries: dict[str, Any] = {}
    for command in commands:
        scores, results = scores_of(perform(command), segments=SEGMENTS_IN_TEST)
        entries |= {name: {"hits": hits(scores[name])} | cost_of(of) for name, of in results["entries"].items()}
    return {"commands": list(commands), "entries": entries}
