"""Shell commands in a Python script, as IPython has them: ``!command`` and ``name = !command``, where ``{expression}`` and
``$name`` stand for Python values and ``$$`` for a dollar sign. A command ends with its line. ``%env NAME=value`` sets a variable
of the environment."""

import os
import re
import subprocess
import sys

_LINE = re.compile(r"^([ \t]*)(?:([A-Za-z_][\w.]*)[ \t]*=[ \t]*)?!(?!=)(.*)$", re.MULTILINE)
_ENV = re.compile(r"^([ \t]*)%env[ \t]+([A-Za-z_]\w*)(?:[ \t]*=[ \t]*|[ \t]+)(.*)$", re.MULTILINE)
_VALUE = re.compile(r"\$\$|\{([^{}\n]+)\}|\$([A-Za-z_]\w*)")


def are_in(source: "str") -> "bool":
    """Whether a script has such lines."""
    return _LINE.search(source) is not None or _ENV.search(source) is not None


def as_python(source: "str") -> "str":
    """The script with each of them replaced by a call, line by line."""
    return _ENV.sub(_setting, _LINE.sub(_call, source))


def _call(line: "re.Match[str]") -> "str":
    indent, name, command = line.groups()
    if name:
        return f"{indent}{name} = __shell_lines({command!r}, globals(), locals())"
    return f"{indent}__shell({command!r}, globals(), locals())"


def _setting(line: "re.Match[str]") -> "str":
    indent, name, value = line.groups()
    return f"{indent}__set_env({name!r}, {value!r}, globals(), locals())"


def _set_env(name: "str", value: "str", outer: "dict[str, object]", inner: "dict[str, object]") -> "None":
    os.environ[name] = _expanded(value, outer, inner)


def _shell(command: "str", outer: "dict[str, object]", inner: "dict[str, object]") -> "None":
    """Run it; what it writes goes where the script's own output goes."""
    sys.stdout.flush()
    subprocess.call(_expanded(command, outer, inner), shell=True)


def _shell_lines(command: "str", outer: "dict[str, object]", inner: "dict[str, object]") -> "list[str]":
    """Run it; the lines that it writes on its standard output."""
    process = subprocess.Popen(_expanded(command, outer, inner), shell=True, stdout=subprocess.PIPE)
    return process.communicate()[0].decode("utf-8", "replace").splitlines()


def _expanded(command: "str", outer: "dict[str, object]", inner: "dict[str, object]") -> "str":
    def value(mark: "re.Match[str]") -> "str":
        expression = mark.group(1) or mark.group(2)
        if expression is None:
            return "$"
        try:
            return str(eval(expression, outer, inner))
        except Exception:  # noqa: BLE001 - what is no Python is the shell's: $HOME, {a,b}
            return mark.group(0)

    return _VALUE.sub(value, command)


NAMES = {"__set_env": _set_env, "__shell": _shell, "__shell_lines": _shell_lines}
