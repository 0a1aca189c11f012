"""The Lua scripts: each is one step in a job's life, carried out whole or not at all. ``lua/`` has one file for each."""

from __future__ import annotations

from importlib.resources import files

from redis import Redis
from redis.commands.core import Script

_NAMES = (
    *("accept", "acknowledge", "announce", "back", "beat", "cancel", "claim", "count"),
    *("finish", "lead", "place", "record", "records", "release", "requeue", "start"),
)


class Scripts:
    """The scripts, ready for one connection pool."""

    def __init__(self, redis: Redis) -> None:
        folder = files("jobmanager.remote") / "lua"
        common = (folder / "common.lua").read_text()
        scripts = {
            name: redis.register_script(f"{common}\n{(folder / f'{name}.lua').read_text()}") for name in _NAMES
        }
        self._scripts: dict[str, Script] = scripts

    def __getitem__(self, name: str) -> Script:
        return self._scripts[name]
