"""The systems that bench_latency times, each a way from a file to logits: students on codec streams, and networks on RGB frames."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torchvision.models.video import r2plus1d_18

import videokd
from record import CODEC_STREAMS
from stopwatch import Stopwatch
from videokd.datasets.view import apply_crop, central_crop
from videokd.distill.fusion import fuse
from videokd.models.backbone import Network
from videokd.models.network_spec import NetworkSpec
from videokd.models.students import PredictionSpec, Students, build_students
from videokd.prediction.reading import Transcode, read_streams
from videokd.prediction.torch_predictor import TorchPredictor
from videokd.types import STREAMS

try:
    import decord
except ImportError:  # no wheel for this platform, or the extra "bench" is not installed
    decord = None

CLIP_FRAMES = 16
SEED = 0
Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class System:
    """One way from a file to logits.

    Args:
        name: in the results.
        read: a file's path to {input: [1, …]}, on the CPU.
        network: a batch of these to logits [B, K].
        about: what it is, in words.
    """

    name: str
    read: Callable[[Path], Batch]
    network: Callable[[Batch], Tensor]
    about: str


def students_of(given: argparse.Namespace) -> Students:
    """The students of the export that was given, or random ones."""
    if given.students:
        return videokd.load_students(given.students)
    return random_students(CODEC_STREAMS, given.backbone, given.size, [str(label) for label in range(6)])


def random_students(streams: Sequence[str], backbone: str, size: int, names: Sequence[str]) -> Students:
    """Students with random weights, one for each stream."""
    specs = {stream: NetworkSpec((stream,), backbone, len(names), size) for stream in streams}
    students = build_students(specs, PredictionSpec(names, 3), seed=SEED)
    return students.to(memory_format=torch.channels_last).eval()


def alone(students: Students, stream: str) -> Students:
    """The student that sees only this stream."""
    name = next((name for name, spec in students.specs.items() if spec.streams == (stream,)), None)
    if name is None:
        raise SystemExit(f"no student sees {stream} alone (accepted: an export of three students, one a stream)")
    return Students(
        {name: cast(Network, students.members[name])},
        PredictionSpec(students.class_names, students.num_segments, encoding=students.encoding),
    ).eval()


def on_streams(name: str, students: Students, given: argparse.Namespace, mode: Transcode, about: str) -> System:
    """Students on codec streams, as `predict` reads them."""
    wanted = TorchPredictor(students).wanted

    def read(path: Path) -> Batch:
        streams = read_streams(path, wanted, num_segments=given.segments, transcode=mode)[0]
        return {name: torch.from_numpy(values) for name, values in streams.items()}

    def network(streams: Batch) -> Tensor:
        return fuse(students.logits(streams), students.weights, space=students.space)  # type: ignore[arg-type]

    return System(name, read, network, about)


class Frames:
    """RGB frames by decord: opening counts as reading; decoding and conversion to RGB cannot be separated."""

    def __init__(self, watch: Stopwatch) -> None:
        self._watch = watch

    def of(self, path: Path, places: int, *, following: int = 1) -> np.ndarray:
        """uint8 [places, following, H, W, 3]: from the middles of `places` equal spans on."""
        with self._watch.stage("read"):
            reader = decord.VideoReader(str(path), num_threads=1)
            count = len(reader)
        starts = (2 * np.arange(places) + 1) * count // (2 * places)
        numbers = np.minimum(starts[:, None] + np.arange(following), count - 1)
        with self._watch.stage("decode"):
            frames = reader.get_batch(numbers.ravel().tolist()).asnumpy()
        return frames.reshape(places, following, *frames.shape[1:])


def cropped(frames: Sequence[np.ndarray] | np.ndarray, stream: str, size: int, *, quantised: bool = False) -> Tensor:
    """uint8 [1, S, C, size, size], as the students' own inputs are made."""
    crop = central_crop(frames[0].shape[1], frames[0].shape[0])
    return torch.from_numpy(apply_crop(frames, crop, spec=STREAMS[stream], size=size, quantised=quantised))[None]


def rgb_system(given: argparse.Namespace, students: Students, frames: Frames) -> System:
    """One network on RGB frames."""
    backbone = next(iter(students.specs.values())).backbone
    network = random_students(("rgb",), backbone, students.input_size, students.class_names)

    def read(path: Path) -> Batch:
        return {"rgb": cropped(frames.of(path, given.segments)[:, 0], "rgb", students.input_size)}

    about = f"{backbone} on {given.segments} RGB frames by decord, {students.input_size} pixels"
    return _moved(System("rgb", read, lambda batch: network.logits(batch)["rgb"], about), network, given)


def r2plus1d_system(given: argparse.Namespace, students: Students, frames: Frames) -> System:
    """A 3-D network on RGB frames."""
    network = r2plus1d_18(num_classes=len(students.class_names)).eval()
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1, 1)
        for values in ((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))
    )
    mean, std = mean.to(given.device), std.to(given.device)

    def read(path: Path) -> Batch:
        return {"rgb": cropped(frames.of(path, CLIP_FRAMES)[:, 0], "rgb", given.clip_side)}

    def run(batch: Batch) -> Tensor:
        clips = batch["rgb"].transpose(1, 2).contiguous()  # [B, C, T, H, W], the faster layout here
        return network((clips.float() / 255 - mean) / std)

    about = f"torchvision's r2plus1d_18 on {CLIP_FRAMES} RGB frames by decord, {given.clip_side} pixels"
    return _moved(System("r2plus1d", read, run, about), network, given)


def two_stream_systems(given: argparse.Namespace, students: Students, frames: Frames) -> list[System]:
    """A network on RGB frames and one on optical flow, for each method of flow; none without OpenCV."""
    try:
        import cv2

        from optical_flow import FIELDS, METHODS, fields_of
    except ImportError as error:
        sys.stderr.write(f"two-stream: skipped ({error}); pip install 'videokd[bench]'\n")
        return []
    cv2.setNumThreads(given.threads)
    backbone = next(iter(students.specs.values())).backbone
    size, classes = students.input_size, students.class_names
    appearance = random_students(("rgb",), backbone, size, classes)
    movement = timm.create_model(backbone, in_chans=2 * FIELDS, num_classes=len(classes)).eval()
    movement.to(memory_format=torch.channels_last)

    def reading(method: str) -> Callable[[Path], Batch]:
        def read(path: Path) -> Batch:
            pictures, flow = frames.of(path, given.segments, following=FIELDS + 1), METHODS[method]()
            fields = [field for stack in pictures for field in fields_of(stack, flow)]
            stacks = cropped(fields, "motion", size, quantised=True).reshape(1, given.segments, -1, size, size)
            return {"rgb": cropped(pictures[:, 0], "rgb", size), "flow": stacks}

        return read

    def network(batch: Batch) -> Tensor:
        stacks = batch["flow"].flatten(0, 1)  # [(B S), 10, H, W]
        stacks = (stacks.float() / 255 - 0.5).contiguous(memory_format=torch.channels_last)
        logits = movement(stacks).unflatten(0, batch["flow"].shape[:2]).mean(1)
        return logits + appearance.logits({"rgb": batch["rgb"]})["rgb"]

    about = (
        f"{backbone} on {given.segments} RGB frames by decord, and on {given.segments} stacks of {FIELDS} flow fields by "
        f"OpenCV {cv2.__version__} at full size"
    )
    systems = [System(f"two-stream-{method}", reading(method), network, f"{about}, {method}") for method in METHODS]
    return [_moved(system, nn.ModuleList([appearance, movement]), given) for system in systems]


def _moved(system: System, networks: nn.Module, given: argparse.Namespace) -> System:
    networks.to(given.device)
    return system


def _about(students: Students, given: argparse.Namespace) -> str:
    streams: dict[str, list[str]] = {}  # {backbone: of whom}
    for spec in students.specs.values():
        streams.setdefault(spec.backbone, []).append("+".join(spec.streams))
    networks = " and ".join(f"{backbone} on {', '.join(seen)}" for backbone, seen in streams.items())
    return f"{networks}; {given.segments} segments, {students.input_size} pixels"


def all_systems(given: argparse.Namespace, watch: Stopwatch) -> list[System]:
    """All systems that the installed packages allow."""
    students, frames = students_of(given).to(given.device), Frames(watch)
    iframe, about = alone(students, "iframe"), _about(students, given)
    found = [
        on_streams("iframe", iframe, given, "never", _about(iframe, given)),
        on_streams("three", students, given, "never", about),
        on_streams("transcoded", students, given, "always", f"{about}, the file transcoded first"),
    ]
    if decord is None:
        sys.stderr.write("rgb, r2plus1d, two-stream: skipped (decord is not installed; run `tools/setup bench`)\n")
        return found
    others = (rgb_system(given, students, frames), r2plus1d_system(given, students, frames))
    return [*found, *others, *two_stream_systems(given, students, frames)]
