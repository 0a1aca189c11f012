"""What a leader writes for clients and for the next leader: read as it was written, and nothing else is taken for it."""

from __future__ import annotations

import pytest

from jobmanager.model.listings import RunningJob, WaitingJob
from jobmanager.remote.queue_snapshot import read_snapshot, snapshot_text
from jobmanager.remote.records import BadMessage
from jobmanager.remote.standings import read_standings, standings_text
from jobmanager.scheduling.cluster import ClusterListing
from jobmanager.scheduling.fair_shares import PriorityStanding

RUNNING = RunningJob("r", False, "task on n1", "ann", 1.5, 10.0, "n1")
WAITING = WaitingJob("w", False, "task", "bob", 10.0)


def test_a_listing_says_whose_each_job_is_to_its_reader_alone() -> None:
    text = snapshot_text([ClusterListing(client="web", job=RUNNING)], [ClusterListing(client="script", job=WAITING)])
    assert read_snapshot(text, "web") == ([RUNNING._replace(is_current_client_job=True)], [WAITING])
    assert read_snapshot(text, "script") == ([RUNNING], [WAITING._replace(is_current_client_job=True)])


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", "5", "[" * 100_000),
        '{"running": 1, "waiting": []}',
        '{"running": [], "waiting": [5]}',
        '{"running": [], "waiting": [["c", "j", "i", "l"]]}',
        '{"running": [], "waiting": [["c", "j", "i", "l", true]]}',
        '{"running": [["c", "j", "i", "l", 1, 2, null]], "waiting": []}',
    ],
)
def test_what_is_no_listing_is_not_read(text: str) -> None:
    with pytest.raises(BadMessage):
        read_snapshot(text, "web")


def test_shares_are_read_as_they_were_written() -> None:
    standings = [PriorityStanding(priority=-3, virtual_time_s=1.5, used_s={"ann": 2.0, "": 3.0})]
    assert read_standings(standings_text(standings)) == standings


@pytest.mark.parametrize(
    "text",
    ["", "5", "[5]", "[[0, 1.0]]", "[[0.5, 1, {}]]", "[[0, NaN, {}]]", '[[0, 1, {"a": true}]]', f"[[0, 1{'0' * 400}, {{}}]]"],
)
def test_what_are_no_shares_is_not_read(text: str) -> None:
    with pytest.raises(BadMessage):
        read_standings(text)
