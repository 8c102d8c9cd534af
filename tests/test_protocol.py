"""docs/protocol.md: its commands are accepted as they stand, and its times follow from what was measured."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from videokd.recipes.command_line import parse
from videokd.recipes.evaluation_run import Evaluate
from videokd.recipes.fuse import Fuse
from videokd.recipes.prepare import Prepare
from videokd.recipes.report import Report
from videokd.runs.run_settings import Distill, Teach

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
VERBS = {
    "prepare": (Prepare, ("layout", "directory")),
    "teach": (Teach, ()),
    "distill": (Distill, ()),
    "evaluate": (Evaluate, ("run",)),
    "fuse": (Fuse, ()),
    "report": (Report, ("runs",)),
}


def commands() -> list[list[str]]:
    """Every command, with values for its loops' variables."""
    lines = "".join(re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ").splitlines()
    found = []
    for stream in ("iframe", "motion", "residual"):
        known = {"$split": "2", "$stream": stream, "$runs": "runs/x-2"}
        for line in (line.strip() for line in lines if line.strip().startswith("videokd")):
            text = line
            for name, value in known.items():
                text = text.replace(name, value)
            assert "$" not in text, text
            found.append(shlex.split(text))
    return found


def test_every_command_is_accepted() -> None:
    seen = {}
    for _, verb, *arguments in commands():
        recipe, positional = VERBS[verb]
        seen[(verb, *arguments)] = parse(recipe, arguments, verb=verb, positional=positional)
    assert {verb for verb, *_ in seen} == set(VERBS)
    trained = [settings for (verb, *_), settings in seen.items() if verb == "teach"]
    schedules = {
        ("ucf101" in settings.manifest, settings.stream): (
            settings.optim.epochs,
            settings.optim.milestones,
            settings.optim.lr,
        )
        for settings in trained
    }
    assert schedules == {  # CoViAR's
        (True, "iframe"): (510, (150, 270, 390), 3e-4),
        (True, "motion"): (510, (150, 270, 390), 1e-2),
        (True, "residual"): (510, (150, 270, 390), 5e-3),
        (False, "iframe"): (220, (55, 110, 165), 3e-4),
        (False, "motion"): (360, (120, 200, 280), 5e-3),
        (False, "residual"): (300, (120, 180, 240), 1e-3),
    }


def test_work_is_counted_as_by_hand() -> None:
    """ResNet-18 takes 1.814 GMACs with 1000 classes (He et al. 2016); motion has two channels in place of three, and 101 classes."""
    (row,) = re.findall(r"\| UCF101: teach motion, resnet18 \| ([\d.]+) \| ([\d.]+) \|", PAGE)
    a_picture = 1_814_073_344 - 899 * 512 - 64 * 49 * 112 * 112
    assert float(row[0]) == round(510 * 9537 / 1e6, 2)
    assert float(row[1]) == round(510 * 9537 * 3 * 3 * a_picture / 1e15, 1)
