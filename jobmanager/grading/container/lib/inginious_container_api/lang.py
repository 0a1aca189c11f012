"""The submitter's language."""

import builtins
import os

from jobmanager_grading import language, place

__all__ = ["get_lang_dir_path", "init"]


def get_lang_dir_path() -> "str":
    """Where the task keeps its translations: ``LANGUAGE/LC_MESSAGES/messages.mo`` below it."""
    return place.TRANSLATIONS


def init() -> "None":
    """From now on ``_("text")`` is the text in the submitter's language, everywhere."""
    if hasattr(builtins, "_"):
        return
    from jobmanager_grading.templates import translation

    os.environ["LANGUAGE"] = language()
    builtins._ = translation()  # type: ignore[attr-defined]
