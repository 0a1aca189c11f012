"""The grader of hidden tests: runs the course's tests here, and the submission in a student container.

``Grader.pytest`` and ``Grader.unittest`` name this file as the grader's command. The answer is made at the very end, of what the
test framework has said in this process: nothing of the submission is in it, or ever was.
"""

import argparse
import fnmatch
import os
import sys
import traceback

if __name__ == "__main__":  # started as a file: modules beside it are parts, and those of the task come behind Python's own
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from jobmanager_grading import answer, place, shared_folder
from jobmanager_grading.scores import NoGrade, Scores
from jobmanager_grading.submitted_code import SubmissionProcesses

PRINTED = 128 * 1024  # characters: a report may hold what the submission has answered, and its flood must not end the grader
_NO_GRADE = {
    "result": "error",
    "text": "The tests of this task could not be run. That is a fault of the task, and none of what was handed in.",
}  # type: dict[str, object]
_RAN = (0, 1)  # pytest's exit codes for tests that came to their end


def main(words: "list[str]") -> "int":
    """Grade; the exit code is 0 if there is a grade."""
    options = _options(words)
    sys.stdout = sys.stderr = _BoundedWriter(sys.stderr)
    sys.dont_write_bytecode = True
    scores = Scores(shows_reasons=not options.one_process)
    answer.set_answer(_NO_GRADE)  # until there is a grade, whatever ends this process
    try:
        files = _test_files(options.tests)
        shared_folder.keep()
        processes = SubmissionProcesses(options.submission, is_shared=options.one_process)
        run = _run_pytest if options.framework == "pytest" else _run_unittest
        run(files, processes, scores, options)
        processes.end_process()
        scores.set_answer()
    except NoGrade as why:
        return _no_grade(str(why))
    except BaseException:  # noqa: BLE001 - whatever the tests raise outside of a test: exit() as well
        traceback.print_exc()
        return _no_grade("the tests stopped with an exception")
    return 0


def _options(words: "list[str]") -> "argparse.Namespace":
    parser = argparse.ArgumentParser()
    parser.add_argument("framework", choices=("pytest", "unittest"))
    parser.add_argument("submission")
    parser.add_argument("tests")
    parser.add_argument("--cpu-time-s", type=float, required=True)
    parser.add_argument("--wall-time-s", type=float)
    parser.add_argument("--one-process", action="store_true")
    return parser.parse_args(words)


def _test_files(pattern: "str") -> "list[str]":
    """The files whose names fit, but for those of the submission and ours."""
    found = []
    for folder, folders, names in os.walk(place.TASK):
        if folder == place.TASK:
            folders[:] = [name for name in folders if name not in ("student", os.path.basename(place.PRIVATE))]
        found += [os.path.join(folder, name) for name in names if fnmatch.fnmatchcase(name, pattern)]
    if not found:
        raise NoGrade(f"the task has no file {pattern}")
    return sorted(found)


def _run_pytest(files: "list[str]", processes: "SubmissionProcesses", scores: "Scores", options: "argparse.Namespace") -> "None":
    try:
        import pytest
    except ImportError:
        raise NoGrade("the image has no pytest: install it there (Debian: python3-pytest), or use Grader.unittest") from None
    from jobmanager_grading.pytest_plugin import GradingPlugin

    plugin = GradingPlugin(processes, scores, options.cpu_time_s, options.wall_time_s)
    where = ["--import-mode=append", "--rootdir", place.TASK, "--confcutdir", place.TASK]
    own = [*where, "--strict-markers", "-p", "no:cacheprovider", "--tb=short"]
    code = int(pytest.main([*own, *files], plugins=[plugin]))
    if code not in _RAN:
        raise NoGrade(f"pytest ended with exit code {code}: the tests were not run to their end")
    if plugin.broken:
        raise NoGrade(plugin.broken)


def _run_unittest(files: "list[str]", processes: "SubmissionProcesses", scores: "Scores", options: "argparse.Namespace") -> "None":
    from jobmanager_grading import unit_tests

    unit_tests.run(files, processes, scores, options.cpu_time_s, options.wall_time_s)


def _no_grade(why: "str") -> "int":
    sys.stderr.write(f"\nno grade: {why}\n")
    answer.set_answer(_NO_GRADE)
    return 1


class _BoundedWriter:
    """A stream that takes anything, and passes on the beginning."""

    def __init__(self, stream: "TextIO") -> "None":
        self._stream = stream
        self._left = PRINTED

    def write(self, text: "str") -> "int":
        if self._left:
            kept = text.encode("ascii", "backslashreplace").decode("ascii")[: self._left]
            self._left -= len(kept)
            self._stream.write(kept if self._left else kept + "\n[more was printed, and is left out]\n")
        return len(text)

    def writelines(self, lines: "Iterable[str]") -> "None":
        for line in lines:
            self.write(line)

    def __getattr__(self, name: "str") -> "object":
        return getattr(self._stream, name)


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
