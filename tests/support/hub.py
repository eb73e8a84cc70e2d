"""A small Hugging Face hub on the loopback interface: what the real client asks of one.

It speaks what publishing and reading need: making repositories and branches, preupload, Git LFS's
batch call, commits, listings, and files by ranges. Xet, by which the real hub takes large files
today, it does not speak: clients are told HF_HUB_DISABLE_XET. Files of a repository are kept by
commit, in memory.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 2000
"""Bytes from which files go by Git LFS unless a test says otherwise."""


class Repository:
    def __init__(self, private):
        self.private = private
        self.commits = {}
        self.branches = {}
        self.commit("main", {".gitattributes": b"* text"})

    def commit(self, branch, files):
        before = self.branches.get(branch, "")
        told = f"{before}{len(self.commits)}{sorted(files)}"
        sha = hashlib.sha1(told.encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.branches[branch] = sha
        return sha

    def sha(self, revision):
        return self.branches.get(revision, revision)

    def files(self, revision="main"):
        return self.commits.get(self.sha(revision))


class Hub:
    """A context manager; ``environment`` is what a client needs."""

    def __init__(self):
        self.repositories = {}
        self.large = {}
        self.put_large = []
        """Digests of the large files that came, in order."""
        self.large_from = LARGE
        self.ignore = lambda path: False
        """What a repository's .gitignore names."""
        self.refuse_commit = lambda branch, files: False
        self.requests = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_):
                pass

            def _handle(self):
                size = int(self.headers.get("Content-Length", 0))
                self.body = self.rfile.read(size)
                path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
                hub.requests.append((self.command, path, self.headers.get("Authorization")))
                for method, pattern, answer in CALLS:
                    match = re.fullmatch(pattern, path)
                    if match and self.command in method:
                        answer(self, hub, query, *map(unquote, match.groups()))
                        return
                self.tell({"error": f"no such call: {self.command} {path}"}, 404)

            def do_GET(self):
                self._handle()

            def do_HEAD(self):
                self._handle()

            def do_POST(self):
                self._handle()

            def do_PUT(self):
                self._handle()

            def tell(self, document, status=200, code=None):
                self.send(json.dumps(document).encode(), status, {"X-Error-Code": code})

            def send(self, data, status=200, headers=None):
                self.send_response(status)
                for name, value in (headers or {}).items():
                    if value is not None:
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def files(self, name, revision):
                """Those of a repository at a revision; None, answered, where there are none."""
                if name not in hub.repositories:
                    self.tell({"error": "no repository"}, 404, "RepoNotFound")
                    return None
                found = hub.repositories[name].files(revision)
                if found is None:
                    self.tell({"error": "no revision"}, 404, "RevisionNotFound")
                return found

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self):
        often = {"poll_interval": 0.02}
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs=often, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(10)

    def environment(self, home):
        return {
            "HF_ENDPOINT": self.address,
            "HF_TOKEN": "secret",
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }


def create(handler, hub, _query):
    asked = json.loads(handler.body)
    name = f"{asked['organization']}/{asked['name']}"
    url = f"{hub.address}/datasets/{name}"
    if handler.headers.get("Authorization") != "Bearer secret":
        handler.tell({"error": "who are you?"}, 401)
    elif name in hub.repositories:
        handler.tell({"url": url, "error": "it is there already"}, 409)
    else:
        hub.repositories[name] = Repository(asked.get("visibility") == "private")
        handler.tell({"url": url})


def info(handler, hub, _query, name, revision="main"):
    if handler.files(name, revision) is None:
        return
    repository = hub.repositories[name]
    sha = repository.sha(revision)
    handler.tell({"id": name, "sha": sha, "private": repository.private})


def branch(handler, hub, _query, name, branch):
    repository = hub.repositories[name]
    if branch in repository.branches:
        handler.tell({"error": "it is there already"}, 409)
        return
    repository.branches[branch] = repository.branches["main"]
    handler.tell({})


def entry(hub, path, data):
    found = {"type": "file", "path": path, "size": len(data)}
    if len(data) < hub.large_from:
        return found | {"oid": git_digest(data)}
    digest = hashlib.sha256(data).hexdigest()
    return found | {"oid": "p" * 40, "lfs": {"oid": digest, "size": len(data), "pointerSize": 130}}


def tree(handler, hub, _query, name, revision, folder=""):
    files = handler.files(name, revision)
    if files is None:
        return
    prefix = f"{folder}/" if folder else ""
    below = [entry(hub, path, data) for path, data in files.items() if path.startswith(prefix)]
    if below:
        handler.tell(below)
    else:
        handler.tell({"error": "no such folder"}, 404, "EntryNotFound")


def paths(handler, hub, _query, name, revision):
    files = handler.files(name, revision)
    if files is not None:
        asked = parse_qs(handler.body.decode())["paths"]
        handler.tell([entry(hub, path, files[path]) for path in asked if path in files])


def preupload(handler, hub, _query, name, revision):
    files = handler.files(name, revision)
    if files is None:
        return
    answer = []
    for asked in json.loads(handler.body)["files"]:
        told = {"path": asked["path"], "shouldIgnore": hub.ignore(asked["path"])}
        told["uploadMode"] = "lfs" if asked["size"] >= hub.large_from else "regular"
        if asked["path"] in files:
            there = entry(hub, "", files[asked["path"]])
            told["oid"] = there["lfs"]["oid"] if "lfs" in there else there["oid"]
        answer.append(told)
    handler.tell({"files": answer})


def batch(handler, hub, _query, _name):
    objects = []
    for asked in json.loads(handler.body)["objects"]:
        told = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] not in hub.large:
            told["actions"] = {"upload": {"href": f"{hub.address}/large/{asked['oid']}"}}
        objects.append(told)
    handler.tell({"transfer": "basic", "objects": objects})


def large(handler, hub, _query, digest):
    if hashlib.sha256(handler.body).hexdigest() != digest:
        handler.tell({"error": "other bytes"}, 400)
        return
    hub.large[digest] = handler.body
    hub.put_large.append(digest)
    handler.send(b"")


def commit(handler, hub, _query, name, branch):
    before = handler.files(name, branch)
    if before is None:
        return
    files = dict(before)
    for line in map(json.loads, handler.body.splitlines()):
        value = line["value"]
        if line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = hub.large[value["oid"]]
        elif line["key"] == "deletedFile":
            del files[value["path"]]
    if hub.refuse_commit(branch, files):
        handler.tell({"error": "not now"}, 400)
        return
    sha = hub.repositories[name].commit(branch, files)
    handler.tell({"commitUrl": f"{hub.address}/datasets/{name}/commit/{sha}", "commitOid": sha})


def resolve(handler, hub, _query, name, revision, path):
    files = handler.files(name, revision)
    if files is None:
        return
    if path not in files:
        handler.tell({"error": "no such file"}, 404, "EntryNotFound")
        return
    data, size = files[path], len(files[path])
    headers = {"X-Repo-Commit": hub.repositories[name].sha(revision)}
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", handler.headers.get("Range", ""))
    if asked is None:
        handler.send(data, 200, headers)
        return
    start = int(asked[1]) if asked[1] else max(size - int(asked[2]), 0)
    stop = min(int(asked[2]) + 1, size) if asked[1] and asked[2] else size
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    handler.send(data[start:stop], 206, headers)


def validate(handler, _hub, _query):
    handler.tell({"errors": [], "warnings": []})


def git_digest(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


REPO = r"/api/datasets/([^/]+/[^/]+)"
CALLS = (
    ("POST", "/api/repos/create", create),
    ("POST", "/api/validate-yaml", validate),
    ("GET", REPO, info),
    ("GET", f"{REPO}/revision/([^/]+)", info),
    ("POST", f"{REPO}/branch/([^/]+)", branch),
    ("GET", f"{REPO}/tree/([^/]+)", tree),
    ("GET", f"{REPO}/tree/([^/]+)/(.+)", tree),
    ("POST", f"{REPO}/paths-info/([^/]+)", paths),
    ("POST", f"{REPO}/preupload/([^/]+)", preupload),
    ("POST", f"{REPO}/commit/([^/]+)", commit),
    ("POST", r"/datasets/([^/]+/[^/]+)\.git/info/lfs/objects/batch", batch),
    ("PUT", "/large/([0-9a-f]+)", large),
    ("GET HEAD", "/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", resolve),
)
"""Methods, path, and who answers."""
