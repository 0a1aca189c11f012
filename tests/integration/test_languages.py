"""What runtimes of languages, compilers and their tools find in a container: what docs/languages.md says."""

from __future__ import annotations

import secrets

import docker
import pytest

from jobmanager import Case, Grader, JobInput, JobManager, Limits, Outcome, Phase, Pipeline, Task
from tests.conftest import BUSYBOX
from tests.integration.conftest import PATIENCE_S, PYTHON, Run
from tests.support.programs import RECURSION

pytestmark = pytest.mark.engine

SANITIZED = """
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv) {
    puts("printed");
    char *block = malloc(argc > 1 ? 100 : 1);
    if (argc > 1) block = NULL;
    free(block);
}
"""


def test_a_program_built_with_address_sanitizer_runs_and_its_leaks_are_found(run: Run) -> None:
    build = "gcc -fsanitize=address main.c -o main &&"
    clean = run(f"{build} ./main", image=PYTHON, files={"main.c": SANITIZED})
    assert (clean.outcome, clean.stdout, clean.stderr) == (Outcome.SUCCESS, b"printed\n", b""), clean
    leaky = run(f"{build} ./main leak", image=PYTHON, files={"main.c": SANITIZED})
    assert leaky.outcome is Outcome.FAILED
    assert b"detected memory leaks" in leaky.stderr, leaky


def test_a_letter_is_a_letter_and_without_a_locale_it_is_its_bytes(run: Run) -> None:
    program = "printf é | wc -m"
    assert run(program, image=PYTHON).stdout == b"1\n"
    for no_locale in ({"LANG": "C"}, {"LANG": ""}, {"LC_ALL": "C"}):
        assert run(program, image=PYTHON, env=no_locale).stdout == b"2\n"


def test_every_kind_of_program_has_a_locale(run: Run, shared_manager: JobManager) -> None:
    prints = "echo $LANG"
    of_cases = run(prints, image=PYTHON, build=prints, cases=[Case(expected="C.UTF-8"), Case(expected="C.UTF-8")])
    assert of_cases.build is not None
    assert (of_cases.build.stdout, [case.correct for case in of_cases.cases]) == (b"C.UTF-8\n", [True, True])
    pipeline = Pipeline([Phase("one", Task(BUSYBOX, command=prints)), Phase("two", Task(PYTHON, command=prints))])
    phases = shared_manager.submit(pipeline).result(PATIENCE_S).phases
    assert [phase.run.stdout for phase in phases if phase.run is not None] == [b"C.UTF-8\n"] * 2
    grader = (
        "import os\nimport jobmanager_grading as grading\n"
        "prints = ['sh', '-c', 'echo $LANG']\n"
        "with grading.open_submission() as kept: seen = [kept.run(prints).stdout.decode() for _ in range(2)]\n"
        "seen += [os.environ['LANG'] + '\\n', grading.run_student(prints).stdout.decode()]\n"
        "seen += [grading.run_student(prints, env={'LC_ALL': 'C'}).stdout.decode()]\n"
        "grading.set_custom('seen', seen)\ngrading.set_result('success')\n"
    )
    limits = Limits(memory_mib=64, cpu_time_s=20, wall_time_s=60)
    graded = run(image=PYTHON, grader=Grader(), files={"run.py": grader}, limits=limits)
    assert graded.custom.get("seen") == ["C.UTF-8\n"] * 4 + ["\n"], graded


def test_an_image_that_names_a_locale_keeps_it(engine_url: str) -> None:
    made = docker.APIClient(base_url=engine_url, version="1.41", timeout=60)
    tag = f"jobmanager-test-locale:{secrets.token_hex(4)}"
    try:
        base = made.create_container(BUSYBOX, ["true"], environment={"LC_CTYPE": "de_DE.UTF-8"})["Id"]
        made.commit(base, *tag.split(":"))
        made.remove_container(base)
        with JobManager(engine_url) as manager:
            result = manager.submit(Task(tag, command='echo "$LANG,$LC_CTYPE"')).result(PATIENCE_S)
        assert result.stdout == b",de_DE.UTF-8\n", result
    finally:
        made.remove_image(tag, force=True)
        made.close()


def test_a_c_library_that_lacks_the_locale_goes_on_without_and_perl_says_so(run: Run) -> None:
    """As C.UTF-8 is for an old C library, so is this name for the one here."""
    unknown = {"LANG": "no_SUCH.UTF-8"}
    program = "printf é | wc -m; python3 -c 'print(chr(233))'; echo 'int main(void) { return 0; }' > x.c && gcc x.c && ./a.out"
    without = run(program, image=PYTHON, env=unknown)
    assert (without.outcome, without.stderr) == (Outcome.SUCCESS, b""), without
    assert without.stdout == b"2\n\xc3\xa9\n"
    perl = run(["perl", "-e", "print 1"], image=PYTHON, env=unknown)
    assert (perl.outcome, perl.stdout) == (Outcome.SUCCESS, b"1")
    assert b"Setting locale failed" in perl.stderr
    quiet = run(["perl", "-e", "print 1"], image=PYTHON, env={"LANG": "C"})
    assert (quiet.stdout, quiet.stderr) == (b"1", b"")


def test_python_takes_text_for_utf_8_without_a_locale_too(run: Run) -> None:
    program = "import sys; print(sys.stdout.encoding, sys.getfilesystemencoding(), open('x', 'w').encoding)"
    for env in ({}, {"LANG": ""}):
        assert run(["python3", "-c", program], image=PYTHON, env=env).stdout.lower() == b"utf-8 utf-8 utf-8\n"


def test_standard_input_is_a_file_and_cat_makes_it_a_pipe(run: Run, shell: str) -> None:
    kind = "if [ -f /dev/stdin ]; then echo file; elif [ -p /dev/stdin ]; then echo pipe; fi; cat"
    assert run(kind, JobInput(stdin="x"), image=shell).stdout == b"file\nx"
    assert run(f"cat | ({kind})", JobInput(stdin="x"), image=shell).stdout == b"pipe\nx"


PRINTS_AND_SPINS = ["python3", "-c", "print('told')\nwhile True: pass"]


def test_what_was_printed_before_a_limit_is_kept_unless_the_program_holds_it_back(run: Run) -> None:
    limits = Limits(cpu_time_s=0.5, wall_time_s=30)
    held = run(PRINTS_AND_SPINS, image=PYTHON, limits=limits)
    told = run(PRINTS_AND_SPINS, image=PYTHON, limits=limits, env={"PYTHONUNBUFFERED": "1"})
    assert (held.outcome, held.stdout, told.outcome, told.stdout) == (Outcome.TIMEOUT, b"", Outcome.TIMEOUT, b"told\n")


def test_home_is_the_workspace_and_not_what_the_list_of_users_says(run: Run) -> None:
    program = "import os, pwd; home = os.path.expanduser('~'); print(home, os.access(home, 2), pwd.getpwuid(os.getuid()).pw_dir)"
    assert run(["python3", "-c", program], image=PYTHON).stdout == b"/job True /nonexistent\n"


def test_recursion_without_end_can_be_made_to_end_as_elsewhere(run: Run) -> None:
    program = "gcc -O0 deep.c -o deep && ulimit -s 8192 && exec ./deep 2000000000"
    assert run(program, image=PYTHON, files={"deep.c": RECURSION}).signal == "SIGSEGV"


def test_deep_recursion_in_python_and_in_what_it_calls_in_c(run: Run) -> None:
    program = (
        "import json, sys\nsys.setrecursionlimit(10**6)\n"
        "def deep(n): return 0 if n == 0 else 1 + deep(n - 1)\n"
        "nested = []\nfor _ in range(90_000): nested = [nested]\n"
        "print(deep(100_000), len(json.dumps(nested)))"
    )
    result = run(["python3", "-c", program], image=PYTHON)
    assert (result.outcome, result.stdout) == (Outcome.SUCCESS, b"100000 180002\n"), result


def test_an_images_own_command_runs_in_the_workspace_whatever_its_workdir(engine_url: str) -> None:
    made = docker.APIClient(base_url=engine_url, version="1.41", timeout=60)
    tag = f"jobmanager-test-workdir:{secrets.token_hex(4)}"
    try:
        base = made.create_container(BUSYBOX, ["pwd"])["Id"]
        made.commit(base, *tag.split(":"), conf={"Cmd": ["pwd"], "WorkingDir": "/usr"})
        made.remove_container(base)
        with JobManager(engine_url) as manager:
            assert manager.submit(Task(tag)).result(PATIENCE_S).stdout == b"/job\n"
    finally:
        made.remove_image(tag, force=True)
        made.close()
