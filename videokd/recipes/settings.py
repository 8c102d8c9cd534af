"""Settings that several training recipes share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from videokd.errors import ConfigError

Device = Literal["auto", "cpu", "cuda"]
PrecisionName = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class DataSettings:
    """What a network sees of the clips.

    Args:
        num_segments: places looked at in each clip (S of Temporal Segment Networks).
        input_size: side of the network's input, in pixels.
        batch_size: clips of a batch.
        workers: processes that load clips; 0 loads in the main one.
        val_fraction: share of the training groups held out to choose the best epoch; 0 keeps the last epoch.
        blank_invalid: set motion and residual to zero where the motion chain is not valid.
        cache: a folder to keep decoded clips in, small and at a few positions: training is then several times faster where
            cores are few, with less variety. Evaluation always decodes the files.
        cache_positions: how many positions of each clip are kept.
    """

    num_segments: int = 3
    input_size: int = 224
    batch_size: int = 32
    workers: int = 2
    val_fraction: float = 0.15
    blank_invalid: bool = False
    cache: str = ""
    cache_positions: int = 16

    def __post_init__(self) -> None:
        for name in ("num_segments", "input_size", "batch_size", "cache_positions"):
            _check(getattr(self, name) >= 1, f"data.{name}", getattr(self, name), "1 or more")
        _check(self.workers >= 0, "data.workers", self.workers, "0 or more")
        _check(0 <= self.val_fraction < 0.9, "data.val_fraction", self.val_fraction, "0 up to 0.9")


@dataclass(frozen=True)
class OptimSettings:
    """How the weights are trained.

    Args:
        name: the optimizer; sgd has Nesterov momentum 0.9.
        lr: learning rate after warm-up.
        weight_decay: of weights, not of biases and norms.
        epochs: passes over the training clips.
        schedule: cosine to zero, or step.
        warmup_epochs: linear warm-up.
        milestones: epochs after which a step schedule multiplies the rate by `factor`.
        factor: see milestones.
        epsilon: of Adam; CoViAR has 1e-3.
        clip_norm: gradients longer than this are scaled down; 0 leaves them.
        accumulate: pieces that a batch goes through in, one after the other, where it does not fit into memory at once.
        label_smoothing: in [0, 1).
        mixup: α of the Beta distribution that clips are mixed by, in pairs, for teachers and students alike; 0 mixes none.
        early_stop: stop after so many epochs without a better one on the held-out clips; 0 never does.
        compile: compile the networks with torch.compile; the first steps are slow.
        ema: decay of a moving average of the weights, which then is what is evaluated and kept; 0 switches it off.
        dropout: before the classifier.
        body_factor: learning rate of a pretrained body, as a factor (CoViAR: 0.01).
        input_factor: learning rate of the first layers of motion and residual, as a factor (CoViAR: 0.1).
    """

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-2
    epochs: int = 30
    schedule: Literal["cosine", "step"] = "cosine"
    warmup_epochs: float = 1.0
    milestones: tuple[float, ...] = ()
    factor: float = 0.1
    epsilon: float = 1e-8
    clip_norm: float = 0.0
    accumulate: int = 1
    label_smoothing: float = 0.0
    mixup: float = 0.0
    early_stop: int = 0
    compile: bool = False
    ema: float = 0.0
    dropout: float = 0.0
    body_factor: float = 1.0
    input_factor: float = 1.0

    def __post_init__(self) -> None:
        _check(self.lr > 0, "optim.lr", self.lr, "above 0")
        _check(self.epochs >= 1, "optim.epochs", self.epochs, "1 or more")
        _check(self.warmup_epochs >= 0, "optim.warmup_epochs", self.warmup_epochs, "0 or more")
        _check(self.mixup >= 0, "optim.mixup", self.mixup, "0 or more")
        _check(self.early_stop >= 0, "optim.early_stop", self.early_stop, "0 or more")
        _check(self.accumulate >= 1, "optim.accumulate", self.accumulate, "1 or more")
        _check(self.clip_norm >= 0, "optim.clip_norm", self.clip_norm, "0 or more")


@dataclass(frozen=True)
class RunSettings:
    """Where and how a run computes.

    Args:
        out: the run folder; the same command with the same folder resumes.
        manifest: manifest.parquet, or the folder that holds it.
        split: 1, 2 or 3.
        seed: of weights, order and views.
        device: auto takes CUDA where there is one.
        precision: of the networks; losses are always in fp32.
    """

    out: str
    manifest: str
    split: int
    seed: int
    device: Device
    precision: PrecisionName

    def __post_init__(self) -> None:
        _check(self.split in (1, 2, 3), "split", self.split, "1, 2, 3")


def _check(good: bool, name: str, given: object, accepted: str) -> None:
    if not good:
        raise ConfigError(f"{name} is {given} (accepted: {accepted}). Correct the setting.")
