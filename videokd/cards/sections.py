"""The text of a model card, section by section."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import yaml

from videokd.cards.card import Card, folder_name
from videokd.cards.markdown import fenced, folded, in_markdown, table, with_texts
from videokd.evaluation.cost import parameters
from videokd.evaluation.figures import short_number
from videokd.evaluation.results import Entry, Results
from videokd.evaluation.tables import chances, interval_text, interval_units, percent
from videokd.runs.run_settings import Distill, Teach
from videokd.transcoding.training_form import TrainingForm

CONFUSION_FILE = "confusion.png"
_UNKNOWN = "unknown: fill in"
_LISTED = 30  # classes: a longer list is folded


def card_text(card: Card) -> str:
    """The card below its front matter, as Markdown.

    Args:
        card: what it is about.
    """
    students = card.run.students
    count, classes = len(students.specs), len(students.class_names)
    who = f"{count} small networks that together name" if count > 1 else "A network that names"
    streams = ", ".join(students.streams)
    sections = {
        "Use": _use(card),
        "Accuracy": _accuracy(card),
        "Cost": _cost(card),
        "Input": _input(card),
        "Training data": _data(card),
        "How it was made": _making(card),
        "Intended use and limits": _limits(card),
        "Licences": _licences(card),
    }
    title = f"# {in_markdown(card.name)}"
    what = f"{who} one of {classes} actions in a video, from these streams of the compressed file: {streams}. Made with videokd."
    return "\n\n".join([title, what, *(f"## {name}\n\n{text}" for name, text in sections.items())])


def _use(card: Card) -> str:
    python = (
        f"import videokd\n\nstudents = videokd.load_students({json.dumps(card.address, ensure_ascii=False)})\n"
        'prediction = videokd.predict("clip.mp4", students)\nprint(prediction.labels[0].name)'
    )
    shell = fenced(f"videokd predict clip.mp4 --students {shlex.quote(card.address)}", "bash")
    if card.loadable:
        return f"{fenced(python, 'python')}\n\n{shell}"
    graph = "A graph for other runtimes: uint8 streams in, fused logits out; `students.json` lists the classes. In this folder, with ONNX Runtime:"
    return f"{graph}\n\n{shell}"


def _accuracy(card: Card) -> str:
    results, headline = card.results, card.headline
    if results is None or headline is None:
        return "**Not evaluated.** Nobody has measured how often this model is right. `videokd evaluate RUN`, then `videokd export` again, fills this in."
    found = headline.metrics
    columns = ["", "top-1, %", f"top-{min(5, len(results.dataset.class_names))}, %", "mean of classes, %"]
    rows = [[name, *_percents(entry)] for name, entry in results.models.items()]
    lines = [_tested_on(results), table(columns, rows)]
    guesses = "; ".join(f"{name}: {percent(value)} %" for name, value in chances(results))
    if results.weights is None:
        lines.append("These results are of a version that did not record of which weights they are.")
    lines.append(f"In parentheses: 95 % intervals, over {interval_units(found)}. {guesses[:1].upper()}{guesses[1:]}.")
    if card.picture:
        lines.append(f"![Confusion matrix: labels down, predictions across]({CONFUSION_FILE})")
    if found.per_class:
        each = [
            [name, one.videos, "–" if one.accuracy is None else percent(one.accuracy)]
            for name, one in found.per_class.items()
        ]
        lines.append(folded("Each class", table(["class", "tested videos", "correct, %"], each)))
    return "\n\n".join(lines)


def _percents(entry: Entry) -> list[str]:
    found = entry.metrics
    return [f"{percent(each.value)} ({interval_text(each)})" for each in (found.top1, found.top5, found.mean_class)]


def _tested_on(results: Results) -> str:
    scored = results.dataset
    part = {
        "test": "the test part",
        "val": "the validation part, which chose the best epoch: the accuracy is too high,",
    }
    split = f" of split {scored.split}" if scored.split else ""
    seen = (
        f" **{scored.trained_on} of them were also trained on: the accuracy is too high.**" if scored.trained_on else ""
    )
    return (
        f"{scored.num_videos} videos, {part.get(scored.part, scored.part)}{split} of {in_markdown(folder_name(scored.manifest))}; "
        f"{results.views} views, {results.num_segments} segments.{seen}"
    )


def _cost(card: Card) -> str:
    students, results = card.run.students, card.results
    if results is None:
        count = short_number(sum(map(parameters, students.members.values())))
        return f"{count} parameters. Operations and latency were not measured."
    rows = []
    for name, entry in results.models.items():
        macs, latency = entry.macs_per_video, entry.latency_ms
        p95 = "" if latency is None or latency.p95 is None else f" (p95 {latency.p95:.0f})"
        rows.append(
            [
                name,
                "–" if entry.parameters is None else short_number(entry.parameters),
                "–" if macs is None else f"{2 * macs / 1e9:.3g}",
                "–" if latency is None else f"{latency.total:.0f}{p95}",
            ]
        )
    where = ", ".join(f"{name} {value}" for name, value in results.versions.items())
    note = f"A video in {results.views} views of {results.num_segments} segments; latency from file to label, measured with {in_markdown(where)}."
    return f"{table(['', 'parameters', 'GFLOPs a video', 'ms a video'], rows)}\n\n{note}"


def _input(card: Card) -> str:
    students = card.run.students
    rows = [
        [
            name,
            " + ".join(spec.streams),
            f"{spec.input_size}×{spec.input_size}",
            spec.backbone,
            f"{students.weights[name]:g}",
        ]
        for name, spec in students.specs.items()
    ]
    form = TrainingForm.from_settings(students.encoding)
    size = f", short side {form.short_side} pixels" if form.short_side else ""
    gop = f", GOPs of {form.encoding.gop} pictures" if form.gop else ""
    codecs = ", ".join(form.codecs)
    return (
        f"{table(['student', 'streams', 'input, pixels', 'backbone', f'weight of its {students.space}'], rows)}\n\n"
        f"Trained with {students.num_segments} segments a video, of videos in {codecs}{gop}{size}. `predict` brings other videos into a "
        "similar form."
    )


def _data(card: Card) -> str:
    settings, trained, students = card.run.settings, card.trained, card.run.students
    names = [card.dataset]
    if isinstance(settings, Distill) and settings.unlabelled is not None:
        names.append(folder_name(settings.unlabelled))
    lines = [
        f"Data: {', '.join(map(in_markdown, names))}, split {settings.split}; {len(students.class_names)} classes."
    ]
    if trained is None:
        lines.append("The number of clips is not known: the run has no record of them.")
    else:
        labelled = sum(label >= 0 for *_, label in trained.fit)
        without = len(trained.fit) - labelled
        more = f", and {without} clips without labels" if without else ""
        chosen = (
            f"{len(trained.held_out)} further clips chose the best epoch"
            if trained.held_out
            else "no clips were held out"
        )
        lines.append(f"Fitted to {labelled} labelled clips{more}; {chosen}.")
        if trained.teachers:
            others = ", which learned from further clips too" if trained.by_teachers else ""
            lines.append(f"Teachers: {', '.join(map(in_markdown, trained.teachers))}{others}.")
        lines += [
            f"{in_markdown(name)} started from {in_markdown(_public(source.source))}."
            for name, source in trained.initial.items()
        ]
    classes = ", ".join(map(in_markdown, students.class_names))
    listed = f"Classes: {classes}." if len(students.class_names) <= _LISTED else folded("Classes", classes)
    return f"{' '.join(lines)}\n\n{listed}"


def _making(card: Card) -> str:
    settings = card.run.settings
    values = _public_values(settings)
    verb = values["verb"]
    commands = [f"videokd {verb} --config config.yaml"]
    out = shlex.quote(values["out"])
    if card.results is not None:
        views = f"--views {card.results.views} --num_segments {card.results.num_segments}"
        part = "" if card.results.dataset.part == "test" else f" --part {card.results.dataset.part}"
        commands.append(f"videokd evaluate {out} {views}{part}")
    commands.append(f"videokd export {out} --out students")
    config = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=10**9)
    needs = "the prepared data"
    if isinstance(settings, Distill) and settings.teachers:
        needs += " and the teachers' runs"
    return (
        f"{fenced(chr(10).join(commands), 'bash')}\n\nwith this `config.yaml`; its paths name {needs}:\n\n"
        f"{folded('config.yaml', fenced(config, 'yaml'))}"
    )


def _public_values(settings: Teach | Distill) -> dict[str, Any]:
    """The settings as config.yaml has them, without folders of the machine that trained."""
    values: dict[str, Any] = with_texts(settings.to_dict(), _public)
    return values


def _public(text: str) -> str:
    """An absolute path as its last part; any other text as it is."""
    return Path(text).name if Path(text).is_absolute() else text


def _limits(card: Card) -> str:
    number = len(card.run.students.class_names)
    return (
        f"For videos that show one of the {number} actions above. It names one of them for every video, also for one that shows none of "
        "them, and its probabilities need not be calibrated. Videos that differ from the training data (people, places, cameras, encoders) "
        "may be recognised less often than the tested ones. It was not tested for fairness between groups of people, and is not meant for "
        "decisions about persons, or where an error does harm."
    )


def _licences(card: Card) -> str:
    trained = card.trained
    lines = [f"- Weights: {_UNKNOWN}", f"- Data ({in_markdown(card.dataset)}): {_UNKNOWN}"]
    if trained is not None and trained.initial:
        sources = dict.fromkeys(in_markdown(_public(source.source)) for source in trained.initial.values())
        lines.append(f"- Weights that it started from ({', '.join(sources)}): {_UNKNOWN}")
    lines.append("- videokd, the code that runs it: Apache-2.0")
    return "\n".join(lines)
