"""Configs and options hold plain values: none of them imports a module, reads another file or fetches an address."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from videokd.config import checked, read_yaml
from videokd.errors import ConfigError
from videokd.recipes.command_line import parse
from videokd.runs.run_settings import Distill, Teach

EVIL = "open('mark', 'w').write('imported')\nclass Evil: pass\n"
CLASS = '{"class_path": "evilmod.Evil"}'
CONFIGS = [
    "data: {class_path: evilmod.Evil}",
    "data: {class_path: evilmod.Evil, init_args: {}}",
    "data: {class_path: evilmod.Evil, dict_kwargs: {a: 1}}",
    "data: {num_segments: 3, class_path: evilmod.Evil}",
    "data: evilmod.Evil",
    "data: evilmod",
    "data: [evilmod.Evil]",
    "data: other.yaml",
    "data: {__path__: other.yaml}",
    "class_path: evilmod.Evil",
    "config: other.yaml",
    "optim: {name: {class_path: evilmod.Evil}}",
    "optim: {name: evilmod.Evil}",
    "optim: {lr: evilmod.Evil}",
    "optim: {milestones: evilmod.Evil}",
    "optim: {milestones: [evilmod.Evil]}",
    "optim: {compile: evilmod.Evil}",
    "split: {class_path: evilmod.Evil}",
    "out: {class_path: evilmod.Evil}",
    "data: !!python/name:evilmod.Evil",
    "data: !!python/module:evilmod",
    "data: !!python/object:evilmod.Evil {}",
    "data: !!python/object/apply:evilmod.Evil []",
    "data: !!python/object/new:evilmod.Evil []",
    "!!python/object/apply:os.system ['touch mark']",
    "data: &a {<<: *a}",
    "evilmod.Evil",
    f'{{"data": {CLASS}}}',
]
FOR_DISTILL = [
    "students: evilmod.Evil",
    "students: {class_path: evilmod.Evil}",
    "students: {a: evilmod.Evil}",
    "students: {a: {class_path: evilmod.Evil}}",
    "students: {a: {streams: evilmod.Evil}}",
    "teachers: {iframe: {class_path: evilmod.Evil}}",
    "objective: evilmod.Evil",
    "objective: {class_path: evilmod.Evil}",
    "objective: {target_weights: {class_path: evilmod.Evil}}",
    "weights: evilmod.Evil",
]
OPTIONS = [
    ["--data=evilmod.Evil"],
    ["--data", "evilmod.Evil"],
    ["--data", "evilmod"],
    ["--data=other.yaml"],
    ["--data", CLASS],
    ["--data=" + CLASS],
    ["--data+=" + CLASS],
    ["--data.class_path=evilmod.Evil"],
    ["--data.class-path", "evilmod.Evil"],
    ["--data.init_args.x=1"],
    ["--data.help=evilmod.Evil"],
    ["--data.help", "evilmod.Evil"],
    ["--optim.name=evilmod.Evil"],
    ["--optim.lr=evilmod.Evil"],
    ["--optim", "!!python/name:evilmod.Evil"],
    ["--optim.milestones=evilmod.Evil"],
    ["--seed=evilmod.Evil"],
    ["--class_path=evilmod.Evil"],
    ["--config=evilmod.Evil"],
    ["--config=evilmod"],
    ["--config=evilmod.py"],
    ["--config=" + CLASS],
    ["--config=-"],
    ["--students.help=evilmod.Evil"],
    ["--students.help", "evilmod.Evil"],
    ["--students=evilmod.Evil"],
    ["--students.a=evilmod.Evil"],
    ["--students.a=" + CLASS],
    ["--students.a.class_path=evilmod.Evil"],
    ["--objective=evilmod.Evil"],
    ["--objective.class_path=evilmod.Evil"],
    ["--objective=" + CLASS],
    ["evilmod.Evil"],
]
PROGRAM = """
import json, os, sys
from videokd.__main__ import main
found = []
for arguments in json.load(open("attacks.json")):
    try:
        status = main(arguments)
    except SystemExit as stopped:
        status = stopped.code
    found.append([status, os.path.exists("mark")])
json.dump(found, open("found.json", "w"))
"""


def run_attacks(folder: Path, attacks: list[list[str]], **environment: str) -> tuple[list[tuple[int, bool]], list[str]]:
    """(exit status, whether the module ran) of each, and what was printed."""
    (folder / "evilmod.py").write_text(EVIL)
    (folder / "other.yaml").write_text("class_path: evilmod.Evil\n")
    (folder / "attacks.json").write_text(json.dumps(attacks))
    (folder / "program.py").write_text(PROGRAM)
    variables = os.environ | {"PYTHONPATH": f"{folder}:{Path(__file__).resolve().parents[2]}"} | environment
    done = subprocess.run(
        [sys.executable, "program.py"], cwd=folder, env=variables, check=True, capture_output=True, text=True
    )
    assert done.stdout == ""
    return [tuple(each) for each in json.loads((folder / "found.json").read_text())], done.stderr.splitlines()


def test_the_attack_would_work(tmp_path: Path) -> None:
    """jsonargparse by itself imports what a value names; the mark shows it."""
    (tmp_path / "evilmod.py").write_text(EVIL)
    code = (
        "import jsonargparse; from videokd.recipes.teach import Teach; p = jsonargparse.ArgumentParser(exit_on_error=False)\n"
        "p.add_class_arguments(Teach, None)\n"
        "try: p.parse_args(['--out=a', '--manifest=b', '--stream=motion', '--data=evilmod.Evil'])\nexcept Exception: pass"
    )
    variables = os.environ | {"PYTHONPATH": f"{tmp_path}:{Path(__file__).resolve().parents[2]}"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=variables, check=True, capture_output=True)
    assert (tmp_path / "mark").exists()


def test_nothing_imports_a_module(tmp_path: Path) -> None:
    attacks = []
    for number, text in enumerate([*CONFIGS, *FOR_DISTILL]):
        verb, needed = ("distill", []) if text in FOR_DISTILL else ("teach", ["--stream=motion"])
        (tmp_path / f"{number}.yaml").write_text(text)
        attacks.append([verb, "--config", f"{number}.yaml", "--manifest=x", "--out=o", *needed])
    for options in OPTIONS:
        to_distill = "students" in options[0] or "objective" in options[0]
        attacks.append(
            ["distill" if to_distill else "teach", *options, "--manifest=x", "--out=o"]
            + ([] if to_distill else ["--stream=motion"])
        )
    found, lines = run_attacks(tmp_path, attacks)
    wrong = [(attack, result) for attack, result in zip(attacks, found, strict=True) if result != (2, False)]
    assert not wrong
    assert len(lines) == len(attacks)  # one line each
    assert all(line.startswith(("videokd: teach: ", "videokd: distill: ")) for line in lines)
    assert not (tmp_path / "o").exists()


def test_the_environment_sets_nothing(tmp_path: Path) -> None:
    named = {
        f"{prefix}_{name}": value
        for prefix in ("VIDEOKD", "VIDEOKD_TEACH", "TEACH", "VIDEOKD TEACH")
        for name, value in {
            "_DATA": "evilmod.Evil",
            "DATA": "evilmod.Evil",
            "_CONFIG": "other.yaml",
            "_SPLIT": "7",
        }.items()
    }
    found, lines = run_attacks(
        tmp_path, [["teach", "--manifest=x", "--out=o", "--stream=motion"]], JSONARGPARSE_DEFAULT_ENV="true", **named
    )
    assert found == [(2, False)]
    assert "x: no such manifest" in lines[0]  # everything else was accepted


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """The address of a server on this machine, and what was asked of it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"stream: motion\n")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{running.server_port}", asked
        running.shutdown()


def test_no_address_is_fetched(tmp_path: Path, server: tuple[str, list[str]]) -> None:
    address, asked = server
    addresses = [
        f"{scheme}://{address}/c.yaml"
        for scheme in ("http", "https", "s3", "ftp", "file", "memory", "simplecache::http")
    ]
    attacks = [
        ["teach", option, "--manifest=x", "--out=o", "--stream=motion"]
        for a in addresses
        for option in (f"--config={a}", f"--data={a}")
    ]
    found, _ = run_attacks(tmp_path, attacks)
    assert set(found) == {(2, False)}
    assert not asked


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: 1\na: 2", "line 2: a is given twice"),
        ("a: &x [1]\nb: [*x, *x]", "line 1: anchors and aliases"),
        ("a: !!str 1", "the tag tag:yaml.org,2002:str is not accepted"),
        ("[" * 5000, "nested too deeply"),
        ("a: " + "x" * 100_000, "has 100003 characters"),
        ("1" * 5000, "4300 digits"),
        ("a: [", "expected the node content"),
        ("a: \x00", "x0000"),
    ],
)
def test_yaml_that_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match="c.yaml") as refused:
        read_yaml(text, where="c.yaml")
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--optim.lr=abc"], "--optim.lr is abc (accepted: a number)"),
        (["--optim.lr=.nan"], "--optim.lr is NaN (accepted: a finite number)"),
        (["--optim.lr=1e999"], "--optim.lr is Infinity (accepted: a finite number)"),
        (["--seed=1.5"], "--seed is 1.5 (accepted: a whole number)"),
        (["--seed=010"], "--seed is 010 (accepted: a whole number)"),
        (["--seed=true"], "--seed is true (accepted: a whole number)"),
        (["--temporal_shift=yes"], "--temporal_shift is yes (accepted: true or false)"),
        (["--pretrained=true"], "--pretrained is unknown. Did you mean --init?"),
        (["--optim.milestones=3"], "--optim.milestones is 3 (accepted: a list, as in [first, second])"),
        (["--optim.milestones=[a]"], "--optim.milestones[0] is a (accepted: a number)"),
        (["--optim=3"], "--optim is 3 (accepted: a mapping with name, lr,"),
        (["--optim={lrr: 3}"], "--optim: lrr is unknown. Did you mean lr?"),
        (["--optim.lr.x=3"], "--optim.lr.x is unknown: optim.lr has no 'x'"),
        (["--optim."], "is unknown"),
        (["--=3"], "is unknown"),
    ],
)
def test_values_of_the_wrong_type(options: list[str], reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(Teach, ["--out=o", "--manifest=m", "--stream=motion", *options], verb="teach")
    assert reason in str(refused.value)


def test_a_text_in_a_config_is_a_text(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("out: 7\n")
    with pytest.raises(ConfigError, match="out is 7 .accepted: a text; put it in quotes"):
        parse(Teach, [f"--config={config}"], verb="teach")
    assert parse(Teach, ["--out=7", "--manifest=null", "--stream=motion"], verb="teach").out == "7"


def test_groups_of_settings_are_merged_value_by_value(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("optim: {lr: 1e-2, epochs: 7}\nstudents: {a: {streams: [iframe]}}\n")
    second.write_text("optim: {epochs: 8}\n")
    options = [f"--config={first}", "--students.a.backbone=resnet34", "--optim.factor", "1", f"--config={second}"]
    settings = parse(Distill, ["--out=o", "--manifest=m", *options], verb="distill")
    assert (settings.optim.lr, settings.optim.epochs, settings.optim.factor) == (0.01, 8, 1.0)
    assert settings.optim.weight_decay == 0.01
    assert {name: (each.streams, each.backbone) for name, each in settings.students.items()} == {
        "a": (("iframe",), "resnet34")
    }
    assert isinstance(settings.optim.factor, float)


def test_a_missing_value_inside_a_mapping_is_named() -> None:
    with pytest.raises(ConfigError, match=r"required: --students.a.streams"):
        parse(Distill, ["--out=o", "--manifest=m", "--students.a.backbone=resnet18"], verb="distill")


def test_words_after_two_hyphens_are_no_options() -> None:
    from videokd.recipes.inspect import Inspect

    assert parse(Inspect, ["--", "-odd.mp4"], verb="inspect", positional=("file",)).file == "-odd.mp4"


def test_long_values_are_cut_in_messages() -> None:
    with pytest.raises(ConfigError) as refused:
        checked(int, "x" * 10_000, where="--seed")
    assert len(str(refused.value)) < 200


def test_a_config_of_another_verb(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("verb: distill\nmanifest: m\n")
    with pytest.raises(ConfigError, match=r"config\.yaml has the settings of `videokd distill` \(accepted: of teach\)"):
        parse(Teach, [f"--config={config}", "--out=o", "--stream=motion"], verb="teach")
    assert parse(Distill, [f"--config={config}", "--out=o"], verb="distill").manifest == "m"
