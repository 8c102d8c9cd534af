"""The order in which training goes through clips: numbers of clips, batch by batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler


@dataclass(frozen=True)
class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Endless batches of (epoch, number), each epoch in its own order; a resumed run starts at its step.

    Args:
        num_clips: number of clips of the dataset; for `JoinedClips`, that of each part, so that every batch has clips of
            all parts in proportion.
        batch_size: clips of a batch over all ranks; an incomplete batch at the end of an epoch is dropped.
        seed: seed of the order.
        first_step: number of the first batch.
        rank: number of this process.
        num_ranks: number of processes that divide each batch between them.
        last_share: share of each batch, above 0 and below 1, for the last of two parts, each of which then goes through orders of its
            own without end; None: in proportion. With a share, an item's epoch counts the passes through its own part.
    """

    num_clips: int | tuple[int, ...]
    batch_size: int
    seed: int = 0
    first_step: int = 0
    rank: int = 0
    num_ranks: int = 1
    last_share: float | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Complete batches of an epoch; at least one."""
        return max(sum(self._parts) // self.batch_size, 1)

    @property
    def _parts(self) -> tuple[int, ...]:
        return self.num_clips if isinstance(self.num_clips, tuple) else (self.num_clips,)

    def _order(self, epoch: int) -> npt.NDArray[np.int64]:
        """The clips' numbers in the order of one epoch; those of several datasets are mixed evenly."""
        rng = np.random.default_rng((self.seed, epoch))
        starts = np.cumsum((0, *self._parts))
        orders = [start + rng.permutation(count) for start, count in zip(starts, self._parts, strict=False)]
        places = [(np.arange(count) + 0.5) / count for count in self._parts]
        return np.concatenate(orders)[np.argsort(np.concatenate(places), kind="stable")]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        if self.last_share is not None:
            yield from self._shared_batches(self.last_share)
        epoch, skip = divmod(self.first_step, self.steps_per_epoch)
        while True:
            order = self._order(epoch)
            for step in range(skip, self.steps_per_epoch):
                numbers = order[step * self.batch_size : (step + 1) * self.batch_size]
                yield self._own([(epoch, int(number)) for number in numbers])
            epoch, skip = epoch + 1, 0

    def _shared_batches(self, share: float) -> Iterator[list[tuple[int, int]]]:
        """Without end, batches with a fixed number of clips of each part, evenly mixed."""
        last = min(max(round(share * self.batch_size), 1), self.batch_size - 1)
        counts = (self.batch_size - last, last)
        places = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
        for step in itertools.count(self.first_step):
            items = [
                self._item(part, step * count + offset) for part, count in enumerate(counts) for offset in range(count)
            ]
            mixed = [items[place] for place in np.argsort(places, kind="stable")]
            yield self._own(mixed)

    def _own(self, batch: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """This rank's part. A run of neighbours, as parts alternate in a batch: every second clip could have no label at all."""
        first, end = (len(batch) * rank // self.num_ranks for rank in (self.rank, self.rank + 1))
        return batch[first:end]

    def _item(self, part: int, place: int) -> tuple[int, int]:
        """The (pass, number) at a place of a part's endless sequence of orders."""
        turn, at = divmod(place, self._parts[part])
        order = _permutation(self.seed, turn, part, self._parts[part])
        return turn, sum(self._parts[:part]) + int(order[at])


@lru_cache(maxsize=8)
def _permutation(seed: int, turn: int, part: int, count: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng((seed, turn, part)).permutation(count)
