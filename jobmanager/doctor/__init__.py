"""The doctor: what a Docker host is, which limits hold there, and what should be changed."""

from jobmanager.doctor.probes import examine
from jobmanager.doctor.report import HostReport, ProbeReport

__all__ = ["HostReport", "ProbeReport", "examine"]
