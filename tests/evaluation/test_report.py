from __future__ import annotations

import base64
import importlib.util
import json
import re
import shutil
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from matplotlib.image import imsave

from videokd.errors import DataError
from videokd.evaluation.report import write_report
from videokd.evaluation.results import read_results


def _made_up() -> ModuleType:
    spec = importlib.util.spec_from_file_location("made_up_runs", Path(__file__).with_name("made_up_runs.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


made_up = _made_up()
LOADING = {"src", "href", "srcset", "data", "poster", "action", "xlink:href", "background"}


class Page(HTMLParser):
    """What a page loads, its tables' cells, its words and whether its tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tables: list[list[str]] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in LOADING]
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag in ("td", "th"):
            self.tables[-1].append("")

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.remove(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.open and self.tables and {"td", "th"} & set(self.open):
            self.tables[-1][-1] += f" {data.strip()}" if data.strip() else ""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = made_up.made_up_run(tmp_path_factory.mktemp("runs") / "demo")
    made_up.made_up_log(folder)
    (folder / "pictures").mkdir()
    imsave(folder / "pictures" / "streams-Archery.png", np.zeros((4, 6, 3), np.uint8))
    (folder / "config.yaml").write_text("out: demo\nnote: <b>&\n")
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    path = write_report([run], run.parent / "page" / "report.html", title="A <title>")
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    return Page(path.read_text(encoding="utf-8"))


def test_nothing_is_loaded_from_elsewhere(page: Page, run: Path) -> None:
    assert page.loaded
    for address in page.loaded:
        assert address.startswith(("data:image/", "#")), address[:80]
    text = (run.parent / "page" / "report.html").read_text(encoding="utf-8")
    assert "http" not in text
    assert "@import" not in text
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not page.open


def test_every_figure_of_the_headline_stands_in_its_table(page: Page, run: Path) -> None:
    cells = page.tables[0]
    for name, entry in read_results(run)["entries"].items():
        row = cells[next(number for number, cell in enumerate(cells) if cell.strip().startswith(f"{name} ")) :][:8]
        assert row[0].split(maxsplit=1) == [name, entry["role"]]
        assert row[1].strip() == f"{', '.join(entry['streams'])} {entry['backbone']}"
        assert row[2].strip() == f"{entry['parameters'] / 1e6:.3g} M"
        giga = entry["macs_per_video"] / 1e9
        expected = (
            f"{giga:.3g} G {2 * giga:.3g} GFLOPs" if giga > 1 else f"{1000 * giga:.3g} M {2000 * giga:.3g} MFLOPs"
        )
        assert row[3].strip() == expected
        assert row[4].strip() == f"{entry['latency_ms']['total']:.1f}"
        for cell, metric in zip(row[5:], ("top1", "top5", "mean_class"), strict=True):
            value, low, high = (100 * entry["metrics"][metric][key] for key in ("value", "low", "high"))
            assert cell.strip() == f"{value:.1f} {low:.1f}–{high:.1f}"


def test_the_best_of_each_column_is_marked(run: Path) -> None:
    text = (run.parent / "page" / "report.html").read_text(encoding="utf-8")
    marked = re.findall(r'class="number best">.*?class="figure">([^<]*)<', text, flags=re.DOTALL)
    entries = list(read_results(run)["entries"].values())
    expected = ["3.1 M", "310 M", "7.1"]  # the tiny student's parameters, MACs and milliseconds
    for metric in ("top1", "top5", "mean_class"):
        values = [entry["metrics"][metric]["value"] for entry in entries]
        expected += [f"{100 * max(values):.1f}"] * values.count(max(values))
    assert sorted(marked) == sorted(expected)


def test_differences_and_classes_have_their_tables(page: Page, run: Path) -> None:
    assert [cell.strip() for cell in page.tables[1][5:]] == [
        *("students", "teachers", "−2.1", "−4.0 to +0.3", "no clear difference"),
        *("students", "tiny", "+8.3", "+4.1 to +12.2", "better"),
    ]
    cells = [cell.strip() for cell in page.tables[2]]
    entries = read_results(run)["entries"]
    assert cells[: 2 + len(entries)] == ["class", "videos", *entries]
    for number, name in enumerate(made_up.CLASSES, start=1):
        row = cells[number * (2 + len(entries)) :][: 2 + len(entries)]
        accuracies = [entry["metrics"]["per_class"][name]["accuracy"] for entry in entries.values()]
        assert row == [name, "28", *(f"{100 * accuracy:.1f}" for accuracy in accuracies)]


def test_figures_pictures_and_settings_are_there(page: Page, run: Path) -> None:
    assert page.tags.count("svg") == 2 + 2 + 7  # costs, curves, confusion matrices
    picture = base64.b64encode((run / "pictures" / "streams-Archery.png").read_bytes()).decode()
    assert f"data:image/png;base64,{picture}" in page.loaded
    words = "".join(page.words)
    for expected in (
        *("A <title>", "streams · Archery", "videokd distill --out demo", "note: <b>&", "torch 2.6.0", "2026-03-01"),
        *("ucf101-6, split 1, test: 168 videos of 6 classes, 25 segments, quick views", "intervals over groups"),
        *("total loss", "validation top-1, %", "MACs per video", "ms per video"),
    ):
        assert expected.replace("intervals", "interval") in words, expected


def test_a_run_of_scores_alone_is_enough(tmp_path: Path, run: Path) -> None:
    results = read_results(run)
    entry = results["entries"]["small"]
    entry |= {"backbone": None, "parameters": None, "macs_per_video": None, "latency_ms": None}
    entry["metrics"] = {name: entry["metrics"][name] for name in ("top1", "top5", "mean_class")}
    results["entries"] = {"small": entry}
    results["dataset"]["split"] = None
    del results["comparisons"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    page = Page(write_report([str(tmp_path)], tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "svg" not in page.tags
    headings = [cell.strip() for cell in page.tables[0][:5]]
    assert headings == ["model", "streams, backbone", "top-1, %", "top-5, %", "mean class, %"]
    assert len(page.tables) == 1


def test_several_runs_stand_side_by_side(tmp_path: Path, run: Path) -> None:
    second = tmp_path / "second"
    shutil.copytree(run, second)
    text = (second / "results.json").read_text().replace('"run": "demo"', '"run": "second"')
    (second / "results.json").write_text(text.replace('"views": "quick"', '"views": "full"'))
    page = Page(write_report([run, second], tmp_path / "report.html").read_text(encoding="utf-8"))
    words = "".join(page.words)
    assert "demo · small" in words
    assert "second · small" in words
    assert "not measured alike" in words
    assert page.tags.count("img") == 1  # the same picture of both runs is shown once


def test_odd_logs_do_no_harm(tmp_path: Path, run: Path) -> None:
    shutil.copy(run / "results.json", tmp_path)
    lines = [
        "",
        "{broken",
        "3",
        '{"loss/total": 1.0}',
        '{"step": 1, "loss/total": NaN}',
        '{"step": 2, "loss/total": "x"}',
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    page = Page(write_report([tmp_path], tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "Training" not in page.words
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss/total": 2.0}\n{"step": 2, "loss/total": 1.0, "new": []}')
    page = Page(write_report([tmp_path], tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "Training" in page.words
    assert "step" in page.words


def test_runs_without_results_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"results\.json is not there. Run `videokd evaluate .*nothing`"):
        write_report([tmp_path / "nothing"], tmp_path / "report.html")
    with pytest.raises(DataError, match="no run to report on"):
        write_report([], tmp_path / "report.html")
    assert not list(tmp_path.iterdir())
