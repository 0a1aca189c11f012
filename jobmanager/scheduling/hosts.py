"""The host table: what each Docker host has, how full it is, and which one takes the next job."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from jobmanager.errors import JobRefused, UnknownEnvironment, Unsatisfiable
from jobmanager.model.container import EngineInfo, Image
from jobmanager.model.host import DockerHost
from jobmanager.model.listings import HostInfo
from jobmanager.scheduling.versions import Version, are_several, is_behind, is_older
from jobmanager.scheduling.waiting_queue import Needs

ENVIRONMENT_LABEL = "jobmanager.environment"
ENVIRONMENT_TYPE = "docker"
_MIB_PER_JOB = 256
_LOOKS_UNTIL_SEEN = 2  # the first to answer may have been under way already when a container was placed
_MOST_HOSTS_NAMED = 3
_LOOKED_AT_S = 5.0  # from then on as any host that is down
_RESTS_S = (0.0, 0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0)  # after so many starts in a row that got no answer


class HostStatus(Enum):
    """What is known of a host."""

    UNKNOWN = "has not answered yet"
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slot:
    """What a container holds of its host."""

    memory_mib: int  # what its job may use
    looks: int  # how many there had been when it was placed


class Host:
    """One Docker host as the scheduler sees it.

    Memory is promised to a job in full from its placement until its container is gone, and no more is promised than
    the machine has. Where the host can also tell what is available, that must suffice too: others may use it. What is
    available has been seen at the last look, so that what was placed since is taken off in full.
    """

    def __init__(self, config: DockerHost, aliases: Mapping[str, str]) -> None:
        self.config = config
        self.name = config.name
        self.status = HostStatus.UNKNOWN
        self.reason = HostStatus.UNKNOWN.value
        self.info: EngineInfo | None = None
        self.taken: dict[str, _Slot] = {}  # by name of the container that is starting, running or being removed
        self.last_placed = 0
        self.unpromised_mib = 0
        self.free_memory_mib = 0  # of that, what is available too
        self.rests_until = 0.0  # it answers when it is looked at, and broke off the latest starts
        self._broken_off = 0
        self._looks = 0
        self._aliases = aliases
        self._images: tuple[Image, ...] | None = None
        self._by_reference: dict[str, Image] = {}  # by its id too
        self._by_label: dict[str, tuple[Image, ...]] = {}  # the newest first
        self._environments: frozenset[str] = frozenset()

    @property
    def limit(self) -> int:
        """How many jobs at once; 0 while it is not known."""
        if self.config.max_concurrent_jobs is not None:
            return self.config.max_concurrent_jobs
        if self.info is None:
            return 0
        return max(1, min(2 * self.info.cores, self.info.memory_mib // _MIB_PER_JOB))

    @property
    def memory_mib(self) -> int:
        """What the machine has; 0 while it is not known."""
        return self.info.memory_mib if self.info is not None else 0

    def answers(self, info: EngineInfo, images: Iterable[Image], now: float) -> bool:
        """It is up, unless it rests, and this is what it has. True when its images are others than before."""
        self.info = info
        if now >= self.rests_until:
            self.status, self.reason = HostStatus.UP, ""
        has_changed = self._has(tuple(images))
        self._looks += 1
        self._count_memory(info)
        return has_changed

    def silent(self, reason: str) -> None:
        """It is down. What it had is remembered: a job for it waits instead of being refused."""
        self.status, self.reason = HostStatus.DOWN, reason

    def broke_off(self, reason: str, now: float) -> None:
        """It did not answer when a container was to be started: with each time in a row it is left alone for longer."""
        if self.status is HostStatus.UP:  # else another start has told it
            self.rests_until = now + _RESTS_S[min(self._broken_off, len(_RESTS_S) - 1)]
            self._broken_off += 1
        self.silent(reason)

    def has_rested(self, now: float) -> bool:
        """Whether a rest is over, and nobody has looked since."""
        return self.status is HostStatus.DOWN and 0.0 < self.rests_until <= now < self.rests_until + _LOOKED_AT_S

    def started_one(self) -> None:
        """It has started a container."""
        self._broken_off, self.rests_until = 0, 0.0

    def forget_image(self, image_id: str) -> bool:
        """An image is gone, seen before the next look; False when it was not known. An older one may have its names."""
        known = self._images or ()
        left = tuple(image for image in known if image.id != image_id)
        self._has(left)
        return len(left) < len(known)

    def image(self, environment: str) -> str | None:
        """The image that stands for an environment here; None when it has none and may not fetch it."""
        named = self._aliases.get(environment, environment)
        if (found := self._by_reference.get(_full(named))) is not None:
            return found.id
        if versions := self.versions(environment):
            return versions[0].id
        return named if self.config.pull == "missing" else None

    def images(self) -> dict[str, str]:
        """The images that stand for what is known here, by name."""
        names = self.references() | self.environments()
        return {name: image for name in names if (image := self.image(name)) is not None}

    def versions(self, environment: str) -> tuple[Image, ...]:
        """The images here to which an alias or a label gives this name, the newest first; none when it is a reference."""
        if environment in self._aliases:
            aliased = self._by_reference.get(_full(self._aliases[environment]))
            return () if aliased is None else (aliased,)
        return () if _full(environment) in self._by_reference else self._by_label.get(environment, ())

    def environments(self) -> frozenset[str]:
        """Names of what can be run here: aliases and labelled images."""
        return self._environments

    def references(self) -> set[str]:
        """Every image reference here, without bare ids."""
        return {name for name in self._by_reference if not name.startswith("sha256:")}

    def could_run(self, needs: Needs) -> bool:
        """Whether it could once it is up and has room; True as long as nothing is known of it."""
        if self.name in needs.excluded:
            return False
        if self.info is None:
            return True
        return self.large_enough(needs) and self.has_images(needs)

    def has_images(self, needs: Needs) -> bool:
        """Whether every environment that the job needs is here."""
        return all(self.image(environment) is not None for environment in (needs.environment, *needs.student_environments))

    def large_enough(self, needs: Needs) -> bool:
        """Whether the machine has the memory and the cores; True as long as nothing is known of it."""
        return self.info is None or (needs.memory_mib <= self.info.memory_mib and needs.cpus <= self.info.cores)

    def has_room(self) -> bool:
        """Whether it is up and a slot is free."""
        return self.status is HostStatus.UP and len(self.taken) < self.limit

    def has_memory(self, needs: Needs) -> bool:
        """Whether the job's memory is free."""
        return needs.memory_mib <= self.free_memory_mib

    def is_worth_a_look(self, needs: Needs) -> bool:
        """Whether nothing but what the last look saw keeps it from taking the job: the next one may see more."""
        return self.free_memory_mib < needs.memory_mib <= self.unpromised_mib and self.has_room() and self.could_run(needs)

    def take(self, container: str, memory_mib: int) -> None:
        """A container takes a slot."""
        self.taken[container] = _Slot(memory_mib=memory_mib, looks=self._looks)
        self._count_memory(self.info)

    def give_back(self, container: str) -> None:
        """A container is gone."""
        if self.taken.pop(container, None) is not None:
            self._count_memory(self.info)

    def record(self, older_versions: Iterable[str]) -> HostInfo:
        """What users are told."""
        return HostInfo(
            name=self.name,
            url=self.config.url,
            up=self.status is HostStatus.UP,
            reason=self.reason,
            running=len(self.taken),
            limit=self.limit,
            environments=tuple(sorted(self.environments())),
            older_versions=tuple(sorted(older_versions)),
            memory_mib=self.memory_mib,
            free_memory_mib=max(0, self.free_memory_mib),
        )

    def _has(self, images: tuple[Image, ...]) -> bool:
        if images == self._images:
            return False
        self._images = images
        self._by_reference, self._by_label = {}, {}
        for image in sorted(images, key=lambda image: (image.created_at_s, image.id)):
            self._by_reference.update({_full(reference): image for reference in (*image.references, image.id)})
            if label := image.labels.get(ENVIRONMENT_LABEL):
                self._by_label[label] = (image, *self._by_label.get(label, ()))
        self._environments = frozenset(self._by_label).union(alias for alias in self._aliases if self.image(alias) is not None)
        return True

    def _count_memory(self, info: EngineInfo | None) -> None:
        if info is None:
            return
        self.unpromised_mib = info.memory_mib - sum(slot.memory_mib for slot in self.taken.values())
        self.free_memory_mib = self.unpromised_mib
        if info.available_memory_mib is not None:
            unseen = (slot.memory_mib for slot in self.taken.values() if self._looks - slot.looks < _LOOKS_UNTIL_SEEN)
            self.free_memory_mib = min(self.unpromised_mib, info.available_memory_mib - sum(unseen))


class HostTable:
    """All hosts. Not thread-safe: the ledger's lock guards it."""

    def __init__(self, configs: Sequence[DockerHost], aliases: Mapping[str, str]) -> None:
        self._hosts = {config.name: Host(config, aliases) for config in configs}
        self._placements = itertools.count(1)
        self._aliases = aliases
        self._several: frozenset[str] | None = None  # environments of several versions; None: not known

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts.values())

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def answers(self, name: str, info: EngineInfo, images: Iterable[Image], now: float) -> None:
        """A host is up, unless it rests, and this is what it has."""
        if self._hosts[name].answers(info, images, now):
            self._several = None

    def choose(self, needs: Needs, allowed: Callable[[Host], bool] = lambda _: True) -> Host | None:
        """The host with the fewest running jobs that has room, memory and the image; among equals the one longest unused.

        One whose image is older than another's is taken only when none with the newest is up, and one that the job would
        rather avoid only when no other has room.
        """
        free = (host for host in self._hosts.values() if host.has_room() and host.has_memory(needs) and host.could_run(needs))
        fit = [host for host in free if allowed(host)]
        if fit and needs.environment in self._of_several_versions():
            fit = self._without_older(needs, fit)
        return min(fit, key=lambda host: (host.name in needs.avoided, len(host.taken), host.last_placed), default=None)

    def take(self, host: Host, container_name: str, memory_mib: int) -> None:
        """Take a slot, and its memory."""
        host.take(container_name, memory_mib)
        host.last_placed = next(self._placements)

    def lack_of_memory(self, needs: Needs) -> str:
        """What a job waits for when every host that is up and could run it lacks the memory; empty otherwise."""
        hosts = self.able(needs)
        if not hosts or any(host.has_memory(needs) for host in hosts):
            return ""
        most = heapq.nlargest(_MOST_HOSTS_NAMED, hosts, key=lambda host: host.free_memory_mib)
        named = ", ".join(f"host {host.name} has {max(0, host.free_memory_mib)} MiB" for host in most)
        return f"waits for {needs.memory_mib} MiB of free memory; {named}"

    def any_has_room(self) -> bool:
        """Whether it is worth looking for a host at all."""
        return any(host.has_room() for host in self._hosts.values())

    def anybody_could(self, needs: Needs) -> bool:
        """Whether some host could run it once it is up and has room."""
        return any(host.could_run(needs) for host in self._hosts.values())

    def environments(self) -> dict[str, list[str]]:
        """What the hosts that are up can run, by environment type."""
        return {ENVIRONMENT_TYPE: sorted(frozenset().union(*(host.environments() for host in self._up())))}

    def versions(self) -> dict[str, tuple[Version, ...]]:
        """The environments that stand for several images, on one host or on several, and these, the newest first."""
        found: dict[str, list[Version]] = {}
        for host in self:
            for environment in host.environments():
                found.setdefault(environment, []).extend(
                    Version(host=host.name, image=image) for image in host.versions(environment)
                )
        newest_first = {name: sorted(all_, key=lambda version: -version.image.created_at_s) for name, all_ in found.items()}
        return {name: tuple(versions) for name, versions in newest_first.items() if are_several(versions)}

    def records(self) -> list[HostInfo]:
        """What users are told of the hosts."""
        versions = self.versions()
        return [host.record(name for name, known in versions.items() if is_behind(host.name, known)) for host in self]

    def refusal(self, needs: Needs) -> JobRefused | None:
        """Why no host could ever run it; None when one could, as far as is known."""
        if self.anybody_could(needs):
            return None
        if any(host.has_images(needs) for host in self):
            answered = [host.info for host in self if host.info is not None]
            return Unsatisfiable(
                f"no host could ever run it: it asks for {needs.memory_mib} MiB and {needs.cpus:g} cpus, the largest host"
                f" has {max(info.memory_mib for info in answered)} MiB and {max(info.cores for info in answered)} cores"
            )
        known = ", ".join(self._known_names()) or "none"
        wanted = " together with ".join(map(repr, (needs.environment, *sorted(needs.student_environments))))
        return UnknownEnvironment(f"no host has the environment {wanted}; known: {known}")

    def able(self, needs: Needs) -> list[Host]:
        """Hosts that are up and could run it once they have room; those with the newest image only."""
        able = self._able(needs)
        return self._without_older(needs, able) if needs.environment in self._of_several_versions() else able

    def likely(self, needs: Needs) -> frozenset[str]:
        """Hosts that will run such a job: those that could and are up; where there is none, those that could once they are."""
        up = frozenset(host.name for host in self.able(needs) if host.limit)
        return up or frozenset(host.name for host in self if host.limit and host.could_run(needs))

    def _up(self) -> Iterator[Host]:
        return (host for host in self if host.status is HostStatus.UP)

    def _able(self, needs: Needs) -> list[Host]:
        return [host for host in self._up() if host.could_run(needs)]

    def _of_several_versions(self) -> frozenset[str]:
        if self._several is None:
            self._several = frozenset(self.versions())
        return self._several

    def _without_older(self, needs: Needs, hosts: Sequence[Host]) -> list[Host]:
        """Those on which the job would not run in an older image than on any host that is up and could run it."""
        images = [image for host in self._able(needs) for image in host.versions(needs.environment)[:1]]
        if not images:
            return list(hosts)
        newest = max(images, key=lambda image: image.created_at_s)
        return [host for host in hosts if not any(is_older(i, newest) for i in host.versions(needs.environment)[:1])]

    def _known_names(self) -> list[str]:
        return sorted({*self._aliases}.union(*(host.environments() | host.references() for host in self)))


def _full(reference: str) -> str:
    """A reference with its tag, without the parts that Docker takes for granted."""
    short = reference.removeprefix("docker.io/").removeprefix("library/")
    if "@" in short or short.startswith("sha256:") or ":" in short.rsplit("/", 1)[-1]:
        return short
    return f"{short}:latest"
