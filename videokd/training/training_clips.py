"""The clips of a run as it reads them: those it trains on, and those it holds out."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from videokd.datasets.batches import training_batches
from videokd.datasets.cache import DecodedCache
from videokd.datasets.dataset import ClipDataset, JoinedClips
from videokd.datasets.manifest import Clip, Manifest
from videokd.datasets.order import EpochBatches
from videokd.errors import ConfigError
from videokd.runs.ranks import Ranks
from videokd.runs.settings import DataSettings
from videokd.runs.trained_on import training_parts
from videokd.types import Batch, stream_and_size


@dataclass(frozen=True)
class TrainingClips:
    """The clips of a run.

    Args:
        fit: what it trains on, as training views; labelled clips first, then those without labels, if there are any.
        held_out: what chooses the best epoch, in quick views; None where nothing is held out.
        batch_size: clips of a batch over all ranks.
        workers: processes that load clips; 0 loads in the main one, -1 takes as many as there are cores.
        seed: of the order.
        unlabelled_share: share of each batch that is clips without labels; None: in proportion to their number.
    """

    fit: JoinedClips
    held_out: ClipDataset | None
    batch_size: int
    workers: int
    seed: int
    unlabelled_share: float | None = None

    @property
    def has_unlabelled(self) -> bool:
        """Whether some of the clips have no label."""
        return len(self.fit.parts) > 1

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of an epoch; at least one."""
        return self._order().steps_per_epoch

    def _order(self, *, first_step: int = 0, ranks: Ranks | None = None) -> EpochBatches:
        ranks = ranks or Ranks()
        return EpochBatches(
            tuple(map(len, self.fit.parts)),
            self.batch_size,
            seed=self.seed,
            first_step=first_step,
            rank=ranks.rank,
            num_ranks=ranks.num_ranks,
            last_share=self.unlabelled_share,
        )

    def batches(self, *, first_step: int, ranks: Ranks) -> Generator[Batch, None, None]:
        """This rank's share of each batch, without end.

        Args:
            first_step: number of the first batch: a resumed run continues with the clips that an uninterrupted one would see.
            ranks: this process's place.

        Raises:
            ConfigError: the ranks cannot share a batch equally.
        """
        check_shares(len(self.fit), self.batch_size, ranks)
        order = self._order(first_step=first_step, ranks=ranks)
        return training_batches(self.fit, order, workers=self.workers, pin_memory=ranks.device.type == "cuda")


def _largest_sizes(inputs: Iterable[str], data: DataSettings) -> dict[str, int]:
    """{stream: the largest side of an input that shows it}."""
    largest: dict[str, int] = {}
    for stream, size in (stream_and_size(key, main_size=data.input_size) for key in inputs):
        largest[stream] = max(size, largest.get(stream, 0))
    return largest


def check_shares(num_clips: int, batch_size: int, ranks: Ranks) -> None:
    """Refuses a batch that the ranks cannot share equally, because of its size or because there are too few clips.

    Raises:
        ConfigError: names both numbers and what to pass.
    """
    ranks.share(batch_size)
    if ranks.num_ranks > 1 and num_clips < batch_size:
        fit = num_clips // ranks.num_ranks * ranks.num_ranks
        raise ConfigError(
            f"{num_clips} clips to train on are fewer than data.batch_size {batch_size}, which {ranks.num_ranks} processes share equally "
            f"(accepted: a batch of at most as many). Pass `--data.batch_size {fit}`."
            if fit
            else f"{num_clips} clips to train on are fewer than {ranks.num_ranks} processes (accepted: one clip each, at least). Start fewer."
        )


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
        streams: keys of the inputs of a sample (`videokd.types.input_key`).
        split: 1, 2 or 3.
        seed: of the training views.
        data: how they are seen, and the share that is held out.

    Raises:
        DataError: there are no clips to train on, or none to hold out.
    """
    cache = None
    if data.cache:
        cache = DecodedCache(Path(data.cache), data.cache_positions, data.input_size, _largest_sizes(streams, data))

    def dataset(source: Manifest, clips: tuple[Clip, ...], views: Literal["training", "quick"]) -> ClipDataset:
        return ClipDataset(
            source,
            clips,
            streams,
            num_segments=data.num_segments,
            input_size=data.input_size,
            views=views,
            seed=seed,
            cache=cache,
            stored_views=data.stored_views,
        )

    to_fit, to_hold_out = training_parts(manifest, split=split, val_fraction=data.val_fraction)
    fit = [dataset(manifest, to_fit, "training")]
    if unlabelled is not None:
        fit.append(dataset(unlabelled, unlabelled.clips, "training"))
    held_out = dataset(manifest, to_hold_out, "quick") if to_hold_out else None
    return TrainingClips(JoinedClips(tuple(fit)), held_out, data.batch_size, data.workers, seed, data.unlabelled_share)
