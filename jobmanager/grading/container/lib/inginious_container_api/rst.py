"""Blocks of reStructuredText."""

from jobmanager_grading.rst import code_block, image_block, indented, message_block

__all__ = ["get_admonition", "get_codeblock", "get_imageblock", "indent_block"]

get_codeblock = code_block


def get_imageblock(filename: "str", format: "str" = "") -> "str":
    """An image inside the text."""
    return image_block(filename, format)


def get_admonition(cssclass: "str", title: "str", text: "str") -> "str":
    """A coloured box."""
    return message_block(cssclass, title, text)


def indent_block(amount: "int", text: "str", indent_char: "str" = "\t") -> "str":
    """Lines moved to the right, or to the left."""
    return indented(amount, text, indent_char)
