"""Shares of a dataset, prepared apart from each other by the jobs of a batch scheduler."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from videokd.errors import ConfigError, DataError

SHARDS_FOLDER = ".shards"


@dataclass(frozen=True)
class Shard:
    """One share of a dataset; the clips' ids alone decide which clips it holds.

    Args:
        number: of the share, from 1.
        count: of all shares.

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
        """The share that "i/n" names.

        Raises:
            ConfigError: it names none.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None:
            raise ConfigError(f"shard {text!r} (accepted: i/n, as in 3/8). Correct it.")
        return cls(int(match[1]), int(match[2]))

    def holds(self, video_id: str) -> bool:
        """Whether a clip belongs to this share."""
        return int(hashlib.sha256(video_id.encode()).hexdigest()[:12], 16) % self.count == self.number - 1

    def table(self, out: Path) -> Path:
        """Where its manifest is; there only when the share is finished."""
        return out / SHARDS_FOLDER / f"{self.number}-of-{self.count}.parquet"

    def failures(self, out: Path) -> Path:
        """Where its failures are listed."""
        return self.table(out).with_suffix(".csv")


def finished_shards(out: Path) -> list[Shard]:
    """All shares of a dataset, in order.

    Raises:
        DataError: one is not finished, there are none, or those of two divisions.
    """
    names = [
        re.fullmatch(r"(\d{1,9})-of-(\d{1,9})", path.stem) for path in (out / SHARDS_FOLDER).glob("*-of-*.parquet")
    ]
    found = {(int(name[1]), int(name[2])) for name in names if name is not None}
    counts = sorted({count for _, count in found})
    if not counts:
        raise DataError(f"{out} has no shares to merge (accepted: those of `prepare --shard i/n`). Make them first.")
    if len(counts) > 1:
        both = " and ".join(f"n={count}" for count in counts)
        raise DataError(f"{out / SHARDS_FOLDER} has shares of {both}. Remove those of the older division.")
    shards = [Shard(number, counts[0]) for number in range(1, counts[0] + 1)]
    missing = [shard for shard in shards if (shard.number, shard.count) not in found]
    if missing:
        raise DataError(
            f"{out}: {len(missing)} of {counts[0]} shares are not finished (first: {missing[0]}). "
            f"Run the same command with --shard {missing[0]}."
        )
    return shards
