"""``jobmanager`` and ``python -m jobmanager``: the command line, where its libraries are installed."""

from __future__ import annotations

import logging
import sys

from jobmanager.model._extras import needs_extra

_NEEDED = ("click", "rich")


def main() -> int:
    """Run the command line; returns its exit code."""
    try:
        from jobmanager.cli import run
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] not in _NEEDED:
            raise
        sys.stderr.write(f"jobmanager: {needs_extra('the command', 'cli', missing.name)}\n")
        return 2
    logging.getLogger("jobmanager").setLevel(logging.ERROR)  # the command prints the rest itself
    return run()


if __name__ == "__main__":
    sys.exit(main())
