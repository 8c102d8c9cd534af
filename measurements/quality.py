"""Quality of the training form: bytes and seconds against accuracy, at several quantisers.

    .venv/bin/python measurements/quality.py CLIPS [--out runs/quality] [--qualities 1 3 6 12] [--seeds 0 1] [--epochs 12] [--results DIR]

CLIPS is prepared once for each `--quality` of MPEG-4 (1 is CoViAR's -q:v 1). Three small networks, one for each stream, are trained on
each result with each seed, and their test scores are fused with equal weights; two trainings at a time, one thread each. The same command
with the same --out resumes. Writes results/quality-DATE.json, with

    "dataset": {"clips", "frames", "source_bytes"},
    "rows": [{"quality", "bytes", "bytes_per_frame", "prepare_seconds", "read_ms", "streams": {stream: top1}, "fused": top1,
              "fused_minus_first": top1}]

where each top1 is {"value", "low", "high"}, the mean over the seeds with a 95 % bootstrap interval over groups, and `fused_minus_first`
compares with the first quality on the same videos. Seconds are CPU seconds of the whole dataset; `read_ms` is CPU milliseconds for three
streams at one random position of a clip, with the file opened each time.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from record import CODEC_STREAMS as STREAMS
from record import RESULTS, ROOT, provenance, write
from timing import processor_seconds
from videokd.codec.index import VideoIndex
from videokd.codec.reader import open_video
from videokd.datasets.manifest import Manifest
from videokd.distill.fusion import fuse
from videokd.evaluation.metrics import paired_difference, top1
from videokd.evaluation.results import as_plain
from videokd.evaluation.scores import Scores, align
from videokd.files import write_whole
from videokd.jobs.workers import Workers
from videokd.preparation.folders import folder_layout
from videokd.preparation.listing import Listing
from videokd.preparation.prepare_dataset import prepare
from videokd.recipes.evaluation_run import Evaluate, evaluate
from videokd.recipes.teach import teach
from videokd.runs.run_settings import Teach
from videokd.runs.settings import DataSettings, OptimSettings
from videokd.transcoding.mp4_writer import Encoding

BACKBONE = "test_resnet"  # timm's smallest
INPUT_SIZE = 64
CACHE_POSITIONS = 8


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--out", type=Path, default=ROOT / "runs/quality")
    parser.add_argument("--qualities", type=int, nargs="+", default=[1, 3, 6, 12])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def prepared(clips: Path, folder: Path, quality: int) -> tuple[Manifest, float]:
    """The dataset at a quality, and the CPU seconds of preparing it; kept from an earlier run that finished it."""
    noted = folder / "seconds.json"
    if noted.exists():
        return Manifest.read(folder), json.loads(noted.read_text())
    before = processor_seconds()
    listing = Listing(clips, folder_layout(clips))
    manifest = prepare(listing, folder, encoding=Encoding(quality=quality, frame_rate=25), workers=Workers(jobs=1))
    seconds = processor_seconds() - before
    write_whole(noted, json.dumps(seconds).encode())
    return manifest, seconds


def read_ms(manifest: Manifest, *, clips: int = 120) -> float:
    """CPU milliseconds of one read, the median over clips evenly chosen from the dataset."""
    rng = np.random.default_rng(0)
    chosen = manifest.clips[:: max(len(manifest.clips) // clips, 1)]
    taken = []
    for clip in (chosen[0], *chosen):  # the first clip twice: its first read compiles the kernels
        index = VideoIndex.from_json(clip.index)
        gop = int(rng.integers(len(index.gops)))
        position = int(rng.integers(index.gops[gop].num_positions))
        start = time.process_time()
        with open_video(manifest.file(clip), index=index) as video:
            video.read(gop=gop, position=position)
        taken.append(time.process_time() - start)
    return 1000 * float(np.median(taken[1:]))


def run_folder(out: Path, quality: int, stream: str, seed: int) -> Path:
    """The folder of one training."""
    return out / f"quality-{quality}" / f"{stream}-{seed}"


def train(out: Path, quality: int, stream: str, seed: int, epochs: int) -> None:
    """Trains and tests one network, unless its results exist."""
    run = run_folder(out, quality, stream, seed)
    if (run / "results.json").exists():
        return
    torch.set_num_threads(1)
    data = DataSettings(
        input_size=INPUT_SIZE,
        batch_size=24,
        workers=0,
        val_fraction=0.0,
        cache=str(out / f"quality-{quality}" / "cache"),
        cache_positions=CACHE_POSITIONS,
    )
    teach(
        Teach(
            out=str(run),
            manifest=str(out / f"quality-{quality}" / "prepared"),
            stream=stream,
            backbone=BACKBONE,
            seed=seed,
            device="cpu",
            data=data,
            optim=OptimSettings(epochs=epochs, weight_decay=0.05),
        )
    )
    settings = Evaluate(
        str(run), views="quick", workers=0, batch_size=12, device="cpu", precision="fp32", timed_videos=0, pictures=0
    )
    evaluate(settings, command=f"videokd evaluate {run.name} --views quick")


def of_all_seeds(scores: Sequence[Scores]) -> Scores:
    """The scores of all seeds, the videos named by seed; their groups stay together in the bootstrap."""
    return Scores(
        np.concatenate([each.logits for each in scores]),
        np.concatenate([each.labels for each in scores]),
        tuple(f"{video}#{seed}" for seed, each in enumerate(scores) for video in each.video_ids),
    )


def row_of(
    out: Path, quality: int, seeds: Sequence[int], manifest: Manifest
) -> tuple[dict[str, Any], Scores, list[str]]:
    """Accuracies at one quality; the fused scores of all seeds, and the group of each."""
    groups = {clip.video_id: clip.group for clip in manifest.clips}
    found = [
        align({s: Scores.load(run_folder(out, quality, s, seed) / f"scores-{s}.npz") for s in STREAMS})
        for seed in seeds
    ]
    fused = []
    for each in found:
        logits = {name: torch.from_numpy(scores.logits) for name, scores in each.items()}
        first = each[STREAMS[0]]
        fused.append(Scores(fuse(logits, dict.fromkeys(STREAMS, 1.0)).numpy(), first.labels, first.video_ids))
    together = of_all_seeds(fused)
    of_groups = [groups[video.rpartition("#")[0]] for video in together.video_ids]
    row = {
        "streams": {s: as_plain(top1(of_all_seeds([each[s] for each in found]), groups=of_groups)) for s in STREAMS},
        "fused": as_plain(top1(together, groups=of_groups)),
    }
    return row, together, of_groups


def prepare_all(given: argparse.Namespace, out: Path) -> tuple[dict[int, Manifest], dict[int, dict[str, Any]]]:
    """{quality: manifest} and {quality: bytes and seconds}."""
    costs: dict[int, dict[str, Any]] = {}
    manifests: dict[int, Manifest] = {}
    for quality in given.qualities:
        manifest, seconds = prepared(given.clips, out / f"quality-{quality}" / "prepared", quality)
        size, frames = (sum(getattr(clip, name) for clip in manifest.clips) for name in ("bytes", "num_frames"))
        costs[quality] = {
            "quality": quality,
            "bytes": size,
            "bytes_per_frame": round(size / frames),
            "prepare_seconds": round(seconds, 1),
            "read_ms": round(read_ms(manifest), 2),
        }
        manifests[quality] = manifest
        sys.stderr.write(f"{costs[quality]}\n")
    return manifests, costs


def train_all(given: argparse.Namespace, out: Path) -> None:
    """All trainings, two at a time: all streams of a seed before the next seed, so that no two make the same cache."""
    jobs = [(out, q, s, seed, given.epochs) for seed in given.seeds for q in given.qualities for s in STREAMS]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as executor:
        for future in [executor.submit(train, *job) for job in jobs]:
            future.result()


def report_of(given: argparse.Namespace, first: Manifest, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The result file's content."""
    tested = sum(clip.split1 == "test" for clip in first.clips)
    return provenance(("av", "torch"), threads=1) | {
        "title": "Quality of the training form: size and speed against accuracy",
        "note": f"{given.clips.name}, split 1, {tested} test clips, MPEG-4; {BACKBONE} at {INPUT_SIZE} pixels for each stream, "
        f"{given.epochs} epochs from scratch, {len(given.seeds)} seeds, fused with equal weights. Made by `measurements/quality.py`.",
        "settings": {
            "clips": given.clips.name,
            "seeds": given.seeds,
            "epochs": given.epochs,
            "backbone": BACKBONE,
            "input_size": INPUT_SIZE,
            "cache_positions": CACHE_POSITIONS,
            "default_quality": Encoding().resolved_quality,
        },
        "dataset": {
            "clips": len(first.clips),
            "frames": sum(clip.num_frames for clip in first.clips),
            "source_bytes": sum(clip.source_bytes for clip in first.clips),
        },
        "rows": rows,
    }


def main() -> None:
    """The program."""
    given = arguments()
    out: Path = given.out.absolute()
    manifests, costs = prepare_all(given, out)
    train_all(given, out)
    rows: list[dict[str, Any]] = []
    first: Scores | None = None
    for quality in given.qualities:
        row, together, groups = row_of(out, quality, given.seeds, manifests[quality])
        first = first or together
        difference = as_plain(paired_difference(together, first, groups))
        rows.append(costs[quality] | row | {"fused_minus_first": difference})
    report = report_of(given, manifests[given.qualities[0]], rows)
    print(json.dumps(report, indent=1))
    print(write("quality", report, folder=given.results))


if __name__ == "__main__":
    main()
