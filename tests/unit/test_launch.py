"""What a task asks for becomes its container's specification."""

from __future__ import annotations

from jobmanager import JobInput, Task
from jobmanager.control.launch import container_spec
from jobmanager.engine.labels import Owner
from jobmanager.model.container import ContainerSpec
from jobmanager.model.job import Request, RunRequest
from jobmanager.scheduling.commands import SubmitContainer


def spec_of(task: Task) -> ContainerSpec:
    runs = (RunRequest(task=task),)
    request = Request(job_id="j", task=task, inputs=JobInput(), runs=runs, priority=0, launcher_name="x", debug=False)
    command = SubmitContainer(host="h", container="c", image="i", request=request)
    return container_spec(command, manager_id="m", owner=Owner.this_process(), loopback_only=True, runner_lease_s=90.0)


def test_the_rights_that_a_task_names_are_its_containers() -> None:
    asked = spec_of(Task("x", user="1000:1000", devices=["/dev/kvm"], privileged=True))
    plain = spec_of(Task("x"))

    assert (asked.user, asked.devices, asked.privileged) == ("1000:1000", ("/dev/kvm",), True)
    assert (plain.user, plain.devices, plain.privileged) == (None, (), False)
