"""A tiny image registry, for tests of fetching images where no real registry can be reached.

It serves one image of a ``docker save`` file, over plain HTTP on the loopback interface of a daemon's own network
namespace: a daemon takes any registry on 127.0.0.0/8 without TLS.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
import tarfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

PORT = 5000
NAME, TAG = "tiny/busybox", "1"
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class Registry:
    """Serves the first image of ``tar`` to the daemon with that process id, from a process in its namespace."""

    image = f"127.0.0.1:{PORT}/{NAME}:{TAG}"

    def __init__(self, tar: Path, *, pid: int, folder: Path) -> None:
        self._inside = ["nsenter", f"--net=/proc/{pid}/ns/net"]
        self._tar = tar
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Registry:
        subprocess.run([*self._inside, "ip", "link", "set", "lo", "up"], check=True, timeout=10)
        command = [*self._inside, sys.executable, __file__, str(self._tar), str(self._folder)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._process is not None and self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


def _blobs(tar: Path) -> tuple[bytes, dict[str, bytes]]:
    """The manifest, and everything by its digest."""
    with tarfile.open(tar) as saved:
        described = json.load(saved.extractfile("manifest.json"))[0]  # type: ignore[arg-type]
        config = saved.extractfile(described["Config"]).read()  # type: ignore[union-attr]
        layers = [gzip.compress(saved.extractfile(name).read(), 1) for name in described["Layers"]]  # type: ignore[union-attr]
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": {"mediaType": _CONFIG, "size": len(config), "digest": _digest(config)},
        "layers": [{"mediaType": _LAYER, "size": len(layer), "digest": _digest(layer)} for layer in layers],
    }
    packed = json.dumps(manifest).encode()
    return packed, {_digest(blob): blob for blob in [packed, config, *layers]}


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _serve(tar: Path, log: Path) -> None:
    manifest, blobs = _blobs(tar)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            where = self.path.removeprefix("/v2/")
            name, _, what = where.rpartition("/")
            if where == "":
                self._answer(b"{}", "application/json")
            elif where == f"{NAME}/manifests/{TAG}":
                self._answer(manifest, _MANIFEST)
            elif name == f"{NAME}/manifests" and what in blobs:
                self._answer(blobs[what], _MANIFEST)
            elif name == f"{NAME}/blobs" and what in blobs:
                self._answer(blobs[what], "application/octet-stream")
            else:
                unknown = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
                self._answer(json.dumps(unknown).encode(), "application/json", status=404)

        do_HEAD = do_GET

        def _answer(self, body: bytes, kind: str, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Docker-Content-Digest", _digest(body))
            self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, format: str, *words: object) -> None:
            with log.open("a") as file:
                print(format % words, file=file)

    with ThreadingHTTPServer(("127.0.0.1", PORT), Handler) as server:
        print("ready", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), Path(sys.argv[2]) / "registry.log")
