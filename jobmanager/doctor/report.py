"""What the doctor reports: records."""

from __future__ import annotations

from dataclasses import dataclass

from jobmanager.model.container import EngineAbout
from jobmanager.model.result import Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeReport:
    """What one probe found."""

    name: str
    enforced: bool  # whether the limit or the protection holds on this host
    seen: str
    outcome: str = ""  # the job's outcome; empty where there was no job
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport:
    """What the doctor found on one host."""

    host: str
    url: str
    about: EngineAbout
    advice: tuple[str, ...]  # a sentence for each thing to look at
    image: str  # the image in which the probes ran
    probes: tuple[ProbeReport, ...]

    @property
    def all_enforced(self) -> bool:
        """Whether every limit holds."""
        return all(probe.enforced for probe in self.probes)
