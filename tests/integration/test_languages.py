"""What runtimes of languages, compilers and their tools find in a container: what docs/languages.md says."""

from __future__ import annotations

import pytest

from jobmanager import Outcome
from tests.integration.conftest import PYTHON, Run

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
