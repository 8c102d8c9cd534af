"""Every kind of file that videokd reads, damaged: it loads or is refused in one line, in bounded time and memory.

Bits are flipped, ends cut off, values replaced by others; the seed is fixed. A subprocess with a limit on its memory does it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.datasets.test_manifest import manifest_of
from tests.small_graphs import write_graph
from videokd.evaluation.scores import Scores
from videokd.models.network_spec import NetworkSpec
from videokd.models.students import PredictionSpec, build_students
from videokd.models.students_file import save_students
from videokd.runs.checkpoint import save_checkpoint

CLASSES = ["jump", "run", "wave"]
#: What a value in JSON or YAML may be replaced by
WRONG = [
    None,
    True,
    -1,
    0,
    10**30,
    1.5,
    "",
    "x" * 1000,
    "../../etc/passwd",
    "<script>",
    [],
    {},
    [[]],
    {"a": None},
    "\x1b[31m",
]
LOADERS = {
    "scores-iframe.npz": "from videokd.evaluation.scores import Scores; load = Scores.load",
    "results.json": (
        "from videokd.evaluation.report import write_report\n"
        "def load(path): write_report([path.parent], path.parent / 'page.html')"
    ),
    "manifest.parquet": "from videokd.datasets.manifest import Manifest; load = Manifest.read",
    "students.json": "from videokd.models.students_file import load_students\ndef load(path): load_students(path.parent)",
    "students.safetensors": "from videokd.models.students_file import load_students\ndef load(path): load_students(path.parent)",
    "students.onnx": "from videokd.prediction.onnx_predictor import OnnxPredictor as load",
    "checkpoint.pt": "from videokd.runs.checkpoint import load_checkpoint as load",
    "config.yaml": (
        "from videokd.recipes.command_line import parse; from videokd.recipes.teach import Teach\n"
        "def load(path): parse(Teach, [f'--config={path}'], verb='teach')"
    ),
}
PROGRAM = """
import resource, sys, traceback, warnings
from pathlib import Path
from videokd.errors import VideoKDError, printable
warnings.simplefilter("ignore")
{loader}
first, *others = sorted(Path(sys.argv[1]).iterdir())
place = Path(sys.argv[2])
place.write_bytes(first.read_bytes())
load(place)  # the file as it was; what it imports is there before the limit
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 600_000_000, used + 600_000_000))
for damaged in others:
    place.write_bytes(damaged.read_bytes())
    try:
        load(place)
    except VideoKDError as error:
        if len(printable(str(error))) > 1500:
            print(damaged.name, "message of", len(str(error)))
    except BaseException:
        print(damaged.name, traceback.format_exc())
print("all tried", len(others))
"""


def results() -> dict[str, object]:
    interval = {"value": 0.5, "low": 0.25, "high": 0.75}
    metrics = dict.fromkeys(("top1", "top5", "mean_class", "calibration_error"), interval)
    metrics |= {"confusion": [[1, 0, 0], [0, 1, 0], [0, 1, 1]], "num_videos": 4, "intervals_over": "videos"}  # type: ignore[dict-item]
    metrics |= {"per_class": {name: {"accuracy": 0.5, "videos": 2} for name in CLASSES}}  # type: ignore[dict-item]
    entry = {
        "role": "student",
        "streams": ["iframe"],
        "backbone": "resnet18",
        "parameters": 1000,
        "macs_per_video": 2000,
        "latency_ms": {"read": 1.0, "network": 2.0, "total": 3.0, "p95": 4.0},
        "metrics": metrics,
    }
    point = {"threshold": 0.9, "top1": interval, "macs_per_video": 1000, "exits": {"exit1": 0.5, "deepest": 0.5}}
    return {
        "run": "a",
        "verb": "evaluate",
        "command": "videokd evaluate a",
        "created": "2026-01-01T00:00:00",
        "versions": {"videokd": "0.1.0"},
        "dataset": {"manifest": "prepared", "split": 1, "part": "test", "num_videos": 4, "class_names": CLASSES},
        "views": "quick",
        "num_segments": 8,
        "entries": {
            "iframe": entry,
            "iframe:exit1": entry | {"role": "exit"},
            "b": entry | {"parameters": None, "latency_ms": None},
        },
        "comparisons": [{"a": "iframe", "b": "b", "top1_difference": interval}],
        "early_exit": {"iframe": [point, point | {"threshold": 0.5}]},
        "examples": [{"picture": "streams-01.png", "video_id": "v0", "class_name": "jump"}],
    }


def make(kind: str, folder: Path) -> Path:
    """A sound file of a kind."""
    path = folder / kind
    if kind == "scores-iframe.npz":
        logits = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
        Scores(logits, np.array([0, 1, 2, 1]), ("v0", "v1", "v2", "é")).save(path)
    elif kind == "results.json":
        path.write_text(json.dumps(results()))
        make("scores-iframe.npz", folder)
    elif kind == "manifest.parquet":
        manifest_of(folder, groups=3).write()
    elif kind == "students.onnx":
        pytest.importorskip("onnx", reason="the extra videokd[onnx] is not installed")
        pytest.importorskip("onnxruntime", reason="the extra videokd[onnx] is not installed")
        write_graph(path)
    elif kind.startswith("students"):
        spec = NetworkSpec(("motion",), "test_resnet", len(CLASSES), 32)
        save_students(build_students({"a": spec}, PredictionSpec(CLASSES, 3), seed=0), folder)
    elif kind == "checkpoint.pt":
        save_checkpoint(path, {"state": {"a": torch.arange(200.0)}, "progress": {"step": 3, "history": [{"x": 1.0}]}})
    else:
        path.write_text(
            "out: o\nmanifest: m\nstream: motion\noptim: {lr: 1e-3, milestones: [1, 2]}\ndata: {cache: x}\n"
        )
    return path


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    """With some bits flipped, most of them near an end, where formats keep what they say about themselves."""
    damaged = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        reach = min(len(content), 400)
        place = int(rng.integers(reach)) if rng.random() < 0.4 else int(rng.integers(len(content)))
        place = len(content) - 1 - place if rng.random() < 0.5 else place
        damaged[place] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def replaced(value: object, rng: np.random.Generator) -> object:
    """A JSON value with one of its parts replaced, removed or repeated."""
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.15:
        return WRONG[int(rng.integers(len(WRONG)))]
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[int(rng.integers(len(keys)))]
    copy = value.copy()
    chance = rng.random()
    if chance < 0.15:
        del copy[key]  # type: ignore[arg-type]
    elif chance < 0.2 and isinstance(copy, dict):
        copy["\x1b<b>" * 3] = copy[key]
    else:
        copy[key] = replaced(copy[key], rng)  # type: ignore[index,call-overload]
    return copy


def damages(path: Path, count: int) -> list[bytes]:
    rng = np.random.default_rng(int.from_bytes(path.name.encode()[:4], "big"))
    content = path.read_bytes()
    found = [b"", b"\x00" * 1000, b"[" * 200_000, content * 2, content[::-1]]
    found += [content[: int(rng.integers(len(content)))] for _ in range(count // 4)]
    found += [flipped(content, rng) for _ in range(count)]
    if path.suffix == ".json":
        found += [json.dumps(replaced(json.loads(content), rng)).encode() for _ in range(3 * count)]
    return found


@pytest.mark.parametrize("kind", LOADERS)
def test_damaged_files_are_refused_in_one_line(kind: str, tmp_path: Path) -> None:
    folder, damaged = tmp_path / "there", tmp_path / "damaged"
    folder.mkdir()
    damaged.mkdir()
    path = make(kind, folder)
    (damaged / "0000").write_bytes(path.read_bytes())
    for number, content in enumerate(damages(path, int(os.environ.get("VIDEOKD_DAMAGES", "8"))), start=1):
        (damaged / f"{number:04d}").write_bytes(content)
    program = PROGRAM.format(loader=LOADERS[kind])
    done = subprocess.run(
        [sys.executable, "-c", program, str(damaged), str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *wrong, last = done.stdout.splitlines()
    assert not wrong, "\n".join(wrong[:60])
    assert last.startswith("all tried ")
