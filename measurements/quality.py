"""Forms of the training clips: bytes and seconds against accuracy, by codec, quantiser and tune.

    .venv/bin/python measurements/quality.py CLIPS [--forms mpeg4:3 mpeg4:6 h264:18:none h264:18:fastdecode] [--seeds 0 1] [--epochs 12]
        [--every 1] [--jobs 2] [--out runs/quality] [--results DIR]

CLIPS is prepared once for each form, CODEC:QUALITY[:TUNE] (mpeg4:1 is CoViAR's -q:v 1); with --every N, only each N-th clip. Three small
networks, one for each stream, are trained on each result with each seed, and their test scores are fused with equal weights; --jobs
trainings at a time, one thread each. The same command with the same --out resumes. Writes results/training_forms-DATE.json, with

    "dataset": {"clips", "frames", "source_bytes"},
    "rows": [{"form", "bytes", "bytes_per_frame", "prepare_seconds", "decode_us", "read_ms", "sample_ms", "streams": {stream: top1},
              "fused": top1, "fused_minus_first": top1}]

where each top1 is {"value", "low", "high"}, the mean over the seeds with a 95 % bootstrap interval over groups, and `fused_minus_first`
compares with the first form of the same codec on the same videos. Seconds are CPU seconds of the whole dataset. `decode_us` is a frame's
decoding with its vectors, `read_ms` three streams at one random position of a clip, with the file opened each time, and `sample_ms` a
training sample of three streams, three segments and 224 pixels; all are CPU time, medians over clips.
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

import av
import numpy as np
import torch

from record import CODEC_STREAMS as STREAMS
from record import RESULTS, ROOT, provenance, write
from timing import processor_seconds
from videokd.codec.index import VideoIndex
from videokd.codec.reader import open_video
from videokd.datasets.dataset import ClipDataset
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
    parser.add_argument("--forms", nargs="+", default=["mpeg4:3", "mpeg4:6", "h264:18:none", "h264:18:fastdecode"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


def encoding_of(form: str) -> Encoding:
    """The encoding that a form names."""
    codec, quality, tune = (*form.split(":"), "none")[:3]
    return Encoding(codec=codec, quality=int(quality), frame_rate=25, tune=tune)  # type: ignore[arg-type]


def folder_of(out: Path, form: str) -> Path:
    """The folder of everything of one form."""
    return out / form.replace(":", "-")


def prepared(given: argparse.Namespace, folder: Path, form: str) -> tuple[Manifest, float]:
    """The dataset in a form, and the CPU seconds of preparing it; kept from an earlier run that finished it."""
    noted = folder / "seconds.json"
    if noted.exists():
        return Manifest.read(folder), json.loads(noted.read_text())
    before = processor_seconds()
    listing = Listing(given.clips, folder_layout(given.clips)[:: given.every])
    manifest = prepare(listing, folder, encoding=encoding_of(form), workers=Workers(jobs=1))
    seconds = processor_seconds() - before
    write_whole(noted, json.dumps(seconds).encode())
    return manifest, seconds


def decode_us(manifest: Manifest, *, clips: int = 24) -> float:
    """CPU microseconds of decoding a frame with its motion vectors, the median over clips evenly chosen from the dataset."""
    taken = []
    for clip in manifest.clips[:: max(len(manifest.clips) // clips, 1)]:
        with av.open(str(manifest.file(clip))) as container:
            stream = container.streams.video[0]
            stream.thread_type, stream.codec_context.thread_count = "NONE", 1
            stream.codec_context.options = {"flags2": "+export_mvs"}
            start = time.process_time()
            frames = sum(1 for _ in container.decode(stream))
            taken.append((time.process_time() - start) / frames)
    return 1e6 * float(np.median(taken))


def sample_ms(manifest: Manifest, *, clips: int = 120) -> float:
    """CPU milliseconds of a training sample, the median over clips evenly chosen from the dataset."""
    chosen = manifest.clips[:: max(len(manifest.clips) // clips, 1)]
    dataset = ClipDataset(manifest, chosen, STREAMS, 3, 224, "training")
    taken = []
    for number in (0, *range(len(dataset))):  # the first twice: it compiles the kernels
        start = time.process_time()
        dataset[0, number]
        taken.append(time.process_time() - start)
    return 1000 * float(np.median(taken[1:]))


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


def run_folder(out: Path, form: str, stream: str, seed: int) -> Path:
    """The folder of one training."""
    return folder_of(out, form) / f"{stream}-{seed}"


def train(out: Path, form: str, stream: str, seed: int, epochs: int) -> None:
    """Trains and tests one network, unless its results exist."""
    run = run_folder(out, form, stream, seed)
    if (run / "results.json").exists():
        return
    torch.set_num_threads(1)
    data = DataSettings(
        input_size=INPUT_SIZE,
        batch_size=24,
        workers=0,
        val_fraction=0.0,
        cache=str(folder_of(out, form) / "cache"),
        cache_positions=CACHE_POSITIONS,
    )
    teach(
        Teach(
            out=str(run),
            manifest=str(folder_of(out, form) / "prepared"),
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


def row_of(out: Path, form: str, seeds: Sequence[int], manifest: Manifest) -> tuple[dict[str, Any], Scores, list[str]]:
    """Accuracies in one form; the fused scores of all seeds, and the group of each."""
    groups = {clip.video_id: clip.group for clip in manifest.clips}
    found = [
        align({s: Scores.load(run_folder(out, form, s, seed) / f"scores-{s}.npz") for s in STREAMS}) for seed in seeds
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


def prepare_all(given: argparse.Namespace, out: Path) -> tuple[dict[str, Manifest], dict[str, dict[str, Any]]]:
    """{form: manifest} and {form: bytes and seconds}."""
    costs: dict[str, dict[str, Any]] = {}
    manifests: dict[str, Manifest] = {}
    for form in given.forms:
        manifest, seconds = prepared(given, folder_of(out, form) / "prepared", form)
        size, frames = (sum(getattr(clip, name) for clip in manifest.clips) for name in ("bytes", "num_frames"))
        costs[form] = {
            "form": form,
            "bytes": size,
            "bytes_per_frame": round(size / frames),
            "prepare_seconds": round(seconds, 1),
            "decode_us": round(decode_us(manifest)),
            "read_ms": round(read_ms(manifest), 2),
            "sample_ms": round(sample_ms(manifest), 2),
        }
        manifests[form] = manifest
        sys.stderr.write(f"{costs[form]}\n")
    return manifests, costs


def train_all(given: argparse.Namespace, out: Path) -> None:
    """All trainings: all streams of a seed before the next seed, so that no two make the same cache."""
    jobs = [(out, form, s, seed, given.epochs) for seed in given.seeds for form in given.forms for s in STREAMS]
    with ProcessPoolExecutor(given.jobs, multiprocessing.get_context("spawn")) as executor:
        for future in [executor.submit(train, *job) for job in jobs]:
            future.result()


def report_of(given: argparse.Namespace, first: Manifest, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The result file's content."""
    tested = sum(clip.split1 == "test" for clip in first.clips)
    return provenance(("av", "torch"), threads=1) | {
        "title": "Forms of the training clips: size and speed against accuracy",
        "note": f"{given.clips.name}, split 1, {tested} test clips; {BACKBONE} at {INPUT_SIZE} pixels for each stream, "
        f"{given.epochs} epochs from scratch, {len(given.seeds)} seeds, fused with equal weights. Made by `measurements/quality.py`.",
        "settings": {
            "clips": given.clips.name,
            "seeds": given.seeds,
            "epochs": given.epochs,
            "backbone": BACKBONE,
            "input_size": INPUT_SIZE,
            "cache_positions": CACHE_POSITIONS,
            "every": given.every,
            "default": f"{Encoding().codec}:{Encoding().resolved_quality}",
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
    first: dict[str, Scores] = {}
    for form in given.forms:
        row, together, groups = row_of(out, form, given.seeds, manifests[form])
        compared = first.setdefault(encoding_of(form).codec, together)
        difference = as_plain(paired_difference(together, compared, groups))
        rows.append(costs[form] | row | {"fused_minus_first": difference})
    report = report_of(given, manifests[given.forms[0]], rows)
    print(json.dumps(report, indent=1))
    print(write("training_forms", report, folder=given.results))


if __name__ == "__main__":
    main()
