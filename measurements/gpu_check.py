"""Does everything work on this GPU, and how fast? One command on a machine with a CUDA device, about ten minutes.

    .venv/bin/python measurements/gpu_check.py --out runs/gpu_check

Needs no network and no data: clips are generated. It runs the tests marked `gpu`; trains teachers in bf16, fp16 and fp32 (2-D, with temporal
shift, 3-D); distils with everything on, together and in turns; stops a training with SIGTERM and resumes it; compares scores of the GPU
with the CPU's; predicts; compiles; trains a frozen teacher and a student on stored targets; then times a training step, one change at a
time. Each check prints a line as soon as it is done; one that fails does not stop the others. The report is OUT/gpu_check.json, written
after every check, and results/gpu_check-DEVICE-DATE.json at the end. `--device cpu` runs the same checks small, to try the program itself.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gpu_check_runs import Runs, Scale
from gpu_check_steps import step_times
from record import RESULTS, provenance, write
from videokd.files import write_whole

#: What a check that cannot run here returns.
SKIPPED = "skipped: needs a CUDA device"


class Report:
    """Runs checks one after the other, and keeps what each of them said.

    Args:
        out: folder of the report.
        on_cuda: whether a CUDA device is checked.
        only: parts of names: run only checks that have one of them in theirs.
    """

    def __init__(self, out: Path, *, on_cuda: bool, only: tuple[str, ...] = ()) -> None:
        self._out, self._on_cuda, self._only = out, on_cuda, only
        self._began = time.perf_counter()
        threads = torch.get_num_threads()
        self.found: dict[str, Any] = {
            **provenance(("torch", "torchvision", "timm", "av"), threads=threads, gpu=on_cuda),
            "checks": {},
        }

    def check(self, name: str, function: Callable[[], Any], *, needs_cuda: bool = False) -> None:
        """Runs one check; an exception of any kind is a failure, and the next check runs all the same."""
        if self._only and not any(part in name for part in self._only):
            return
        started, good = time.perf_counter(), True
        try:
            said = function() if self._on_cuda or not needs_cuda else SKIPPED
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            said, good = "".join(traceback.format_exception_only(error)).strip()[-600:], False
            traceback.print_exc()
        seconds = time.perf_counter() - started
        self.found["checks"][name] = {"ok": good, "seconds": round(seconds, 1), "said": said}
        at = time.perf_counter() - self._began
        print(f"{'ok    ' if good else 'FAILED'} at {at:4.0f} s, {seconds:5.1f} s: {name}: {said}", flush=True)
        write_whole(self._out / "gpu_check.json", json.dumps(self.found, indent=1, default=str).encode())

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed."""
        checks: Mapping[str, Mapping[str, Any]] = self.found["checks"]
        return [name for name, each in checks.items() if not each["ok"]]


class Names(list[str]):
    """The names of all checks, none of which runs; filled in the place of a report."""

    def check(self, name: str, function: Callable[[], Any], *, needs_cuda: bool = False) -> None:
        """Notes a name."""
        self.append(name)


def run_checks(report: Report | Names, runs: Runs) -> None:
    """All checks, in an order in which each finds what it needs."""
    report.check("clips are generated and prepared", runs.prepare)
    report.check("tests marked gpu", runs.gpu_tests, needs_cuda=True)
    report.check("pinned batches stay channels last, and so on the device", runs.pinned_batches)
    half = runs.scale.half
    report.check("teach iframe in bf16", partial(runs.teach, "iframe", "bf16"))
    report.check(f"teach motion in {half}, temporal shift", partial(runs.teach, "motion", half))
    report.check("teach residual in fp32, 3-D", partial(runs.teach, "residual", "fp32"))
    for precision, order, extra in runs.EVERYTHING:
        named = half if precision == "fp16" else precision
        words = ", ".join((named, order, *(word.removeprefix("--") for word in extra)))
        report.check(f"distil, everything on: {words}", partial(runs.everything, named, order, extra))
    report.check("SIGTERM, resumed: weights as uninterrupted", runs.stopped_and_resumed)
    report.check("evaluate: scores of the device as the CPU's", runs.same_scores)
    report.check("predict in Python, students on the device", runs.predict)
    report.check("frozen teacher, student on stored targets", runs.stored_targets)
    report.check("out of memory says what to do", runs.out_of_memory, needs_cuda=True)
    report.check("torch.compile, three students and teachers", runs.compiled, needs_cuda=True)
    report.check("CUDA graphs (reduce-overhead)", runs.cuda_graphs, needs_cuda=True)
    report.check("where the host waits for the device", runs.synchronisations, needs_cuda=True)
    report.check("clips a second of the loader", runs.loader_speed)
    report.check("ms a step, one change at a time", partial(step_times, runs.scale))


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for clips, runs and the report")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="WORDS", help="checks that have these words in their name"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    on_cuda = given.device == "cuda"
    if on_cuda and not torch.cuda.is_available():
        print("PyTorch finds no CUDA device. Pass `--device cpu` to try the program itself.", file=sys.stderr)
        return 2
    runs, names = Runs(given.out, Scale.of(given.device)), Names()
    run_checks(names, runs)
    unknown = [words for words in given.only if not any(words in name for name in names)]
    if unknown:
        listed = "".join(f"\n  {name}" for name in names)
        print(
            f"--only: no check has {' or '.join(map(repr, unknown))} in its name. The checks:{listed}", file=sys.stderr
        )
        return 2
    given.out.mkdir(parents=True, exist_ok=True)
    report = Report(given.out, on_cuda=on_cuda, only=tuple(given.only))
    run_checks(report, runs)
    if not given.only:
        print(write(f"gpu_check-{given.device}", report.found, folder=given.results))
    print(f"{len(report.found['checks']) - len(report.failed)} passed, {len(report.failed)} failed: {report.failed}")
    return bool(report.failed)


if __name__ == "__main__":
    sys.exit(main())
