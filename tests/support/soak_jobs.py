"""The jobs of a random run: of many kinds, drawn from a seed, each with how it must end."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from jobmanager import JobInput, Limits, Match, Outcome, Task
from tests.support.history import Expected

_HONEST = Limits(wall_time_s=120, memory_mib=64)


class Dialect(Protocol):
    """How programs are written for an engine, and how many of each kind there shall be."""

    image: str
    memory_hog: str
    spinner: str
    wall_s: float  # a limit that a sleeper reaches, and nothing else
    weights: Mapping[str, float]

    def program(self, number: int, command: str, code: int) -> str:
        """Prints ``begun`` and some word, does this command, which ends with a code, prints ``ended`` and the word, and ends so."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job to be submitted."""

    kind: str
    task: Task
    inputs: JobInput
    expected: Expected
    priority: int = 0
    kill_after_s: float | None = None
    is_refused: bool = False


class Jobs:
    """Draws jobs."""

    def __init__(self, dialect: Dialect, *, seed: int, kills_within_s: float) -> None:
        self._dialect = dialect
        self._chance = random.Random(f"{seed} jobs")
        self._kills_within_s = kills_within_s
        self._kinds: dict[str, Callable[[int], Job]] = {
            "own exit": self._own_exit,
            "stdin": self._stdin,
            "files": self._files,
            "sleeper": self._sleeper,
            "local": self._local,
            "flood": self._flood,
            "wall": self._wall,
            "cpu": self._cpu,
            "memory": self._memory,
            "killed early": self._killed_early,
            "killed": self._killed,
            "refused": self._refused,
        }

    def draw(self, number: int) -> Job:
        """The next job."""
        kind = self._chance.choices(list(self._kinds), [self._dialect.weights[kind] for kind in self._kinds])[0]
        return self._kinds[kind](number)

    def _job(self, kind: str, number: int, command: str, expected: Expected, **more: object) -> Job:
        limits, collect = more.pop("limits", _HONEST), more.pop("collect", ())
        whole = self._dialect.program(number, command, expected.exit_code or 0)
        task = Task(self._dialect.image, command=whole, limits=limits, collect=collect, name=kind)  # type: ignore[arg-type]
        more.setdefault("inputs", JobInput())
        return Job(kind=kind, task=task, expected=expected, priority=self._chance.randint(-2, 2), **more)  # type: ignore[arg-type]

    def _own_exit(self, number: int) -> Job:
        code = self._chance.choice([0, 0, 0, 1, 2, 7, 42, 126, 255])
        body = f"out of {number}\n".encode()
        return self._job("own exit", number, f"echo out of {number}; sh -c 'exit {code}'", _by_itself(code, body))

    def _stdin(self, number: int) -> Job:
        data = self._chance.randbytes(self._chance.choice([0, 1, 100, 2000]))
        return self._job("stdin", number, "cat", _by_itself(0, data), inputs=JobInput(stdin=data))

    def _files(self, number: int) -> Job:
        data = self._chance.randbytes(500)
        return self._job(
            "files",
            number,
            "mkdir out; cp in out/copy; echo copied",
            _by_itself(0, b"copied\n", archived=data),
            inputs=JobInput(files={"in": data}),
            collect=("out",),
        )

    def _sleeper(self, number: int) -> Job:
        seconds = self._chance.uniform(0.2, 2.0)
        return self._job("sleeper", number, f"sleep {seconds:.2f}; sh -c 'exit 3'", _by_itself(3, b""))

    def _local(self, _number: int) -> Job:
        right = self._chance.random() < 0.5
        outcome = Outcome.SUCCESS if right else Outcome.FAILED
        return Job(
            kind="local",
            task=Task(self._dialect.image, problems={"q": Match("yes")}),
            inputs=JobInput({"q": "yes" if right else "no"}),
            expected=Expected(outcome=outcome, evidence=None, body=None, in_container=False),
        )

    def _flood(self, number: int) -> Job:
        limits = Limits(output_kib=4, wall_time_s=120, memory_mib=64)
        expected = Expected(outcome=Outcome.OVERFLOW, evidence="output_bytes", body=None)
        return self._job("flood", number, "yes 0123456789", expected, limits=limits)

    def _wall(self, number: int) -> Job:
        limits = Limits(wall_time_s=self._dialect.wall_s, memory_mib=64)
        expected = Expected(outcome=Outcome.TIMEOUT, evidence="wall_time_s", body=None, in_a_hurry=True)
        return self._job("wall", number, "sleep 100", expected, limits=limits)

    def _cpu(self, number: int) -> Job:
        limits = Limits(cpu_time_s=0.2, wall_time_s=120, memory_mib=64)
        expected = Expected(outcome=Outcome.TIMEOUT, evidence="cpu_time_s", body=None)
        return self._job("cpu", number, self._dialect.spinner, expected, limits=limits)

    def _memory(self, number: int) -> Job:
        limits = Limits(memory_mib=16, wall_time_s=120)
        expected = Expected(outcome=Outcome.OVERFLOW, exit_code=137, evidence="oom_kills", may_lose_pid_1=True)
        return self._job("memory", number, self._dialect.memory_hog, expected, limits=limits)

    def _killed_early(self, number: int) -> Job:
        """It may have ended by itself when it is to be killed."""
        after_s = self._chance.uniform(0.0, self._kills_within_s)
        return self._job("killed early", number, "sleep 0.1", _by_itself(0, b""), kill_after_s=after_s)

    def _killed(self, number: int) -> Job:
        """It never ends by itself; the limit is there for the case that nobody kills it."""
        after_s = self._chance.uniform(0.0, self._kills_within_s)
        expected = Expected(outcome=Outcome.KILLED, evidence="requested_by", body=None)
        return self._job("killed", number, "sleep 100", expected, kill_after_s=after_s)

    def _refused(self, _number: int) -> Job:
        tasks = [Task("no such environment"), Task(self._dialect.image, limits=Limits(memory_mib=2**30))]
        nothing = Expected(outcome=Outcome.ERROR, in_container=False)
        return Job(kind="refused", task=self._chance.choice(tasks), inputs=JobInput(), expected=nothing, is_refused=True)


def _by_itself(code: int, body: bytes, archived: bytes | None = None) -> Expected:
    outcome = Outcome.FAILED if code else Outcome.SUCCESS
    return Expected(outcome=outcome, exit_code=code, body=body, archived=archived)
