"""What is said where an extra of the installation is missing."""

from __future__ import annotations


def needs_extra(what: str, extra: str, missing: str) -> str:
    """The message. The package is on no index, so it is installed from a checkout."""
    return f"{what} needs the extra `{extra}`: there is no {missing} here; in a checkout of jobmanager: pip install '.[{extra}]'"
