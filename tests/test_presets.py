"""Every preset is accepted by its recipe, says what it is, and names the command it was made for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from videokd.__main__ import main
from videokd.recipes.command_line import parse, preset_names, preset_text
from videokd.runs.run_settings import Distill, Teach

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


@pytest.mark.parametrize("name", preset_names())
def test_what_print_config_shows_is_enough(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The printed settings, given back as a file, are the same settings."""
    verb = "teach" if "stream" in preset_text(name).partition("videokd teach")[2] else "distill"
    given = [f"--config={name}", f"--manifest={tmp_path}", f"--out={tmp_path / 'run'}"]
    given += ["--stream=motion"] if verb == "teach" and "stream:" not in preset_text(name) else []
    if verb == "distill" and "alpha" in preset_text(name):
        given += [f"--teachers.{stream}=runs/{stream}" for stream in ("iframe", "motion", "residual")]
    given += [f"--data.cache={tmp_path / 'cache'}"] if "stored_views" in preset_text(name) else []
    with pytest.raises(SystemExit) as ended:
        main([verb, *given, "--print_config"])
    assert not ended.value.code
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert parse(RECIPES[verb], [f"--config={printed}"], verb=verb) == parse(RECIPES[verb], given, verb=verb)


def test_presets_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in preset_names())
    assert main(["presets", "demo-teacher"]) == 0
    assert capsys.readouterr().out == preset_text("demo-teacher")
    assert main(["presets", "demo-teech"]) == 2
    assert "Did you mean demo-teacher?" in capsys.readouterr().err
