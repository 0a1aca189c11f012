"""The job's inputs."""

import datetime

from jobmanager_grading import all_inputs, get_input, language, parse_template

__all__ = ["get_input", "get_lang", "get_submission_time", "get_username", "load_input", "parse_template"]


def get_username() -> "object":
    """Who sent it in; of a group, the names with commas."""
    return get_input("@username")


def get_submission_time() -> "datetime.datetime":
    """When it was sent in."""
    return datetime.datetime.strptime(str(get_input("@time")), "%Y-%m-%d %H:%M:%S.%f")


def get_lang() -> "str":
    """The submitter's language."""
    return language()


def load_input() -> "dict[str, object]":
    """All inputs by their names, under ``input``. A file is its name and its path."""
    inputs = {}
    for name, value in all_inputs().items():
        is_file = isinstance(value, dict) and set(value) == {"filename", "path"}
        inputs[name] = {"filename": value["filename"], "value": value["path"]} if is_file else value  # type: ignore[index]
    return {"input": inputs}


_load_input = load_input  # some graders use the private name
