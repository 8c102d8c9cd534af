"""Several processes of one run, started as torchrun starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

#: The package to test, whatever is installed.
ROOT = Path(__file__).resolve().parents[1]


def start_ranks(commands: Sequence[Sequence[str]]) -> list[subprocess.Popen[str]]:
    """One process a command, each with its place in the environment; the first one's port is free now.

    Args:
        commands: of `python`, without its name.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    together |= {"WORLD_SIZE": str(len(commands)), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            [sys.executable, *command],
            env=os.environ | together | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, command in enumerate(commands)
    ]


def ended(processes: Sequence[subprocess.Popen[str]], *, timeout: float = 240) -> list[tuple[int, str]]:
    """(exit status, standard error) of each process, once all of them have ended; none outlives the call."""
    try:
        results = []
        for process in processes:
            _, errors = process.communicate(timeout=timeout)
            results.append((process.returncode, errors))
        return results
    finally:
        for process in processes:
            process.kill()
