"""For the type checker alone (``make lint``): each ``new_job`` knows its keywords and their types, and no others.

A call that is wrong must be an error, else the type checker finds its ``type: ignore`` unused.
"""

from jobmanager import (
    Client,
    ClientBuffer,
    ClientFuture,
    ClientSync,
    DockerHost,
    JobFuture,
    JobInput,
    JobManager,
    JobResult,
    Limits,
    Task,
)
from jobmanager.model.pipeline import Pipeline


def right(manager: JobManager, task: Task) -> None:
    job_id: str = manager.new_job(task, {"p": "answer"}, print, priority=1, launcher_name="ann", job_id="a", supersede_key="k")
    manager.new_job(task, debug="ssh", ssh_callback=print)
    future: JobFuture = manager.submit(task, None, priority=1, job_id=job_id)
    result: JobResult = ClientSync(manager).new_job(task, priority=1, timeout_s=3.0)
    ClientBuffer(manager).new_job(task, launcher_name=result.job_id)
    ClientFuture(manager).new_job(task, job_id=future.job_id)
    client: Client = manager
    client.new_job(task, None, None, priority=2, wait_s=3.5)
    manager.submit(task, wait_s=None)


def many(manager: JobManager, task: Task) -> None:
    for given, result in manager.map(task, [JobInput()], key=lambda each: each.stdin.hex(), priority=1, at_once=3):
        files, outcome = given.files, result.outcome
        print(files, outcome)
    manager.map(task, ({"answer": str(number)} for number in range(3)), results="run.jsonl", progress=print)
    manager.map(task, [5])  # type: ignore[type-var]
    manager.map(task, [None], supersede_key="k")  # type: ignore[call-arg]


def a_pipeline_is_taken_wherever_a_task_is(manager: JobManager, pipeline: Pipeline) -> None:
    manager.new_job(pipeline)
    future: JobFuture = manager.submit(pipeline)
    result: JobResult = ClientSync(manager).new_job(pipeline)
    ClientBuffer(manager).new_job(pipeline, launcher_name=result.job_id)
    ClientFuture(manager).new_job(pipeline, job_id=future.job_id)
    client: Client = manager
    client.new_job(pipeline)
    manager.new_job(pipeline.phases[0])  # type: ignore[arg-type]


def wrong(manager: JobManager, task: Task) -> None:
    manager.new_job(task, priority="high")  # type: ignore[arg-type]
    manager.new_job(task, wait_s="long")  # type: ignore[arg-type]
    manager.new_job(task, timeout=3)  # type: ignore[call-arg]
    manager.submit(task, ssh_callback=print)  # type: ignore[call-arg]
    ClientSync(manager).new_job(task, job_id="a")  # type: ignore[call-arg]
    ClientSync(manager).new_job(task, timeout_s="3")  # type: ignore[arg-type]
    ClientBuffer(manager).new_job(task, job_id="a")  # type: ignore[call-arg]
    ClientFuture(manager).new_job(task, launcher_name=5)  # type: ignore[arg-type]


def wrong_records() -> None:
    """What explains unknown keywords at run time hides no argument from the type checker."""
    Task("python3", image="x")  # type: ignore[call-arg]
    Task("python3", command=3)  # type: ignore[arg-type]
    Limits(memory_mib="64")  # type: ignore[arg-type]
    DockerHost("unix:///x", workers=3)  # type: ignore[call-arg]
    JobManager(workers=3)  # type: ignore[call-arg]
    right: Task = Task("python3", limits=Limits(memory_mib=64))
    right.title.upper()
