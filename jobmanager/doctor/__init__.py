"""The doctor: what a Docker host is, which limits hold there, and what should be changed."""

from jobmanager.doctor.probes import HostReport, ProbeReport, examine

__all__ = ["HostReport", "ProbeReport", "examine"]
