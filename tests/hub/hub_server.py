"""A hub on loopback: the part of its protocol that downloads speak, and every way in which it says no.

`/api/models/REPO[/revision/REV]` lists files; `/REPO/resolve/REV/PATH` answers HEAD and GET with ETag and
X-Repo-Commit, for a large file with a redirect (X-Linked-Size, X-Linked-Etag) to a second address that honours Range.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

LFS_FROM = 1000
"""Bytes from which a file is behind a redirect."""
TOKEN = "hf_secret"


@dataclass
class Repo:
    """files: of each commit.   refs: a branch or tag -> its commit.   wrong: what is wrong with it."""

    files: dict[str, dict[str, bytes]]
    refs: dict[str, str]
    wrong: str = ""


@dataclass
class Hub:
    """What is served, and what was asked for."""

    repos: dict[str, Repo] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    url: str = ""
    cdn: str = ""
    """Another host, as the files of the real one are on another."""

    def add(self, name: str, *commits: dict[str, bytes], wrong: str = "", **refs: int) -> list[str]:
        """Serve a repository; its `main` is the last commit, and `refs` name others by their place."""
        ids = [hashlib.sha1(f"{name}{place}".encode()).hexdigest() for place in range(len(commits))]
        named = {"main": ids[-1], **{ref: ids[place] for ref, place in refs.items()}}
        self.repos[name] = Repo(dict(zip(ids, commits, strict=True)), named, wrong)
        return ids


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = urlsplit(self.path).path
        self.hub.asked.append(f"{self.command} {path}")
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts[0] == "cdn":
            self._send(200, self.hub.blobs[parts[1]], {}, body=body)
        elif parts[:2] == ["api", "models"]:
            revision = parts[5] if len(parts) > 5 else "main"
            self._list("/".join(parts[2:4]), revision, tree=parts[4:5] == ["tree"], body=body)
        elif len(parts) > 4:
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]), body=body)
        else:
            self._no(404, "")

    def _commit(self, name: str, revision: str) -> tuple[Repo, str] | None:
        """The repository and the commit; None where the answer was no, which then is sent."""
        repo = self.hub.repos.get(name)
        token = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo is None or (repo.wrong == "private" and not token):
            self._no(401, "RepoNotFound")
        elif repo.wrong == "gated" and not token:
            self._no(403, "GatedRepo")
        elif repo.wrong == "disabled":
            self._no(403, "", "Access to this resource is disabled.")
        elif repo.wrong == "busy":
            self._no(500, "")
        elif repo.wrong == "page":
            self._send(200, b"<html>log in to this network</html>", {}, body=True)
        elif repo.wrong == "token":
            self._no(401, "", "Invalid credentials in Authorization header")
        elif (commit := repo.refs.get(revision, revision)) not in repo.files:
            self._no(404, "RevisionNotFound")
        else:
            return repo, commit
        return None

    def _list(self, name: str, revision: str, *, tree: bool, body: bool) -> None:
        known = self._commit(name, revision)
        if known:
            repo, commit = known
            claimed = 3 * 2**30 if repo.wrong == "large" else 0
            listing = [
                {"rfilename": path, "size": claimed or len(data)} for path, data in repo.files[commit].items()
            ]
            if repo.wrong == "listed":
                listing.append({"rfilename": "adapter_config.json", "size": 10})
            files = [
                {"type": "file", "path": each["rfilename"], "size": each["size"], "oid": "0" * 40}
                for each in listing
            ]
            content = files if tree else {"id": name, "sha": commit, "siblings": listing}
            self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"}, body=body)

    def _file(self, name: str, revision: str, path: str, *, body: bool) -> None:
        known = self._commit(name, revision)
        if not known:
            return
        repo, commit = known
        data = repo.files[commit].get(path)
        if data is None:
            self._no(404, "EntryNotFound")
        elif repo.wrong == "broken" and body:
            self._send(200, data[: len(data) // 2], {}, body=True, claimed=len(data))
        elif len(data) >= LFS_FROM and repo.wrong != "broken":
            digest = hashlib.sha256(data).hexdigest()
            self.hub.blobs[digest] = data
            linked = {
                "X-Linked-Size": str(len(data)),
                "X-Linked-Etag": f'"{digest}"',
                "X-Repo-Commit": commit,
            }
            self._send(302, b"", {**linked, "Location": f"{self.hub.cdn}/cdn/{digest}"}, body=body)
        else:
            etag = hashlib.sha1(data).hexdigest()
            self._send(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": commit}, body=body)

    def _no(self, status: int, code: str, message: str = "no") -> None:
        headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {})}
        self._send(status, b"{}", headers, body=self.command == "GET")

    def _send(
        self, status: int, data: bytes, headers: dict[str, str], *, body: bool, claimed: int | None = None
    ) -> None:
        start = self.headers.get("Range")
        first = int(start.removeprefix("bytes=").partition("-")[0]) if start and status == 200 else 0
        self.send_response(206 if first else status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str((claimed or len(data)) - first))
        self.end_headers()
        if body:
            self.wfile.write(data[first:])
        if claimed:
            self.close_connection = True


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on a free port of loopback, while this lasts."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    hub.cdn = hub.url.replace("127.0.0.1", "localhost")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
