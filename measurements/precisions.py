"""What bf16 costs and saves where networks only predict, on a CPU: labels that change, errors of logits, time.

    .venv/bin/python measurements/precisions.py RUN… [--clips 200]

Each RUN of `videokd teach` or `videokd distill` sees the test clips of its own split, 8 segments and one crop each, in fp32 and in bf16 (autocast,
the weights kept in bf16), in turns, in one thread. Its time is the median over clips, of the networks alone. Writes
results/precisions-DATE.json.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from record import provenance, write
from videokd.datasets.batches import collate
from videokd.datasets.manifest import read_manifest
from videokd.distill.fusion import fuse
from videokd.evaluation.protocol import protocol_clips, protocol_dataset
from videokd.runs.device import Precision
from videokd.runs.run_folder import load_run

CPU = torch.device("cpu")


def row_of(path: Path, *, most_clips: int) -> dict[str, Any]:
    """One run: how far bf16 is from fp32."""
    run = load_run(path)
    split = run.settings.split
    manifest = read_manifest(run.settings.manifest)
    clips = protocol_clips(manifest, run, part="test", split=split)[:most_clips]
    dataset = protocol_dataset(run, manifest, clips, views="quick", num_segments=None)
    precisions = [Precision("fp32", CPU), Precision("bf16", CPU)]
    students = [precision.prepared(copy.deepcopy(run.students)).eval() for precision in precisions]
    logits: list[list[Any]] = [[], []]
    seconds: list[list[float]] = [[], []]
    for number in tqdm(range(len(clips)), unit="clip", disable=None, desc=path.name):
        streams = collate([dataset[number]]).streams
        for way, precision in enumerate(precisions):
            started = time.perf_counter()
            with torch.no_grad(), precision.autocast():
                each = {name: values.float() for name, values in students[way].logits(streams).items()}
            seconds[way].append(time.perf_counter() - started)
            fused = fuse(each, run.students.weights, space=run.students.space)  # type: ignore[arg-type]
            logits[way].append(fused[0].numpy())
    exact, rounded = (np.array(values) for values in logits)
    labels = np.array([manifest.class_names.index(clip.class_name) for clip in clips])
    times = [statistics.median(values) for values in seconds]
    return {
        "run": f"{manifest.root.name}, split {split}: {' + '.join(run.students.streams)}",
        "backbone": " + ".join(sorted({spec.backbone for spec in run.students.specs.values()})),
        "size": run.students.input_size,
        "clips": len(clips),
        "top1": [round(100 * float((values.argmax(1) == labels).mean()), 1) for values in (exact, rounded)],
        "other_label": int((exact.argmax(1) != rounded.argmax(1)).sum()),
        "error": round(float(np.sqrt(((rounded - exact) ** 2).mean()) / exact.std()), 4),
        "ms": [round(1000 * value, 2) for value in times],
        "faster": round(times[0] / times[1], 2),
    }


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--clips", type=int, default=10_000, help="at most so many of each run")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row_of(path, most_clips=given.clips) for path in given.runs]
    found = provenance(("torch", "timm"), threads=1) | {"command": "measurements/precisions.py RUN…", "rows": rows}
    print(write("precisions", found))
    print("\n".join(map(str, rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
