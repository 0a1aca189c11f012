"""Two hosts of each kind in one manager, one of each of which dies."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.test_hosts_of_all_kinds import check_that_jobs_are_spread_and_hosts_that_die_harm_only_their_own
from tests.support.fleet import fleet

pytestmark = [pytest.mark.engine, pytest.mark.daemon]


def test_jobs_are_spread_over_two_hosts_of_each_kind_and_one_of_each_that_dies_harms_only_its_own(
    image_tar: str, tmp_path: Path
) -> None:
    with fleet(tmp_path, Path(image_tar), of_each=2) as members:
        check_that_jobs_are_spread_and_hosts_that_die_harm_only_their_own(members, dying=["unix1", "tls2", "ssh1"])
