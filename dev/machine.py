"""Sets up what the demos and the tests need: Docker engines and images, on a machine that may have nothing.

    python3 -m dev.machine up | down | run [--with RELEASE [--pairs] | --only RELEASE | --languages] COMMAND...
    python3 -m dev.machine env | engine | images | clean | python | redis | compiler

An engine that answers already (DOCKER_HOST, or the default socket) is used as it is and never stopped. Otherwise one is
started by hand. A second, independent daemon joins where one may be started: as root, on Linux. With `--with RELEASE` that
one is the engine of another Debian release, in a root of its own, which is made once; with `--only RELEASE` no other is
used. With `--pairs` there are two of each: as most tests wait, twice as many run side by side. With `--languages` the
first engine alone is used, and has an image with many languages, too. Everything lives in the
folder `.machine` of the checkout. Run it from the top folder of the checkout; Python's standard library is all it needs.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from dev import apt, dockerd
from dev.console import MachineError, say
from dev.debian_root import provide_root
from dev.dockerd import DaemonError, DaemonFiles
from dev.image_store import BUSYBOX, LANGUAGES, PYTHON, ImageStore, docker_environment

CHECKOUT = Path(__file__).resolve().parent.parent
DEFAULT_SOCKET = Path("/var/run/docker.sock")
BRIDGE = Path("/sys/class/net/docker0")
START_TIMEOUT_S = 60.0
SERVICE_TIMEOUT_S = 20.0
ENGINE_PACKAGES = ("docker.io", "iproute2", "iptables")  # in another release's root
IMAGES = (BUSYBOX, PYTHON)
OWN = ("two", "three", "four")  # this machine's own, beside the first
RELEASE_BEFORE = {"trixie": "bookworm"}  # the other one where a machine has that one itself
HOSTS_VARIABLE = "JOBMANAGER_TEST_HOSTS"
IMAGE_VARIABLE = "JOBMANAGER_TEST_IMAGE_TAR"


class Machine:
    """The engines of one checkout; `state` is the folder with their data, logs and image tars."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.one = self._daemon_files("one")
        self._own = [self._daemon_files(name) for name in OWN]
        self.images = ImageStore(state / "images")
        self._roots = state / "roots"
        self._log = state / "packages.log"
        self._bridge_mark = state / "one" / "made-docker0"  # the bridge is ours to delete

    def up(self, *, other_release: str = "", of_each: int = 1) -> list[str]:
        """Start what does not run yet; the urls of all engines, each with both images."""
        return self._with_images(self.start_engines(other_release=other_release, of_each=of_each))

    def up_only(self, release: str) -> list[str]:
        """The url of the engine of a Debian release, with both images."""
        self.image_tars()
        return self._with_images(self._engines_of(release, 1))

    def up_with_languages(self) -> list[str]:
        """The url of one engine, with both images and that of `make languages`, which is large."""
        engines = self._with_images([self._first_engine()])
        self.images.provide(LANGUAGES, engines)
        return engines

    def start_engines(self, *, other_release: str = "", of_each: int = 1) -> list[str]:
        """The urls of `2 * of_each` engines: half are of the other release, where there is one for us."""
        engines = [self._first_engine()]
        if may_start_daemons():
            others = self._engines_of_another(other_release, of_each)
            engines += others + self._own_engines(2 * of_each - 1 - len(others))
        else:
            say("one engine only: a second daemon can be started only as root on Linux")
        return engines

    def image_tars(self) -> list[Path]:
        """Both images as files. They are made with an engine of this machine, which is stopped when it was started for that."""
        tars = [self.images.tar(image) for image in IMAGES]
        if not all(tar.exists() for tar in tars):
            before = self.started()
            try:
                self.up()
            finally:
                self.stop([files for files in self.started() if files not in before])
        return tars

    def engines(self) -> list[str]:
        """The urls of the engines that answer now; starts nothing."""
        foreign = self._foreign_engine()
        own = [files.url for files in self.daemons() if dockerd.answers(files.socket)]
        return [foreign, *(url for url in own if url != self.one.url)] if foreign else own

    def daemons(self) -> list[DaemonFiles]:
        """All daemons that may be ours, running or not."""
        roots = sorted(self._roots.iterdir()) if self._roots.is_dir() else []
        of_releases = (self._of_release(root.name, number) for root in roots if not root.suffix for number in (1, 2))
        return [self.one, *self._own, *of_releases]

    def started(self) -> list[DaemonFiles]:
        """Our own daemons that run."""
        return [files for files in self.daemons() if dockerd.daemon_pid(files) is not None]

    def stop(self, daemons: Sequence[DaemonFiles]) -> None:
        side_by_side(self._stop, daemons)
        if self.one in daemons:
            self._delete_bridge()

    def _stop(self, files: DaemonFiles) -> None:
        if dockerd.daemon_pid(files) is not None:
            say(f"stopping the engine {files.url}")
        dockerd.stop(files)

    def clean(self) -> None:
        """Stop our daemons and delete the state folder: engines' data, images, logs."""
        daemons = self.daemons()
        self.stop(daemons)
        for files in daemons:
            dockerd.remove_tree(files.runtime)
        dockerd.remove_tree(self.state)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One set-up of this checkout at a time."""
        self.state.mkdir(parents=True, exist_ok=True)
        with (self.state / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("waiting for another set-up of this checkout to finish")
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # --- the first engine

    def _first_engine(self) -> str:
        foreign = self._foreign_engine()
        if foreign:
            say(f"using the engine that answers at {foreign}")
            self._need_client()
            return foreign
        if dockerd.answers(self.one.socket):
            say(f"using our engine {self.one.url}, which runs already")
            return self.one.url
        if not may_start_daemons():
            raise MachineError(
                "no Docker engine answers: start one and set DOCKER_HOST to its url, or run this as root to have one started"
            )
        if self._install_engine() and answers_soon(DEFAULT_SOCKET, timeout_s=SERVICE_TIMEOUT_S):
            say("using the engine that its package has started")
            return f"unix://{DEFAULT_SOCKET}"
        mount_cgroups(self._log)
        self._start_first()
        return self.one.url

    def _foreign_engine(self) -> str | None:
        """The url of an engine that answers and is not ours."""
        named = os.environ.get("DOCKER_HOST", "")
        if named and named not in [files.url for files in self.daemons()]:
            if url_answers(named):
                return named
            say(f"DOCKER_HOST is {named}, where no engine answers: going on without it")
        return f"unix://{DEFAULT_SOCKET}" if dockerd.answers(DEFAULT_SOCKET) else None

    def _install_engine(self) -> bool:
        """Install dockerd and its client where missing; whether a daemon runs by itself now."""
        was_missing = not apt.has_command("dockerd")
        packages = {"dockerd": "docker.io", "iptables": "iptables", "ip": "iproute2", "unshare": "util-linux"}
        apt.need_commands(packages, purpose="an engine", log=self._log)
        self._need_client()
        return was_missing and (Path("/run/systemd/system").exists() or Path("/var/run/docker.pid").exists())

    def _need_client(self) -> None:
        for package in ("docker.io", "docker-cli"):  # a package of its own since Debian 13
            apt.need_commands({"docker": package}, purpose="loading images", log=self._log)

    def _start_first(self) -> None:
        """A normal engine, with a bridge network. Where that cannot be, one without."""
        if bridge_is_in_use():
            say("another engine's bridge docker0 is here: starting ours without a bridge network")
            self._start(self.one, own_network=True)
            return
        if not BRIDGE.exists():
            self._bridge_mark.parent.mkdir(parents=True, exist_ok=True)
            self._bridge_mark.touch()
        try:
            self._start(self.one, own_network=False)
        except DaemonError as error:
            say(f"no bridge network on this machine ({error}): starting the engine without")
            self._delete_bridge()
            self._start(self.one, own_network=True)

    def _delete_bridge(self) -> None:
        if BRIDGE.exists() and self._bridge_mark.exists() and apt.has_command("ip"):
            command = ["ip", "link", "delete", BRIDGE.name]
            subprocess.run(command, env={"PATH": dockerd.SBIN_PATH}, capture_output=True, timeout=10, check=False)
        if not BRIDGE.exists():
            self._bridge_mark.unlink(missing_ok=True)

    # --- the others, and what all share

    def _engines_of_another(self, release: str, number: int) -> list[str]:
        """None where no other release is asked for, or where it cannot be had."""
        if release == apt.debian_mirror()[1]:
            release = RELEASE_BEFORE.get(release, "")
        if not release:
            return []
        try:
            return self._engines_of(release, number)
        except (MachineError, DaemonError) as error:
            say(f"no engine of Debian {release}, so all are of this machine's own release ({error})")
            return []

    def _own_engines(self, number: int) -> list[str]:
        wanted = self._own[:number]
        if not all(dockerd.answers(files.socket) for files in wanted):
            self._install_engine()
        return self._running(wanted)

    def _engines_of(self, release: str, number: int) -> list[str]:
        wanted = [self._of_release(release, each + 1) for each in range(number)]
        if not all(dockerd.answers(files.socket) for files in wanted):
            if not may_start_daemons():
                raise MachineError("another release's engine can be started only as root on Linux")
            root, purpose = self._roots / release, f"the engine of Debian {release}"
            provide_root(root, release=release, packages=ENGINE_PACKAGES, purpose=purpose, log=self._log)
        return self._running(wanted)

    def _running(self, wanted: Sequence[DaemonFiles]) -> list[str]:
        """The urls of these engines of ours, each in a network namespace of its own; started where they do not run."""
        missing = [files for files in wanted if not dockerd.answers(files.socket)]
        for files in wanted:
            if files not in missing:
                say(f"using our engine {files.url}, which runs already")
        if missing:
            mount_cgroups(self._log)
            side_by_side(self._start_alone, missing)
        return [files.url for files in wanted]

    def _start_alone(self, files: DaemonFiles) -> None:
        self._start(files, own_network=True)

    def _start(self, files: DaemonFiles, *, own_network: bool) -> None:
        begun = time.monotonic()
        self._make_runtime_folder(files)
        dockerd.stop(files)  # what one that was killed has left
        process = dockerd.start(files, own_network=own_network, flags=["--shutdown-timeout", "5"])
        try:
            dockerd.wait_until_answers(files, process, timeout_s=START_TIMEOUT_S)
        except BaseException:
            dockerd.stop(files, process=process)
            raise
        version, bridge = dockerd.version(files.socket), "no bridge network" if own_network else "bridge network"
        say(f"started the engine {files.url} in {time.monotonic() - begun:.1f} s (Docker {version}, {bridge})")

    def _with_images(self, engines: list[str]) -> list[str]:
        for image in IMAGES:
            self.images.provide(image, engines)
        return engines

    def _of_release(self, release: str, number: int) -> DaemonFiles:
        name = release if number == 1 else f"{release}-{number}"
        return replace(self._daemon_files(name), root=self._roots / release)

    def _daemon_files(self, name: str) -> DaemonFiles:
        home = self.state / name
        runtime = home
        if not dockerd.fits_sockets(runtime):
            mark = hashlib.sha256(os.fsencode(self.state)).hexdigest()[:12]
            runtime = Path(f"/tmp/jobmanager-{mark}-{name}")
        return DaemonFiles(data=home / "data", runtime=runtime, log=home / "dockerd.log")

    def _make_runtime_folder(self, files: DaemonFiles) -> None:
        files.runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        if files.runtime.lstat().st_uid != os.geteuid() or files.runtime.is_symlink():
            raise MachineError(f"{files.runtime} belongs to somebody else: delete it, or use a checkout with a shorter path")


# --- looking around -----------------------------------------------------------------------------------------------


def may_start_daemons() -> bool:
    return sys.platform == "linux" and os.geteuid() == 0


def side_by_side(do: Callable[[DaemonFiles], None], daemons: Sequence[DaemonFiles]) -> None:
    """Do it with all at once; raises what went wrong first, when all are done."""
    with ThreadPoolExecutor(max(1, len(daemons))) as pool:
        list(pool.map(do, daemons))


def url_answers(url: str) -> bool:
    if url.startswith("unix://"):
        return dockerd.answers(Path(url.removeprefix("unix://")))
    if not apt.has_command("docker"):
        return False
    command = ["docker", "--host", url, "version"]
    try:
        done = subprocess.run(command, env=docker_environment(url), capture_output=True, timeout=15, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def answers_soon(path: Path, *, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not dockerd.answers(path):
        if time.monotonic() > deadline:
            return False
        time.sleep(dockerd.POLL_S)
    return True


def bridge_is_in_use() -> bool:
    """Whether the bridge network is there and a daemon of our network namespace is alive, which may be its owner."""
    here = Path("/proc/self/ns/net").readlink()
    return BRIDGE.exists() and any(dockerd.network_of(pid) == here for pid in dockerd.daemon_pids())


def mount_cgroups(log: Path) -> None:
    """An init system has done this; a bare machine without one has not."""
    kinds = {line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()}
    if kinds & {"cgroup", "cgroup2"}:
        return
    say("mounting the control groups")
    apt.need_commands({"cgroupfs-mount": "cgroupfs-mount"}, purpose="limits on a machine without an init system", log=log)
    subprocess.run(["cgroupfs-mount"], env={"PATH": dockerd.SBIN_PATH}, capture_output=True, timeout=30, check=False)


def need_venv(log: Path) -> None:
    """Make sure that this Python can make a virtual environment."""
    if sys.version_info < (3, 10):
        raise MachineError("Python 3.10 or newer is needed: run make with PYTHON=/path/to/a/newer/python3")
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        apt.install(["python3-venv"], purpose="a virtual environment", log=log)


def need_redis(log: Path) -> None:
    """Make sure of a redis-server. Debian's package would start one: ours are started by who needs them."""
    with apt.no_services():
        apt.need_commands({"redis-server": "redis-server"}, purpose="many machines", log=log)


def need_compiler(log: Path) -> None:
    """Make sure of what the runner's tests need: a compiler with sanitizers, and what runs another architecture's programs."""
    apt.need_commands({"gcc": "gcc"}, purpose="the runner's tests", log=log)
    if not Path("/usr/include/stdlib.h").exists():
        apt.install(["libc6-dev"], purpose="the runner's tests", log=log)
    if may_start_daemons():  # without the rights to, the tests that need it are skipped anyway
        apt.need_commands({"qemu-aarch64-static": "qemu-user-static"}, purpose="the runner of another architecture", log=log)


# --- subcommands --------------------------------------------------------------------------------------------------


def show(urls: list[str], *, as_json: bool) -> None:
    print(json.dumps({"engines": urls}) if as_json else "\n".join(urls), flush=True)


def do_up(machine: Machine, options: argparse.Namespace) -> int:
    start = machine.up if options.action == "up" else machine.start_engines
    with machine.locked():
        engines = start(other_release=options.other_release)
    if machine.started():
        say("the engines stay up, so that the next run takes seconds; `make down` stops them")
    show(engines, as_json=options.json)
    return 0


def do_images(machine: Machine, options: argparse.Namespace) -> int:
    with machine.locked():
        show(machine.up(), as_json=options.json)
    return 0


def do_env(machine: Machine, options: argparse.Namespace) -> int:
    engines = machine.engines()
    if not engines:
        raise MachineError("no engine is up: run `python3 -m dev.machine up`")
    show(engines, as_json=options.json)
    return 0


def do_down(machine: Machine, options: argparse.Namespace) -> int:
    with machine.locked():
        if not machine.started():
            say("no engine of ours runs")
        machine.stop(machine.daemons())
    return 0


def do_clean(machine: Machine, options: argparse.Namespace) -> int:
    machine.clean()
    return 0


def do_python(machine: Machine, options: argparse.Namespace) -> int:
    need_venv(machine.state / "packages.log")
    return 0


def do_redis(machine: Machine, options: argparse.Namespace) -> int:
    need_redis(machine.state / "packages.log")
    return 0


def do_compiler(machine: Machine, options: argparse.Namespace) -> int:
    need_compiler(machine.state / "packages.log")
    return 0


def do_started(machine: Machine, options: argparse.Namespace) -> int:
    show([files.url for files in machine.started()], as_json=options.json)
    return 0


def do_run(machine: Machine, options: argparse.Namespace) -> int:
    """Run a command with the engines up, and then stop those that this run has started."""
    if not options.command:
        raise MachineError("run what? For example: python3 -m dev.machine run make stress")
    before = machine.started()
    try:
        with machine.locked():
            if options.only:
                engines = machine.up_only(options.only)
            elif options.languages:
                engines = machine.up_with_languages()
            else:
                engines = machine.up(other_release=options.other_release, of_each=options.of_each)
        tar = machine.images.tar(BUSYBOX)
        return call(options.command, os.environ | {HOSTS_VARIABLE: ",".join(engines), IMAGE_VARIABLE: str(tar)})
    finally:
        with machine.locked():
            machine.stop([files for files in machine.daemons() if files not in before])


def call(command: Sequence[str], environment: dict[str, str]) -> int:
    """Run a command to its end: its status, as a shell would give it.

    Asked to end, we ask the command, with the signal of ctrl-C: pytest then still runs what its fixtures do at the end.
    """
    children: list[subprocess.Popen[bytes]] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        for child in children:
            if number != signal.SIGINT:  # the terminal sends that one to both
                child.send_signal(signal.SIGINT)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # before the start: an ignored signal is inherited
        signal.signal(number, interrupt)
    try:
        children.append(subprocess.Popen(command, env=environment))
    except FileNotFoundError as error:
        raise MachineError(f"there is no {error.filename}") from error
    status = children[0].wait()
    return status if status >= 0 else 128 - status


ACTIONS: dict[str, tuple[Callable[[Machine, argparse.Namespace], int], str]] = {
    "up": (do_up, "start the engines, make the images, print the engines' urls"),
    "engine": (do_up, "start the engines only"),
    "images": (do_images, "the same as up: images need engines"),
    "env": (do_env, "print the urls of the engines that are up; starts nothing"),
    "started": (do_started, "print the urls of the engines that we have started"),
    "run": (do_run, "run a command with the engines up, then stop those that were started for it"),
    "down": (do_down, "stop the engines that we have started"),
    "clean": (do_clean, "stop them and delete the state folder"),
    "python": (do_python, "make sure that Python can make a virtual environment"),
    "redis": (do_redis, "make sure of a redis-server; starts none"),
    "compiler": (do_compiler, "make sure of gcc and qemu, for the runner's tests"),
}


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 -m dev.machine", description="Docker engines and images for demo and tests")
    parser.add_argument("--state", type=Path, default=CHECKOUT / ".machine", help="folder for everything (default: %(default)s)")
    parser.set_defaults(json=False, other_release="", only="")
    actions = parser.add_subparsers(dest="action", required=True)
    for name, (_, text) in ACTIONS.items():
        action = actions.add_parser(name, help=text)
        if name in ("up", "engine", "run"):
            other = "the second engine is the one of this Debian release"
            action.add_argument("--with", dest="other_release", default="", metavar="RELEASE", help=other)
        if name == "run":
            pairs = "two engines of each kind"
            action.add_argument("--pairs", dest="of_each", action="store_const", const=2, default=1, help=pairs)
            action.add_argument("--only", default="", metavar="RELEASE", help="no engine but the one of this Debian release")
            languages = "one engine, and the image of many languages"
            action.add_argument("--languages", action="store_true", help=languages)
            action.add_argument("command", nargs=argparse.REMAINDER)
        else:
            action.add_argument("--json", action="store_true", help="print JSON instead of lines")
    return parser.parse_args(arguments)


def end_in_order(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main(arguments: Sequence[str]) -> int:
    options = parsed(arguments)
    signal.signal(signal.SIGTERM, end_in_order)
    try:
        return ACTIONS[options.action][0](Machine(options.state.resolve()), options)
    except (MachineError, DaemonError) as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
