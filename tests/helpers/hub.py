"""A stand-in for the Hugging Face hub on this machine: the few endpoints that uploads and downloads call, over real HTTP."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_for_tests_only"


class Hub(ThreadingHTTPServer):
    """repositories: name -> {path: bytes}, as committed; `private` those made so; `may_write` what the token may do."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.objects: dict[str, bytes] = {}
        self.may_write = True
        self.breaks_uploads = False
        self.commits = 0
        self.downloads: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def environment(self, **changes) -> dict[str, str]:
        """What a process needs to talk to this hub and to no other."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            **changes,
        }


@contextmanager
def running_hub():
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_):
        pass

    def answer(self, content=None, status=200):
        body = json.dumps({} if content is None else content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def allowed(self) -> bool:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer({"error": "Invalid username or password."}, 401)
        elif not self.server.may_write:
            self.answer({"error": "You don't have the rights to create a model under this namespace"}, 403)
        else:
            return True
        return False

    def do_HEAD(self):
        self.resolved(body=False)

    def resolved(self, body: bool) -> None:
        """A file of a repository: /OWNER/NAME/resolve/REVISION/PATH."""
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.path)
        content = self.server.repositories.get(match[1], {}).get(match[2])
        self.send_response(404 if content is None else 200)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{hashlib.sha256(content or b"").hexdigest()}"')
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if body and content is not None:
            self.server.downloads.append(match[2])
            self.wfile.write(content)

    def do_GET(self):
        if "/resolve/" in self.path:
            self.resolved(body=True)
            return
        match = re.match(r"/api/models/([^/]+/[^/?]+)(/tree/main|/tree/0+)?", self.path)
        files = self.server.repositories.get(match[1]) if match else None
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer({"error": "Invalid username or password."}, 401)
        elif files is None:
            self.answer({"error": "Repository not found"}, 404)
        elif match[2]:
            self.answer([{"type": "file", "path": p, "size": len(b), "oid": "0" * 40} for p, b in files.items()])
        else:
            siblings = [{"rfilename": path} for path in files]
            private = match[1] in self.server.private
            self.answer({"_id": "0", "id": match[1], "sha": "0" * 40, "siblings": siblings, "private": private})

    def do_PUT(self):
        content, oid = self.body(), self.path.rpartition("/")[2]
        if self.server.breaks_uploads:
            self.answer({"error": "storage is broken"}, 507)
            return
        assert hashlib.sha256(content).hexdigest() == oid
        self.server.objects[oid] = content
        self.answer()

    def do_POST(self):
        content = self.body()
        if self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif not self.allowed():
            return
        elif self.path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.server.repositories:
                self.answer(
                    {"error": "You already created this model repo", "url": f"{self.server.address}/{name}"}, 409
                )
                return
            self.server.repositories[name] = {".gitattributes": b""}
            self.server.private |= {name} if asked.get("visibility") == "private" else set()
            self.answer({"url": f"{self.server.address}/{name}", "name": name})
        elif "/preupload/" in self.path:
            files = json.loads(content)["files"]
            large = [
                {"path": f["path"], "uploadMode": "lfs" if f["size"] > 50_000 else "regular", "shouldIgnore": False}
                for f in files
            ]
            self.answer({"files": large})
        elif self.path.endswith(".git/info/lfs/objects/batch"):
            place = f"{self.server.address}/lfs"
            self.answer({
                "transfer": "basic",
                "objects": [
                    {**asked, "actions": {"upload": {"href": f"{place}/{asked['oid']}"}}}
                    for asked in json.loads(content)["objects"]
                ],
            })  # fmt: skip
        elif match := re.match(r"/api/models/([^/]+/[^/]+)/commit/main", self.path):
            self.server.repositories[match[1]] |= dict(self.committed(content))
            self.server.commits += 1
            self.answer(
                {
                    "commitUrl": f"{self.server.address}/{match[1]}/commit/{'0' * 40}",
                    "commitOid": "0" * 40,
                    "success": True,
                }
            )
        else:
            self.answer({"error": f"nothing at {self.path}"}, 404)

    def committed(self, lines: bytes):
        for line in map(json.loads, lines.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                yield value["path"], base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                yield value["path"], self.server.objects[value["oid"]]
