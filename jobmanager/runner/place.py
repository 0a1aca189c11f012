"""Where the runner is in a container, and the volume that brings it there: one for each Docker host and build."""

from __future__ import annotations

from dataclasses import dataclass

from jobmanager.model.container import DiskVolume

RUNNER_FOLDER = "/.jobmanager"
RUNNER_PATH = f"{RUNNER_FOLDER}/runner"
RUNNER_MODE = 0o555
RUNNER_LABEL = "jobmanager.runner"  # on all that brings the runner to a host: the SHA-256 of its binary
USER_LABEL = "jobmanager.runner_user"  # on what belongs to one of the volume's users: the manager's id
LEASE_SLACK_S = 60.0  # beyond what a waiter waits for a host that cannot be reached: another waiter may have to take its place
SHM = "/dev/shm"
_CLAIM_FOLDER = "/.claim"  # a carrier has it, containers of jobs do not
_NAME_DIGITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerVolume:
    """The volume of one build. Its name says what is in it, so each manager finds it, and each build has its own."""

    sha256: str  # of the binary, in hex

    @property
    def name(self) -> str:
        """By which the engine knows it."""
        return f"jobmanager-runner-{self.sha256[:_NAME_DIGITS]}"

    @property
    def labels(self) -> dict[str, str]:
        """It has no owner, since it outlives managers; each of its users has a claim."""
        return {RUNNER_LABEL: self.sha256}

    def mount(self, *, read_only: bool = True) -> DiskVolume:
        """As a container has it. A container that finds it missing makes an empty one with the same labels."""
        return DiskVolume(name=self.name, path=RUNNER_FOLDER, labels=self.labels, read_only=read_only)

    def claim_name(self, manager_id: str) -> str:
        """An empty volume that says that this manager uses it: labels of a volume cannot change, and managers come and go."""
        return f"{self.name}-for-{manager_id}"

    def claim(self, manager_id: str, owner_labels: dict[str, str]) -> DiskVolume:
        """The claim, as the carrier has it whose create call makes it."""
        return DiskVolume(name=self.claim_name(manager_id), path=_CLAIM_FOLDER, labels={**self.labels, **owner_labels})
