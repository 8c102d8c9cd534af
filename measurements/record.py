"""Result files: where they are, and the machine, versions, date and command that each of them states.

A result file is `results/KIND-DATE.json`. Pages read the newest file of a kind (`newest`); measurements write one (`write`).
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import videokd
from videokd.files import write_whole

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "measurements" / "results"
CODEC_STREAMS = ("iframe", "motion", "residual")
#: Processors whose model nobody tells apart are named by their architecture.
_CPU_INFO = Path("/proc/cpuinfo")


def today() -> str:
    """The date, as in the names of result files."""
    return datetime.date.today().isoformat()


def processor() -> str:
    """Model name of the CPU; its architecture where the system does not tell the model."""
    lines = _CPU_INFO.read_text().splitlines() if _CPU_INFO.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def machine(*, threads: int | None = None, gpu: bool = False) -> dict[str, Any]:
    """The machine that measures: CPU, cores, operating system and load, with the threads used and the GPU where they matter.

    Args:
        threads: that PyTorch computes with.
        gpu: whether the first CUDA device computes.
    """
    described: dict[str, Any] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "load": round(os.getloadavg()[0], 1),
    }
    if threads is not None:
        described["threads"] = threads
    if gpu:
        import torch

        described["gpu"] = torch.cuda.get_device_name()
    return described


def versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """Versions of videokd, Python, and those of the packages that are installed."""
    found = {"videokd": videokd.__version__, "python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def command() -> str:
    """The command that started this process, from the repository's root."""
    return shlex.join([f"measurements/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def provenance(packages: Iterable[str] = (), *, threads: int | None = None, gpu: bool = False) -> dict[str, Any]:
    """Date, command, machine and versions, as every result file has them; arguments as of `machine` and `versions`."""
    return {
        "date": today(),
        "command": command(),
        "machine": machine(threads=threads, gpu=gpu),
        "versions": versions(packages),
    }


def write(kind: str, found: Mapping[str, Any], *, folder: Path = RESULTS) -> Path:
    """Writes a result file, whole or not at all.

    Args:
        kind: what the file's name starts with.
        found: JSON values, with those of `provenance`; its date ends the file's name.
        folder: to write to.

    Returns:
        The file's path.
    """
    text = json.dumps(found, indent=1, ensure_ascii=False)
    return write_whole(folder / f"{kind}-{found['date']}.json", f"{text}\n".encode())


def newest(kind: str, *, folder: Path = RESULTS) -> dict[str, Any] | None:
    """The latest result of a kind, with the name of its file as `file`; None where there is none."""
    files = sorted(folder.glob(f"{kind}-20*.json"))
    return json.loads(files[-1].read_text(encoding="utf-8")) | {"file": files[-1].name} if files else None


def newest_or_fail(kind: str) -> dict[str, Any]:
    """The latest result of a kind.

    Raises:
        SystemExit: there is none.
    """
    found = newest(kind)
    if found is None:
        raise SystemExit(f"{RESULTS} has no {kind}-DATE.json. Run the measurement that writes it.")
    return found
