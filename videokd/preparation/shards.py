"""Shards of a dataset: parts that the jobs of a batch scheduler prepare independently."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from videokd.errors import ConfigError, DataError

SHARDS_FOLDER = ".shards"


@dataclass(frozen=True)
class Shard:
    """One shard of a dataset. Which clips it holds depends only on their ids.

    Args:
        number: from 1 to count.
        count: number of shards.

    Raises:
        ConfigError: number or count is out of its range.

    >>> Shard.parse("3/8")
    Shard(number=3, count=8)
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ConfigError(f"shard {self} (accepted: i/n with i from 1 to n). Correct it.")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that is written as "i/n".

        Raises:
            ConfigError: the text is not a shard.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None:
            raise ConfigError(f"shard {text!r} (accepted: i/n, as in 3/8). Correct it.")
        return cls(int(match[1]), int(match[2]))

    def holds(self, video_id: str) -> bool:
        """Whether a clip belongs to this shard."""
        return int(hashlib.sha256(video_id.encode()).hexdigest()[:12], 16) % self.count == self.number - 1

    def table(self, out: Path) -> Path:
        """The shard's manifest; it exists only when the shard is complete."""
        return out / SHARDS_FOLDER / f"{self.number}-of-{self.count}.parquet"

    def failures(self, out: Path) -> Path:
        """The CSV file of the shard's failures."""
        return self.table(out).with_suffix(".csv")


def complete_shards(out: Path) -> list[Shard]:
    """All shards of a dataset, in order.

    Args:
        out: the folder that they were written to.

    Raises:
        DataError: there are none, one is not complete, or there are shards of two different counts.
    """
    names = [
        re.fullmatch(r"(\d{1,9})-of-(\d{1,9})", path.stem) for path in (out / SHARDS_FOLDER).glob("*-of-*.parquet")
    ]
    found = {(int(name[1]), int(name[2])) for name in names if name is not None}
    counts = sorted({count for _, count in found})
    if not counts:
        raise DataError(f"{out} has no shards to merge (accepted: those of `prepare --shard i/n`). Run these first.")
    if len(counts) > 1:
        both = " and ".join(f"n={count}" for count in counts)
        raise DataError(f"{out / SHARDS_FOLDER} has shards of {both} (accepted: of one n). Remove the older ones.")
    shards = [Shard(number, counts[0]) for number in range(1, counts[0] + 1)]
    missing = [shard for shard in shards if (shard.number, shard.count) not in found]
    if missing:
        raise DataError(
            f"{out}: {len(missing)} of {counts[0]} shards are not complete (first: {missing[0]}). "
            f"Run the same command with --shard {missing[0]}."
        )
    return shards
