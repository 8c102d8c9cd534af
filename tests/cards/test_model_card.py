"""The model card of an export: what it says, what the Hub reads in it, and names that cannot break it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.evaluation.made_up_runs import made_up_scores
from videokd.cards.card import folder_name
from videokd.cards.markdown import fenced, front_matter, in_markdown, table
from videokd.cards.model_card import is_unchanged_card, write_card
from videokd.errors import printable
from videokd.evaluation.metrics import metrics
from videokd.evaluation.results import Entry, Latency, Results, ScoredPart, write_results
from videokd.models.network_spec import NetworkSpec
from videokd.models.students import PredictionSpec, build_students
from videokd.runs.run_folder import TrainedRun
from videokd.runs.run_settings import Distill, StudentSettings, Teach, read_settings
from videokd.runs.trained_on import InitialSource, TrainedOn

HOSTILE = (
    "a|b",
    "line\nbreak\r\n---\n# not a title",
    "<script>alert(1)</script>",
    "<!-- written by videokd",
    "key: value, {a: [1]} & *x",
    "- leading dash",
    "---",
    "emoji 🏃‍♀️ 跳跃",
    "`code` ``` $x$ ~~s~~ **b** _i_",
    "[link](http://x.org) www.x.org a@b.org",
    "'quote\" \\",
    "\x1b[2J \u202e \u2028 tab\t",
    "# title",
    "1. list",
    "null",
)


def run_of(folder: Path, names: tuple[str, ...], *, settings: Teach | Distill | None = None) -> TrainedRun:
    specs = {
        name: NetworkSpec((stream,), "test_resnet", len(names), 32)
        for name, stream in (("a", "iframe"), ("b", "motion"))
    }
    encoding = {"encoding": {"codec": "h264", "gop": 12, "short_side": 64}}
    students = build_students(specs, PredictionSpec(names, 3, encoding=encoding), seed=0).eval()
    if settings is None:
        members = {name: StudentSettings(spec.streams, "test_resnet") for name, spec in specs.items()}
        teachers = {"iframe": "/home/somebody/secret/iframe"}
        settings = Distill(
            out=str(folder), manifest="/home/somebody/data/mine", students=members, teachers=teachers, unlabelled="more"
        )
    folder.mkdir(parents=True, exist_ok=True)
    keys = tuple((f"{number:064x}", f"{number + 100:064x}", number % 3 - 1) for number in range(9))
    fitted = frozenset({f"{1000:064x}"})
    source = {"a": InitialSource("/home/somebody/w|x.safetensors", "0" * 64)}
    TrainedOn(keys, keys[:2], fitted, {"iframe": "0" * 64}, names, True, source).write(folder)
    return TrainedRun(folder, "student", students, settings, "f" * 64)


def evaluate(run: TrainedRun, **changes: Any) -> Results:
    names = run.students.class_names
    scores = made_up_scores(3.0, videos=8 * len(names), classes=len(names))
    entries = {
        name: Entry(
            "students fused" if name == "fused" else "student",
            ("iframe",),
            "test_resnet",
            123_456,
            2_000_000_000,
            Latency(2.0, 3.0, 5.0, 9.0),
            metrics(replace(scores, logits=scores.logits + shift), class_names=names, bootstrap=20),
        )
        for name, shift in (("a", np.float32(0)), ("b", np.float32(0)), ("fused", np.float32(0)))
    }
    part = ScoredPart("/home/somebody/data/mine/manifest.parquet", 1, "test", len(scores), names)
    results = Results(
        run=run.path.name, verb="evaluate", command="videokd evaluate /home/somebody/run", dataset=part, views="quick",
        num_segments=8, entries=entries, weights=run.weights,
    )  # fmt: skip
    results = replace(results, **changes)
    write_results(run.path / "results.json", results)
    return results


def card_of(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def front_of(text: str) -> dict[str, Any]:
    """The front matter, cut out as huggingface_hub does it."""
    found = re.match(r"^(\s*---[\r\n]+)([\S\s]*?)([\r\n]+---(\r\n|\n|$))", text)
    assert found
    return yaml.safe_load(found[2])


def export_to(folder: Path, run: TrainedRun, *, repository: str | None = None) -> bool:
    """The card beside weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "students.safetensors").touch()
    return write_card(folder, run, repository=repository)


def test_an_evaluated_run(tmp_path: Path) -> None:
    names = ("wave", "clap", "jump")
    run = run_of(tmp_path / "run", names)
    results = evaluate(run)
    assert export_to(tmp_path / "out", run)
    text, top1 = card_of(tmp_path / "out"), results.entries["fused"].metrics.top1
    front = front_of(text)
    assert {key: front[key] for key in ("license", "library_name", "pipeline_tag", "datasets", "metrics")} == {
        "license": "unknown",
        "library_name": "videokd",
        "pipeline_tag": "video-classification",
        "datasets": ["mine"],
        "metrics": ["accuracy"],
    }
    (model,) = front["model-index"]
    assert model["results"][0]["metrics"][0]["value"] == pytest.approx(top1.value, abs=1e-4)
    interval = f"{100 * top1.value:.1f} ({100 * top1.low:.1f}–{100 * top1.high:.1f})"
    for words in (
        interval,
        "24 videos, the test part of split 1 of mine; quick views, 8 segments",
        "over 24 videos. Chance, 1 of 3 classes: 33.3 %.",
        "![Confusion matrix: labels down, predictions across](confusion.png)",
        "| fused | 123 k | 4 | 5 (p95 9) |",
        "| a | iframe | 32×32 | test\\_resnet | 1 |",
        "of videos in h264, GOPs of 12 pictures, short side 64 pixels",
        "Data: mine, more, split 1; 3 classes.",
        "Fitted to 6 labelled clips, and 3 clips without labels; 2 further clips chose the best epoch.",
        "Teachers: iframe, which learned from further clips too. a started from w\\|x.safetensors.",
        "Classes: wave, clap, jump.",
        "- Weights: unknown: fill in",
        "- Data (mine): unknown: fill in",
        "- Weights that it started from (w\\|x.safetensors): unknown: fill in",
        'videokd.load_students("out")',
        "videokd predict clip.mp4 --students out",
        "videokd distill --config config.yaml",
        "--views quick --num_segments 8",
    ):
        assert words in text, words
    assert "somebody" not in text  # folders of the machine that trained are nobody's business
    assert "Not evaluated" not in text
    assert (tmp_path / "out" / "confusion.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_a_run_that_was_never_evaluated_says_so(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", ("wave", "clap"))
    assert export_to(tmp_path / "out", run, repository="me/my-model")
    text = card_of(tmp_path / "out")
    assert "**Not evaluated.**" in text
    assert not {"metrics", "model-index"} & set(front_of(text))
    count = sum(parameter.numel() for parameter in run.students.parameters())
    assert f"{count / 1e3:.3g} k parameters. Operations and latency were not measured." in text
    assert text.count("hf://me/my-model") == 2
    assert "\n# my-model\n" in text
    assert "confusion.png" not in text
    assert not (tmp_path / "out" / "confusion.png").exists()


def test_a_graph_is_not_loaded_from_the_hub(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", ("wave", "clap"))
    assert write_card(tmp_path, run, repository="me/graph")
    text = card_of(tmp_path)
    assert "\n# graph\n" in text
    assert "A graph for other runtimes" in text
    assert "hf://" not in text


def test_results_of_other_weights_are_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(tmp_path / "run", ("wave", "clap"))
    evaluate(run, weights="0" * 64)
    export_to(tmp_path / "out", run)
    assert "**Not evaluated.**" in card_of(tmp_path / "out")
    assert "was evaluated with other weights. Evaluate it again, then export." in capsys.readouterr().err
    evaluate(run, weights=None)  # as earlier versions wrote them
    export_to(tmp_path / "out", run)
    assert "Not evaluated" not in card_of(tmp_path / "out")
    assert "did not record of which weights they are" in card_of(tmp_path / "out")
    (run.path / "results.json").write_text("{")
    export_to(tmp_path / "out", run)
    assert "**Not evaluated.**" in card_of(tmp_path / "out")
    assert "the model card has no accuracy: " in capsys.readouterr().err


def test_validation_and_clips_that_were_seen_are_named(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", ("wave", "clap"))
    results = evaluate(run)
    evaluate(run, dataset=replace(results.dataset, part="val", trained_on=5))
    export_to(tmp_path / "out", run)
    text = card_of(tmp_path / "out")
    assert "the validation part, which chose the best epoch: the accuracy is too high" in text
    assert "**5 of them were also trained on: the accuracy is too high.**" in text
    assert "--num_segments 8 --part val" in text


def test_the_config_trains_the_same_again(tmp_path: Path) -> None:
    settings = Teach(out="runs/a", manifest="data/mine", stream="motion", backbone="test_resnet", seed=3)
    run = run_of(tmp_path / "run", ("wave", "clap"), settings=settings)
    export_to(tmp_path / "out", run)
    text = card_of(tmp_path / "out")
    (config,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "config.yaml").write_text(config)
    assert read_settings(tmp_path / "config.yaml") == settings
    assert "videokd teach --config config.yaml\nvideokd export runs/a --out students" in text


def test_a_card_that_videokd_did_not_write_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, path = run_of(tmp_path / "run", ("wave", "clap")), tmp_path / "README.md"
    path.write_text("my own words")
    assert not export_to(tmp_path, run)
    assert path.read_text() == "my own words"
    assert "README.md is kept: videokd did not write it, or it was changed since" in capsys.readouterr().err
    path.unlink()
    assert export_to(tmp_path, run)
    assert is_unchanged_card(path)
    assert export_to(tmp_path, run, repository="me/x")  # its own, unchanged: written anew
    edited = card_of(tmp_path).replace("license: unknown", "license: mit")
    path.write_text(edited)
    assert not is_unchanged_card(path)
    assert not export_to(tmp_path, run)
    assert card_of(tmp_path) == edited
    path.write_bytes(b"\xff\xfe")
    assert not is_unchanged_card(path)


@pytest.mark.parametrize("evaluated", [False, True])
def test_hostile_names(evaluated: bool, tmp_path: Path) -> None:
    settings = Teach(out="/x/`o`\n---", manifest="data/" + "a|b: <i>\n---\n- 🏃", stream="motion", seed=3)
    run = run_of(tmp_path / "run <b>|`x`\n---\n", HOSTILE, settings=settings)
    if evaluated:
        evaluate(run)
    out = tmp_path / 'it\'s "out"\n---\n`x`'
    assert export_to(out, run)
    text = card_of(out)
    front = front_of(text)
    assert front["library_name"] == "videokd"
    assert front["datasets"] == ["a-b-i"]
    assert set(front) == {"license", "library_name", "pipeline_tag", "tags", "datasets"} | (
        {"metrics", "model-index"} if evaluated else set()
    )
    body = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", text.split("\n---\n", 1)[1])  # without blocks of code
    plain = re.sub(r"\\[^\w\s]", "", body)  # without what is escaped
    tags = set(re.findall(r"<[^>]*>", plain.partition("\n<!-- written")[0]))
    assert tags <= {"<details>", "</details>", "<summary>", "</summary>"}
    assert "&" not in plain
    titles = [line for line in plain.splitlines() if line.startswith("#")]
    assert titles[0] == "# run bx ---"
    assert titles[1:] == [
        *("## Use", "## Accuracy", "## Cost", "## Input", "## Training data"),
        *("## How it was made", "## Intended use and limits", "## Licences"),
    ]
    for block in re.findall(r"(?m)(?:^\|.*\n)+", plain):
        assert len({line.count("|") for line in block.splitlines()}) == 1, block
    if evaluated:
        each = plain.partition("Each class")[2]
        assert len(re.findall(r"(?m)^\| .* \| 8 \| ", each)) == len(HOSTILE)
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_huggingface_hub_reads_it(tmp_path: Path) -> None:
    card_class = pytest.importorskip("huggingface_hub").ModelCard
    run = run_of(tmp_path / "run", HOSTILE)
    results = evaluate(run)
    export_to(tmp_path / "out", run)
    card = card_class(card_of(tmp_path / "out"))
    assert card.data.library_name == "videokd"
    assert card.data.pipeline_tag == "video-classification"
    assert card.data.license == "unknown"
    assert card.data.datasets == ["mine"]
    assert "compressed-video" in card.data.tags
    accuracy, top5, mean = card.data.eval_results
    assert accuracy.metric_type == "accuracy"
    assert accuracy.metric_value == pytest.approx(results.entries["fused"].metrics.top1.value, abs=1e-4)
    assert (top5.metric_name, mean.dataset_name) != ("", "")
    assert accuracy.dataset_split == "test"
    assert card.text.lstrip().startswith("# run")


def test_many_classes_have_a_list_and_no_picture(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", tuple(f"class {number}" for number in range(61)))
    evaluate(run)
    assert export_to(tmp_path / "out", run)
    text = card_of(tmp_path / "out")
    assert "<summary>Classes</summary>" in text
    assert not (tmp_path / "out" / "confusion.png").exists()


@pytest.mark.parametrize("name", HOSTILE)
def test_names_stay_what_they_are(name: str) -> None:
    """But for what steers a terminal, which is escaped in both."""
    text = front_matter({"name": name, "list": [name]})
    assert text.count("\n---\n") == 1
    assert front_of(text) == {"name": printable(name), "list": [printable(name)]}
    assert re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", in_markdown(name)) == printable(" ".join(name.split()))


def test_fences_and_tables() -> None:
    assert fenced("a\n````\nb", "text").splitlines()[0] == "`````text"
    assert table(["a", "b"], [["x\ny", "|"]]).splitlines()[2] == "| x y | \\| |"
    assert in_markdown("") == "–"
    assert folder_name("/a/b/manifest.parquet") == folder_name("b") == "b"
