"""The command line's own decisions, on an engine of ours; what needs a real one is in ``tests/integration``."""

from __future__ import annotations

import json

import pytest

from jobmanager import cli
from jobmanager.testing import FakeEngineServer


@pytest.fixture
def url():
    with FakeEngineServer() as fake:
        yield fake.url


def test_a_sweep_of_a_manager_that_has_nothing_on_the_host_says_so(url, capsys):
    code = cli.run(["sweep", url, "--manager", "abc", "--manager", "d[red]e", "--manager", "abc"])

    said = capsys.readouterr().out
    assert code == 0
    assert said.count("manager abc has nothing on this host") == 1
    assert "manager d[red]e has nothing on this host" in said


@pytest.mark.parametrize("manager_id", ["", "  "])
def test_a_sweep_of_a_manager_without_an_id_is_bad_usage(url, capsys, manager_id):
    assert cli.run(["sweep", url, "--manager", manager_id]) == 2

    assert capsys.readouterr().err == "jobmanager: --manager: give a manager's id\n"


def test_a_host_that_is_named_twice_is_looked_at_once(url, capsys):
    assert cli.run(["sweep", url, f"{url}/", url, "--json"]) == 0

    assert len(json.loads(capsys.readouterr().out)["hosts"]) == 1
