"""Students from and to the Hugging Face Hub, against a server of the test's own on loopback."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub_server import SHA, TOKEN, HubServer, running_hub
from videokd import hub
from videokd.errors import ConfigError, DataError

pytest.importorskip("huggingface_hub")

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("students.json", "students.safetensors")
#: Runs calls of videokd.hub, and prints what each gives or raises: HF_ENDPOINT is read when huggingface_hub is imported.
CALLS = """
import json, sys
from pathlib import Path
from videokd import hub
from videokd.errors import VideoKDError
for name, arguments in json.loads(sys.argv[1]):
    try:
        options = {"names": ["students.json", "students.safetensors"]}
        if name == "push":
            arguments = [Path(arguments[0]), *arguments[1:]]
            options = {"names": ["README.md", *options["names"], "missing.png"], "version": "1"}
        print(json.dumps([str(getattr(hub, name)(*arguments, **options))]))
    except VideoKDError as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""


@pytest.fixture
def server() -> Iterator[HubServer]:
    with running_hub() as running:
        yield running


@pytest.fixture
def call(server: HubServer, tmp_path: Path) -> Callable[..., list[list[str]]]:
    """Calls functions of videokd.hub in a process whose Hub is the server; what they give or raise."""

    def run(*calls: tuple[str, list[Any]], **variables: str) -> list[list[str]]:
        command = [sys.executable, "-c", CALLS, json.dumps(calls)]
        done = subprocess.run(
            command, env=environment(server, tmp_path) | variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def environment(server: HubServer, home: Path) -> dict[str, str]:
    """Variables of a process whose Hub is the server, and whose cache and token are not this user's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"), "")
    return (
        kept
        | proxies
        | {
            "HF_ENDPOINT": server.endpoint,
            "HF_HOME": str(home / "hub"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }
    )


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    for path in (tmp_path, "students", "hf", "./hf:/a"):
        assert hub.local_folder(path, names=NAMES) == Path(path)


@pytest.mark.parametrize(
    "address",
    [
        "hf://",
        "hf://name",
        "hf://a/b/c",
        "hf://../x",
        "hf://a/b c",
        "hf://a/b--c",
        "hf://a/b.git",
        "hf://a/é",
        "hf://-a/b",
    ],
)
def test_wrong_names(address: str) -> None:
    with pytest.raises(
        ConfigError, match=r"is not a repository of the Hugging Face Hub \(accepted: owner/name"
    ) as caught:
        hub.local_folder(address, names=NAMES)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(ConfigError, match="is not a repository"):
        hub.push(Path("."), address.removeprefix("hf://"), names=NAMES, version="1")


@pytest.mark.parametrize("revision", ["", "../x", "a b", "a..b", "-x", "a\nb", "x" * 300])
def test_wrong_revisions(revision: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a revision \(accepted: a branch, tag or commit\)"):
        hub.local_folder(f"hf://a/b@{revision}", names=NAMES)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"huggingface_hub is not installed .* `pip install 'videokd\[hub\]'`"):
        hub.local_folder("hf://a/b", names=NAMES)


def test_only_the_named_files_come_and_stay(
    server: HubServer, call: Callable[..., list[list[str]]], tmp_path: Path
) -> None:
    files = {name: name.encode() for name in NAMES}
    others = dict.fromkeys(("evil.py", "students.pt", "sub/students.json", "xstudents.json"), b"import os")
    server.files["me/mine"] = files | others
    one_slash = str(Path("hf://me/mine"))
    found = call(
        ("local_folder", ["hf://me/mine"]),
        ("local_folder", ["hf://me/mine@v1"]),
        ("local_folder", [f"hf://me/mine@{SHA}"]),
        ("local_folder", [one_slash]),
    )
    folders = {Path(folder) for (folder,) in found}
    (folder,) = folders
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert server.downloaded() == set(files)
    assert len([request for request in server.requests if request.startswith("GET /me/mine/resolve")]) == 2  # each once
    # Without a network, and with one that is switched off, the cache is enough
    server.broken = 503
    before = len(server.requests)
    assert call(("local_folder", ["hf://me/mine"]), HF_HUB_OFFLINE="1") == [[str(folder)]]
    assert len(server.requests) == before
    assert call(("local_folder", ["hf://me/mine"])) == [[str(folder)]]


def test_errors_are_one_line(server: HubServer, call: Callable[..., list[list[str]]], tmp_path: Path) -> None:
    server.files = {"me/private": {}, "me/gated": {}, "me/there": dict.fromkeys(NAMES, b"{}")}
    server.private, server.gated = {"me/private"}, {"me/gated"}
    for name in NAMES:
        (tmp_path / name).write_bytes(b"{}")
    addresses = ["hf://me/none", "hf://me/private", "hf://me/gated", "hf://me/there@v9"]
    calls = [("local_folder", [address]) for address in addresses]
    found = call(*calls, ("push", [str(tmp_path), "me/new"]))
    expected = [
        "hf://me/none does not exist, or it is private and your token cannot read it. Check the name. Log in with `hf auth login`",
        "hf://me/private does not exist, or it is private and your token cannot read it",
        "hf://me/gated is gated: ask for access on its page",
        "hf://me/there@v9: the repository has no such revision",
        "hf://me/new: your token cannot write to it (HTTP 401). Log in",
    ]
    for (kind, line), start in zip(found, expected, strict=True):
        assert kind == DataError.__name__
        assert line.startswith(start)
        assert len(line.splitlines()) == 1
    (allowed,) = call(("local_folder", ["hf://me/private@main"]), HF_TOKEN=TOKEN)
    assert len(allowed) == 1
    server.broken = 400
    (broken, refused) = call(("local_folder", ["hf://me/there"]), ("push", [str(tmp_path), "me/new"]), HF_TOKEN=TOKEN)
    assert broken[1].startswith("hf://me/there is not in the local cache, and the Hugging Face Hub cannot be reached")
    assert refused[1].startswith("hf://me/new: the Hugging Face Hub answered HTTP 400 (")
    assert "down" in refused[1]


def test_no_network(server: HubServer, call: Callable[..., list[list[str]]], tmp_path: Path) -> None:
    (tmp_path / "students.json").write_bytes(b"{}")
    calls = ("local_folder", ["hf://me/mine"]), ("push", [str(tmp_path), "me/mine"])
    nobody = "http://127.0.0.1:1"  # no program listens there
    for variables in ({"HF_ENDPOINT": nobody}, {"HF_HUB_OFFLINE": "1"}):
        read, written = call(*calls, **variables)
        assert read[1].startswith(
            "hf://me/mine is not in the local cache, and the Hugging Face Hub cannot be reached ("
        )
        assert written[1].startswith("hf://me/mine: the Hugging Face Hub cannot be reached (")
        assert not [line for _, line in (read, written) if len(line.splitlines()) != 1]


def test_push_makes_a_private_repository_and_one_commit(
    server: HubServer, call: Callable[..., list[list[str]]], tmp_path: Path
) -> None:
    files = {"README.md": b"card", "students.json": b"{}", "students.safetensors": bytes(range(256))}
    for name, content in (files | {"secret.txt": b"not named"}).items():
        (tmp_path / name).write_bytes(content)
    page = f"{server.endpoint}/me/mine"
    assert call(("push", [str(tmp_path), "me/mine"]), HF_TOKEN=TOKEN) == [[page]]
    assert server.files["me/mine"] == files
    created, commit = server.sent
    assert created.get("private") is True or created.get("visibility") == "private"
    assert commit[0]["value"]["summary"] == "Students exported by videokd 1"
    (tmp_path / "students.json").write_bytes(b"{1}")
    assert call(("push", [str(tmp_path), "me/mine"]), HF_TOKEN=TOKEN) == [[page]]
    assert server.files["me/mine"]["students.json"] == b"{1}"


def test_the_page_on_sharing_runs_as_written(server: HubServer, student_run: Path, clips: Path, tmp_path: Path) -> None:
    """Exported, pushed, and predicted from the Hub, by the commands and the Python of docs/sharing.md."""
    page = (ROOT / "docs" / "sharing.md").read_text(encoding="utf-8")
    (commands,) = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    (listing,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    shutil.copy(next(clips.rglob("*.mp4")), tmp_path / "CLIP.mp4")
    variables = environment(server, tmp_path) | {"HF_TOKEN": TOKEN}

    def run(*command: str, **more: str) -> str:
        done = subprocess.run(command, env=variables | more, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    exports, predicts = commands.replace("RUN", str(student_run)).replace("OWNER/NAME", "me/mine").splitlines()
    videokd = (sys.executable, "-m", "videokd")
    shown = run(*videokd, *shlex.split(exports)[1:])
    assert f"{server.endpoint}/me/mine: students.safetensors, students.json, README.md" in shown
    written = {path.name: path.read_bytes() for path in (tmp_path / "students").iterdir()}
    assert server.files["me/mine"] == written
    assert b"hf://me/mine" in written["README.md"]
    (predicted,), _ = json.JSONDecoder().raw_decode(run(*videokd, *shlex.split(predicts)[1:], "--format=json"))
    label = predicted["labels"][0]["name"]
    assert server.downloaded() == {"students.safetensors", "students.json"}
    server.broken = 503
    code = listing.replace("OWNER/NAME", "me/mine")
    assert run(sys.executable, "-c", code, HF_HUB_OFFLINE="1").splitlines()[0] == label
    # a card that was edited on the Hub stays
    server.broken = 0
    server.files["me/mine"]["README.md"] = edited = written["README.md"].replace(b"license: unknown", b"license: mit")
    assert "hf://me/mine: its README.md is kept" in run(*videokd, *shlex.split(exports)[1:])
    assert server.files["me/mine"]["README.md"] == edited
