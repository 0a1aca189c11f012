"""What the long tests share: the image with Python, for private daemons."""

from __future__ import annotations

from pathlib import Path

import docker
import pytest

PYTHON = "jobmanager-python:4"


@pytest.fixture(scope="session")
def python_tar(engine_url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image with Python as a tar, of 300 MB."""
    tar = tmp_path_factory.mktemp("python-image") / "image.tar"
    client = docker.APIClient(base_url=engine_url, version="1.41", timeout=60)
    try:
        with tar.open("wb") as file:
            file.writelines(client.get_image(PYTHON))
    finally:
        client.close()
    return tar
