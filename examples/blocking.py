"""Run one untrusted program in a container and wait for its result.

    python examples/blocking.py [--environment NAME_OR_IMAGE] [HOST_URL ...]

Without a url it uses the engine in DOCKER_HOST, or the default socket.
"""

import argparse

from jobmanager import ClientSync, DockerHost, JobInput, JobManager, Limits, Task

parser = argparse.ArgumentParser(description="Run one program in a container and wait for its result.")
parser.add_argument("hosts", nargs="*", metavar="HOST_URL", help="Docker hosts (default: DOCKER_HOST, or the default socket)")
parser.add_argument("--environment", default="jobmanager-busybox:1", help="an environment or image (default: %(default)s)")
options = parser.parse_args()

task = Task(
    options.environment,
    command='read name; echo "Hello, $name!"; cat greeting.txt; exit 3',
    files={"greeting.txt": "This file came along with the task.\n"},
    limits=Limits(cpu_time_s=2, wall_time_s=10, memory_mib=32),
)

with JobManager([DockerHost(url) for url in options.hosts] or None) as manager:
    result = ClientSync(manager).new_job(task, JobInput(stdin="world\n"), launcher_name="blocking.py")

print(f"outcome:  {result.outcome} ({result.text})")
print(f"stdout:   {result.stdout_text!r}")
print(f"used:     {result.cpu_time_s} s CPU, {result.wall_time_s} s in all, on {result.host}")
print("evidence:", *(f"{found.kind}={found.value} ({found.source})" for found in result.evidence))
