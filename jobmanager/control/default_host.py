"""The Docker host that the Docker SDK's own variables name: DOCKER_HOST, DOCKER_TLS_VERIFY, DOCKER_CERT_PATH."""

from __future__ import annotations

import os
from pathlib import Path

from jobmanager.model.host import TLS, DockerHost

DEFAULT_URL = "unix:///var/run/docker.sock"


def default_host() -> DockerHost:
    """What ``hosts=None`` stands for. Raises InvalidHost when the variables make no sense."""
    url = os.environ.get("DOCKER_HOST") or DEFAULT_URL
    verify = bool(os.environ.get("DOCKER_TLS_VERIFY"))
    folder = os.environ.get("DOCKER_CERT_PATH") or (str(Path.home() / ".docker") if verify else "")
    if url.startswith("tcp://") and folder:
        return DockerHost(url, tls=TLS.folder(folder, verify=verify))
    return DockerHost(url)
