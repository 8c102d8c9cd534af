"""The order in which training goes through clips: numbers of clips, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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
    """

    num_clips: int | tuple[int, ...]
    batch_size: int
    seed: int = 0
    first_step: int = 0
    rank: int = 0
    num_ranks: int = 1

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
        epoch, skip = divmod(self.first_step, self.steps_per_epoch)
        while True:
            order = self._order(epoch)
            for step in range(skip, self.steps_per_epoch):
                numbers = order[step * self.batch_size : (step + 1) * self.batch_size]
                yield [(epoch, int(number)) for number in numbers[self.rank :: self.num_ranks]]
            epoch, skip = epoch + 1, 0
