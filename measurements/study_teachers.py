"""How confident the study's teachers are on training views and on test clips: what soft targets can add to labels.

    .venv/bin/python measurements/study_teachers.py --data ucf101-6=DIR --data utd-mhad-5=DIR [--out runs/study]

Evaluates every cell whose teachers `measurements/study.py` left in --out, and writes results/study_teachers-DATE.json: for each teacher
and for the equal mean of their logits, top-1 and the mean of the largest probability, at temperatures 1 and 4.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from record import CODEC_STREAMS as STREAMS
from record import provenance, write
from study_runs import CACHED_POSITIONS, INPUT_SIZE, SEED_OF_TUNING, TESTED_SEGMENTS
from videokd.datasets.batches import collate
from videokd.datasets.cache import DecodedCache
from videokd.datasets.dataset import ClipDataset
from videokd.datasets.manifest import Manifest
from videokd.runs.run_folder import load_run

BATCH = 24
#: Clips, views and segments: as the students train on them, and as they are tested.
PARTS: tuple[tuple[Literal["train", "test"], Literal["training", "quick"], int], ...] = (
    ("train", "training", 1),
    ("test", "quick", TESTED_SEGMENTS),
)


def confidences(folder: Path, dataset: ClipDataset) -> dict[str, dict[str, float]]:
    """{teacher or "fused": top-1 and mean confidences} on a dataset."""
    networks = {stream: load_run(folder / f"teacher-{stream}").students.eval() for stream in STREAMS}
    logits: dict[str, list[Tensor]] = {stream: [] for stream in STREAMS}
    labels: list[Tensor] = []
    for start in range(0, len(dataset), BATCH):
        batch = collate([dataset[number] for number in range(start, min(start + BATCH, len(dataset)))])
        labels.append(batch.label)
        with torch.no_grad():
            for stream, network in networks.items():
                logits[stream].append(network.logits({stream: batch.streams[stream]})[stream])
    together = {stream: torch.cat(parts) for stream, parts in logits.items()}
    together["fused"] = torch.stack([together[stream] for stream in STREAMS]).mean(0)
    label = torch.cat(labels)
    return {
        name: {
            "top1": float((values.argmax(1) == label).float().mean()),
            "confidence": float(values.softmax(1).amax(1).mean()),
            "confidence_at_4": float((values / 4).softmax(1).amax(1).mean()),
        }
        for name, values in together.items()
    }


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--out", type=Path, default=Path("runs/study"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = {name: Manifest.read(Path(folder)) for name, _, folder in (each.partition("=") for each in given.data)}
    cells: dict[str, Any] = {}
    folders = sorted(path.parent for path in given.out.glob("*/teacher-residual") if (path / "results.json").is_file())
    for folder in tqdm(folders, unit="cell", disable=None):
        name, split, seed = folder.name.rsplit("-", 2)
        if name not in data or int(seed) == SEED_OF_TUNING:
            continue
        for part, views, segments in PARTS:
            clips = data[name].select(part, split=int(split))
            cache = DecodedCache(given.out / "cache", CACHED_POSITIONS, INPUT_SIZE) if part == "train" else None
            dataset = ClipDataset(data[name], clips, STREAMS, segments, INPUT_SIZE, views, cache=cache)
            cells.setdefault(folder.name, {})[part] = confidences(folder, dataset)
    if not cells:
        sys.exit(
            f"{given.out} has no teachers (accepted: the --out of measurements/study.py). Run measurements/study.py first."
        )
    target = write("study_teachers", provenance(("torch",), threads=1) | {"cells": cells})
    for name, parts in cells.items():
        for part, each in parts.items():
            shown = ", ".join(f"{n} top-1 {v['top1']:.2f}, confidence {v['confidence']:.2f}" for n, v in each.items())
            print(f"{name}, {part}: {shown}")
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
