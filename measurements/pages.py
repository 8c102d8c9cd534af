"""Writes the generated tables of README.md and docs/ from the newest result files.

    .venv/bin/python measurements/pages.py           rewrites the pages
    .venv/bin/python measurements/pages.py --check   exit status 1 if a page differs from the results

Each page has one block between two comments, which this program replaces; everything else in it is written by hand.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import benchmark_tables
import describe_tables
import gpu_tables
import labels_tables
import predict_tables
import protocol_time
import runtimes_tables
import scale
import study_tables
import watch_tables
from markdown import Results
from record import RESULTS, ROOT, newest


@dataclass(frozen=True)
class Page:
    """One page with a generated block.

    Args:
        path: from the repository's root.
        tables: (kind of result, its table), in order; a kind without results is left out.
        lines: what makes the whole block of a page whose tables combine several kinds.
        mark: the word in the comments around the block.
    """

    path: str
    tables: tuple[tuple[str, Callable[[Results], list[str]]], ...] = ()
    lines: Callable[[], list[str]] | None = None
    mark: str = "tables"

    def block(self) -> str:
        """The generated block, comments included, with links from where the page is."""
        lines = ["", *self.lines()] if self.lines else []
        for kind, table in self.tables:
            results = newest(kind)
            if results is not None:
                lines += ["", *table(results)]
        folder = RESULTS.relative_to(ROOT).as_posix()
        text = "\n".join([f"<!-- {self.mark}: begin -->", *lines, "", f"<!-- {self.mark}: end -->"])
        return text.replace("(RESULTS/", f"({'../' * self.path.count('/')}{folder}/")

    def updated(self, text: str) -> str:
        """The page's text with the block that the results give.

        Raises:
            ValueError: the page has no such block.
        """
        before, begin, rest = text.partition(f"<!-- {self.mark}: begin -->")
        _, end, after = rest.partition(f"<!-- {self.mark}: end -->")
        if not (begin and end):
            raise ValueError(
                f"{self.path} has no block between <!-- {self.mark}: begin --> and <!-- {self.mark}: end -->"
            )
        return before + self.block() + after


PAGES = (
    Page("README.md", (("labels", labels_tables.few_labels_table), ("study", study_tables.front_table))),
    Page(
        "docs/study.md",
        (
            ("labels", labels_tables.labels_table),
            ("labels_choice", labels_tables.choice_table),
            ("labels_choice_motion", labels_tables.choice_table),
            ("study", study_tables.study_table),
        ),
    ),
    Page(
        "docs/measured.md",
        (
            ("study", study_tables.short_study_table),
            ("bench_latency-cpu-study", benchmark_tables.short_latency_table),
            ("ucf101-6", benchmark_tables.accuracy_table),
            ("demo", benchmark_tables.accuracy_table),
            ("predict_forms", benchmark_tables.forms_table),
            ("both_forms", benchmark_tables.forms_table),
            ("bench_predict_archive", predict_tables.archive_table),
            ("fuzz_codec", benchmark_tables.fuzz_table),
            ("bench_latency-cpu", benchmark_tables.latency_table),
            ("bench_latency-cpu-study", benchmark_tables.latency_table),
            ("runtimes", runtimes_tables.runtimes_table),
            ("bench_codec", benchmark_tables.codec_table),
            ("bench_watch", watch_tables.watch_table),
            ("fuzz_watch", watch_tables.fuzz_watch_table),
            ("bench_versions", benchmark_tables.versions_table),
            ("bench_peers", benchmark_tables.peers_table),
            ("bench_data", benchmark_tables.data_table),
            ("quality", benchmark_tables.quality_table),
            ("training_forms", benchmark_tables.training_forms_table),
            ("presets", benchmark_tables.presets_table),
            ("bench_teaching", labels_tables.teaching_table),
            ("bench_step-cpu", benchmark_tables.step_table),
            ("bench_step-cuda", benchmark_tables.step_table),
            ("precisions", benchmark_tables.precisions_table),
            ("gpu_check-cuda", gpu_tables.gpu_check_table),
        ),
    ),
    Page(
        "docs/describe.md",
        (
            ("describe_speed", describe_tables.speed_table),
            ("describe_flow", describe_tables.flow_table),
            ("describe_cuts", describe_tables.cuts_table),
        ),
    ),
    Page("docs/scale.md", lines=scale.lines),
    Page("docs/protocol.md", lines=protocol_time.lines, mark="hours"),
)


def stale_pages(root: Path = ROOT) -> list[str]:
    """Pages whose block differs from what the results give."""
    texts = {page: (root / page.path).read_text(encoding="utf-8") for page in PAGES}
    return [page.path for page, text in texts.items() if page.updated(text) != text]


def write_pages(root: Path = ROOT) -> None:
    """Rewrites the block of every page."""
    for page in PAGES:
        path = root / page.path
        path.write_text(page.updated(path.read_text(encoding="utf-8")), encoding="utf-8")


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a page is out of date")
    given = parser.parse_args()
    if not given.check:
        write_pages()
        return 0
    stale = stale_pages()
    for path in stale:
        print(f"{path} differs from the results (run measurements/pages.py)")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
