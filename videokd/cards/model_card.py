"""The model card of exported students: README.md with the front matter that the Hugging Face Hub reads."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from videokd.cards.card import Card, folder_name, slug
from videokd.cards.markdown import front_matter
from videokd.cards.sections import CONFUSION_FILE, card_text
from videokd.errors import DataError
from videokd.evaluation.figures import confusion_png
from videokd.evaluation.results import Results, results_name, results_of
from videokd.evaluation.tables import interval_text
from videokd.files import write_whole
from videokd.messages import say
from videokd.models.export_files import WEIGHTS_FILE
from videokd.runs.run_folder import TrainedRun
from videokd.runs.trained_on import trained_on

#: The card, and its picture where there is one.
CARD_FILES = ("README.md", CONFUSION_FILE)
_MARK = re.compile(r"\n<!-- written by videokd, (?P<digest>[0-9a-f]{64})[^\n]*-->\n\Z")
_MOST_PICTURED = 60  # classes: with more, a confusion picture is too large to be read


def write_card(folder: Path, run: TrainedRun, *, repository: str | None = None) -> bool:
    """Writes README.md, and a picture of the confusion where there is one, beside exported students.

    A README.md that videokd did not write, or that was changed since, is kept, and said so.

    Args:
        folder: of the export.
        run: that was exported.
        repository: `owner/name` on the Hugging Face Hub, where the students go there.

    Returns:
        Whether it was written; False where one is kept.

    Raises:
        DataError: a file cannot be written, or the run's record of its clips is damaged.
    """
    path = folder / CARD_FILES[0]
    if path.exists() and not is_unchanged_card(path):
        say(
            f"{path} is kept: videokd did not write it, or it was changed since. Delete it and export again for a new model card."
        )
        return False
    results = _results_of(run)
    loadable = (folder / WEIGHTS_FILE).is_file()
    card = Card(run, results, trained_on(run.path, run.settings), folder.resolve().name, repository, loadable)
    confusion = card.headline.metrics.confusion if card.headline else None
    picture = folder / CONFUSION_FILE
    if results is not None and confusion and len(confusion) <= _MOST_PICTURED:
        write_whole(picture, confusion_png(confusion, results.dataset.class_names))
        card = replace(card, picture=True)
    text = f"{front_matter(_metadata(card))}\n{card_text(card)}\n"
    digest = hashlib.sha256(text.encode(errors="replace")).hexdigest()
    mark = f"\n<!-- written by videokd, {digest}: an export replaces this file as long as it is not changed -->\n"
    write_whole(path, f"{text}{mark}".encode(errors="replace"))
    return True


def is_unchanged_card(path: Path) -> bool:
    """Whether videokd wrote a card, and nobody changed it: then it may be replaced.

    Args:
        path: of the file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    mark = _MARK.search(text)
    return mark is not None and hashlib.sha256(text[: mark.start()].encode()).hexdigest() == mark["digest"]


def _results_of(run: TrainedRun) -> Results | None:
    """The results of the exported weights; None where there are none, with a line where they are of other weights."""
    if not any((run.path / results_name(part)).is_file() for part in ("test", "val")):
        return None
    try:
        results = results_of(run.path)
    except DataError as error:
        say(f"the model card has no accuracy: {error}")
        return None
    if results.weights not in (None, run.weights) or results.dataset.class_names != run.students.class_names:
        say(
            f"the model card has no accuracy: {run.path} was evaluated with other weights. Evaluate it again, then export."
        )
        return None
    return results


def _metadata(card: Card) -> dict[str, Any]:
    """The front matter."""
    students = card.run.students
    values: dict[str, Any] = {
        "license": "unknown",
        "library_name": "videokd",
        "pipeline_tag": "video-classification",
        "tags": ["videokd", "action-recognition", "compressed-video", *students.streams],
        "datasets": [slug(card.dataset)],
    }
    if card.results is None or card.headline is None:
        return values
    scored, found = card.results.dataset, card.headline.metrics
    metrics = [
        {"type": kind, "value": round(interval.value, 4), "name": f"{name} (95 % interval {interval_text(interval)} %)"}
        for kind, name, interval in (
            ("accuracy", "top-1 accuracy", found.top1),
            ("accuracy", f"top-{min(5, len(scored.class_names))} accuracy", found.top5),
            ("accuracy", "mean accuracy of the classes", found.mean_class),
        )
    ]
    tested = folder_name(scored.manifest)
    result = {
        "task": {"type": "video-classification", "name": "Video Classification"},
        "dataset": {"name": tested, "type": slug(tested), "split": scored.part},
        "metrics": metrics,
    }
    return values | {"metrics": ["accuracy"], "model-index": [{"name": slug(card.name), "results": [result]}]}
