"""A monitor whose engine answers some calls and not others."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace

from jobmanager import Limits
from jobmanager.engine.protocol import Chunk, EngineFailed, NotRunning, OutputStream, Unreachable
from jobmanager.ipc.messages import MonitorContainer, SSHReady
from jobmanager.model.container import ContainerInfo, ContainerStatus, EngineInfo, Usage
from jobmanager.results.facts import Limit, ProgramExited, RunFacts, StoppedForLimit
from jobmanager.results.verdict import judge
from jobmanager.watching.monitor import ContainerMonitor

TOKEN = "0123456789abcdef"
BEGUN = Chunk(False, f"\x1e{TOKEN} got 1\n".encode())
RUNS = ContainerInfo(id="c", name="n", status=ContainerStatus.RUNNING, started_at_s=1.0)
ENDED = ContainerInfo(id="c", name="n", status=ContainerStatus.ENDED, started_at_s=1.0, exit_code=137)


class Clock:
    """A clock that advances a little with each reading."""

    def __init__(self, step_s: float = 0.1) -> None:
        self._seconds = itertools.count()
        self._step_s = step_s

    def __call__(self) -> float:
        return 1000.0 + next(self._seconds) * self._step_s


class Stream:
    """A container's output: chunks for one read each, then the end."""

    def __init__(self, *pieces: list[Chunk]) -> None:
        self._pieces = list(pieces)

    def read(self, timeout_s: float) -> list[Chunk] | None:
        return self._pieces.pop(0) if self._pieces else None

    def close(self) -> None:
        pass


class StubEngine:
    """A container that runs on while its attached stream breaks; subclasses add faults."""

    def __init__(self) -> None:
        self.inspections = 0
        self.cpu_checks = 0

    def attach(self, container: str) -> OutputStream:
        return Stream([BEGUN])

    def feed(self, *_: object) -> None:
        pass

    def logs(self, container: str) -> OutputStream:
        return Stream([BEGUN])

    def inspect(self, container: str) -> ContainerInfo:
        self.inspections += 1
        return RUNS

    def info(self) -> EngineInfo:
        return EngineInfo(version="20.10", cores=1, memory_mib=1, now_s=1e9, cgroup="1")

    def usage(self, container: str) -> Usage | None:
        self.cpu_checks += 1
        return None

    def archive(self, *_: object) -> list[bytes]:
        return []

    def pause(self, container: str) -> None:
        raise NotRunning(container)

    kill = unpause = pause

    def close(self) -> None:
        pass


def monitor(
    engine: StubEngine, *, taken_over: bool = False, with_ssh: bool = False, limits: Limits | None = None
) -> ContainerMonitor:
    job = MonitorContainer(
        job_id="j",
        container_id="c",
        container_name="n",
        token=TOKEN,
        command="true",
        env={},
        files={},
        stdin=b"",
        limits=limits or Limits(wall_time_s=30),
        collect=(),
        taken_over=taken_over,
        with_ssh=with_ssh,
    )
    return ContainerMonitor(job, engine, host_lost_timeout_s=60.0, send=lambda _: None, clock=Clock())  # type: ignore[arg-type]


def stopped_for(facts: RunFacts) -> Limit | None:
    return facts.ending.limit_hit.limit if isinstance(facts.ending, StoppedForLimit) else None


def result_file(facts: RunFacts) -> bytes | None:
    """What came of it; with one, PID 1's report came whole."""
    return facts.ending.result_file if isinstance(facts.ending, ProgramExited) else None


def judged(facts: RunFacts) -> tuple[str, str]:
    verdict = judge(facts, Limits())
    return verdict.outcome.value, verdict.evidence[0].kind


class LogEndsAtOnce(StubEngine):
    """Its log can be read, and ends at once, as a damaged file does."""

    asked_for_its_log: Callable[[], None] = staticmethod(lambda: None)

    def logs(self, container: str) -> OutputStream:
        self.asked_for_its_log()
        return Stream()


def test_a_job_whose_log_ends_at_once_again_and_again_is_stopped_at_its_wall_clock_limit():
    engine = LogEndsAtOnce()

    facts = monitor(engine, limits=Limits(cpu_time_s=300, wall_time_s=5)).run()

    assert facts.wall_time_s is not None and 5 <= facts.wall_time_s < 25
    assert engine.inspections < 50


def test_a_job_that_was_taken_over_and_whose_log_ends_at_once_is_stopped_at_its_wall_clock_limit():
    facts = monitor(LogEndsAtOnce(), taken_over=True, limits=Limits(cpu_time_s=300, wall_time_s=5)).run()

    assert facts.wall_time_s is not None and 5 <= facts.wall_time_s < 25


def test_a_kill_ends_a_job_whose_log_ends_at_once_again_and_again():
    engine = LogEndsAtOnce()
    asked = monitor(engine, limits=Limits(cpu_time_s=3000, wall_time_s=9000))
    engine.asked_for_its_log = asked.kill

    facts = asked.run()

    assert stopped_for(facts) is None and facts.wall_time_s is not None and facts.wall_time_s < 10


class LosesTheRestOfTheEnd(StubEngine):
    """It breaks the stream between the end mark and PID 1's last word, and is away for longer than PID 1 is waited for."""

    def attach(self, container: str) -> OutputStream:
        return Stream([BEGUN], [said("end 7 2 - - - 0 -", stderr=True)])

    def logs(self, container: str) -> OutputStream:
        end = "end 7 2 - - - 0 -"
        return Stream([BEGUN], [Chunk(False, b"whole\n")], [said(end, stderr=True), said(end), said("bye")])

    def inspect(self, container: str) -> ContainerInfo:
        state = super().inspect(container)
        if 1 < self.inspections < 4:
            raise Unreachable("away")
        return state


def said(words: str, *, stderr: bool = False) -> Chunk:
    return Chunk(stderr, f"\x1e{TOKEN} {words}\n".encode())


def test_an_end_that_was_half_told_before_an_outage_is_heard_whole_after_it():
    engine = LosesTheRestOfTheEnd()
    tried = monitor(engine)
    tried._clock = Clock(step_s=1.0)

    facts = tried.run()

    assert facts.end is not None and facts.end.exit_code == 7
    assert facts.output.stdout == b"whole\n"


class AwayAndLaterStopped(StubEngine):
    """It is away for a while, the container lives on, and is stopped later."""

    def inspect(self, container: str) -> ContainerInfo:
        state = super().inspect(container)
        if self.inspections == 2:
            raise Unreachable("away")
        return state if self.inspections < 4 else ENDED


def test_an_outage_that_a_container_survived_is_not_why_it_ended():
    facts = monitor(AwayAndLaterStopped()).run()

    assert facts.outage_s > 0
    assert judged(facts) == ("crash", "stopped_externally")


class StoppedWhileAway(AwayAndLaterStopped):
    """It is away for a while, and back the container has ended."""

    def inspect(self, container: str) -> ContainerInfo:
        state = super().inspect(container)
        return state if self.inspections < 3 else ENDED


def test_an_outage_in_which_a_container_ended_is_why():
    assert judged(monitor(StoppedWhileAway()).run()) == ("crash", "ended_during_outage")


class TellsCpuLate(StubEngine):
    """It does not tell the CPU counter at first."""

    def attach(self, container: str) -> OutputStream:
        return Stream([BEGUN], *([] for _ in range(10_000)))

    def usage(self, container: str) -> Usage | None:
        super().usage(container)
        if self.cpu_checks < 3:
            raise Unreachable("not now")
        return Usage(cpu_time_ns=11 * 10**9, peak_memory_bytes=None)


def test_a_cpu_counter_that_the_engine_did_not_tell_is_looked_at_again_soon():
    facts = monitor(TellsCpuLate(), limits=Limits(cpu_time_s=10, wall_time_s=1000)).run()

    assert stopped_for(facts) is Limit.CPU
    assert facts.wall_time_s is not None and facts.wall_time_s < 16


class HasSSHServer(StubEngine):
    """A debugged job's: its server takes connections, and where is known at the second look."""

    ports: Mapping[int, int] = {2222: 49153}

    def attach(self, container: str) -> OutputStream:
        return Stream([BEGUN], [said("ssh")], [], [said("end 0 2 - - - 0 -", stderr=True), said("end 0 2 - - - 0 -"), said("bye")])

    def inspect(self, container: str) -> ContainerInfo:
        state = super().inspect(container)
        if self.inspections == 2:
            raise Unreachable("not now")
        return replace(state, ports=self.ports)


def test_where_a_server_is_reached_is_told_once_also_when_the_engine_did_not_say_so_at_first():
    sent = []
    followed = monitor(HasSSHServer(), with_ssh=True)
    followed._send = sent.append

    assert judged(followed.run()) == ("success", "exit_code")
    assert [message.port for message in sent if isinstance(message, SSHReady)] == [49153]


class PublishesNothing(HasSSHServer):
    """It has no network that could be reached."""

    ports: Mapping[int, int] = {}


def test_a_server_that_nobody_can_reach_is_a_crash_in_words():
    verdict = judge(monitor(PublishesNothing(), with_ssh=True).run(), Limits())

    assert verdict.outcome.value == "crash" and "it published no port" in verdict.text


def test_a_program_that_says_it_is_a_server_gains_nothing():
    assert judged(monitor(PublishesNothing()).run()) == ("success", "exit_code")


# ---- what comes late, and what never comes

END = "end 7 2 - - - 0 -"
LAST_WORDS = [said(END), Chunk(False, b'{"grade": 40}'), said("bye")]


class SaysItsEndSlowly(StubEngine):
    """Each of its words comes long after the one before, and longer after the first than anything is waited for."""

    def attach(self, container: str) -> OutputStream:
        slowly = itertools.chain.from_iterable(([], [], [Chunk(False, b"x" * 16384)]) for _ in range(30))
        return Stream([BEGUN], [said(END, stderr=True)], *slowly, *([word] for word in LAST_WORDS))


def test_an_end_that_comes_slowly_is_heard_whole():
    tried = monitor(SaysItsEndSlowly())
    tried._clock = Clock(step_s=0.3)

    facts = tried.run()

    assert (facts.output.stdout, result_file(facts), facts.output.from_log) == (b"x" * 30 * 16384, b'{"grade": 40}', False)
    assert not facts.output.is_incomplete


class StandsStill(StubEngine):
    """Its link stands still between the last words: an answer takes as long as that."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = Stream([BEGUN], [said(END, stderr=True)], *([] for _ in range(40)), *([word] for word in LAST_WORDS))

    def attach(self, container: str) -> OutputStream:
        return self.stream

    def inspect(self, container: str) -> ContainerInfo:
        state = super().inspect(container)
        if self.inspections > 1:  # while it was waited for, what stood still has come
            self.stream._pieces = [piece for piece in self.stream._pieces if piece]
        return state


def test_a_link_that_stood_still_with_the_engines_answer_is_no_silence():
    facts = monitor(StandsStill()).run()

    assert (result_file(facts), facts.output.from_log) == (b'{"grade": 40}', False)


class StreamDies(StubEngine):
    """Its stream says nothing any more, though its engine answers; the log has it all."""

    def attach(self, container: str) -> OutputStream:
        return Stream([BEGUN], [said(END, stderr=True)], *([] for _ in range(10_000)))

    def logs(self, container: str) -> OutputStream:
        return Stream([BEGUN], [said(END, stderr=True)], *([word] for word in LAST_WORDS))


def test_a_stream_that_died_between_the_last_words_is_read_again_from_the_log():
    facts = monitor(StreamDies()).run()

    assert (result_file(facts), facts.output.from_log) == (b'{"grade": 40}', True)


class LogDiesToo(StreamDies):
    def logs(self, container: str) -> OutputStream:
        return Stream([BEGUN], *([] for _ in range(10_000)))


def test_last_words_that_neither_stream_nor_log_has_are_lost_and_the_end_is_known():
    facts = monitor(LogDiesToo()).run()

    assert facts.end is not None and facts.end.exit_code == 7
    assert facts.output.is_incomplete
    assert judged(facts) == ("crash", "final_report_incomplete")


class Crawls(StubEngine):
    """Its program has said the end in PID 1's place, and goes on byte by byte."""

    def attach(self, container: str) -> OutputStream:
        return Stream([BEGUN], [said(END, stderr=True), said(END)], *([Chunk(False, b"x")] for _ in range(10_000)))


def test_an_end_that_comes_at_a_crawl_is_not_waited_for_for_ever():
    facts = monitor(Crawls()).run()

    assert judged(facts) == ("crash", "final_report_incomplete")


class CrawlsAndComputes(Crawls):
    def usage(self, container: str) -> Usage | None:
        return Usage(cpu_time_ns=11 * 10**9, peak_memory_bytes=None)


def test_a_program_that_says_its_own_end_and_computes_on_is_stopped_at_its_cpu_limit():
    facts = monitor(CrawlsAndComputes(), limits=Limits(cpu_time_s=10, wall_time_s=1000)).run()

    assert stopped_for(facts) is Limit.CPU
    assert facts.cpu_time_s is not None and facts.cpu_time_s >= 10


class HearsTheEndWhenItFreezes(StubEngine):
    """Its link is behind: at the deadline the end is on its way, and PID 1 is frozen between its words."""

    def __init__(self, wall_s: float) -> None:
        super().__init__()
        end = f"end 7 2 - - - 0 {wall_s - 0.01:.2f}"
        begun = Chunk(False, f"\x1e{TOKEN} got 1 0.00\n".encode())
        self.stream = Stream([begun], *([] for _ in range(10_000)))
        self.told, self.rest = [said(end, stderr=True)], [said(end), *LAST_WORDS[1:]]
        self.killed = False

    def attach(self, container: str) -> OutputStream:
        return self.stream

    def pause(self, container: str) -> None:
        self.stream._pieces = [self.told, *([] for _ in range(10_000))]

    def unpause(self, container: str) -> None:
        self.stream._pieces = [[word] for word in self.rest]

    def kill(self, container: str) -> None:
        self.killed, self.stream._pieces = True, []


def test_a_program_whose_end_is_heard_when_it_is_frozen_and_was_in_time_goes_on_to_its_last_word():
    engine = HearsTheEndWhenItFreezes(wall_s=4.5)
    facts = monitor(engine, limits=Limits(cpu_time_s=300, wall_time_s=5)).run()

    assert (result_file(facts), engine.killed) == (b'{"grade": 40}', False)
    assert facts.wall_time_s is not None and facts.wall_time_s <= 4.5


def test_a_program_whose_end_is_heard_when_it_is_frozen_and_was_late_stays_stopped():
    engine = HearsTheEndWhenItFreezes(wall_s=5.2)
    facts = monitor(engine, limits=Limits(cpu_time_s=300, wall_time_s=5)).run()

    assert stopped_for(facts) is Limit.WALL and engine.killed
    assert facts.wall_time_s is not None and facts.wall_time_s >= 5


class LogComesLate(StubEngine):
    """An earlier waiter delivered the job; the log is asked for while the link stands still."""

    fed = 0

    def feed(self, *_: object) -> None:
        self.fed += 1

    def logs(self, container: str) -> OutputStream:
        return Stream(*([] for _ in range(30)), [BEGUN], [said(END, stderr=True)], *([word] for word in LAST_WORDS))

    def inspect(self, container: str) -> ContainerInfo:
        state = super().inspect(container)
        if self.inspections < 4:
            raise Unreachable("its link stands still")
        return state


def test_a_log_that_comes_late_is_not_taken_for_a_container_without_a_job():
    engine = LogComesLate()
    facts = monitor(engine, taken_over=True).run()

    assert (engine.fed, result_file(facts)) == (0, b'{"grade": 40}')


class Chatters(StubEngine):
    """Prints a little at each read, and is not stopped: ``kill`` says what becomes of that."""

    def __init__(self) -> None:
        super().__init__()
        self.stream = Stream([BEGUN], *([Chunk(False, b"x")] for _ in range(10_000)))
        self.killed = False

    def attach(self, container: str) -> OutputStream:
        return self.stream


class CannotFreeze(Chatters):
    def pause(self, container: str) -> None:
        raise EngineFailed("no freezer")

    def kill(self, container: str) -> None:
        self.killed, self.stream._pieces = True, []


def test_a_program_that_prints_on_and_cannot_be_frozen_is_killed_at_its_wall_clock_limit():
    engine = CannotFreeze()
    facts = monitor(engine, limits=Limits(cpu_time_s=300, wall_time_s=5)).run()

    assert (judged(facts), engine.killed, facts.output.stdout_bytes < 1000) == (("timeout", "wall_time_s"), True, True)


class CannotKill(Chatters):
    def kill(self, container: str) -> None:
        raise Unreachable("it answers nothing, and its streams go on")


def test_a_program_that_prints_on_and_cannot_be_killed_is_not_listened_to_for_ever():
    tried = monitor(CannotKill(), limits=Limits(cpu_time_s=300, wall_time_s=1000))
    tried.kill()
    facts = tried.run()

    assert facts.output.is_incomplete and facts.output.stdout_bytes < 1000


class FreezesUnheard(StubEngine):
    """Its first answer to a pause is lost."""

    paused = False

    def attach(self, container: str) -> OutputStream:
        return Stream([BEGUN], *([] for _ in range(10_000)))

    logs = attach

    def pause(self, container: str) -> None:
        if not self.paused:
            self.paused = True
            raise Unreachable("no answer")
        raise NotRunning(container)

    def inspect(self, container: str) -> ContainerInfo:
        return replace(RUNS, status=ContainerStatus.PAUSED) if self.paused else RUNS


def test_a_container_that_we_froze_ourselves_is_not_said_to_have_been_frozen_by_somebody_else():
    facts = monitor(FreezesUnheard(), limits=Limits(cpu_time_s=300, wall_time_s=5)).run()

    assert (judged(facts), facts.paused_externally) == (("timeout", "wall_time_s"), False)


class NothingIsHeard(StubEngine):
    """Its stream says nothing at all; the program has ended, and the log has it."""

    def attach(self, container: str) -> OutputStream:
        return Stream(*([] for _ in range(10_000)))

    def logs(self, container: str) -> OutputStream:
        return Stream([BEGUN], [Chunk(False, b"out")], [said(END, stderr=True)], *([word] for word in LAST_WORDS))

    def archive(self, *_: object) -> list[bytes]:
        return [b"the trace of its end"]


def test_a_program_that_has_ended_and_was_never_heard_of_is_known_from_the_log_and_did_take_its_job():
    facts = monitor(NothingIsHeard()).run()

    assert (judged(facts), facts.output.stdout, result_file(facts)) == (("failed", "exit_code"), b"out", b'{"grade": 40}')


class SaysOnlyTheEnd(StubEngine):
    """Of its two streams the one with PID 1's first word is lost; the log says nothing either."""

    def attach(self, container: str) -> OutputStream:
        return Stream([said(END, stderr=True)], *([] for _ in range(10_000)))

    def logs(self, container: str) -> OutputStream:
        return Stream(*([] for _ in range(10_000)))


def test_a_program_whose_end_is_all_that_was_heard_had_begun_and_its_output_is_said_to_be_cut():
    facts = monitor(SaysOnlyTheEnd()).run()

    assert facts.output.is_incomplete
    assert judged(facts) == ("crash", "final_report_incomplete")


class LinkBreaksAtTheDeadline(NothingIsHeard):
    """Its stream says no more than the beginning, and the link fails once when it is asked whether the program had ended."""

    asked = 0

    def attach(self, container: str) -> OutputStream:
        return Stream([BEGUN], *([] for _ in range(10_000)))

    def archive(self, *_: object) -> list[bytes]:
        self.asked += 1
        if self.asked == 1:
            raise Unreachable("the link broke")
        return super().archive()


def test_a_link_that_breaks_when_it_is_asked_whether_a_program_had_ended_makes_no_timeout():
    facts = monitor(LinkBreaksAtTheDeadline()).run()

    assert judged(facts) == ("failed", "exit_code")
