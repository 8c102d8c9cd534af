"""What a command prints: messages for people on stderr, results on stdout."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from videokd.errors import printable


def say(*lines: str) -> None:
    """Lines for the person at the terminal; results go to standard output, these do not.

    Of the processes that torchrun starts, only the first one says something: all would say the same.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0":
        return
    sys.stderr.write("".join(f"{printable(line)}\n" for line in lines))
    sys.stderr.flush()


def give(lines: Iterable[str]) -> None:
    """Lines of a result, to standard output; names in them cannot steer a terminal."""
    for line in lines:
        sys.stdout.write(f"{printable(line)}\n")
