"""A small Hugging Face Hub on loopback: repositories in memory, the endpoints that a download and a commit need."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SHA = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_oftests"


@dataclass
class HubServer:
    """What the server holds, and what was asked of it.

    Args:
        files: {owner/name: {path: content}}.
        private: repositories that want the token.
        gated: repositories whose files nobody may read.
        requests: "METHOD path" of each request.
        sent: what was posted to create a repository or a commit.
        endpoint: the address for HF_ENDPOINT.
        broken: answer every request with this status.
    """

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    sent: list[Any] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)
    endpoint: str = ""
    broken: int = 0

    def downloaded(self) -> set[str]:
        """Names of the files that were read."""
        gets = (request.removeprefix("GET ") for request in self.requests if request.startswith("GET "))
        return {path.split("/", 5)[5] for path in gets if re.match(r"/[^/]+/[^/]+/resolve/", path)}


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any, status: int = 200, **headers: str) -> None:
        self._answer(status, json.dumps(value).encode(), Content_Type="application/json", **headers)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _refused(self, repository: str) -> bool:
        """Whether the request was answered already, by an error of the Hub."""
        known = repository in self.hub.files
        if not known or (repository in self.hub.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            # the Hub does not say which of both it is
            self._json({"error": "Repository not found"}, 401 if not known else 404, X_Error_Code="RepoNotFound")
            return True
        if repository in self.hub.gated:
            self._json({"error": "Access is restricted"}, 403, X_Error_Code="GatedRepo")
            return True
        return False

    def do_GET(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        path = self.path.partition("?")[0]
        if self.hub.broken:
            self._json({"error": "down"}, self.hub.broken)
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            self._about(found[1], found[2] or "main")
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            if not self._refused(found[1]):
                self._json(
                    [
                        {"type": "file", "oid": hashlib.sha1(content).hexdigest(), "size": len(content), "path": name}
                        for name, content in self.hub.files[found[1]].items()
                    ]
                )
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(found[1], found[3])
        else:
            self._json({"error": path}, 404)

    do_HEAD = do_GET

    def _about(self, repository: str, revision: str) -> None:
        if self._refused(repository):
            return
        if revision not in ("main", "v1", SHA):
            self._json({"error": "Invalid rev"}, 404, X_Error_Code="RevisionNotFound")
            return
        siblings = [{"rfilename": name} for name in self.hub.files[repository]]
        self._json({"_id": "1", "id": repository, "modelId": repository, "sha": SHA, "siblings": siblings, "tags": []})

    def _file(self, repository: str, name: str) -> None:
        if self._refused(repository):
            return
        content = self.hub.files[repository].get(name)
        if content is None:
            self._json({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
            return
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        self._answer(200, content, ETag=etag, X_Repo_Commit=SHA, Content_Type="application/octet-stream")

    def do_POST(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        path, body = self.path.partition("?")[0], self._body()
        if self.hub.broken:
            self._json({"error": "down"}, self.hub.broken)
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._json({"error": "Invalid username or password."}, 401)
        elif path == "/api/repos/create":
            wanted = json.loads(body)
            self.hub.sent.append(wanted)
            name = f"{wanted['organization']}/{wanted['name']}"
            if name in self.hub.files:
                self._json({"error": "exists", "url": f"{self.hub.endpoint}/{name}"}, 409)
            else:
                self.hub.files[name] = {}
                self._json({"url": f"{self.hub.endpoint}/{name}"})
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/main", path):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self._json({"files": files})
        elif re.fullmatch(r"/[^/]+/[^/]+\.git/info/lfs/objects/batch", path):
            upload = f"{self.hub.endpoint}/lfs/"
            objects = [
                {**each, "actions": {"upload": {"href": upload + each["oid"]}}} for each in json.loads(body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            self._commit(found[1], [json.loads(line) for line in body.splitlines()])
        else:
            self._json({"error": path}, 404)

    def do_PUT(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        self.hub.stored[self.path.rpartition("/")[2]] = self._body()
        self._answer(200)

    def _commit(self, repository: str, lines: list[dict[str, Any]]) -> None:
        self.hub.sent.append(lines)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.hub.files[repository][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.files[repository][value["path"]] = self.hub.stored[value["oid"]]
        self._json({"commitUrl": f"{self.hub.endpoint}/{repository}/commit/{SHA}", "commitOid": SHA})


@contextmanager
def running_hub() -> Iterator[HubServer]:
    """A server that runs until the block ends."""
    hub = HubServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
