"""The two images of the demo and the tests, and that of `make languages`: made once, kept as tar files, loaded into every engine
that lacks them."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from dev import apt
from dev.console import MachineError, run_quietly, say
from dev.debian_root import bootstrap, install_into, need_debootstrap
from dev.dockerd import SBIN_PATH, remove_tree

BUSYBOX = "jobmanager-busybox:1"
PYTHON = "jobmanager-python:4"
PYTHON_LABEL = "jobmanager.environment=python3"
PYTHON_PACKAGES = ("python3", "python3-pytest", "gcc", "g++", "libc6-dev", "make", "git")
LANGUAGES = "jobmanager-languages:1"
LANGUAGES_LABEL = "jobmanager.environment=languages"
# Beside those of the Python image
LANGUAGES_PACKAGES = ("default-jdk-headless", "nodejs", "golang-go", "rustc", "mono-mcs", "python3-numpy")
DOCKERFILE = Path(__file__).parent / "images" / "python.Dockerfile"
REGISTRY = "https://registry-1.docker.io/v2/"
REGISTRY_TIMEOUT_S = 3.0
INSPECT_TIMEOUT_S = 60.0
DOCKER_TIMEOUT_S = 300.0
REGISTRY_BUILD_TIMEOUT_S = 300.0


class ImageStore:
    """Makes images in `folder` and brings them to engines."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._log = folder / "log"

    def tar(self, image: str) -> Path:
        """Where the image lies as `docker save` wrote it."""
        return self._folder / f"{image.replace(':', '-')}.tar"

    def provide(self, image: str, engines: list[str]) -> None:
        """Make sure that each engine (by url) has the image, and that its tar is there."""
        self._folder.mkdir(parents=True, exist_ok=True)
        tar = self.tar(image)
        having = [url for url in engines if has_image(url, image)]
        if not tar.exists():
            if not having:
                self._make(image, engines[0])
                having = [engines[0]]
            self._save(image, having[0])
        lacking = [url for url in engines if url not in having]
        with ThreadPoolExecutor(max(1, len(lacking))) as pool:
            list(pool.map(lambda url: self._load(image, url), lacking))

    def _load(self, image: str, url: str) -> None:
        say(f"loading {image} into {url}")
        docker(url, "load", "--input", str(self.tar(image)), what=f"loading {image}", log=self._log)
        self._remove_older(image, url)

    def _save(self, image: str, url: str) -> None:
        unfinished = self.tar(image).with_suffix(".unfinished")
        docker(url, "save", "--output", str(unfinished), image, what=f"saving {image}", log=self._log)
        unfinished.rename(self.tar(image))

    def _remove_older(self, image: str, url: str) -> None:
        """Remove the versions that an earlier checkout left: of two images with one label, every job would be warned."""
        repository, _, tag = image.partition(":")
        for old in image_tags(url, repository) - {tag}:
            say(f"removing {repository}:{old}, as {image} takes its place")
            docker(url, "rmi", f"{repository}:{old}", what=f"removing {repository}:{old}", log=self._log)

    def _make(self, image: str, url: str) -> None:
        begun = time.monotonic()
        if image == BUSYBOX:
            self._import_busybox(url)
        elif image == LANGUAGES:
            self._import_languages(url)
        elif not (registry_answers() and self._build_python(url)):
            self._import_python(url)
        say(f"made {image} in {time.monotonic() - begun:.0f} s")

    def _import_busybox(self, url: str) -> None:
        say(f"making {BUSYBOX} from Debian's busybox-static")
        with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
            root = Path(scratch) / "root.tar"
            write_busybox_root(self._busybox(Path(scratch)), root)
            options = ("--change", 'CMD ["sh"]')
            docker(url, "import", *options, str(root), BUSYBOX, what=f"importing {BUSYBOX}", log=self._log)

    def _busybox(self, scratch: Path) -> Path:
        if apt.is_installed("busybox-static"):
            return Path("/bin/busybox")
        apt.unpack("busybox-static", scratch, log=self._log)  # not installed: it would push a machine's own busybox out
        return next(path for path in (scratch / "bin/busybox", scratch / "usr/bin/busybox") if path.exists())

    def _build_python(self, url: str) -> bool:
        """Build the image as its Dockerfile says; False when that did not work here."""
        say(f"building {PYTHON} from {DOCKERFILE.name}")
        command = ("build", "--tag", PYTHON, "--file", str(DOCKERFILE), str(DOCKERFILE.parent))
        try:
            docker(url, *command, what=f"building {PYTHON}", log=self._log, timeout_s=REGISTRY_BUILD_TIMEOUT_S)
        except MachineError as error:
            say(f"trying without a registry ({error})")
            return False
        return True

    def _import_python(self, url: str) -> None:
        say(f"no image registry answers: making {PYTHON} with debootstrap, about a minute")
        with self._debian_root("python-root") as root:
            self._import_root(root, url, PYTHON, PYTHON_LABEL)

    def _import_languages(self, url: str) -> None:
        say(f"making {LANGUAGES} with debootstrap, some minutes")
        with self._debian_root("languages-root") as root:
            install_into(root, LANGUAGES_PACKAGES, log=self._log)
            self._import_root(root, url, LANGUAGES, LANGUAGES_LABEL)

    @contextmanager
    def _debian_root(self, name: str) -> Iterator[Path]:
        """A Debian with what the python image has."""
        need_debootstrap(purpose="an image without a registry", log=self._log)
        root = self._folder / name
        _, release = apt.debian_mirror()
        bootstrap(root, release=release, packages=PYTHON_PACKAGES, log=self._log)
        yield root
        remove_tree(root)

    def _import_root(self, root: Path, url: str, image: str, label: str) -> None:
        tar = root.with_suffix(".tar")
        kernel_files = ("--exclude=./proc/*", "--exclude=./sys/*", "--exclude=./dev/*")
        pack = ("tar", "--create", "--file", str(tar), "--directory", str(root), *kernel_files, ".")
        run_quietly(pack, what="packing", log=self._log, timeout_s=DOCKER_TIMEOUT_S)
        changes = ("--change", f"LABEL {label}", "--change", 'CMD ["python3"]')
        docker(url, "import", *changes, str(tar), image, what=f"importing {image}", log=self._log)
        tar.unlink()


def registry_answers() -> bool:
    try:
        with urllib.request.urlopen(REGISTRY, timeout=REGISTRY_TIMEOUT_S):
            return True
    except urllib.error.HTTPError as error:
        return error.code == 401  # what a registry says to somebody without a token
    except OSError:
        return False


def has_image(url: str, image: str) -> bool:
    command = ["docker", "--host", url, "image", "inspect", image]
    try:
        done = subprocess.run(command, capture_output=True, timeout=INSPECT_TIMEOUT_S, env=docker_environment(url), check=False)
    except subprocess.TimeoutExpired:
        raise MachineError(
            f"the engine {url} does not answer: `docker image inspect` took over {INSPECT_TIMEOUT_S:.0f} s"
        ) from None
    return done.returncode == 0


def image_tags(url: str, repository: str) -> set[str]:
    """The tags that an engine has of a repository."""
    command = ["docker", "--host", url, "images", "--format", "{{.Tag}}", repository]
    done = subprocess.run(command, capture_output=True, timeout=INSPECT_TIMEOUT_S, env=docker_environment(url), check=False)
    return set(done.stdout.decode().split()) - {"<none>"}


def docker(url: str, *arguments: str, what: str, log: Path, timeout_s: float = DOCKER_TIMEOUT_S) -> None:
    command = ["docker", "--host", url, *arguments]
    run_quietly(command, what=what, log=log, timeout_s=timeout_s, env=docker_environment(url))


def docker_environment(url: str) -> Mapping[str, str]:
    """The environment for the docker client: the user's TLS settings count only for the engine that they were set for."""
    if os.environ.get("DOCKER_HOST") == url:
        return {**os.environ, "PATH": SBIN_PATH}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_") or name == "DOCKER_CONFIG"}
    return kept | {"PATH": SBIN_PATH}


def write_busybox_root(busybox: Path, tar: Path) -> None:
    """Write the root file system of the busybox image: the program, a link for each of its names, users, /tmp."""
    names = subprocess.run([str(busybox), "--list-full"], capture_output=True, text=True, check=True).stdout.split()
    with tarfile.open(tar, "w") as archive:
        for folder in ("bin", "sbin", "usr", "usr/bin", "usr/sbin", "etc", "root"):
            _add(archive, folder, kind=tarfile.DIRTYPE, mode=0o755)
        _add(archive, "tmp", kind=tarfile.DIRTYPE, mode=0o1777)
        _add(archive, "bin/busybox", content=busybox.read_bytes(), mode=0o755)
        for name in sorted(set(names) - {"bin/busybox"}):
            _add(archive, name, kind=tarfile.SYMTYPE, link="/bin/busybox")
        _add(archive, "etc/passwd", content=b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
        _add(archive, "etc/group", content=b"root:x:0:\nnogroup:x:65534:\n")


def _add(
    archive: tarfile.TarFile, name: str, *, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, content: bytes = b"", link: str = ""
) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(content), link
    archive.addfile(entry, io.BytesIO(content))
