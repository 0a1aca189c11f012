"""The first lines of a child process: it imports the library and the packages that the library needs, nothing of the caller's.

This file runs by itself, before the package ``jobmanager`` is imported, and uses the standard library only. Nothing else is
on the path then: ``-S`` leaves out installed packages, and PYTHONPATH is not passed on.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

NEEDED = ("docker", "requests", "urllib3", "certifi", "idna", "charset_normalizer", "chardet", "packaging", "psutil")
_REQUIRED = {"docker", "requests", "urllib3", "psutil"}
_PR_SET_PDEATHSIG = 1
_INSTALLED = re.compile(r"([A-Za-z0-9_.]+?)(-[^-].*)?\.(dist|egg)-info")


def main(request_json: str) -> None:
    """Call the requested function. If that fails, the reason is the last message on the pipe ``report_to``."""
    continue_when_parent_ends()
    request = json.loads(request_json)
    try:
        sys.path += package_folders(request["path"])
        place("jobmanager", request["home"])
        module, function = request["target"].split(":")
        __import__(module)
        getattr(sys.modules[module], function)(*request["arguments"])
    except BaseException as error:  # the process's edge
        if request["report_to"] is None:
            raise
        _report(request["report_to"], error)
        os._exit(1)


def continue_when_parent_ends() -> None:
    """Have the kernel send SIGCONT at the parent's end, as a process stopped by SIGSTOP would not notice it. Linux only.

    The signal comes when the thread that started us ends, and again with the process; it does not affect a running process.
    """
    if sys.platform != "linux":
        return
    with suppress(ImportError, OSError, AttributeError):  # a Python without ctypes
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)


def place(package: str, home: str) -> None:
    """Let modules of a package be imported from this folder, which is not added to the path, as it may contain other modules.

    The package's own first lines do not run: they import all public names, which would double a child's time to start.
    """
    spec = PathFinder.find_spec(package, [home])
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(f"the package {package} is not in {home} any more")
    sys.modules[package] = module_from_spec(spec)


def package_folders(path: Sequence[str]) -> list[str]:
    """The folders of the caller's path where the needed packages were installed: a module of the same name is not enough.

    The first package of the name is taken where nothing shows an installation, as in a zip file, or where the folder has only
    its metadata (``pip install -e`` puts the package's own folder further back).
    """
    found: dict[str, str] = {}
    for place in path:
        for name in _installed_packages(place) - found.keys():
            if _has_package(place, name):
                found[name] = place
    for name in _REQUIRED - found.keys():
        found.update((name, place) for place in reversed(path) if _has_package(place, name))
    return [place for place in dict.fromkeys(path) if place in found.values()]


def _installed_packages(place: str) -> set[str]:
    try:
        entries = os.listdir(place)
    except OSError:  # missing, or a zip file
        return set()
    matches = (_INSTALLED.fullmatch(entry) for entry in entries)
    return {match[1].lower().replace(".", "_") for match in matches if match is not None}.intersection(NEEDED)


def _has_package(place: str, name: str) -> bool:
    spec = PathFinder.find_spec(name, [place])
    return spec is not None and spec.origin is not None and spec.submodule_search_locations is not None


def _report(pipe: int, error: BaseException) -> None:
    from multiprocessing.connection import Connection

    try:
        with Connection(pipe, readable=False) as connection:
            connection.send(error_line(error))
    except OSError:
        traceback.print_exception(type(error), error, error.__traceback__)


def error_line(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {error}".replace("\n", " ")[:2000]
