"""Start several jobs at once and poll for their results.

    python examples/polling.py [--environment NAME_OR_IMAGE] [HOST_URL ...]

Without a url it uses the engine in DOCKER_HOST, or the default socket.
"""

import argparse
import time

from jobmanager import ClientBuffer, DockerHost, JobInput, JobManager, Limits, Task

parser = argparse.ArgumentParser(description="Start several jobs at once and poll for their results.")
parser.add_argument("hosts", nargs="*", metavar="HOST_URL", help="Docker hosts (default: DOCKER_HOST, or the default socket)")
parser.add_argument("--environment", default="jobmanager-busybox:1", help="an environment or image (default: %(default)s)")
options = parser.parse_args()

task = Task(
    options.environment,
    command='read seconds; sleep "$seconds"; echo "slept $seconds s"',
    limits=Limits(cpu_time_s=1, wall_time_s=5, memory_mib=32),
)

with JobManager([DockerHost(url) for url in options.hosts] or None) as manager:
    buffer = ClientBuffer(manager)
    naps = {buffer.new_job(task, JobInput(stdin=f"{seconds}\n")): seconds for seconds in (9, 1, 0)}
    while naps:
        for job_id in [job_id for job_id in naps if buffer.is_done(job_id)]:
            result = buffer.get_result(job_id)  # only once: then the buffer forgets it
            print(f"asked to sleep {naps.pop(job_id)} s: {result.outcome} {result.text or result.stdout_text.strip()}", flush=True)
        time.sleep(0.05)
