"""Runs a grader that is named ``run.py``, as INGInious does: the names of its Python modules are there without an import, and
a line that begins with ``!`` is a shell command, as in IPython, of which no more is here (`shell_lines`)."""

import os
import sys

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

_MODULES = ("input", "feedback", "lang", "rst", "run_student", "ssh_student")
_ALSO = ("base64", "datetime", "json", "os", "re", "sys")  # modules that scripts use without importing them


def main(path: "str") -> "None":
    """Run a script as the main program."""
    sys.argv = sys.argv[1:]
    sys.path.insert(1, os.path.dirname(os.path.abspath(path)))
    with open(path, "rb") as file:
        source = file.read()
    try:
        code = compile(source, path, "exec")
    except SyntaxError:
        if not _has_shell_lines(source):
            raise
        _run_with_shell_lines(path, source)
    else:
        exec(code, _names(path))


def _has_shell_lines(source: "bytes") -> "bool":
    from jobmanager_grading import shell_lines

    return shell_lines.are_in(source.decode("utf-8", "replace"))


def _run_with_shell_lines(path: "str", source: "bytes") -> "None":
    from jobmanager_grading import shell_lines

    exec(compile(shell_lines.as_python(source.decode("utf-8")), path, "exec"), dict(_names(path), **shell_lines.NAMES))


def _names(path: "str") -> "dict[str, object]":
    """The script's global names, in a main module of its own."""
    module = sys.modules["__main__"] = type(sys)("__main__")
    names = module.__dict__
    for name in _ALSO:
        names[name] = __import__(name)
    for name in _MODULES:
        part = __import__("inginious_container_api." + name, fromlist=[name])
        names.update({public: getattr(part, public) for public in part.__all__})
    names.update(__file__=path)
    return names


if __name__ == "__main__":
    main(sys.argv[1])
