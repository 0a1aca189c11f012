"""Versions of an environment: several images, on one host or on several, to which an alias or a label gives one name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobmanager.model.container import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """An image that an environment stands for on a host."""

    host: str
    image: Image


def is_older(image: Image, newest: Image) -> bool:
    """Of copies of one image some engines tell different ids, and some different times, but not both."""
    return image.id != newest.id and image.created_at_s < newest.created_at_s


def are_several(newest_first: Sequence[Version]) -> bool:
    """Whether one host has several of them, or not all hosts have the newest."""
    hosts = [version.host for version in newest_first]
    return len(set(hosts)) < len(hosts) or any(is_older(version.image, newest_first[0].image) for version in newest_first)


def is_behind(host: str, newest_first: Sequence[Version]) -> bool:
    """Whether a host has a version that is not the newest."""
    here = [version.image for version in newest_first if version.host == host]
    return len(here) > 1 or any(is_older(image, newest_first[0].image) for image in here)
