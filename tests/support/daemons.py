"""Docker daemons that a test may kill, pause and restart, because nobody else uses them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from dev import dockerd
from dev.dockerd import DaemonError, DaemonFiles

__all__ = ["Certificates", "DaemonError", "PrivateDaemon", "make_certificates"]

START_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """PEM files of a small certificate authority, a server on 127.0.0.1 and localhost, and a client."""

    ca: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path


class PrivateDaemon:
    """A daemon of its own in a network namespace of its own (no bridge network unless asked for), for tests with faults.

    Root on Linux only; made elsewhere it raises DaemonError. The constructor starts nothing; `with` starts it, waits until
    it answers, and stops it. `folder` gets its log and its data; `stop` deletes the data. With `tls` the daemon also listens
    on `tls_url`, a TCP port of 127.0.0.1 that stays the same over `restart` (client certificates required).
    """

    def __init__(
        self, folder: Path, *, extra_args: tuple[str, ...] = (), tls: Certificates | None = None, bridge: bool = False
    ) -> None:
        if sys.platform != "linux" or os.geteuid() != 0:
            raise DaemonError("a private daemon needs root on Linux: run the tests as root, or leave those marked `daemon` out")
        if shutil.which("dockerd", path=dockerd.SBIN_PATH) is None:
            raise DaemonError("a private daemon needs dockerd: apt-get install docker.io")
        self._folder = folder
        self._extra_args = extra_args
        self._tls = tls
        self._bridge = bridge
        self._tls_port = 0
        self._files: DaemonFiles | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of the unix socket; the same over `restart`."""
        return self._started().url

    @property
    def data(self) -> Path:
        """Its data root."""
        return self._started().data

    @property
    def tls_url(self) -> str:
        if not self._tls_port:
            raise DaemonError("this daemon does not listen with TLS, or was not started")
        return f"tcp://127.0.0.1:{self._tls_port}"

    @property
    def pid(self) -> int:
        """Of dockerd, also when it has ended."""
        if self._process is None:
            raise DaemonError("not started")
        return self._process.pid

    def start(self) -> None:
        """Start the daemon; returns before it answers."""
        if self._process is not None and self._process.poll() is None:
            raise DaemonError("this daemon runs already")
        if self._files is None:  # in /tmp: pytest's folders are too long for unix sockets
            runtime = Path(tempfile.mkdtemp(prefix="jm-", dir="/tmp"))
            self._files = DaemonFiles(data=self._folder / "data", runtime=runtime, log=self._folder / "dockerd.log")
        flags = ["--shutdown-timeout", "5", *self._extra_args]
        if self._tls is None:
            self._process = dockerd.start(self._files, own_network=True, bridge=self._bridge, flags=flags)
            return
        flags += ["--tlsverify", "--tlscacert", str(self._tls.ca)]
        flags += ["--tlscert", str(self._tls.server_cert), "--tlskey", str(self._tls.server_key)]
        with socket.create_server(("127.0.0.1", self._tls_port)) as listener:
            self._tls_port = listener.getsockname()[1]
            self._process = dockerd.start(self._files, own_network=True, flags=flags, listener=listener)

    def wait_until_answers(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Raises DaemonError, with the daemon's last complaint, when it ends or does not answer in time."""
        assert self._process is not None, "start it first"
        dockerd.wait_until_answers(self._started(), self._process, timeout_s=timeout_s)

    def load_image(self, tar: Path) -> None:
        """Load an image from a tar that `docker save` made."""
        dockerd.load_image(self._started().socket, tar)

    def kill(self) -> None:
        """SIGKILL: containers run on, as after a crash of the daemon. Returns when it is dead."""
        self._send(signal.SIGKILL)
        self._wait_for_end(5.0)

    def terminate(self, timeout_s: float = 30.0) -> None:
        """SIGTERM: the daemon stops its containers and ends. Returns when it has ended."""
        self._send(signal.SIGTERM)
        self._wait_for_end(timeout_s)

    def pause(self) -> None:
        """SIGSTOP: connections are still taken by the kernel, and nobody answers."""
        self._send(signal.SIGSTOP)

    def resume(self) -> None:
        self._send(signal.SIGCONT)

    def restart(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start it again on the same folders, ending it first when it runs, and wait until it answers."""
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self.terminate()
        self.start()
        self.wait_until_answers(timeout_s)

    def stop(self) -> None:
        """End it with all its containers, processes and mounts, whatever a test did to it, and delete its data."""
        if self._files is None:
            return
        dockerd.stop(self._files, process=self._process, timeout_s=10.0)
        dockerd.remove_tree(self._files.data)
        dockerd.remove_tree(self._files.runtime)
        for beside in self._files.runtime.parent.glob(f"{self._files.runtime.name}.*"):  # with remapped users, for these
            dockerd.remove_tree(beside)
        self._files = self._process = None

    def __enter__(self) -> PrivateDaemon:
        self.start()
        try:
            self.wait_until_answers()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()

    def _started(self) -> DaemonFiles:
        if self._files is None:
            raise DaemonError("not started")
        return self._files

    def _send(self, number: signal.Signals) -> None:
        if self._process is None:
            raise DaemonError("not started")
        self._process.send_signal(number)

    def _wait_for_end(self, timeout_s: float) -> None:
        assert self._process is not None
        self._process.wait(timeout=timeout_s)


def make_certificates(folder: Path, *, server_days: int = 2) -> Certificates:
    """Make a certificate authority, and a server's and a client's certificate signed by it, valid for two days.

    Args:
        folder: where the files go.
        server_days: for how long the server's is valid instead; -1: until yesterday.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = Certificates(
        ca=folder / "ca.pem",
        server_cert=folder / "server-cert.pem",
        server_key=folder / "server-key.pem",
        client_cert=folder / "cert.pem",
        client_key=folder / "key.pem",
    )
    ca_key = folder / "ca-key.pem"
    _openssl("req", "-x509", *_new_key(ca_key), "-days", "2", "-subj", "/CN=test authority", "-out", str(files.ca))
    server = "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n"
    _sign(
        server, name="localhost", key=files.server_key, certificate=files.server_cert, ca=files.ca, ca_key=ca_key, days=server_days
    )
    client = "extendedKeyUsage=clientAuth\n"
    _sign(client, name="client", key=files.client_key, certificate=files.client_cert, ca=files.ca, ca_key=ca_key)
    return files


def _sign(extensions: str, *, name: str, key: Path, certificate: Path, ca: Path, ca_key: Path, days: int = 2) -> None:
    request, options = certificate.with_suffix(".csr"), certificate.with_suffix(".ext")
    options.write_text(extensions)
    _openssl("req", *_new_key(key), "-subj", f"/CN={name}", "-out", str(request))
    signer = ("-CA", str(ca), "-CAkey", str(ca_key), "-CAcreateserial", "-days", str(days))
    _openssl("x509", "-req", "-in", str(request), *signer, "-extfile", str(options), "-out", str(certificate))


def _new_key(path: Path) -> tuple[str, ...]:
    return ("-newkey", "rsa:2048", "-nodes", "-keyout", str(path))


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise DaemonError(f"openssl {arguments[0]} failed: {done.stderr.strip()}")
