"""Run one task on many inputs. The results are in a file; stopped by ctrl-C and started again, it goes on where it stopped.

    python examples/batch.py [--count N] [--results FILE] [--environment NAME_OR_IMAGE] [HOST_URL ...]

Without a url it uses the engine in DOCKER_HOST, or the default socket.
"""

import argparse
import sys
from collections import Counter

from jobmanager import DockerHost, JobInput, JobManager, Limits, Task

parser = argparse.ArgumentParser(description="Run one task on many inputs.")
parser.add_argument("hosts", nargs="*", metavar="HOST_URL", help="Docker hosts (default: DOCKER_HOST, or the default socket)")
parser.add_argument("--count", type=int, default=100, help="how many inputs (default: %(default)s)")
parser.add_argument("--results", default="batch.jsonl", help="the results file (default: %(default)s)")
parser.add_argument("--environment", default="jobmanager-busybox:1", help="an environment or image (default: %(default)s)")
options = parser.parse_args()

task = Task(
    options.environment,
    command="read n; test $((n % 7)) != 0 || exit 1; test $((n % 50)) != 9 || while :; do :; done; echo $((n * n))",
    limits=Limits(cpu_time_s=1, wall_time_s=10, memory_mib=32),
    name="square",
)
inputs = [JobInput(stdin=f"{number}\n") for number in range(1, options.count + 1)]  # a generator, or endless, is as good

try:
    with JobManager([DockerHost(url) for url in options.hosts] or None) as manager:
        outcomes = Counter(
            result.outcome.value
            for _, result in manager.map(task, inputs, results=options.results, progress=sys.stderr.isatty(), ordered=False)
        )
except KeyboardInterrupt:
    sys.exit(f"stopped; start it again, and it goes on with {options.results}")
for outcome, count in outcomes.most_common():
    print(f"{outcome:8} {count}")
