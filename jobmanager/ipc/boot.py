"""The first lines of a child process: it finds the library and the packages that the library needs, and nothing of the caller's.

This file is run by itself, before there is a package ``jobmanager``, and knows the standard library only. That is all that
lies on the path then: ``-S`` leaves out what was installed, and PYTHONPATH is not handed down.
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
_NOT_TO_BE_DONE_WITHOUT = {"docker", "requests", "urllib3", "psutil"}
_PR_SET_PDEATHSIG = 1
_INSTALLED = re.compile(r"([A-Za-z0-9_.]+?)(-[^-].*)?\.(dist|egg)-info")


def main(said: str) -> None:
    """Call the function that is asked for; why that failed is the last word on the pipe ``report_to``."""
    _go_on_when_the_parent_ends()
    asked = json.loads(said)
    try:
        sys.path += places(asked["path"])
        load("jobmanager", asked["home"])
        module, function = asked["target"].split(":")
        __import__(module)
        getattr(sys.modules[module], function)(*asked["arguments"])
    except BaseException as error:  # the process's edge
        if asked["report_to"] is None:
            raise
        _report(asked["report_to"], error)
        os._exit(1)


def _go_on_when_the_parent_ends() -> None:
    """Somebody may have stopped this process by then, and one that stands still does not see that end. Linux alone has this.

    The signal comes whenever the thread that started us ends, and again with the process; to one that runs it does nothing.
    """
    if sys.platform != "linux":
        return
    with suppress(ImportError, OSError, AttributeError):  # a Python without ctypes
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)


def load(package: str, home: str) -> None:
    """Import a package from this very folder, which is not on the path: other things may lie there."""
    spec = PathFinder.find_spec(package, [home])
    if spec is None or spec.loader is None:
        raise ImportError(f"the package {package} is not in {home} any more")
    module = module_from_spec(spec)
    sys.modules[package] = module
    spec.loader.exec_module(module)


def places(path: Sequence[str]) -> list[str]:
    """Where on the caller's path the needed packages were installed: a file or a folder of the same name is not enough.

    Where nothing tells that they were installed, as in a zip file, or where only a note of it lies (``pip install -e`` puts the
    folder itself further back), the first package of that name is taken.
    """
    found: dict[str, str] = {}
    for place in path:
        for name in _installed_in(place) - found.keys():
            if _has_package(place, name):
                found[name] = place
    for name in _NOT_TO_BE_DONE_WITHOUT - found.keys():
        found.update((name, place) for place in reversed(path) if _has_package(place, name))
    return [place for place in dict.fromkeys(path) if place in found.values()]


def _installed_in(place: str) -> set[str]:
    try:
        entries = os.listdir(place)
    except OSError:  # not there, or a zip file
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
            connection.send(said_of(error))
    except OSError:
        traceback.print_exception(type(error), error, error.__traceback__)


def said_of(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {error}".replace("\n", " ")[:2000]
