"""Templates: files that are filled in with the answers, and feedback that is filled in with values."""

import os
import re
import sys

from . import inputs, place
from .errors import BadValue, GradingError
from .text import cleaned

_LIKE_A_MARK = re.compile(r"@[^@\n]*@([A-Za-z_][\w:.-]*)@[^@\n]*@")
_MAX_TOLD = 5
_VALUE = re.compile(r"\{\{\s*(?:_\(\s*(\"[^\"]*\"|'[^']*')\s*\)|(\w+))\s*\}\}")


def parse_template(template: "str", output: "str" = "") -> "None":
    """Fill in a template: ``@prefix@ID@suffix@`` becomes the answer, each of its lines between prefix and suffix.

    All marks are replaced at once, so an answer that holds a mark stays as it is. A mark of an unknown input stays, too, and
    standard error says so.

    Args:
        template: a file's name, of UTF-8 text.
        output: where to write the result; its folder is made. Without it the template is replaced.
    """
    try:
        with open(template, "rb") as file:
            text = file.read().decode("utf-8")
        filled = _filled(text, template)
        aim = output or template
        if os.path.dirname(aim):
            os.makedirs(os.path.dirname(aim), exist_ok=True)
        with open(aim, "wb") as file:
            file.write(filled.encode("utf-8", "replace"))
    except UnicodeDecodeError as error:
        raise BadValue(f"the template {template!r}, or an answer for it, is not UTF-8: {error}") from None
    except OSError as error:
        raise GradingError(f"the template {template!r} cannot be filled in: {error}") from None


def feedback_of(name: "str", values: "dict[str, object]") -> "str":
    """The text of a feedback template.

    Args:
        name: the file's name without ``.tpl``. Looked for as ``NAME.LANGUAGE.tpl``, ``lang/LANGUAGE/NAME.tpl`` in the task's
            folder, then ``NAME.tpl``.
        values: what ``{{ name }}`` stands for. ``{{ _("text") }}`` is the text in the submitter's language. Where the image
            has Jinja2, it does the rest of its language, too.
    """
    language = inputs.language()
    places = [
        f"{name}.{language}.tpl",
        os.path.join(place.TRANSLATIONS, language, name + ".tpl"),
        name + ".tpl",
    ]
    found = [path for path in places if os.path.exists(path)]
    if not found:
        raise GradingError("there is no feedback template {!r}: looked for {}".format(name, ", ".join(places)))
    try:
        with open(found[0], "rb") as file:
            text = file.read().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GradingError(f"the feedback template {found[0]!r} cannot be read: {error}") from None
    return _rendered(text, dict(values, _=translation()))


def translation() -> "Callable[[str], str]":
    """A function that turns a text into the submitter's language, as the ``messages`` of the task's ``lang`` folder have it."""
    import gettext

    return gettext.translation("messages", place.TRANSLATIONS, [inputs.language()], fallback=True).gettext


def _filled(text: "str", template: "str") -> "str":
    fields = _fields(inputs.all_inputs())  # some notes are always there
    mark = "@([^@]*)@({})@([^@]*)@".format("|".join(re.escape(name) for name in sorted(fields, key=len, reverse=True)))

    def filling(found: "re.Match[str]") -> "str":
        return "\n".join(found.group(1) + line + found.group(3) for line in fields[found.group(2)]().splitlines())

    _tell_of_unknown(re.sub(mark, "\n", text), template, fields)
    return re.sub(mark, filling, text)


def _tell_of_unknown(left: "str", template: "str", known: "Iterable[str]") -> "None":
    """A name with a typing error would otherwise be compiled with the submission. An unanswered choice has no input, either."""
    for name in sorted(set(_LIKE_A_MARK.findall(left)))[:_MAX_TOLD]:
        told = "the template {!r} has a mark for {!r}, and there is no such input; there are {}\n".format(
            template, name, ", ".join(sorted(known))
        )
        sys.stderr.write(cleaned(told).encode("ascii", "backslashreplace").decode("ascii"))


def _fields(brought: "dict[str, object]") -> "dict[str, Callable[[], str]]":
    """The names for marks, each with a function that returns its text: a file is read only when a mark names it."""
    fields = {}  # type: dict[str, Callable[[], str]]
    for name, value in brought.items():
        if inputs.is_file(value):
            fields[name + ":filename"] = lambda file=value: str(file["filename"])  # type: ignore[misc]
            fields[name + ":value"] = lambda file=value: inputs.content(file).decode("utf-8")  # type: ignore[misc]
            fields[name] = fields[name + ":value"]
        else:
            fields[name] = lambda plain=value: inputs.as_text(plain)  # type: ignore[misc]
    return fields


def _rendered(text: "str", values: "dict[str, object]") -> "str":
    try:
        import jinja2  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return _without_jinja(text, values)
    try:
        return str(jinja2.Template(text).render(values))
    except Exception as error:  # noqa: BLE001 - a template can raise anything
        raise GradingError(f"the feedback template cannot be filled in: {error}") from None


def _without_jinja(text: "str", values: "dict[str, object]") -> "str":
    left = re.search(r"\{[{%#]", _VALUE.sub("", text))
    if left is not None:
        raise GradingError("this image has no Jinja2: without it a template can hold {{ name }} and {{ _('text') }} only")

    def value(mark: "re.Match[str]") -> "str":
        if mark.group(1):
            return str(values["_"](mark.group(1)[1:-1]))  # type: ignore[operator]
        return str(values.get(mark.group(2), ""))  # as Jinja2 does

    return _VALUE.sub(value, text)


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
