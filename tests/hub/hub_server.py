"""A hub on loopback: the protocol of downloads and of commits, and every way in which it says no or attacks.

`/api/models/REPO[/revision/REV]` lists files; `/REPO/resolve/REV/PATH` answers HEAD and GET with ETag and
X-Repo-Commit, for a large file with a redirect (X-Linked-Size, X-Linked-Etag) to a second address that honors Range.
A commit is `/api/repos/create`, `preupload`, the LFS batch with a PUT of each large file, and `commit`.
"""

import base64
import gzip
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LFS_FROM = 1000
"""Bytes from which a file is behind a redirect."""
TOKEN = "hf_secret"


UP = "../../../../../evil"
"""Out of the cache, from the folders of blobs and of commits."""
HEADERS: dict[str, dict[str, str | None]] = {
    "commit": {"X-Repo-Commit": UP},
    "no commit": {"X-Repo-Commit": "main"},
    "etag": {"ETag": f'"{UP}"', "X-Linked-Etag": f'"{UP}"'},
    "etag of a redirect": {"ETag": f'"{UP}"', "X-Linked-Etag": None},
    "long etag": {"ETag": "a" * 5000, "X-Linked-Etag": "a" * 5000},
    "size": {"X-Linked-Size": "many", "X-Linked-Etag": "0" * 64},
    "negative size": {"X-Linked-Size": "-5", "X-Linked-Etag": "0" * 64},
    "xet": {"X-Xet-Hash": UP, "X-Xet-Refresh-Route": "http://169.254.169.254/"},
    "xet backslash": {
        "X-Xet-Hash": "0" * 64,
        "X-Xet-Refresh-Route": "https://127.0.0.2\\@huggingface.co/",
    },
    "xet route": {"X-Xet-Hash": "0" * 64, "X-Xet-Refresh-Route": "http://169.254.169.254/"},
}
"""What is wrong -> headers of a file's answer; None: there is none."""
WAITS = {"later": {"Retry-After": "86400"}, "limited": {"RateLimit": '"api";r=0;t=86400'}}
"""What is wrong -> how long to wait, of a server that is busy."""
LOCATIONS = {
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "file inside": "{}/secret",
    "secure inside": "https://127.0.0.2/secret",
    "mapped": "https://[::ffff:169.254.169.254]/",
    "disk": "file:///etc/passwd",
}
"""What is wrong -> where a file is said to be."""
Listing = list[dict[str, Any]]
LISTINGS: dict[str, Callable[[Listing, Listing, Any], object]] = {
    "null": lambda listing, files, content: (listing.append(None), files.append(None)),
    "nameless": lambda listing, files, content: [
        each.update(rfilename=None, path=None) for each in (*listing, *files)
    ],
    "names": lambda listing, files, content: [
        each.update(rfilename=UP, path=UP) for each in (*listing, *files)
    ],
    "digests": lambda listing, files, content: [
        each.update(lfs={"oid": UP, "sha256": UP, "size": each["size"], "pointerSize": 9}, xetHash="0" * 64)
        for each in (*listing, *files)
    ],
    "sizes": lambda listing, files, content: [each.update(size="many") for each in (*listing, *files)],
    "sha": lambda listing, files, content: isinstance(content, dict) and content.update(sha=UP),
    "shapeless": lambda listing, files, content: isinstance(content, dict) and content.update(siblings=5),
    "dates": lambda listing, files, content: isinstance(content, dict) and content.update(createdAt="now"),
}
"""What is wrong -> how that changes a list of files."""


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
    private: dict[str, bool] = field(default_factory=dict)
    """Repository -> what was asked for when it was created."""
    url: str = ""
    cdn: str = ""
    """Another host, as the files of the real one are on another (see `cdn_is_allowed`)."""
    inside: str = ""
    """A host that only this machine reaches: nothing may be asked there."""

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

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        self.hub.asked.append(f"POST {path}")
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        name = "/".join(path.removeprefix("/api/models/").strip("/").removesuffix(".git").split("/")[:2])
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._no(401, "", "Invalid credentials in Authorization header")
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            asked = json.loads(data)
            name = f"{asked['organization']}/{asked['name']}"
            known = name in self.hub.repos
            self.hub.private[name] = "private" in (
                asked.get("visibility"),
                asked.get("private") and "private",
            )
            if not known:
                self.hub.add(name, {})
            self._json({"url": f"{self.hub.url}/{name}", "id": name}, status=409 if known else 200)
        elif path.endswith("/preupload/main"):
            modes = [
                {"path": file["path"], "uploadMode": "lfs" if file["size"] >= LFS_FROM else "regular"}
                for file in json.loads(data)["files"]
            ]
            self._json({"files": [{**mode, "shouldIgnore": False} for mode in modes]})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.hub.url}/upload/{each['oid']}"}}}
                for each in json.loads(data)["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects}, kind="application/vnd.git-lfs+json")
        elif path.endswith("/commit/main"):
            self._commit_files(name, [json.loads(line) for line in data.splitlines()])
        else:
            self._no(404, "")

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(data).hexdigest() == oid
        self.hub.blobs[oid] = data
        self._send(200, b"", {}, body=True)

    def _commit_files(self, name: str, lines: Listing) -> None:
        repo = self.hub.repos[name]
        files = dict(repo.files[repo.refs["main"]])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        repo.files[commit], repo.refs["main"] = files, commit
        address = f"{self.hub.url}/{name}/commit/{commit}"
        self._json({"success": True, "commitOid": commit, "commitUrl": address, "hookOutput": ""})

    def _json(self, content: object, *, status: int = 200, kind: str = "application/json") -> None:
        self._send(status, json.dumps(content).encode(), {"Content-Type": kind}, body=True)

    def _answer(self, *, body: bool) -> None:
        path = urlsplit(self.path).path
        host = self.headers["Host"]
        self.hub.asked.append(f"{self.command} {path}" if host not in self.hub.inside else f"inside: {path}")
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if parts[0] == "cdn":
            self._send(200, self.hub.blobs[parts[1]], {}, body=body)
        elif parts[:2] == ["api", "resolve-cache"]:
            self._file("/".join(parts[3:5]), parts[5], "/".join(parts[6:]), body=body)
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
        elif repo.wrong in WAITS:
            self._send(429, b"{}", WAITS[repo.wrong], body=self.command == "GET")
        elif repo.wrong == "endless error":
            self._endless(404)
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
            status, headers = 200, {"Content-Type": "application/json"}
            if repo.wrong in LISTINGS:
                LISTINGS[repo.wrong](listing, files, content)
            text = json.dumps(content).encode()
            if repo.wrong == "endless list":
                self._endless(200)
                return
            if repo.wrong == "list inside":
                status, headers = 302, {"Location": f"{self.hub.inside}/api"}
            elif repo.wrong == "deep list":
                text = b"[" * 200_000 + b"]" * 200_000
            elif repo.wrong == "compressed list":
                text, headers = gzip.compress(b" " * 2**28), headers | {"Content-Encoding": "gzip"}
            self._send(status, text, headers, body=body)

    def _file(self, name: str, revision: str, path: str, *, body: bool) -> None:
        known = self._commit(name, revision)
        if not known:
            return
        repo, commit = known
        data = repo.files[commit].get(path)
        if data is None:
            self._no(404, "EntryNotFound", commit=commit)
        elif repo.wrong == "moved" and "/resolve-cache/" not in self.path:
            there = f"/api/resolve-cache/models/{name}/{commit}/{path}"
            headers = {"Location": there, "ETag": 'W/"f-mY2V+/x="', "X-Repo-Commit": commit}
            self._send(307, b"Temporary Redirect", headers, body=body)
        elif repo.wrong == "endless file" and body:
            self._endless(200)
        elif repo.wrong in LOCATIONS:
            etag, there = hashlib.sha256(data).hexdigest(), LOCATIONS[repo.wrong].format(self.hub.inside)
            linked = {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{etag}"', "X-Repo-Commit": commit}
            self._send(302, b"", {**linked, "Location": there}, body=body)
        elif repo.wrong == "broken" and body:
            self._send(200, data[: len(data) // 2], {}, body=True, claimed=len(data))
        elif len(data) >= LFS_FROM and repo.wrong != "broken":
            digest = hashlib.sha256(data).hexdigest()
            self.hub.blobs[digest] = data
            if repo.wrong.startswith("corrupted"):
                self.hub.blobs[digest] = data[:-1] + bytes([data[-1] ^ 1])
                repo.wrong = "" if repo.wrong == "corrupted once" else repo.wrong
            linked = {
                "X-Linked-Size": str(len(data)),
                "X-Linked-Etag": f'"{digest}"',
                "X-Repo-Commit": commit,
                **HEADERS.get(repo.wrong, {}),
            }
            self._send(302, b"", {**linked, "Location": f"{self.hub.cdn}/cdn/{digest}"}, body=body)
        else:
            etag = hashlib.sha1(data).hexdigest()
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, **HEADERS.get(repo.wrong, {})}
            self._send(200, data, headers, body=body)

    def _endless(self, status: int) -> None:
        """An answer that goes on until nobody reads it."""
        self.send_response(status)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        chunk = b"10000\r\n" + b" " * 2**16 + b"\r\n"
        with suppress(OSError):
            while True:
                self.wfile.write(chunk)

    def _no(self, status: int, code: str, message: str = "no", commit: str | None = None) -> None:
        headers = {"X-Error-Message": message, "X-Error-Code": code or None, "X-Repo-Commit": commit}
        self._send(status, b"{}", headers, body=self.command != "HEAD")

    def _send(
        self,
        status: int,
        data: bytes,
        headers: Mapping[str, str | None],
        *,
        body: bool,
        claimed: int | None = None,
    ) -> None:
        start = self.headers.get("Range")
        first = int(start.removeprefix("bytes=").partition("-")[0]) if start and status == 200 else 0
        self.send_response(206 if first else status)
        for key, value in headers.items():
            if value is not None:
                self.send_header(key, value)
        self.send_header("Content-Length", str((claimed or len(data)) - first))
        self.end_headers()
        if body:
            self.wfile.write(data[first:])
        if claimed:
            self.close_connection = True


def cdn_is_allowed() -> None:
    """Let the hub's files be on `localhost`: that of a real hub is a public host over https, which no test reaches."""
    from gradience.files.hub import _Guard

    check = _Guard.check_url
    _Guard.check_url = lambda guard, url: None if urlsplit(url).hostname == "localhost" else check(guard, url)


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on a free port of loopback, while this lasts."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    servers = [ThreadingHTTPServer((host, 0), handler) for host in ("127.0.0.1", "127.0.0.2")]
    hub.url, hub.inside = ("http://{}:{}".format(*server.server_address) for server in servers)
    hub.cdn = hub.url.replace("127.0.0.1", "localhost")
    for server in servers:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
