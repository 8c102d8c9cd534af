"""Which clips a run trains on, and which it holds out to choose its best epoch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from videokd.datasets.cache import DecodedCache
from videokd.datasets.dataset import ClipDataset, JoinedClips
from videokd.datasets.manifest import Clip, Manifest
from videokd.recipes.settings import DataSettings
from videokd.recipes.trained_on import training_parts


@dataclass(frozen=True)
class TrainingClips:
    """The clips of a run.

    Args:
        fit: what it trains on, as training views; labelled clips first, then those without labels, if there are any.
        held_out: what chooses the best epoch, in quick views; None where nothing is held out.
    """

    fit: JoinedClips
    held_out: ClipDataset | None

    @property
    def counts(self) -> tuple[int, ...]:
        """How many clips each dataset of `fit` has."""
        return tuple(map(len, self.fit.parts))


def training_clips(
    manifest: Manifest,
    unlabelled: Manifest | None,
    streams: tuple[str, ...],
    *,
    split: int,
    seed: int,
    data: DataSettings,
) -> TrainingClips:
    """The clips of one split.

    Args:
        manifest: labelled clips.
        unlabelled: clips to train on as well, all of them; only teachers and peers say what they show.
        streams: what a sample has.
        split: 1, 2 or 3.
        seed: of the training views.
        data: how they are seen, and the share that is held out.

    Raises:
        DataError: there is no clip to train on, or none to hold out.
    """
    cache = None
    if data.cache:
        kind = "blanked" if data.blank_invalid else ""
        cache = DecodedCache(Path(data.cache), data.cache_positions, data.input_size, kind)

    def dataset(source: Manifest, clips: tuple[Clip, ...], views: Literal["training", "quick"]) -> ClipDataset:
        return ClipDataset(
            source,
            clips,
            streams,
            num_segments=data.num_segments,
            input_size=data.input_size,
            views=views,
            seed=seed,
            blank_invalid=data.blank_invalid,
            cache=cache,
        )

    to_fit, to_hold_out = training_parts(manifest, split=split, val_fraction=data.val_fraction)
    fit = [dataset(manifest, to_fit, "training")]
    if unlabelled is not None:
        fit.append(dataset(unlabelled, unlabelled.clips, "training"))
    held_out = dataset(manifest, to_hold_out, "quick") if to_hold_out else None
    return TrainingClips(JoinedClips(tuple(fit)), held_out)
