"""File names and texts are the same whatever the caller's locale is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import BUSYBOX

pytestmark = pytest.mark.engine

LOCALES = {"EUC-JP": "ja_JP", "ISO-8859-1": "de_DE", "UTF-8": "en_US"}
_JOB = """
import io, json, sys, tarfile
from jobmanager import JobManager, Task
with JobManager(sys.argv[1]) as manager:
    name = "\\u65e5\\u672c \\u00e9.txt"
    command = ["sh", "-c", 'cat "$0"; cat "$1"; cp "$1" "$2"', name, "on disk \\u00fc.txt", "made \\u0416.txt"]
    task = Task(sys.argv[2], command=command, directory=sys.argv[3], files={name: "right\\u00e9\\n"}, collect=["made*"])
    result = manager.submit(task).result(60)
names = tarfile.open(fileobj=io.BytesIO(result.archive), encoding="utf-8").getnames()
print(json.dumps([sys.getfilesystemencoding(), result.outcome.value, result.text, result.stdout_text, names]))
"""


@pytest.fixture(scope="module")
def locales(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Variables of a process in each locale. C is always there, others where a C library can make them."""
    made = {"C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}}
    folder = tmp_path_factory.mktemp("locales")
    if shutil.which("localedef"):
        for charmap, language in LOCALES.items():
            name = f"{language}.{charmap}"
            subprocess.run(["localedef", "-f", charmap, "-i", language, str(folder / name)], check=False, capture_output=True)
            if (folder / name).exists():
                made[charmap] = {"LC_ALL": name, "LOCPATH": str(folder), "PYTHONUTF8": "0"}
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a file whose name's bytes are UTF-8."""
    (Path(os.fsdecode(bytes(tmp_path) + b"/on disk \xc3\xbc.txt"))).write_text("there\n", encoding="utf-8")
    return tmp_path


def test_a_jobs_files_have_the_same_names_in_every_locale(
    engine_url: str, locales: dict[str, dict[str, str]], folder: Path
) -> None:
    seen = {}
    for name, variables in locales.items():
        environment = {key: value for key, value in os.environ.items() if not key.startswith("LC_") and key != "LANG"}
        command = [sys.executable, "-c", _JOB, engine_url, BUSYBOX, str(folder)]
        ran = subprocess.run(command, env={**environment, **variables}, stdout=subprocess.PIPE, timeout=100, check=True)
        encoding, *rest = json.loads(ran.stdout)
        seen[name] = rest
        assert name == "UTF-8" or encoding != "utf-8", "the locale is what it is meant to be"

    assert seen == {name: ["success", "", "right\u00e9\nthere\n", ["made \u0416.txt"]] for name in locales}


def test_the_command_line_prints_names_that_the_locale_lacks(locales: dict[str, dict[str, str]]) -> None:
    code = "from jobmanager.cli import run; import click; run(['sweep', '--manager', '\\u65e5', 'unix:///\\u65e5'])"
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **locales["C"]}, capture_output=True, timeout=60, check=False
    )

    assert b"Traceback" not in ran.stderr
    assert b"\\u65e5" in ran.stdout + ran.stderr
