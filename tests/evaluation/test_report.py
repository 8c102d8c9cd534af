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
from videokd.evaluation.metrics import paired_difference
from videokd.evaluation.report import write_report
from videokd.evaluation.results import read_results
from videokd.evaluation.scores import Scores
from videokd.evaluation.tables import distinct_names


def _made_up() -> ModuleType:
    spec = importlib.util.spec_from_file_location("made_up_runs", Path(__file__).with_name("made_up_runs.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


made_up = _made_up()
METRICS = ("top1", "top5", "mean_class", "calibration_error")
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
    made_up.made_up_predictions(folder)
    (folder / "pictures").mkdir()
    for name, shade in (("streams-Archery", 0), ("streams-01-Archery", 80), ("streams-02-Biking", 160)):
        imsave(folder / "pictures" / f"{name}.png", np.full((4, 6, 3), shade, np.uint8))
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
    assert "http" not in text.replace("http-equiv", "")
    assert "@import" not in text
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not page.open


def test_every_figure_of_the_models_stands_in_its_table(page: Page, run: Path) -> None:
    cells = page.tables[0]
    for name, entry in read_results(run).entries.items():
        row = cells[next(number for number, cell in enumerate(cells) if cell.strip().startswith(f"{name} ")) :][:10]
        assert row[0].split(maxsplit=1) == [name, entry.role]
        assert row[9].strip() == f"{', '.join(entry.streams)} {entry.backbone}"
        assert row[6].strip() == f"{entry.parameters / 1e6:.3g} M"
        giga = entry.macs_per_video / 1e9
        expected = (
            f"{giga:.3g} G {2 * giga:.3g} GFLOPs" if giga > 1 else f"{1000 * giga:.3g} M {2000 * giga:.3g} MFLOPs"
        )
        assert row[7].strip() == expected
        took = entry.latency_ms
        parts = f"read {took.read:.1f} network {took.network:.1f} p95 9.0"
        assert " ".join(row[8].split()) == f"{took.total:.1f} {parts}"
        for cell, metric in zip((row[1], *row[3:6]), METRICS, strict=True):
            interval = getattr(entry.metrics, metric)
            value, low, high = (100 * getattr(interval, key) for key in ("value", "low", "high"))
            assert cell.strip() == f"{value:.1f} {low:.1f}–{high:.1f}"


def test_the_best_of_each_column_is_marked(run: Path) -> None:
    text = (run.parent / "page" / "report.html").read_text(encoding="utf-8")
    marked = re.findall(r'class="number best">.*?class="figure">([^<]*)<', text, flags=re.DOTALL)
    entries = list(read_results(run).entries.values())
    expected = ["3.1 M", "310 M", "7.1"]  # the tiny student's parameters, MACs and milliseconds
    for metric in METRICS:
        values = [getattr(entry.metrics, metric).value for entry in entries]
        best = min(values) if metric == "calibration_error" else max(values)
        expected += [f"{100 * best:.1f}"] * values.count(best)
    assert sorted(marked) == sorted(expected)


def test_differences_and_classes_have_their_tables(page: Page, run: Path) -> None:
    assert [cell.strip() for cell in page.tables[1][5:]] == [
        *("students", "teachers", "−2.1", "−4.0 to +0.3", "no clear difference"),
        *("students", "tiny", "+8.3", "+4.1 to +12.2", "better"),
        *("small", "teachers", *_difference_by_hand(), "worse"),
    ]
    cells = [cell.strip() for cell in page.tables[2]]
    entries = read_results(run).entries
    assert cells[: 2 + len(entries)] == ["class", "videos", *entries]
    for number, name in enumerate(made_up.CLASSES, start=1):
        row = cells[number * (2 + len(entries)) :][: 2 + len(entries)]
        accuracies = [entry.metrics.per_class[name].accuracy for entry in entries.values()]
        assert row == [name, "28", *(f"{100 * accuracy:.1f}" for accuracy in accuracies)]


def _difference_by_hand() -> tuple[str, str]:
    """Small minus teachers, the only models with scores; videos are drawn, as no groups are given."""
    small, teachers = (made_up.made_up_scores(skill, seed=seed) for skill, seed in ((2.7, 6), (3.4, 5)))
    gain = (small.logits.argmax(1) == small.labels) * 1.0 - (teachers.logits.argmax(1) == teachers.labels)
    interval = paired_difference(small, teachers)
    low, high = (f"{100 * getattr(interval, end):+.1f}".replace("-", "−") for end in ("low", "high"))
    return f"{100 * gain.mean():+.1f}".replace("-", "−"), f"{low} to {high}"


def test_examples_show_each_models_prediction(page: Page, run: Path) -> None:
    words = " ".join(word.strip() for word in page.words if word.strip())
    for video, name in (("video000", "Archery"), ("video003", "Biking")):
        part = words[words.index(f"{name} {video}") :][:90]
        for model in ("teachers", "small"):
            scores = Scores.load(run / f"scores-{model}.npz")
            logits = scores.logits[scores.video_ids.index(video)].astype(float)
            shares = np.exp(logits) / np.exp(logits).sum()
            mark = "✓" if made_up.CLASSES[shares.argmax()] == name else "✗"
            assert f"{100 * shares.max():.1f} % {mark} {made_up.CLASSES[shares.argmax()]} {model}" in part
    assert page.loaded.count(_data(run / "pictures" / "streams-01-Archery.png")) == 1


def test_wrong_predictions_are_marked(tmp_path: Path, run: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    scores = Scores.load(run / "scores-small.npz")
    wrong = int(np.flatnonzero(scores.logits.argmax(1) != scores.labels)[0])
    text = (run / "results.json").read_text().replace('"video000"', f'"video{wrong:03d}"')
    (tmp_path / "run" / "results.json").write_text(text)
    html = write_report([tmp_path / "run"], tmp_path / "report.html").read_text(encoding="utf-8")
    predictions = re.findall(
        r'<li( class="correct")?>.*?aria-label="(\w+)".*?<span class="model">(\w+)<', html, flags=re.DOTALL
    )
    assert ("", "wrong", "small") in predictions
    assert all((kind == "correct") == bool(marked) for marked, kind, _ in predictions)


def test_exits_have_a_section_of_their_own(tmp_path: Path, run: Path, page: Page) -> None:
    shutil.copytree(run, tmp_path / "run")
    made_up.made_up_exits(tmp_path / "run")
    with_exits = Page(write_report([tmp_path / "run"], tmp_path / "report.html").read_text(encoding="utf-8"))
    assert with_exits.tables[0] == page.tables[0]
    assert with_exits.tags.count("svg") == page.tags.count("svg") + 1
    exits, thresholds = (next(t for t in with_exits.tables if t[1].strip() == name) for name in ("exit", "threshold"))
    assert [cell.strip() for cell in exits[5::5]] == ["small"] * 3
    assert [cell.strip() for cell in exits[6::5]] == ["exit1", "exit2", "the whole network"]
    assert [cell.strip() for cell in thresholds[5:10]] == [
        *("small", "0.5", "465 M", "72.0 66.0–78.0", "exit1 90 %, exit2 0 %, deepest 10 %")
    ]


def test_intervals_are_over_groups_where_these_are_given(tmp_path: Path, run: Path) -> None:
    groups = {f"video{number:03d}": f"g{number // 24}" for number in range(168)}
    page = Page(write_report([run], tmp_path / "report.html", groups=groups).read_text(encoding="utf-8"))
    small, teachers = (Scores.load(run / f"scores-{name}.npz") for name in ("small", "teachers"))
    interval = paired_difference(small, teachers, [groups[video] for video in small.video_ids])
    low, high = (f"{100 * getattr(interval, end):+.1f}".replace("-", "−") for end in ("low", "high"))
    assert page.tables[1][-2].strip() == f"{low} to {high}"


def test_scores_of_other_classes_are_named(tmp_path: Path, run: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    made_up.made_up_scores(2, classes=3).save(tmp_path / "run" / "scores-small.npz")
    with pytest.raises(DataError, match=r"scores-small\.npz has 3 classes, and results\.json beside it 6"):
        write_report([tmp_path / "run"], tmp_path / "report.html")


def _data(picture: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"


def test_figures_pictures_and_settings_are_there(page: Page, run: Path) -> None:
    assert page.tags.count("svg") == 2 + 2 + 7 + 2  # costs, curves, confusion matrices, reliabilities
    assert _data(run / "pictures" / "streams-Archery.png") in page.loaded
    words = "".join(page.words)
    for expected in (
        *("A <title>", "streams · Archery", "videokd distill --out demo", "note: <b>&", "torch 2.6.0", "2026-03-01"),
        *("ucf101-6, split 1, test: 168 videos of 6 classes, 25 segments, quick views", "intervals over 7 groups"),
        *("total loss", "validation top-1, %", "MACs per video", "ms per video"),
    ):
        assert expected.replace("intervals", "interval") in words, expected


def test_a_run_with_only_accuracies_is_enough(tmp_path: Path, run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
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
    assert headings == ["model", "top-1, %", "top-5, %", "mean class, %", "streams, backbone"]
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
    assert "not measured in the same way" in words
    assert page.tags.count("img") == 3  # the same pictures of both runs are shown once


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path, run: Path) -> None:
    for name, skill in (("a", 1), ("b", 5)):
        shutil.copytree(run, tmp_path / name / "run")
        text = (run / "results.json").read_text().replace('"run": "demo"', '"run": "run"')
        (tmp_path / name / "run" / "results.json").write_text(text)
        made_up.made_up_scores(skill).save(tmp_path / name / "run" / "scores-small.npz")
    runs = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "b" / ".." / "a" / "run"]
    page = Page(write_report(runs, tmp_path / "report.html").read_text(encoding="utf-8"))
    names = [cell.split(" student")[0].strip() for cell in page.tables[0] if "small" in cell]
    assert names == ["a/run · small", "b/run · small"]
    compared = {tuple(cell.strip() for cell in page.tables[1][at : at + 2]) for at in range(5, len(page.tables[1]), 5)}
    assert {("a/run · small", "a/run · teachers"), ("b/run · small", "a/run · teachers")} <= compared


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["a/run", "b/run"], ["a/run", "b/run"]),
        (["x/a/run", "y/a/run"], ["x/a/run", "y/a/run"]),
        (["copy1", "copy2"], ["copy1", "copy2"]),
        (["run", "b/run"], ["tmp/run", "b/run"]),
        (["a/1/run", "a/2/run", "b/1/run"], ["a/1/run", "a/2/run", "b/1/run"]),
    ],
)
def test_names_are_the_shortest_that_differ(folders: list[str], names: list[str]) -> None:
    assert distinct_names(["run"] * len(folders), [Path("/tmp", folder) for folder in folders]) == names


def test_validation_and_chance_stand_beside_the_test(tmp_path: Path, run: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    results = json.loads((run / "results.json").read_text())
    results["dataset"]["part"] = "val"
    tops = {"teachers": 0.125, "small": 0.25}
    results["entries"] = {name: results["entries"][name] for name in tops}
    for name, value in tops.items():
        results["entries"][name]["metrics"]["top1"]["value"] = value
    del results["comparisons"], results["examples"]
    (tmp_path / "run" / "results-val.json").write_text(json.dumps(results))
    html = write_report([tmp_path / "run"], tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    cells = [cell.strip() for cell in page.tables[0]]
    assert cells[1:3] == ["top-1, %", "validation top-1, %"]
    for name, expected in (("teachers", "12.5"), ("small", "25.0"), ("tiny", "–")):
        row = next(number for number, cell in enumerate(cells) if cell.startswith(f"{name} "))
        assert cells[row + 2].split()[0] == expected
    chance = cells.index("chance, 1 of 6 classes")
    assert cells[chance + 1] == "16.7"
    assert html.index('id="models"') < html.index('id="classes"') < html.index('id="examples"')
    # Only a validation part was evaluated: that is shown, and says so
    (tmp_path / "run" / "results.json").unlink()
    only = write_report([tmp_path / "run"], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "ucf101-6, split 1, val: 168 videos" in only
    assert "validation top-1, %</th>" not in only


def test_the_epoch_that_was_kept_is_shown_where_validation_was_not_evaluated(page: Page) -> None:
    cells = [cell.strip() for cell in page.tables[0]]
    row = next(number for number, cell in enumerate(cells) if cell.startswith("small "))
    assert cells[row + 2] == f"{100 * (0.85 - 0.6 * 0.8**7):.1f} best epoch"


def test_names_in_any_script_are_drawn_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    names = ("射箭射箭", "バスケットボール", "수영", "Biking", "火车", "打太极拳")
    monkeypatch.setattr(made_up, "CLASSES", names)
    folder = made_up.made_up_run(tmp_path / "run", name="动作")
    text = write_report([folder], tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(f">{name}</text>" in text for name in names)
    assert not [str(warning.message) for warning in recwarn]


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
