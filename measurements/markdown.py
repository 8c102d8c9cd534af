"""Pieces of Markdown that the generated tables are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Results = Mapping[str, Any]


def grid(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a table."""
    head = list(head)
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def percent(interval: Mapping[str, float]) -> str:
    """An accuracy with its interval.

    >>> percent({"value": 0.5, "low": 0.25, "high": 0.75})
    '50.0 (25.0–75.0)'
    """
    return f"{100 * interval['value']:.1f} ({100 * interval['low']:.1f}–{100 * interval['high']:.1f})"


def points(gain: Mapping[str, float]) -> str:
    """A difference of accuracies with its interval, bold where the interval excludes zero.

    >>> points({"value": 0.02, "low": 0.01, "high": 0.03})
    '**+2.0 (+1.0 to +3.0)**'
    """
    shown = f"{100 * gain['value']:+.1f} ({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})"
    return f"**{shown}**" if gain["low"] > 0 or gain["high"] < 0 else shown


def link(results: Results) -> str:
    """A link to the result file; `pages` puts the way to it from each page in place of RESULTS."""
    return f"[{results['file']}](RESULTS/{results['file']})"


def source(results: Results, *commands: str) -> str:
    """The line below a table: its result file, and the commands that made it."""
    return f"From {link(results)}, made by {' and '.join(f'`{command}`' for command in commands)}."


def machine_text(results: Results) -> str:
    """The GPU that a training step ran on; of a CPU its name, threads and load."""
    machine = results["machine"]
    if "gpu" in machine:
        return str(machine["gpu"])
    return f"{machine['processor']}, {machine['threads']} of {machine['cores']} cores, load {machine['load']:.1f}"
