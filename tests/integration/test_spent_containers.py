"""A program that forges the report of its end runs on in no container that is kept for its volumes."""

from __future__ import annotations

import secrets

from dev.image_store import PYTHON
from jobmanager import Limits
from jobmanager.engine.connect import connect
from jobmanager.ipc.messages import MonitorContainer
from jobmanager.model.container import ContainerSpec, ContainerStatus, ImageDefaults, VolumeMount
from jobmanager.model.host import Address
from jobmanager.results.facts import ProgramExited
from jobmanager.watching.collect import read_files
from jobmanager.watching.monitor import ContainerMonitor
from tests.conftest import eventually
from tests.integration.test_isolation import FORGER

WRITES_ON = r"""
import os
for token in tokens:
    for number in (2, 1):
        os.write(number, b"\x1e%s end 0 1 1 0 0 0 1.00\x1f\n" % token)
    os.write(1, b"\x1e%s bye\x1f\n" % token)
log = open("/volumes/work/log", "ab", 0)
while True:
    log.write(b"x")
    time.sleep(0.01)
"""
ENDS_FALSELY = FORGER.partition("for token in tokens:")[0] + WRITES_ON


def test_nothing_runs_on_in_a_container_that_is_kept_for_its_volumes(engine_url: str) -> None:
    name = f"jobmanager-test-{secrets.token_hex(6)}"
    volume = VolumeMount(name=f"{name}-work", path="/volumes/work", size_mib=1)
    limits = Limits(cpu_time_s=30, wall_time_s=60)
    address = Address(host="h", url=engine_url)
    engine = connect(address, timeout_s=20)
    spec = ContainerSpec(name=name, image=PYTHON, labels={}, limits=limits, volumes=(volume,))
    try:
        engine.create(spec, ImageDefaults(command=(), volumes=()))
        engine.start(name)
        job = MonitorContainer(
            job_id="j", container_id=name, container_name=name, token=secrets.token_hex(16), env={}, files={}, stdin=b"",
            command=("python3", "-c", ENDS_FALSELY), limits=limits, collect=(), volume_mib=1,
        )  # fmt: skip
        watching = connect(address, timeout_s=20)
        facts = ContainerMonitor(job, watching, host_lost_timeout_s=60, send=lambda _: None).run()
        watching.close()

        assert isinstance(facts.ending, ProgramExited) and facts.ending.end.exit_code == 0
        assert engine.inspect(name).status is ContainerStatus.PAUSED

        def written() -> int:
            found, _ = read_files(engine, name, ["/volumes/work/log"], limits)
            return len(found.get("volumes/work/log", b""))

        before = written()
        engine.unpause(name)
        eventually(lambda: written() > before, what="it was forged: the program goes on when it may")
    finally:
        engine.remove(name)
        engine.remove_volume(volume.name)
        engine.close()
