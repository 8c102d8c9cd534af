"""Settings that several training recipes share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from videokd.errors import ConfigError

Device = Literal["auto", "cpu", "cuda"]
PrecisionName = Literal["auto", "fp32", "tf32", "bf16", "fp16"]


@dataclass(frozen=True)
class DataSettings:
    """What a network sees of the clips.

    Args:
        num_segments: places looked at in each clip (S of Temporal Segment Networks).
        input_size: side of the network's input, in pixels.
        batch_size: clips of a batch.
        workers: processes that load clips; 0 loads in the main one; -1: as many as there are cores, at most 16, divided among the processes
            of torchrun.
        val_fraction: share of the training groups held out to choose the best epoch; 0 keeps the last epoch.
        cache: a folder to keep decoded clips in, small and at a few positions: training is then several times faster where
            cores are few, with less variety. Evaluation always decodes the files.
        cache_positions: how many positions of each clip are kept.
        stored_views: how many fixed views of each clip to train on. What teachers, or a frozen body, compute of them is stored in data.cache and
            not computed again. 0: new views in every epoch, and teachers run in every step.
        unlabelled_share: share of each batch that is clips without labels, between 0 and 1; by default in proportion to their number.
    """

    num_segments: int = 3
    input_size: int = 224
    batch_size: int = 32
    workers: int = -1
    val_fraction: float = 0.15
    cache: str = ""
    cache_positions: int = 16
    stored_views: int = 0
    unlabelled_share: float | None = None

    def __post_init__(self) -> None:
        _check_ranges(
            self,
            "data",
            {
                "num_segments": "[1, 1000]",
                "input_size": "[16, 4096]",
                "batch_size": "[1, 1000000]",
                "workers": "[-1, 256]",
                "val_fraction": "[0, 0.9)",
                "cache_positions": "[1, 10000]",
                "stored_views": "[0, 1000]",
            },
        )
        if self.stored_views and not self.cache:
            raise ConfigError(
                f"data.stored_views is {self.stored_views}, but data.cache is empty: stored views are of cached clips. Pass "
                "`--data.cache FOLDER`, or set data.stored_views to 0."
            )
        if self.unlabelled_share is not None:
            _check(0 < self.unlabelled_share < 1, "data.unlabelled_share", self.unlabelled_share, "above 0, below 1")
            if self.batch_size < 2:
                raise ConfigError(
                    f"data.batch_size is {self.batch_size}, and data.unlabelled_share divides it between two kinds of clips (accepted: 2 or "
                    "more). Raise it."
                )


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
        mixup: α of the Beta distribution that clips are mixed by, in pairs, for teachers and students alike; 0 mixes none.
        early_stop: stop after so many epochs without a better one on the held-out clips; 0 never does.
        save_minutes: write the checkpoint within an epoch too, where the last one is so many minutes old; 0: only at ends of epochs.
        compile: compile the networks with torch.compile; the first steps are slow. reduce-overhead also records them as CUDA graphs, for
            networks so small that a GPU waits for Python; it takes more memory.
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
    mixup: float = 0.0
    early_stop: int = 0
    save_minutes: float = 10.0
    compile: Literal[False, True, "reduce-overhead"] = False
    ema: float = 0.0
    dropout: float = 0.0
    body_factor: float = 1.0
    input_factor: float = 1.0

    def __post_init__(self) -> None:
        _check_ranges(
            self,
            "optim",
            {
                "lr": "(0, inf)",
                "weight_decay": "[0, inf)",
                "epochs": "[1, 1000000]",
                "warmup_epochs": "[0, 1000000]",
                "factor": "[0, inf)",
                "epsilon": "(0, inf)",
                "clip_norm": "[0, inf)",
                "accumulate": "[1, 1000000]",
                "mixup": "[0, 1000]",
                "early_stop": "[0, 1000000]",
                "save_minutes": "[0, 1000000]",
                "ema": "[0, 1)",
                "dropout": "[0, 1)",
                "body_factor": "[0, inf)",
                "input_factor": "[0, inf)",
            },
        )
        ascending = list(self.milestones) == sorted(set(self.milestones))
        in_range = all(0 <= epoch <= 1_000_000 for epoch in self.milestones)
        _check(ascending and in_range, "optim.milestones", list(self.milestones), "ascending epochs, 0 or more")


def check_run(*, out: str, manifest: str, split: int, seed: int) -> None:
    """Refuses settings that every training verb has, before anything is written.

    Raises:
        ConfigError: a path is empty, or a number is outside its range.
    """
    _check(split in (1, 2, 3), "split", split, "1, 2, 3")
    _check(0 <= seed < 2**32, "seed", seed, f"0 to {2**32 - 1}")
    _check(bool(out), "out", "empty", "a path")
    _check(bool(manifest), "manifest", "empty", "a path")


def check_early_stop(data: DataSettings, optim: OptimSettings) -> None:
    """Refuses an early stop that nothing could cause.

    Raises:
        ConfigError: no clips are held out.
    """
    if optim.early_stop and not data.val_fraction:
        raise ConfigError(
            f"optim.early_stop is {optim.early_stop}, but data.val_fraction 0 holds no clips out to tell when to stop. Raise val_fraction, "
            "or set early_stop to 0."
        )


def check_unlabelled_share(data: DataSettings, unlabelled: str | None) -> None:
    """Refuses a share for clips that are not there.

    Args:
        data: the settings.
        unlabelled: the manifest of the clips without labels, if there is one.

    Raises:
        ConfigError: there is a share without clips.
    """
    if data.unlabelled_share is not None and unlabelled is None:
        raise ConfigError(
            f"data.unlabelled_share is {data.unlabelled_share}, but there are no clips without labels. Pass `--unlabelled MANIFEST` to "
            "`videokd distill`, or omit the share."
        )


def check_weights(weights: Mapping[str, float], where: str) -> None:
    """Refuses weights that cannot be normalised.

    Raises:
        ConfigError: one is negative or not finite, or all are 0.
    """
    good = all(0 <= weight < math.inf for weight in weights.values()) and (any(weights.values()) or not weights)
    _check(good, where, dict(weights), "0 or more, one of them above 0")


def _check_ranges(settings: object, group: str, ranges: Mapping[str, str]) -> None:
    """Checks numbers against ranges such as [0, 1): a square bracket includes its end; nan is in none."""
    for name, accepted in ranges.items():
        low, high = map(float, accepted[1:-1].split(","))
        value = getattr(settings, name)
        good = low <= value <= high and (accepted[0] == "[" or value > low) and (accepted[-1] == "]" or value < high)
        _check(good, f"{group}.{name}", value, _in_words(accepted))


def _in_words(accepted: str) -> str:
    """
    >>> _in_words("[0, 1)"), _in_words("(0, inf)"), _in_words("[1, 100]")
    ('0 up to, not including, 1', 'above 0', '1 to 100')
    """
    low, high = accepted[1:-1].split(", ")
    if high == "inf":
        return f"above {low}" if accepted[0] == "(" else f"{low} or more"
    return f"{low} up to, not including, {high}" if accepted[-1] == ")" else f"{low} to {high}"


def _check(good: bool, name: str, given: object, accepted: str) -> None:
    if not good:
        raise ConfigError(f"{name} is {given} (accepted: {accepted}). Correct the setting.")
