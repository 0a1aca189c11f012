"""The submitter: creates and starts a container. Runs in the process pool; in the waiter for what is started beside a job.

The container then waits for the job on standard input, so the program cannot start here: submitting the same container again
is always safe, and continues what the first try left behind.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace

from jobmanager.engine.protocol import Engine, EngineError, EngineFailed, ImageMissing, NameTaken, NoSuchContainer, Unreachable
from jobmanager.engine.runner_volume import RunnerVolumes, is_runner_missing
from jobmanager.engine.starting import start
from jobmanager.ipc.messages import ContainerStarted, StartFailed, StartRefused, VolumesLost
from jobmanager.model.container import ACCOUNTS, ContainerInfo, ContainerSpec, ContainerStatus, ImageDefaults

_log = logging.getLogger(__name__)

_CREATION_CHECKS = 50
_CREATION_CHECK_INTERVAL_S = 0.2
_PULL_AGAIN_S = 15.0
_MAX_FAILED_PULLS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class _FailedPull:
    """A registry has refused an image, or cannot be reached."""

    at: float  # by the monotonic clock
    reason: str


_failed_pulls: dict[tuple[str, str], _FailedPull] = {}  # of this process, by host and image


def submit(
    engine: Engine, container: ContainerSpec, runners: RunnerVolumes, *, host: str, may_pull: bool = False
) -> ContainerStarted | StartFailed | StartRefused | VolumesLost:
    """Create and start a container, as far as an earlier try has not. Returns plain data, never raises EngineError.

    ``runners`` knows the volume with the runner on this host, and brings it there where it is missing.
    """
    began = time.monotonic()
    try:
        container = replace(container, runner=runners.named(engine, host).sha256)
        defaults = _image_defaults(engine, container.image, host if may_pull else "")
        container_id = _create(engine, container, defaults)
        if isinstance(container_id, StartRefused):
            return container_id
        if container.ssh_endpoint is not None:
            engine.write_file(container_id, ACCOUNTS, container.ssh_endpoint.accounts)
        _start(engine, container_id, runners, host)
        if lost := _lost_holder(engine, container, container_id):
            return VolumesLost(reason=f"container {lost}, which had its volumes, ended before it had them")
    except Unreachable as error:
        return StartFailed(reason=str(error), unreachable=True)
    except (ImageMissing, EngineFailed, NoSuchContainer) as error:
        return StartFailed(reason=str(error), unreachable=False, image_missing=isinstance(error, ImageMissing))
    except EngineError as error:  # it may be this host's own: its runtime, its network, its architecture
        return StartFailed(reason=str(error), unreachable=False)
    return ContainerStarted(container_id=container_id, image_command=defaults.command, duration_s=time.monotonic() - began)


def _start(engine: Engine, container_id: str, runners: RunnerVolumes, host: str) -> None:
    """Start it. Where its runner is not there, as on a new host, that is brought, and the same container is started once more."""
    try:
        start(engine, container_id)
    except EngineError as error:
        if not is_runner_missing(error):
            raise
        runners.ensure(engine, host, again=True)
        start(engine, container_id)


def _lost_holder(engine: Engine, container: ContainerSpec, container_id: str) -> str:
    """A container that was to keep the volumes' content and had ended before this one started; empty where none had."""
    if not container.volume_holders:
        return ""
    started_at_s = engine.inspect(container_id).started_at_s
    for name in container.volume_holders:
        try:
            holder = engine.inspect(name)
        except NoSuchContainer:
            return name
        if holder.status is ContainerStatus.ENDED and holder.ended_at_s <= started_at_s:
            return name
    return ""


def _image_defaults(engine: Engine, image: str, pulled_by: str) -> ImageDefaults:
    """``pulled_by``: the host that may pull the image where it is missing; empty: none."""
    try:
        return engine.image_defaults(image)
    except ImageMissing:
        if not pulled_by:
            raise
    _pull(engine, image, pulled_by)
    return engine.image_defaults(image)


def _pull(engine: Engine, image: str, host: str) -> None:
    """Pull it, unless that failed a moment ago: a thousand jobs with a wrong name would ask the registry a thousand times."""
    failed = _failed_pulls.get((host, image))
    if failed is not None and (ago_s := time.monotonic() - failed.at) < _PULL_AGAIN_S:
        raise ImageMissing(f"{failed.reason} (so it was {ago_s:.0f} s ago; it is asked for again {_PULL_AGAIN_S:.0f} s after that)")
    _log.info("pulling image %s", image)
    try:
        engine.pull(image)
    except ImageMissing as error:
        if len(_failed_pulls) >= _MAX_FAILED_PULLS:
            _failed_pulls.clear()
        _failed_pulls[host, image] = _FailedPull(at=time.monotonic(), reason=str(error))
        raise
    _failed_pulls.pop((host, image), None)


def _create(engine: Engine, container: ContainerSpec, defaults: ImageDefaults) -> str | StartRefused:
    try:
        return engine.create(container, defaults)
    except NameTaken:
        found = _found(engine, container.name)
    if any(found.labels.get(key) != value for key, value in container.labels.items()):
        return StartRefused(reason=f"a container that is not ours has the name {container.name}")
    if found.status is ContainerStatus.ENDED:  # it has run; it is not started twice
        engine.remove(found.id)
        return engine.create(container, defaults)
    return found.id


def _found(engine: Engine, name: str) -> ContainerInfo:
    """The container of that name. An earlier try may still be creating it: then the name is taken, but it cannot be inspected."""
    for _ in range(_CREATION_CHECKS):
        try:
            return engine.inspect(name)
        except NoSuchContainer:
            time.sleep(_CREATION_CHECK_INTERVAL_S)
    raise EngineFailed(f"the creation of {name} by an earlier try does not end")
