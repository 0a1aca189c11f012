"""Blocks of reStructuredText for feedback."""

_CLASSES = ("success", "info", "warning", "danger")


def code_block(language: "str", text: "str") -> "str":
    """A program's text, highlighted as of that language; none: not highlighted."""
    return f"\n\n.. code-block:: {language}\n\n{indented(1, text)}\n"


def image_block(path: "str", image_format: "str" = "") -> "str":
    """An image, put into the text itself; its format is the file's extension unless it is given."""
    import base64

    with open(path, "rb") as file:
        data = base64.b64encode(file.read()).decode("ascii")
    kind = image_format or path.rpartition(".")[2]
    return f'\n\n.. raw:: html\n\n\t<img src="data:image/{kind};base64,{data}">\n'


def message_block(kind: "str", title: "str", text: "str") -> "str":
    """A coloured box. Its kind is success, info, warning or danger; anything else is info."""
    head = f".. admonition:: {title}" if title else ".. note::"
    return "\n\n{}\n\t:class: alert alert-{}\n\n{}\n".format(head, kind if kind in _CLASSES else "info", indented(1, text))


def indented(amount: "int", text: "str", character: "str" = "\t") -> "str":
    """Each line moved right by so many characters; a negative amount moves it left, as far as it is indented."""
    return "".join(_moved(line, amount, character) + "\n" for line in text.splitlines())


def _moved(line: "str", amount: "int", character: "str") -> "str":
    if amount >= 0:
        return character * amount + line
    there = len(line) - len(line.lstrip(character)) if character else 0
    return line[min(there, -amount) :]
