"""How a first layer with ImageNet weights takes more channels: the I-frame's filters kept, or timm's repetition of red, green and blue.

    .venv/bin/python measurements/first_layer.py --data DIR [--out runs/labels] [--jobs 2]

DIR is ucf101-6, prepared (data/README.md). EfficientNet-Lite0 learns all labels on three stacked streams (8 channels) at 96 pixels, from ImageNet
weights in either way, with two seeds, and is scored on groups held out of the training clips of split 1. Writes results/first_layer-DATE.json.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from timm.models._manipulate import adapt_input_conv
from torch import Tensor
from tqdm import tqdm

from labels_fused import RATE, STEPS, STUDENT
from labels_runs import SEEDS_OF_CHOICE, LabelCell, student_command, train_and_score
from record import provenance, write
from study_sum import interval
from study_workers import until_stopped, workers
from videokd.models import transfer
from videokd.types import STREAMS

WAYS = ("kept", "repeated")


def repeated(filters: Tensor, *, streams: Any, wanted: Any) -> Tensor:
    """timm's way: red, green and blue over and over, scaled by 3 over the number of channels."""
    adapted: Tensor = adapt_input_conv(sum(STREAMS[stream].channels for stream in wanted), filters)
    return adapted


def trained(job: tuple[LabelCell, str]) -> dict[str, Any]:
    """Trains and scores the network with one first layer."""
    torch.set_num_threads(1)
    cell, way = job
    settings = {"steps": STEPS, "lr": RATE, "mixup": 0.0}
    command = student_command(cell, STUDENT, "hard", {STUDENT: {"hard": settings}}, name=f"first-layer-{way}")
    if way == "kept":
        return train_and_score([command])
    with patch.object(transfer, "adapted_filters", repeated):
        return train_and_score([command])


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("runs/labels"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    cells = [LabelCell(given.data, 1, seed, "100", given.out, choosing=True) for seed in SEEDS_OF_CHOICE]
    jobs = list(itertools.product(cells, WAYS))
    with workers(given.jobs) as pool:
        found = list(tqdm(pool.imap(partial(until_stopped, trained), jobs), total=len(jobs), disable=None))
    groups = {clip.video_id: clip.group for clip in cells[0].parts[2]}
    hits = {
        way: [r["entries"][STUDENT]["hits"] for (_, w), r in zip(jobs, found, strict=True) if w == way] for way in WAYS
    }
    tables = {way: [_by_group(each, groups) for each in of_way] for way, of_way in hits.items()}
    gain = sum(tables["kept"]) - sum(tables["repeated"])
    gain[:, 1] = sum(tables["kept"])[:, 1]
    result = {
        "command": "measurements/first_layer.py --data data/ucf101-6/prepared",
        "top1": {way: [each.count("1") / len(each) for each in of_way] for way, of_way in hits.items()},
        "kept_minus_repeated": interval([gain]),
        "seeds": SEEDS_OF_CHOICE,
        "scored": f"{len(groups)} clips held out of the training groups of split 1",
    }
    print(write("first_layer", provenance(("torch", "timm"), threads=1) | result))
    print(result)
    return 0


def _by_group(hits: str, groups: dict[str, str]) -> Any:
    names, number = np.unique([groups[video] for video in sorted(groups)], return_inverse=True)
    right = np.array([int(hit) for hit in hits])
    return np.stack([np.bincount(number, right, len(names)), np.bincount(number, minlength=len(names))], axis=1)


if __name__ == "__main__":
    sys.exit(main())
