"""The fifos through which two containers talk: in a volume on the host's disk that both have read-only.

A fifo can be read and written there, and nothing can be made, removed or changed. They are made through a carrier, a container that
is never started.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jobmanager.engine.protocol import Engine, NameTaken
from jobmanager.model.container import PIPES, DiskVolume


def pipes_volume(name: str, labels: Mapping[str, str], *, read_only: bool = True) -> DiskVolume:
    """The volume, as a container has it. The first create call that names it makes it, with these labels."""
    return DiskVolume(name=name, path=PIPES, labels=labels, read_only=read_only)


def make_fifos(engine: Engine, volume: DiskVolume, carrier: str, image: str, paths: Sequence[str]) -> None:
    """Make fifos in this volume, which is not read-only here; raises EngineError. ``carrier``: a name for it; ``image``: any."""
    try:
        made = engine.create_carrier(carrier, image, volume.labels, (volume,))
    except NameTaken:  # of a process that died in the middle
        engine.remove(carrier)
        made = engine.create_carrier(carrier, image, volume.labels, (volume,))
    try:
        engine.make_fifos(made, paths)
    finally:
        engine.remove(made)
