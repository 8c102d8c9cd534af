"""What a GPU was checked for and how fast it was, as tables for docs/measured.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markdown import Results, grid, source

STEPS = "ms a step, one change at a time"


def gpu_check_table(results: Results) -> list[str]:
    """Every check with what it said, and milliseconds of a step by variant."""
    machine, versions = results["machine"], results["versions"]
    checks: Mapping[str, Mapping[str, Any]] = results["checks"]
    good = sum(bool(each["ok"]) for each in checks.values())
    lines = [
        "### On a GPU",
        "",
        f"{machine['gpu']}, {machine['cores']} CPU cores, PyTorch {versions['torch']}: {good} of {len(checks)} checks passed, in "
        f"{sum(each['seconds'] for each in checks.values()) / 60:.1f} minutes. `measurements/gpu_check.py --out runs/gpu_check` does the same on yours."
        f" {results.get('note', '')}".rstrip(),
        "",
    ]
    rows = [
        (name, f"{each['seconds']:.0f}", ("" if each["ok"] else "**failed** ") + _plain(each["said"]))
        for name, each in checks.items()
        if name != STEPS
    ]
    lines += grid(("check", "s", "said"), rows)
    steps = checks.get(STEPS, {"said": {}})["said"]
    for shape, times in steps.items() if isinstance(steps, Mapping) else ():
        base = times["bf16"]
        rows = [(n, f"{value:.1f}", f"{value / base:.2f}") for n, value in times.items() if n != "peak GiB"]
        lines += ["", f"{shape}:", "", *grid(("a training step", "ms", "over bf16"), rows)]
        if "peak GiB" in times:
            lines += ["", f"Most memory held: {times['peak GiB']:.1f} GiB."]
    return [*lines, "", source(results, str(results["command"]))]


def _plain(said: object) -> str:
    """What a check said, in one cell.

    >>> _plain({"loss": 0.52341, "scale": None, "clips a second": 2416.9})
    'loss 0.523; clips a second 2417'
    """
    if isinstance(said, Mapping):
        return "; ".join(f"{name} {_plain(value)}" for name, value in said.items() if value is not None)
    if isinstance(said, (list, tuple)):
        return ", ".join(map(_plain, said))
    if isinstance(said, float):
        return f"{said:.0f}" if abs(said) >= 1000 else f"{said:.3g}"
    return " ".join(str(said).split()).replace("|", "\\|")[:300]
