"""Every preset is accepted by its recipe, says what it is, and names the command it was made for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from videokd.__main__ import main
from videokd.recipes.command_line import parse, preset_names, preset_text
from videokd.recipes.distill import Distill
from videokd.recipes.teach import Teach

RECIPES = {"teach": Teach, "distill": Distill}


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_complete(name: str, tmp_path: Path) -> None:
    text = preset_text(name)
    assert re.match(r"# \w.{20,110}\n#\n", text), "the first line says what it is"
    header = re.sub(r"\s*\\\n#\s*", " ", text)
    command = re.search(rf"^# videokd (\w+) --config {name} (.*)$", header, re.MULTILINE)
    assert command, "the header has the command"
    words = command[2].split()
    settings = parse(RECIPES[command[1]], [f"--config={name}", *words], verb=command[1])
    assert settings.data.input_size == yaml.safe_load(text)["data"]["input_size"]


def test_presets_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in preset_names())
    assert main(["presets", "demo-teacher"]) == 0
    assert capsys.readouterr().out == preset_text("demo-teacher")
    assert main(["presets", "demo-teech"]) == 2
    assert "Did you mean demo-teacher?" in capsys.readouterr().err
