"""What `gpu_check.py` runs as a user would: verbs on generated clips, and what they wrote."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import videokd
from record import CODEC_STREAMS, ROOT
from videokd.__main__ import main as verb
from videokd.datasets.batches import training_batches
from videokd.datasets.dataset import ClipDataset
from videokd.datasets.manifest import Manifest
from videokd.datasets.order import EpochBatches
from videokd.preparation.synthetic import generate
from videokd.runs.checkpoint import load_checkpoint
from videokd.types import Batch

#: Folders of the tests that are marked so; a test compares this with the marks.
GPU_TESTS = tuple(f"tests/{folder}" for folder in ("datasets", "distill", "models", "runs", "training"))


@dataclass(frozen=True)
class TimedStep:
    """A training step of three students and three teachers.

    Args:
        size: side of the inputs, in pixels.
        batch: clips.
        segments: of each clip.
        student: backbone.
        teachers: backbones, of I-frames, motion and residual.
    """

    size: int
    batch: int
    segments: int
    student: str
    teachers: tuple[str, str, str]

    def __str__(self) -> str:
        return f"{self.batch} clips × {self.segments} × {self.size} pixels, 3 × {self.student}, taught by {', '.join(self.teachers)}"


@dataclass(frozen=True)
class Scale:
    """How large the checks are.

    Args:
        device: cuda or cpu.
        half: fp16, or what stands in for it on a CPU.
        size: side of the networks' inputs in the checks, in pixels.
        batch: clips of a batch in the checks.
        backbone: of teachers and students.
        small: backbone of the small students.
        workers: processes that load clips.
        steps: the timed steps.
        repeats: of each.
    """

    device: Literal["cuda", "cpu"]
    half: Literal["fp16", "bf16"]
    size: int
    batch: int
    backbone: str
    small: str
    workers: int
    steps: Sequence[TimedStep]
    repeats: int

    @classmethod
    def of(cls, device: Literal["cuda", "cpu"]) -> Scale:
        """The scale for a device."""
        if device == "cuda":
            large = TimedStep(224, 64, 3, "resnet18", ("resnet152", "resnet18", "resnet18"))
            small = TimedStep(64, 24, 1, "test_efficientnet", ("tf_efficientnet_lite0",) * 3)
            return cls("cuda", "fp16", 64, 8, "resnet18", "resnet10t", 4, (large, small), 9)
        tiny = "test_resnet"
        return cls("cpu", "bf16", 32, 6, tiny, tiny, 0, (TimedStep(32, 4, 1, tiny, (tiny,) * 3),), 2)


class Runs:
    """Runs of verbs in one folder, and what each must have done.

    Args:
        out: the folder.
        scale: how large they are.
    """

    #: Distillation with everything on: (precision, order of updates, further options).
    EVERYTHING: Sequence[tuple[str, str, tuple[str, ...]]] = (
        ("fp16", "simultaneous", ("--weighting=confidence", "--objective.target_loss=dkd")),
        ("fp16", "alternate", ("--space=probs",)),
        ("bf16", "alternate", ("--objective.target_loss=dist", "--objective.standardise=true")),
    )

    def __init__(self, out: Path, scale: Scale) -> None:
        self.scale, self._out = scale, out
        self._data, self._clips = out / "data", out / "clips"

    @property
    def _common(self) -> list[str]:
        scale = self.scale
        return [
            *(f"--manifest={self._data}", f"--device={scale.device}", f"--data.input_size={scale.size}"),
            *(f"--data.batch_size={scale.batch}", f"--data.workers={scale.workers}", "--data.num_segments=3"),
            *("--optim.epochs=2", "--optim.warmup_epochs=0"),
        ]

    @property
    def _teachers(self) -> list[str]:
        return [f"--teachers.{stream}={self._out / stream}" for stream in ("iframe", "motion")]

    def _distill(self, run: str, precision: str, order: str, extra: Sequence[str] = ()) -> list[str]:
        """The command with everything on."""
        two = {
            "a": {"streams": ["iframe"], "backbone": self.scale.small},
            "b": {"streams": list(CODEC_STREAMS), "backbone": self.scale.backbone, "temporal_shift": True},
        }
        options = ("--objective.exits=true", "--optim.ema=0.9", "--optim.mixup=0.4", "--optim.accumulate=2")
        return [
            *("distill", f"--out={self._out / run}", f"--students={json.dumps(two)}", *self._teachers, *self._common),
            *(f"--precision={precision}", f"--objective.update={order}", *options),
            *("--optim.clip_norm=5", "--optim.dropout=0.2", *extra),
        ]

    def prepare(self) -> str:
        """Generated clips and their manifest."""
        generate(self._clips, groups=4, clips_per_group=1, num_frames=24, size=96)
        run_verb("prepare", "folder", self._clips, "--out", self._data, "--short-side", "96")
        return f"{len(Manifest.read(self._data).clips)} clips"

    def gpu_tests(self) -> str:
        """The tests that need a CUDA device."""
        words = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *GPU_TESTS]
        environment = os.environ | {"VIDEOKD_REQUIRE_GPU": "1"}
        done = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        (self._out / "pytest.log").write_text(done.stdout + done.stderr)
        if done.returncode:
            raise AssertionError(done.stdout[-600:] + done.stderr[-200:])
        return done.stdout.strip().splitlines()[-1]

    def loaded(self, *, size: int, workers: int, batch: int) -> Any:
        """A training loader over the generated clips."""
        manifest = Manifest.read(self._data)
        clips = manifest.select("train", split=1)
        dataset = ClipDataset(manifest, clips, CODEC_STREAMS, num_segments=3, input_size=size, views="training")
        order = EpochBatches(len(clips), min(batch, len(clips)))
        return training_batches(dataset, order, workers=workers, pin_memory=self.scale.device == "cuda")

    def pinned_batches(self) -> str:
        """Batches as the loader gives them, and on the device."""
        loader = self.loaded(size=self.scale.size, workers=2, batch=8)
        batch: Batch = next(loader)
        moved = batch.to(torch.device(self.scale.device))
        loader.close()
        pinned = {name: values.is_pinned() for name, values in batch.streams.items()}
        last = {
            name: values.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
            for name, values in moved.streams.items()
        }
        assert all(last.values()), last
        assert all(pinned.values()) or self.scale.device == "cpu", pinned
        return f"pinned: {all(pinned.values())}; channels last on the device: {all(last.values())}"

    def teach(self, stream: str, precision: str) -> dict[str, Any]:
        """A teacher; what its last step said."""
        backbone = "video:mc3_18" if stream == "residual" else self.scale.backbone
        extra = ["--temporal_shift=true", "--optim.clip_norm=1"] if stream == "motion" else []
        run = self._out / stream
        run_verb(
            "teach",
            f"--stream={stream}",
            f"--backbone={backbone}",
            f"--out={run}",
            *self._common,
            *extra,
            f"--precision={precision}",
        )
        lines = [line for line in logged(run) if "loss/total" in line]
        assert all(line["loss/total"] is not None for line in lines)
        wanted = ("loss/total", "gradient_norm", "samples_per_second", "data_wait_share", "cuda_peak_gib")
        return {name: round(lines[-1][name], 3) for name in wanted if lines[-1].get(name) is not None}

    def everything(self, precision: str, order: str, extra: Sequence[str]) -> dict[str, Any]:
        """A distillation with everything on: finite weights, and fp16's scale has settled."""
        run = self._out / f"all-{precision}-{order}-{extra[-1].rpartition('=')[2]}"
        run_verb(*self._distill(run.name, precision, order, extra))
        state = load_checkpoint(run / "checkpoint.pt")
        floats = [values for values in state["students"].values() if values.is_floating_point()]
        assert all(values.isfinite().all() for values in floats)
        norms = [line.get("gradient_norm") for line in logged(run) if "loss/total" in line]
        return {"scale": state["update"]["scaler"].get("scale"), "gradient norms": norms[:3]}

    def stopped_and_resumed(self) -> dict[str, float]:
        """A run that SIGTERM stopped and that was resumed, against one that went through."""
        extra = ("--objective.target_loss=dist",)
        whole, run = self._out / "whole", self._out / "stopped"
        run_verb(*self._distill(whole.name, "bf16", "alternate", extra))
        words = [sys.executable, "-m", "videokd", *self._distill(run.name, "bf16", "alternate", extra)]
        with subprocess.Popen(words) as first:
            until = time.monotonic() + 120
            while first.poll() is None and time.monotonic() < until and len(logged(run)) < 2:
                time.sleep(0.02)
            first.send_signal(signal.SIGTERM)
        stopped_at = load_checkpoint(run / "checkpoint.pt")["progress"]["step"]
        subprocess.run(words, check=True)
        ends = [load_checkpoint(folder / "checkpoint.pt") for folder in (run, whole)]
        total = ends[1]["progress"]["step"]
        assert ends[0]["progress"]["step"] == total
        assert [line["step"] for line in logged(run) if "loss/total" in line] == list(range(total))
        difference = max(
            (values.float() - ends[1]["students"][name].float()).abs().max().item()
            for name, values in ends[0]["students"].items()
        )
        assert 0 < stopped_at < total, f"stopped at step {stopped_at} of {total}"
        assert difference < 0.05, difference
        return {"stopped at step": stopped_at, "of": total, "largest difference": difference}

    def same_scores(self) -> dict[str, Any]:
        """Scores of one run on the device and on the CPU."""
        run = self._out / "whole"
        found = {}
        variants = {(self.scale.device, self.scale.half), (self.scale.device, "fp32"), ("cpu", "fp32")}
        for device, precision in sorted(variants):
            out = run / "results.json"
            out.unlink(missing_ok=True)
            where = (f"--device={device}", f"--precision={precision}")
            run_verb("evaluate", run, "--views=quick", "--workers=0", "--timed_videos=2", "--pictures=1", *where)
            with np.load(run / "scores-fused.npz") as scores:
                found[device, precision] = scores["logits"]
        exact = found["cpu", "fp32"]
        differences = {" ".join(key): float(np.abs(values - exact).max()) for key, values in found.items()}
        spread = float(exact.std())
        for (device, precision), values in found.items():
            limit = (1e-3 if precision == "fp32" else 0.1) * max(spread, 1.0)
            assert np.abs(values - exact).max() <= limit, (device, precision, differences)
        return {"largest difference of logits": differences, "their deviation": spread}

    def predict(self) -> str:
        """The verb and the function, with students on the device."""
        run, out = self._out / "whole", self._out / "export"
        if not out.exists():
            run_verb("export", run, "--out", out)
        clip = next(path for path in sorted(self._clips.rglob("*")) if path.suffix in (".mp4", ".avi"))
        where = (f"--device={self.scale.device}", f"--precision={self.scale.half}")
        run_verb("predict", clip, f"--students={out}", *where)
        students = videokd.load_students(out)
        on_cpu = videokd.predict(clip, students, top=9)
        on_device = videokd.predict(clip, students.to(self.scale.device), top=9)
        given = [{label.name: label.probability for label in each.labels} for each in (on_cpu, on_device)]
        shared = given[0].keys() & given[1].keys()
        difference = max(abs(given[0][name] - given[1][name]) for name in shared)
        assert difference < 1e-3, given
        return f"{on_device.labels[0].name}; largest difference of probabilities {difference:.1e}"

    def stored_targets(self) -> dict[str, Any]:
        """A frozen teacher, and a student on stored views of it."""
        cache = ("--data.cache", self._out / "cache", "--data.stored_views=4")
        teacher, student = self._out / "frozen", self._out / "taught"
        backbone = f"--backbone={self.scale.backbone}"
        frozen = ("--freeze=true", f"--init={self._out / 'iframe'}")
        run_verb("teach", "--stream=iframe", backbone, *frozen, f"--out={teacher}", *self._common, *cache)
        one = json.dumps({"a": {"streams": ["motion"], "backbone": self.scale.small}})
        options = (f"--teachers.iframe={teacher}", "--precision=bf16", "--objective.feature_weight=0.1")
        run_verb("distill", f"--students={one}", f"--out={student}", *options, *self._common, *cache)
        return {"loss": [line["loss/total"] for line in logged(student) if "loss/total" in line][-1]}

    def out_of_memory(self) -> str:
        """A batch that cannot fit: one line that says what to do."""
        held = torch.empty(int(torch.cuda.mem_get_info()[0] * 0.97), dtype=torch.uint8, device="cuda")
        words = ["distill", f"--out={self._out / 'large'}", *self._common, "--data.input_size=1024"]
        try:
            done = subprocess.run(
                [sys.executable, "-m", "videokd", *words], capture_output=True, text=True, check=False
            )
        finally:
            del held
            torch.cuda.empty_cache()
        line = done.stderr.strip().splitlines()[-1]
        assert done.returncode
        assert "accumulate" in line, done.stderr[-400:]
        assert "Traceback" not in done.stderr, done.stderr[-400:]
        return line

    def compiled(self) -> str:
        """Three compiled students and teachers stay below Dynamo's limit."""
        import torch._dynamo as dynamo

        dynamo.config.fail_on_recompile_limit_hit = True
        three = {stream: {"streams": [stream], "backbone": self.scale.small} for stream in CODEC_STREAMS}
        teachers = [*self._teachers, f"--teachers.residual={self._out / 'residual'}"]
        command = ["distill", f"--students={json.dumps(three)}", f"--out={self._out / 'compiled'}", *teachers]
        run_verb(*command, *self._common, "--precision=bf16", "--optim.compile=true")
        speeds = [line["samples_per_second"] for line in logged(self._out / "compiled") if "samples_per_second" in line]
        return f"no limit was hit; clips a second in the first and the last step: {speeds[0]:.1f}, {speeds[-1]:.0f}"

    def cuda_graphs(self) -> dict[str, float]:
        """Two small students, compiled with CUDA graphs, have losses near those of the same run without compiling."""
        two = {stream: {"streams": [stream], "backbone": self.scale.small} for stream in ("iframe", "motion")}
        command = ["distill", f"--students={json.dumps(two)}", *self._common, "--precision=fp32"]
        losses = {}
        for mode in ("false", "reduce-overhead"):
            run = self._out / f"graphs-{mode}"
            run_verb(*command, f"--out={run}", f"--optim.compile={mode}")
            losses[mode] = [line["loss/total"] for line in logged(run) if "loss/total" in line]
        difference = max(abs(a - b) / abs(a) for a, b in zip(*losses.values(), strict=True))
        assert difference < 0.05, losses
        return {"largest relative difference of a loss": difference}

    def synchronisations(self) -> dict[str, float]:
        """Where the host waits for the device while a run with everything on trains: {file:line: times a step}.

        Of PyTorch's own files only the sum is given: loading weights, writing checkpoints and moving modules wait by design.
        """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                run_verb(*self._distill("watched", "bf16", "simultaneous", ("--weighting=confidence",)))
            finally:
                torch.cuda.set_sync_debug_mode("default")
        steps = sum("loss/total" in line for line in logged(self._out / "watched"))
        waits = [w for w in caught if "synchroniz" in str(w.message)]
        own = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in waits if "videokd" in Path(w.filename).parts)
        return {place: round(count / steps, 2) for place, count in own.most_common(12)}

    def loader_speed(self) -> dict[str, float]:
        """Clips that the real loader gives, at 64 pixels and at the step's size."""
        workers = len(os.sched_getaffinity(0)) if self.scale.device == "cuda" else 0
        found = {}
        for size in (self.scale.size, self.scale.steps[0].size):
            loader = self.loaded(size=size, workers=workers, batch=32)
            clips, began = 0, 0.0
            for number, batch in zip(range(12), loader, strict=False):
                began = began or time.perf_counter()
                clips += len(batch) if number else 0
            found[f"clips a second at {size} pixels, {workers} workers"] = round(
                clips / (time.perf_counter() - began), 1
            )
            loader.close()
        return found


def run_verb(*words: object) -> None:
    """Runs a verb in this process.

    Raises:
        AssertionError: it failed; its message is on standard error.
    """
    code = verb([str(word) for word in words])
    assert code == 0, f"exit status {code}: {' '.join(map(str, words))[:200]}"


def logged(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's log that are whole; none before there is one."""
    try:
        text = (run / "log.jsonl").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
