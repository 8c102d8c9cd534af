"""Clocks and medians that several measurements share."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import ParamSpec

from tqdm import tqdm

P = ParamSpec("P")


def processor_seconds(*, of_children: bool = True, of_this_process: bool = True) -> float:
    """CPU time so far of this process, and of its child processes that have ended."""
    whose = [resource.RUSAGE_SELF] * of_this_process + [resource.RUSAGE_CHILDREN] * of_children
    used = [resource.getrusage(who) for who in whose]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def timed(work: Callable[P, object], *given: P.args, **named: P.kwargs) -> dict[str, float]:
    """Runs the work once: `seconds` of wall time and `processor_seconds`, those of child processes included."""
    wall, used = time.perf_counter(), processor_seconds()
    work(*given, **named)
    return {"seconds": time.perf_counter() - wall, "processor_seconds": processor_seconds() - used}


def in_turns(
    functions: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    clock: Callable[[], float],
    name: str,
    warm_ups: int = 1,
) -> dict[str, list[float]]:
    """Times functions in turns, so that a busy machine slows all of them alike.

    Args:
        functions: {name: what is timed}; in each turn all are called once, in an order that shifts from turn to turn.
        repeats: turns that count.
        clock: gives seconds.
        name: for the progress bar.
        warm_ups: turns before those that count.

    Returns:
        {name: seconds of each turn}.
    """
    seconds: dict[str, list[float]] = {key: [] for key in functions}
    keys = list(functions)
    for turn in tqdm(range(-warm_ups, repeats), desc=name[:40], unit="turn", disable=None):
        for key in keys[turn % len(keys) :] + keys[: turn % len(keys)]:
            started = clock()
            functions[key]()
            if turn >= 0:
                seconds[key].append(clock() - started)
    return seconds


def medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """{name: median over the rounds}."""
    return {key: round(statistics.median(each[key] for each in rounds), 4) for key in rounds[0]}


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median of the ratios of two variants, each ratio taken within one round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))
