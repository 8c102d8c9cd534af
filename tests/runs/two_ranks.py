"""What test_ranks.py runs once in one process, and once in two as torchrun starts them: a few steps of training.

Called as a program: two_ranks.py FOLDER; the first rank writes there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

from videokd.distill.feature_losses import TeacherFeatures
from videokd.distill.mixup import counted_over, number_labelled
from videokd.distill.objective import Objective
from videokd.errors import VideoKDError
from videokd.models.adapters import add_adapters
from videokd.models.network_spec import NetworkSpec
from videokd.models.students import PredictionSpec, Students, build_students
from videokd.runs.device import Precision
from videokd.runs.ranks import Ranks, join_ranks
from videokd.runs.run_folder import RunFolder
from videokd.runs.settings import OptimSettings
from videokd.training.record import RunLog, check_finite
from videokd.training.step_numbers import accuracy_and_agreement
from videokd.training.target import Target
from videokd.training.update import Update
from videokd.types import Batch

CASES = {"plain": (1, False), "accumulated": (2, False), "alternating": (1, True), "both": (3, True)}
CASES["unlabelled"] = (3, True)
BATCH_SIZE, STEPS = 12, 3


def new_students(seed: int) -> Students:
    """In float64, where the order of sums changes nothing that some steps could make large."""
    specs = {name: NetworkSpec(("motion",), "test_resnet", 4, 16) for name in ("a", "b")}
    students = build_students(specs, PredictionSpec(list("wxyz"), 2), seed=seed, with_exits=True)
    add_adapters(students, {"iframe": 5}, seed=seed)
    students.double().train()
    for module in students.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            if not module.weight.any():
                nn.init.ones_(module.weight)  # timm starts residual branches at zero
    return students


def whole_batch(step: int, *, unlabelled: bool) -> tuple[Batch, Target]:
    generator = torch.Generator().manual_seed(step)
    streams = torch.randint(256, (BATCH_SIZE, 2, 2, 16, 16), dtype=torch.uint8, generator=generator)
    label = torch.randint(4, (BATCH_SIZE,), generator=generator)
    if unlabelled:  # on the second of two ranks fewer than on the first, and in one piece of its batch none
        label[[0, 1, 3, 4, 5, 11]] = -1
    fused, features = (torch.randn(BATCH_SIZE, width, generator=generator, dtype=torch.float64) for width in (4, 5))
    target = Target(fused, features=TeacherFeatures({"iframe": features}, {"iframe": 1.0}))
    return Batch({"motion": streams}, label, tuple(map(str, range(BATCH_SIZE)))), target


def share_of(batch: Batch, target: Target, ranks: Ranks) -> tuple[Batch, Target]:
    mine = torch.arange(ranks.rank, len(batch), ranks.num_ranks)
    assert len(mine) == ranks.share(len(batch))
    streams = {name: values[mine] for name, values in batch.streams.items()}
    features = TeacherFeatures({"iframe": target.features.features["iframe"][mine]}, {"iframe": 1.0})
    own = Batch(streams, batch.label[mine], tuple(batch.video_ids[i] for i in mine))
    return own, Target(target.fused[mine], features=features)


def moved(target: Target, device: torch.device) -> Target:
    features = {name: values.to(device) for name, values in target.features.features.items()}
    return Target(target.fused.to(device), features=TeacherFeatures(features, target.features.weights))


def train(
    ranks: Ranks, *, pieces: int, alternating: bool, unlabelled: bool = False
) -> tuple[Students, list[dict[str, float]]]:
    students = new_students(seed=ranks.rank)  # ranks differ until they are wrapped
    update = Update(
        students,
        Objective(alpha=0.5, beta=1.0, temperature=2.0, feature_weight=0.5),
        optim=OptimSettings(name="sgd", lr=0.05, weight_decay=0.0, accumulate=pieces),
        precision=Precision("fp32", ranks.device),
        order="alternate" if alternating else "simultaneous",
        ranks=ranks,
    )
    logged = []
    for step in range(STEPS):
        batch, target = share_of(*whole_batch(step, unlabelled=unlabelled), ranks)
        batch, target = batch.to(ranks.device), moved(target, ranks.device)
        label = batch.label
        if unlabelled:
            label = counted_over(label, ranks.mean({"": number_labelled(label)})[""])
        updated = update(batch, label, target, rate=0.05)
        accuracy = accuracy_and_agreement(updated, label, {})
        parts = {**updated.parts, "a/train_top1": accuracy["a/train_top1"]}
        logged.append({name: part.item() for name, part in ranks.mean(parts).items()})
    return students, logged


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with join_ranks(torch.device("cpu")) as ranks:
        results = {}
        for name, (pieces, alternating) in CASES.items():
            students, logged = train(ranks, pieces=pieces, alternating=alternating, unlabelled=name == "unlabelled")
            results[name] = {"state": students.state_dict(), "logged": logged}

        # A NaN on one rank stops all of them alike.
        stray = {"a/ce": torch.tensor(0.5), "a/kd": torch.tensor(float("nan") if ranks.rank == 1 else 0.5)}
        try:
            means = {name: part.item() for name, part in ranks.mean(stray).items()}
            check_finite(means, step=7, streams={"a": ["motion"]})
        except VideoKDError as error:
            results["stray"] = str(error)
        results["any"] = [ranks.any(ranks.rank == 1), ranks.any(False)]
        results["any_of"] = ranks.any_of(ranks.rank == 1, False, ranks.is_first)
        results["gathered"] = ranks.gather(10 + ranks.rank)
        results["agree"] = [ranks.agree("same"), ranks.agree(f"rank {ranks.rank}")]
        results["total"] = ranks.total([1, 10 * ranks.rank])
        own = iter([f"item {number}" for number in range(ranks.rank, 5, 2)])
        results["in_turns"] = list(ranks.in_turns(own, 5))
        norm = nn.BatchNorm2d(2)
        norm(torch.full((1, 2, 2, 2), 10.0 * (ranks.rank + 1)))
        ranks.copy_buffers(norm)
        results["running_mean"] = norm.running_mean
        ranks.seed_step(3, 5)
        results["drawn"] = torch.rand(4)

        run = RunFolder(folder / "run")
        if ranks.is_first:
            run.prepare({"seed": 0})
        ranks.barrier()
        if not ranks.is_first:
            results["resumes"] = run.prepare({"seed": 0}, writes=False)
        with RunLog(run.path, writes=ranks.is_first) as log:
            log.record(0, 0, {"rank": float(ranks.rank)})
        ranks.barrier()
        torch.save(results, folder / f"rank{ranks.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
