"""A Hugging Face Hub for tests, on 127.0.0.1: what huggingface_hub 1.x and 2.x request for model repos.

Modelled on what the client sends and reads. Xet is not supported: the clients run with HF_HUB_DISABLE_XET=1.
`LoopbackHub.fail` switches failures on.
"""

import hashlib
import json
import re
import threading
from base64 import b64decode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import loopback_collections
import yaml
from loopback_store import LFS_SUFFIXES, Blob, Fault, Faults, Refusal, Repo, described

TOKEN = "hf_loopbackSecretToken"
LICENSES = ("apache-2.0", "mit", "other")


class LoopbackHub:
    """`with LoopbackHub() as hub:` and HF_ENDPOINT=hub.url for the client."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.collections: dict[str, dict[str, Any]] = {}  # by slug
        self.objects: dict[str, bytes] = {}  # LFS, by sha256
        self.log: list[str] = []  # "METHOD path"
        self.faults = Faults()
        self.over = threading.Event()
        self.lock = threading.RLock()

    def __enter__(self) -> "LoopbackHub":
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()

    def fail(self, pattern: str, kind: str | int, times: int = 1000) -> None:
        """Let requests "METHOD path" that match the regular expression fail; see `Fault`."""
        self.faults.append(Fault(pattern, kind, times))

    def add(self, repo_id: str, files: dict[str, bytes], private: bool = False) -> str:
        """Add a repo without a client, and return its commit."""
        repo = self.repos.setdefault(repo_id, Repo(private))
        blobs = {name: Blob(content, name.endswith(LFS_SUFFIXES)) for name, content in files.items()}
        return repo.commit("Add files", blobs)

    def writes(self) -> list[str]:
        """The requests that changed, or could have changed, something."""
        harmless = ("validate-yaml", "preupload", "/batch", "paths-info", "/verify")
        return [line for line in self.log if line[:3] not in ("GET", "HEA") and not any(h in line for h in harmless)]


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def handle_request(self) -> None:
        url = urlsplit(self.path)
        self.query, path = parse_qs(url.query), unquote(url.path)
        line = f"{self.command} {path}"
        with self.hub.lock:
            self.hub.log.append(line)
        try:
            body = self._read_body()
            self._injected(f"{line} {self.headers.get('Range', '')}")
            self._authorize()
            for method, pattern, answer in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and self.command in method:
                    return answer(self, body, *match.groups())
            raise Refusal(404, "", f"the loopback Hub does not know {line}")
        except Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": str(refusal), **refusal.headers}
            self._send(refusal.status, json.dumps({"error": str(refusal)}).encode(), headers)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # a client that was told to go away

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_CONNECT = handle_request

    def _read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return b"".join(self._chunks())

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _injected(self, line: str) -> None:
        if kind := self.hub.faults.take(line, ("timeout", "drop")):
            self.hub.over.wait(60 if kind == "timeout" else 0)
            raise BrokenPipeError
        if self.hub.faults.take(line, ("gated",)):
            raise Refusal(403, "GatedRepo", "Access to this model is restricted and you are not in the authorized list")
        if status := self.hub.faults.take(line, None):
            raise Refusal(status, "", "told to fail")

    def _authorize(self) -> None:
        given = self.headers.get("Authorization")
        self.user = given == f"Bearer {TOKEN}"
        if given and not self.user and not self.path.startswith("/_lfs/"):
            raise Refusal(401, "", "Invalid credentials in Authorization header")

    def _repo(self, repo_id: str) -> Repo:
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and not self.user):
            raise Refusal(404 if self.user else 401, "RepoNotFound", "Repository not found")
        if self.command == "POST" and not self.user:
            raise Refusal(401, "", "Invalid username or password.")
        return repo

    def _files(self, repo_id: str, revision: str) -> tuple[str, dict[str, Blob]]:
        found = self._repo(repo_id).files(revision)
        if found is None:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            if value:
                self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        if not self.user:
            raise Refusal(401, "", "Invalid username or password.")
        repo_id = f"{asked.get('organization') or 'user'}/{asked['name']}"
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        is_new = repo_id not in self.hub.repos
        if is_new:
            self.hub.repos[repo_id] = Repo(private)
            self.hub.repos[repo_id].commit("initial commit", {})
        self._json({"url": f"{self.hub.url}/{repo_id}", "id": repo_id}, 200 if is_new else 409)

    def validate_yaml(self, body: bytes) -> None:
        match = re.match(r"---\n(.*?\n)---\n", json.loads(body)["content"], re.S)
        try:
            matter = yaml.safe_load(match[1] if match else "") or {}
        except yaml.YAMLError as error:
            return self._json({"errors": [{"message": str(error)}], "warnings": []}, 400)
        if matter.get("license") not in (None, *LICENSES):
            return self._json(
                {"errors": [{"message": '"license" must be one of [apache-2.0, …]'}], "warnings": []}, 400
            )
        self._json({"errors": [], "warnings": [] if match else [{"message": "empty or missing yaml metadata"}]})

    def preupload(self, body: bytes, repo_id: str, revision: str) -> None:
        _, files = self._files(repo_id, revision)
        modes = []
        for asked in json.loads(body)["files"]:
            name = asked["path"]
            mode = "lfs" if name.endswith(LFS_SUFFIXES) or asked["size"] > 10_000_000 else "regular"
            here = {"oid": files[name].oid} if name in files else {}
            modes.append({"path": name, "uploadMode": mode, "shouldIgnore": False, **here})
        self._json({"files": modes})

    def lfs_batch(self, body: bytes, repo_id: str) -> None:
        self._repo(repo_id)
        objects = []
        for asked in json.loads(body)["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.objects:
                upload = {"href": f"{self.hub.url}/_lfs/{asked['oid']}", "header": {}}
                verify = {"href": f"{self.hub.url}/{repo_id}.git/info/lfs/objects/verify", "header": {}}
                answer["actions"] = {"upload": upload, "verify": verify}
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects})

    def lfs_put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, "", "the content is not what its name says")
        self.hub.objects[oid] = body
        self._send(200, b"", {"ETag": f'"{oid}"'})

    def lfs_verify(self, body: bytes, repo_id: str) -> None:
        asked = json.loads(body)
        if len(self.hub.objects.get(asked["oid"], b"")) != asked["size"]:
            raise Refusal(404, "", "object not here")
        self._json({})

    def commit(self, body: bytes, repo_id: str, branch: str) -> None:
        repo, (_, files) = self._repo(repo_id), self._files(repo_id, branch)
        files, title = dict(files), ""
        for row in map(json.loads, body.splitlines()):
            value = row["value"]
            if row["key"] == "header":
                title = value["summary"]
            elif row["key"] == "file":
                files[value["path"]] = Blob(b64decode(value["content"]), lfs=False)
            elif row["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    raise Refusal(400, "", f"LFS object {value['oid']} was not uploaded")
                files[value["path"]] = Blob(self.hub.objects[value["oid"]], lfs=True)
            elif row["key"] == "deletedFile":
                files.pop(value["path"])
            else:
                raise Refusal(400, "", f"the loopback Hub does not know {row['key']}")
        oid = repo.commit(title, files, branch)
        url = f"{self.hub.url}/{repo_id}/commit/{oid}"
        self._json({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    def info(self, body: bytes, repo_id: str, revision: str | None) -> None:
        oid, files = self._files(repo_id, revision or "main")
        siblings = [{"rfilename": name} for name in sorted(files)]
        common = {"id": repo_id, "modelId": repo_id, "private": self._repo(repo_id).private}
        self._json(common | {"sha": oid, "siblings": siblings, "tags": ["timm"], "downloads": 0, "likes": 0})

    def tree(self, body: bytes, repo_id: str, revision: str) -> None:
        _, files = self._files(repo_id, revision)
        self._json([described(name, files[name]) for name in sorted(files)])

    def paths_info(self, body: bytes, repo_id: str, revision: str) -> None:
        _, files = self._files(repo_id, revision)
        is_json = "json" in self.headers.get("Content-Type", "")
        asked = json.loads(body)["paths"] if is_json else parse_qs(body.decode())["paths"]
        self._json([described(name, files[name]) for name in asked if name in files])

    def list_refs(self, body: bytes, repo_id: str) -> None:
        repo = self._repo(repo_id)
        answer = {"branches": [], "tags": [], "converts": []}
        for name, oid in repo.refs.items():
            kind, folder = ("tags", "tags") if name in repo.tags else ("branches", "heads")
            answer[kind].append({"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": oid})
        self._json(answer)

    def create_tag(self, body: bytes, repo_id: str, revision: str) -> None:
        oid, _ = self._files(repo_id, revision)
        repo, tag = self._repo(repo_id), json.loads(body)["tag"]
        if tag in repo.refs:
            raise Refusal(409, "", f"Tag reference exists already: {tag}")
        repo.refs[tag] = oid
        repo.tags.add(tag)
        self._json({})

    def whoami(self, body: bytes) -> None:
        if not self.user:
            raise Refusal(401, "", "Invalid username or password.")
        self._json({"type": "user", "name": "user", "orgs": [{"name": "ORG"}], "auth": {"type": "access_token"}})

    def resolve(self, body: bytes, repo_id: str, revision: str, name: str) -> None:
        oid, files = self._files(repo_id, revision)
        if name not in files:
            raise Refusal(404, "EntryNotFound", f"Entry not found: {name}", **{"X-Repo-Commit": oid})
        blob, line = files[name], f"{self.command} {unquote(self.path)}"
        content, headers = blob.content, {"X-Repo-Commit": oid, "ETag": f'"{blob.oid}"', "Accept-Ranges": "bytes"}
        if blob.lfs:
            headers |= {"X-Linked-Etag": f'"{blob.oid}"', "X-Linked-Size": str(len(content))}
        if self.command == "GET" and self.hub.faults.take(line, ("corrupt",)):
            content = content[: len(content) // 2] + bytes(255 - byte for byte in content[len(content) // 2 :])
        status, asked = 200, re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked:
            first, last = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
            if first > last:
                raise Refusal(416, "", "Requested Range Not Satisfiable")
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            status, content = 206, content[first : last + 1]
        if self.command == "GET" and self.hub.faults.take(line, ("cut",)):
            headers["Content-Length"] = str(len(content))
            content, self.close_connection = content[: len(content) // 2], True
        self._send(status, content, headers)


_ID = r"([^/]+/[^/]+)"
ROUTES = [
    *loopback_collections.ROUTES,
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.validate_yaml),
    ("GET", r"/api/whoami-v2", _Handler.whoami),
    ("POST", rf"/api/models/{_ID}/preupload/(.+)", _Handler.preupload),
    ("POST", rf"/api/models/{_ID}/commit/(.+)", _Handler.commit),
    ("POST", rf"/api/models/{_ID}/tag/(.+)", _Handler.create_tag),
    ("POST", rf"/api/models/{_ID}/paths-info/(.+)", _Handler.paths_info),
    ("GET", rf"/api/models/{_ID}/refs", _Handler.list_refs),
    ("GET", rf"/api/models/{_ID}/tree/([^/]+)(?:/.*)?", _Handler.tree),
    ("GET", rf"/api/models/{_ID}(?:/revision/(.+))?", _Handler.info),
    ("POST", rf"/{_ID}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("POST", rf"/{_ID}\.git/info/lfs/objects/verify", _Handler.lfs_verify),
    ("PUT", r"/_lfs/([0-9a-f]{64})", _Handler.lfs_put),
    ("GET HEAD", rf"/{_ID}/resolve/([^/]+)/(.+)", _Handler.resolve),
]
