"""The host table: what each Docker host has, how full it is, and which one takes the next job."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from jobmanager.errors import JobRefused, UnknownEnvironment, Unsatisfiable
from jobmanager.model.container import EngineInfo, Image
from jobmanager.model.host import DockerHost
from jobmanager.model.listings import HostInfo
from jobmanager.scheduling.waiting_queue import Requirements

ENVIRONMENT_LABEL = "jobmanager.environment"
ENVIRONMENT_TYPE = "docker"
_MIB_PER_JOB = 256
_CHECKS_UNTIL_SEEN = 2  # the first answer may have been on its way already when a container was placed
_MAX_HOSTS_NAMED = 3
_CHECKED_FOR_S = 5.0  # after a back-off, until its waiter's own checks are enough again
_BACKOFF_S = (0.0, 0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0)  # by how many starts in a row got no answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """An image of an environment on a host. Aliases and labels may give one environment several images."""

    host: str
    image: Image


@dataclass(frozen=True, slots=True, kw_only=True)
class HostConfig:
    """What is known of a host before it has answered."""

    name: str
    url: str = ""
    limit: int | None = None  # how many jobs at once; None: a number made from its cores and memory
    pulls: bool = False  # it fetches an image that it lacks

    @classmethod
    def of(cls, host: DockerHost) -> HostConfig:
        """That of a Docker host."""
        return cls(name=host.name, url=host.url, limit=host.max_concurrent_jobs, pulls=host.pull == "missing")


class MachineFigures(Protocol):
    """What a host has, as it said last."""

    @property
    def cores(self) -> int:
        """Its cores."""
        ...

    @property
    def memory_mib(self) -> int:
        """All its memory."""
        ...

    @property
    def available_memory_mib(self) -> int | None:
        """What programs could still take; None: unknown."""
        ...


class HostStatus(Enum):
    """Whether a host can be reached, as far as is known."""

    UNKNOWN = "has not answered yet"
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class _TakenSlot:
    """What a slot takes of its host."""

    memory_mib: int  # what its job may use
    checks: int  # how many checks there had been when it was placed


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineTotals:
    """What several hosts have, taken together: what a node of a cluster announces."""

    slots: int
    memory_mib: int
    free_memory_mib: int
    cores: int
    environments: frozenset[str]
    references: frozenset[str]  # of images
    networks: frozenset[str] | None = None  # names; None: unknown


class Host:
    """One host as the scheduler sees it.

    A job is promised its memory in full from its placement until its container is gone, and no more is promised than
    the machine has. Where the host also reports its available memory, the job must fit into that, too: other programs
    may use the machine. That number is of the last check, so the memory of jobs placed since is subtracted in full.
    """

    def __init__(self, config: HostConfig, aliases: Mapping[str, str]) -> None:
        self.config = config
        self.name = config.name
        self.status = HostStatus.UNKNOWN
        self.reason = HostStatus.UNKNOWN.value
        self.machine: MachineFigures | None = None  # None: it has not answered
        self.networks: frozenset[str] | None = None  # names; None: unknown
        self.engine_id = ""  # of the engine that answered last
        self.taken: dict[str, _TakenSlot] = {}  # by the name of the slot
        self.last_placed = 0
        self.unpromised_mib = 0
        self.free_memory_mib = 0  # the part of it that is also available
        self.backoff_until = 0.0  # until then it is left alone: it answers checks, and not the latest starts
        self._unanswered_starts = 0
        self._checks = 0
        self._aliases = aliases
        self._images: tuple[Image, ...] | None = None
        self._by_reference: dict[str, Image] = {}  # by id, too
        self._by_label: dict[str, tuple[Image, ...]] = {}  # the newest first
        self._environments: frozenset[str] = frozenset()

    @property
    def limit(self) -> int:
        """How many jobs at once; 0 while it is not known."""
        if self.config.limit is not None:
            return self.config.limit
        if self.machine is None:
            return 0
        return max(1, min(2 * self.machine.cores, self.machine.memory_mib // _MIB_PER_JOB))

    @property
    def is_up(self) -> bool:
        """Whether it answers."""
        return self.status is HostStatus.UP

    @property
    def memory_mib(self) -> int:
        """What the machine has; 0 while it is not known."""
        return self.machine.memory_mib if self.machine is not None else 0

    def answered(self, info: EngineInfo, images: Iterable[Image], now: float) -> bool:
        """It is up, unless its back-off lasts, and has these images. Returns whether they have changed."""
        self.engine_id = info.engine_id
        if now >= self.backoff_until:
            self.status, self.reason = HostStatus.UP, ""
        has_changed = self._set_images(tuple(images))
        self._checked(info)
        return has_changed

    def went_down(self, reason: str) -> None:
        """It is down. Its images are still known: a job for them waits instead of being refused."""
        self.status, self.reason = HostStatus.DOWN, reason

    def start_unanswered(self, reason: str, now: float) -> None:
        """It did not answer the start of a container. With each time in a row it is left alone for longer."""
        if self.is_up:  # else another start has counted already
            self.backoff_until = now + _BACKOFF_S[min(self._unanswered_starts, len(_BACKOFF_S) - 1)]
            self._unanswered_starts += 1
        self.went_down(reason)

    def backoff_is_over(self, now: float) -> bool:
        """Whether a back-off is over, and no check has been made since."""
        return self.status is HostStatus.DOWN and 0.0 < self.backoff_until <= now < self.backoff_until + _CHECKED_FOR_S

    def container_started(self) -> None:
        """It has started a container."""
        self._unanswered_starts, self.backoff_until = 0, 0.0

    def forget_image(self, image_id: str) -> bool:
        """An image is gone, before a check has seen it. Returns False when it was not known. An older one may have its names."""
        known = self._images or ()
        left = tuple(image for image in known if image.id != image_id)
        self._set_images(left)
        return len(left) < len(known)

    def image(self, environment: str) -> str | None:
        """The image of an environment here; None when there is none and the host may not pull it."""
        named = self._aliases.get(environment, environment)
        if (found := self._by_reference.get(full_reference(named))) is not None:
            return found.id
        if versions := self.versions(environment):
            return versions[0].id
        return named if self.config.pulls else None

    def images(self) -> dict[str, str]:
        """The image for each reference and environment that is known here."""
        names = self.references() | self.environments()
        return {name: image for name in names if (image := self.image(name)) is not None}

    def versions(self, environment: str) -> tuple[Image, ...]:
        """The images that an alias or a label names so, the newest first; none when the name is a reference."""
        if environment in self._aliases:
            aliased = self._by_reference.get(full_reference(self._aliases[environment]))
            return () if aliased is None else (aliased,)
        return () if full_reference(environment) in self._by_reference else self._by_label.get(environment, ())

    def environments(self) -> frozenset[str]:
        """The environments that can be run here: aliases and labelled images."""
        return self._environments

    def references(self) -> set[str]:
        """Every image reference here, without bare ids."""
        return {name for name in self._by_reference if not name.startswith("sha256:")}

    def could_run(self, requirements: Requirements) -> bool:
        """Whether it could run such a job once it is up and has room; True while nothing is known of it."""
        if self.name in requirements.excluded:
            return False
        if self.machine is None:
            return True
        return self.large_enough(requirements) and self.has_images(requirements) and self.has_networks(requirements)

    def has_images(self, requirements: Requirements) -> bool:
        """Whether it has every environment that the job needs."""
        return all(
            self.image(environment) is not None for environment in (requirements.environment, *requirements.other_environments)
        )

    def has_networks(self, requirements: Requirements) -> bool:
        """Whether it has every network that the job names; True while nothing is known of them."""
        return self.networks is None or requirements.networks <= self.networks

    def large_enough(self, requirements: Requirements) -> bool:
        """Whether the machine has the memory and the cores; True while nothing is known of it."""
        machine = self.machine
        return machine is None or (requirements.memory_mib <= machine.memory_mib and requirements.cpus <= machine.cores)

    def has_free_slot(self) -> bool:
        """Whether it is up and a slot is free."""
        return self.is_up and len(self.taken) < self.limit

    def has_memory(self, requirements: Requirements) -> bool:
        """Whether the job's memory is free."""
        return requirements.memory_mib <= self.free_memory_mib

    def is_worth_a_check(self, requirements: Requirements) -> bool:
        """Whether only the available memory keeps it from taking the job: the next check may find more."""
        return (
            self.free_memory_mib < requirements.memory_mib <= self.unpromised_mib
            and self.has_free_slot()
            and self.could_run(requirements)
        )

    def take(self, slot: str, memory_mib: int) -> None:
        """A slot is taken."""
        self.taken[slot] = _TakenSlot(memory_mib=memory_mib, checks=self._checks)
        self._count_memory()

    def release(self, slot: str) -> None:
        """A slot is free again."""
        if self.taken.pop(slot, None) is not None:
            self._count_memory()

    def host_info(self, older_versions: Iterable[str]) -> HostInfo:
        """How users see it."""
        return HostInfo(
            name=self.name,
            url=self.config.url,
            up=self.is_up,
            reason=self.reason,
            running=len(self.taken),
            limit=self.limit,
            environments=tuple(sorted(self.environments())),
            older_versions=tuple(sorted(older_versions)),
            memory_mib=self.memory_mib,
            free_memory_mib=max(0, self.free_memory_mib),
        )

    def _set_images(self, images: tuple[Image, ...]) -> bool:
        if images == self._images:
            return False
        self._images = images
        self._by_reference, self._by_label = {}, {}
        for image in sorted(images, key=lambda image: (image.created_at_s, image.id)):
            self._by_reference.update({full_reference(reference): image for reference in (*image.references, image.id)})
            if label := image.labels.get(ENVIRONMENT_LABEL):
                self._by_label[label] = (image, *self._by_label.get(label, ()))
        self._environments = frozenset(self._by_label).union(alias for alias in self._aliases if self.image(alias) is not None)
        return True

    def _checked(self, machine: MachineFigures) -> None:
        """It has said what it has."""
        self.machine = machine
        self._checks += 1
        self._count_memory()

    def _is_seen(self, slot: _TakenSlot) -> bool:
        """Whether the memory that it said last to be available is without that of this slot."""
        return self._checks - slot.checks >= _CHECKS_UNTIL_SEEN

    def _count_memory(self) -> None:
        if self.machine is None:
            return
        self.unpromised_mib = self.machine.memory_mib - sum(slot.memory_mib for slot in self.taken.values())
        self.free_memory_mib = self.unpromised_mib
        if self.machine.available_memory_mib is not None:
            unseen = (slot.memory_mib for slot in self.taken.values() if not self._is_seen(slot))
            self.free_memory_mib = min(self.unpromised_mib, self.machine.available_memory_mib - sum(unseen))


class HostTable:
    """All hosts. Not thread-safe: the ledger's lock guards it.

    Args:
        configs: the hosts that are there from the start; others may come and go.
        aliases: references by the environments that they are the images of.
        noun: what a host is called in texts for users.
    """

    def __init__(self, configs: Iterable[HostConfig], aliases: Mapping[str, str], *, noun: str = "host") -> None:
        self._hosts = {config.name: Host(config, aliases) for config in configs}
        self._noun = noun
        self._placements = itertools.count(1)
        self._aliases = aliases
        self._several_versions: frozenset[str] | None = None  # environments of several versions; None: not known

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts.values())

    def __len__(self) -> int:
        return len(self._hosts)

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def get(self, name: str) -> Host | None:
        """A host; None when there is none of this name."""
        return self._hosts.get(name)

    def add(self, host: Host) -> None:
        """A host has come. It takes the place of one of the same name, whose slots the caller takes again."""
        self._hosts[host.name] = host
        self._several_versions = None

    def drop(self, name: str) -> None:
        """A host has gone, and its slots with it."""
        if self._hosts.pop(name, None) is not None:
            self._several_versions = None

    def answered(self, name: str, info: EngineInfo, images: Iterable[Image], now: float) -> None:
        """A host is up, unless its back-off lasts, and has these images."""
        if self._hosts[name].answered(info, images, now):
            self._several_versions = None

    def choose(self, requirements: Requirements, allowed: Callable[[Host], bool] = lambda _: True) -> Host | None:
        """The host with the fewest running jobs that has room, memory and the image; among equals the one longest unused.

        A host with an older image is taken only when none with the newest is up, and one that the job avoids only when no
        other has room.
        """
        free = (
            host
            for host in self._hosts.values()
            if host.has_free_slot() and host.has_memory(requirements) and host.could_run(requirements)
        )
        fit = [host for host in free if allowed(host)]
        if fit and requirements.environment in self._with_several_versions():
            fit = self._without_older(requirements, fit)
        return min(fit, key=lambda host: (host.name in requirements.avoided, len(host.taken), host.last_placed), default=None)

    def take(self, host: Host, slot: str, memory_mib: int) -> None:
        """Take a slot, and its memory."""
        host.take(slot, memory_mib)
        host.last_placed = next(self._placements)

    def missing_memory(self, requirements: Requirements) -> str:
        """Why a job waits, when no host that is up and could run it has the memory; empty otherwise."""
        hosts = self.able(requirements)
        if not hosts or any(host.has_memory(requirements) for host in hosts):
            return ""
        most = heapq.nlargest(_MAX_HOSTS_NAMED, hosts, key=lambda host: host.free_memory_mib)
        named = ", ".join(f"{self._noun} {host.name} has {max(0, host.free_memory_mib)} MiB" for host in most)
        return f"waits for {requirements.memory_mib} MiB of free memory; {named}"

    def any_has_free_slot(self) -> bool:
        """Whether any host is up and has a free slot."""
        return any(host.has_free_slot() for host in self._hosts.values())

    def any_could_run(self, requirements: Requirements) -> bool:
        """Whether some host could run it once it is up and has room."""
        return any(host.could_run(requirements) for host in self._hosts.values())

    def any_up_could_run(self, requirements: Requirements) -> bool:
        """Whether some host is up and could run it once it has room."""
        return any(host.is_up and host.could_run(requirements) for host in self._hosts.values())

    def environments(self) -> dict[str, list[str]]:
        """The environments of the hosts that are up, by environment type."""
        return {ENVIRONMENT_TYPE: sorted(frozenset().union(*(host.environments() for host in self._up())))}

    def versions(self) -> dict[str, tuple[Version, ...]]:
        """The environments that have several images, on one host or on several, and these images, the newest first."""
        found: dict[str, list[Version]] = {}
        for host in self:
            for environment in host.environments():
                found.setdefault(environment, []).extend(
                    Version(host=host.name, image=image) for image in host.versions(environment)
                )
        newest_first = {name: sorted(all_, key=lambda version: -version.image.created_at_s) for name, all_ in found.items()}
        return {name: tuple(versions) for name, versions in newest_first.items() if _are_several(versions)}

    def host_infos(self) -> list[HostInfo]:
        """How users see the hosts."""
        versions = self.versions()
        return [host.host_info(name for name, known in versions.items() if _has_older(host.name, known)) for host in self]

    def totals(self) -> MachineTotals:
        """What those that are up have, taken together."""
        up = list(self._up())
        return MachineTotals(
            slots=sum(host.limit for host in up),
            memory_mib=sum(host.memory_mib for host in up),
            free_memory_mib=sum(host.free_memory_mib for host in up),
            cores=sum(host.machine.cores for host in up if host.machine is not None),
            environments=frozenset().union(*(host.environments() for host in up)),
            references=frozenset().union(*(host.references() for host in up)),
            networks=_all_networks(up),
        )

    def refusal(self, requirements: Requirements) -> JobRefused | None:
        """Why no host could ever run the job; None when one could, as far as is known."""
        if self.any_could_run(requirements):
            return None
        if with_images := [host for host in self if host.has_images(requirements)]:
            if not any(host.has_networks(requirements) for host in with_images):
                return Unsatisfiable(no_network(self._noun, requirements.networks, _all_networks(with_images) or frozenset()))
            known = [host.machine for host in self if host.machine is not None]
            return Unsatisfiable(
                f"no {self._noun} could ever run it: it asks for {requirements.memory_mib} MiB and {requirements.cpus:g} cpus, the"
                f" largest {self._noun} has {max(machine.memory_mib for machine in known)} MiB and"
                f" {max(machine.cores for machine in known)} cores"
            )
        names = ", ".join(self._known_names()) or "none"
        wanted = " together with ".join(map(repr, (requirements.environment, *sorted(requirements.other_environments))))
        pull = 'DockerHost(pull="missing"), or --pull on the command line, lets a host fetch an image'
        hint = f"; {pull}" if self._noun == "host" else ""
        return UnknownEnvironment(f"no {self._noun} has the environment or image {wanted}; known: {names}{hint}")

    def able(self, requirements: Requirements) -> list[Host]:
        """The hosts that are up and could run the job once they have room; of these, those with the newest image."""
        able = self._able(requirements)
        return self._without_older(requirements, able) if requirements.environment in self._with_several_versions() else able

    def expected_hosts(self, requirements: Requirements) -> frozenset[str]:
        """The hosts that could run such a job and are up; if none is up, those that are down."""
        up = frozenset(host.name for host in self.able(requirements))
        return up or frozenset(host.name for host in self if host.could_run(requirements))

    def _up(self) -> Iterator[Host]:
        return (host for host in self if host.is_up)

    def _able(self, requirements: Requirements) -> list[Host]:
        return [host for host in self._up() if host.could_run(requirements)]

    def _with_several_versions(self) -> frozenset[str]:
        if self._several_versions is None:
            self._several_versions = frozenset(self.versions())
        return self._several_versions

    def _without_older(self, requirements: Requirements, hosts: Sequence[Host]) -> list[Host]:
        """Without the hosts whose image is older than the newest of the hosts that are up and could run the job."""
        images = [image for host in self._able(requirements) for image in host.versions(requirements.environment)[:1]]
        if not images:
            return list(hosts)
        newest = max(images, key=lambda image: image.created_at_s)
        return [host for host in hosts if not any(_is_older(i, newest) for i in host.versions(requirements.environment)[:1])]

    def _known_names(self) -> list[str]:
        return sorted({*self._aliases}.union(*(host.environments() | host.references() for host in self)))


def no_network(noun: str, wanted: Collection[str], known: Collection[str]) -> str:
    """Why a job is refused that names a network."""
    named = " together with ".join(map(repr, sorted(set(wanted) - set(known) or wanted)))
    there_are = ", ".join(sorted(set(known) - {"host", "none"})) or "none that a job may have"
    return f"no {noun} that has its environment has the network {named}; there are: {there_are}"


def _all_networks(hosts: Iterable[Host]) -> frozenset[str] | None:
    """The networks of all these hosts; None: not known of one of them."""
    found = [host.networks for host in hosts]
    known = [each for each in found if each is not None]
    return frozenset().union(*known) if len(known) == len(found) else None


def full_reference(reference: str) -> str:
    """A reference with its tag, without the parts that Docker adds by itself."""
    short = reference.removeprefix("docker.io/").removeprefix("library/")
    if "@" in short or short.startswith("sha256:") or ":" in short.rsplit("/", 1)[-1]:
        return short
    return f"{short}:latest"


def _is_older(image: Image, newest: Image) -> bool:
    """Whether it is another image, made earlier. Copies on other engines may differ in id or in time, never in both."""
    return image.id != newest.id and image.created_at_s < newest.created_at_s


def _are_several(newest_first: Sequence[Version]) -> bool:
    """Whether one host has several versions, or some host has not the newest."""
    hosts = [version.host for version in newest_first]
    return len(set(hosts)) < len(hosts) or any(_is_older(version.image, newest_first[0].image) for version in newest_first)


def _has_older(host: str, newest_first: Sequence[Version]) -> bool:
    """Whether a host has a version that is not the newest."""
    here = [version.image for version in newest_first if version.host == host]
    return len(here) > 1 or any(_is_older(image, newest_first[0].image) for image in here)
