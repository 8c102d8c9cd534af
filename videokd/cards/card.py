"""What a model card is about, and the names in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from videokd.evaluation.results import Entry, Results
from videokd.runs.run_folder import TrainedRun
from videokd.runs.trained_on import TrainedOn


@dataclass(frozen=True)
class Card:
    """What a card is about.

    Args:
        run: that was exported.
        results: of these weights; None where they were not evaluated.
        trained: the run's clips; None where they are not known.
        folder: the name of the folder that the export was written to.
        repository: `owner/name` on the Hugging Face Hub; None where it does not go there.
        loadable: whether `load_students` reads it; graphs for other runtimes it does not.
        picture: whether there is a picture of the confusion.
    """

    run: TrainedRun
    results: Results | None
    trained: TrainedOn | None
    folder: str
    repository: str | None = None
    loadable: bool = True
    picture: bool = False

    @property
    def address(self) -> str:
        """What names the students for who has the repository, or the folder."""
        return f"hf://{self.repository}" if self.repository and self.loadable else self.folder

    @property
    def dataset(self) -> str:
        """The name of the training data: of the manifest's folder."""
        return folder_name(self.run.settings.manifest)

    @property
    def name(self) -> str:
        """The model's: of its repository, or of its run."""
        return self.repository.rpartition("/")[2] if self.repository else self.run.path.resolve().name

    @property
    def headline(self) -> Entry | None:
        """The results of all students together."""
        if self.results is None:
            return None
        entries = self.results.models
        return entries.get("fused") or next(iter(entries.values()))


def folder_name(manifest: str) -> str:
    """The name of a manifest's folder: a path says where somebody keeps it, which nobody else needs to know.

    >>> folder_name("/home/me/data/ucf101/manifest.parquet"), folder_name("data/mine")
    ('ucf101', 'mine')
    """
    path = Path(manifest).absolute()
    return path.parent.name if path.suffix == ".parquet" else path.name


def slug(name: str) -> str:
    """A name as fields of the Hub take it: letters, digits and . _ -

    >>> slug("my clips: 2026"), slug("???")
    ('my-clips-2026', 'unnamed')
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "unnamed"
