"""``JobManager(name=...)``: a label of all that the manager has on a host, which ``jobmanager sweep`` shows."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from jobmanager import DockerHost, JobManager, Task
from jobmanager.cli import run
from jobmanager.engine.connect import connect
from jobmanager.engine.labels import MANAGER_NAME_LABEL, Owner, labels
from jobmanager.errors import InvalidValue
from jobmanager.model.host import Address
from jobmanager.testing import FakeEngineServer
from tests.conftest import eventually


@pytest.mark.parametrize("name", ["a b", "-a", ".a", "x" * 65, "é", "a/b", "a\n", "", 5, b"a"], ids=repr)
def test_a_name_that_no_label_should_hold_is_refused(name: Any) -> None:
    with pytest.raises(InvalidValue, match=r"^name must be 1 to 64 letters, digits"):
        JobManager("unix:///nowhere", name=name)


def test_a_manager_without_a_name_has_no_such_label() -> None:
    assert MANAGER_NAME_LABEL not in labels("m", "j", 1.0, Owner.this_process())
    assert labels("m", "j", 1.0, Owner.this_process(), manager_name="web")[MANAGER_NAME_LABEL] == "web"


def test_all_that_a_manager_has_on_a_host_has_its_name_and_a_sweep_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    with FakeEngineServer() as fake, JobManager(DockerHost(fake.url), name="web-1") as manager:
        job = manager.submit(Task("busybox", command="sleep 60"))
        container = eventually(lambda: next((each for each in fake.containers() if "jobmanager.job" in each.labels), None))
        engine = connect(Address(host="f", url=fake.url), 5.0)
        claims = [each.labels for each in engine.volumes({"jobmanager.owner": None}) if "jobmanager.job" not in each.labels]
        engine.close()
        assert container.labels[MANAGER_NAME_LABEL] == "web-1"
        assert claims and all(each[MANAGER_NAME_LABEL] == "web-1" for each in claims)

        manager_id = container.labels["jobmanager.manager"]
        assert run(["sweep", fake.url]) == 0
        assert re.search(rf"left alone: .* of manager {manager_id} \(web-1\), which may be alive", capsys.readouterr().out)
        assert run(["sweep", fake.url, "--json"]) == 0
        (host,) = json.loads(capsys.readouterr().out)["hosts"]
        assert {each["manager_name"] for each in host["left_alone"]} == {"web-1"}
        job.cancel()
