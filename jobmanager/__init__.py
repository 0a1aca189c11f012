"""Run untrusted code in Docker containers from a Python program, and get one trustworthy result for each job."""


from jobmanager import errors, events
from jobmanager._version import __version__
from jobmanager.batch import BatchComparison, BatchProgress, ComparedResult, compare
from jobmanager.buffer import ClientBuffer
from jobmanager.client import Client
from jobmanager.errors import JobManagerError
from jobmanager.future import ClientFuture, JobFuture
from jobmanager.hooks import HookManager
from jobmanager.live_output.reader import LiveOutput
from jobmanager.live_output.run_buffer import Output
from jobmanager.manager import JobManager
from jobmanager.model.case import Case
from jobmanager.model.checker import Checker, Interactor
from jobmanager.model.checks import Exact, Floats, Lines, Tokens
from jobmanager.model.grader import Grader
from jobmanager.model.host import TLS, DockerHost
from jobmanager.model.job import JobInput
from jobmanager.model.limits import Limits
from jobmanager.model.listings import CallbackInfo, HostInfo, QueueInfo, RunningJob, WaitingJob
from jobmanager.model.network import Network
from jobmanager.model.phase import Phase, Secret
from jobmanager.model.pipeline import Pipeline
from jobmanager.model.problems import Code, File, Match, MultipleChoice
from jobmanager.model.result import CaseResult, Evidence, JobResult, Outcome, PhaseResult, ProblemResult, RunResult, Step, unpacked
from jobmanager.model.task import Task
from jobmanager.model.volume import Volume
from jobmanager.sync import ClientSync

__all__ = [
    "TLS",
    "BatchComparison",
    "BatchProgress",
    "CallbackInfo",
    "Case",
    "CaseResult",
    "Checker",
    "Client",
    "ClientBuffer",
    "ClientFuture",
    "ClientSync",
    "Code",
    "ComparedResult",
    "DockerHost",
    "Evidence",
    "Exact",
    "File",
    "Floats",
    "Grader",
    "HookManager",
    "HostInfo",
    "Interactor",
    "JobFuture",
    "JobInput",
    "JobManager",
    "JobManagerError",
    "JobResult",
    "Limits",
    "Lines",
    "LiveOutput",
    "Match",
    "MultipleChoice",
    "Network",
    "Outcome",
    "Output",
    "Phase",
    "PhaseResult",
    "Pipeline",
    "ProblemResult",
    "QueueInfo",
    "RunResult",
    "RunningJob",
    "Secret",
    "Step",
    "Task",
    "Tokens",
    "Volume",
    "WaitingJob",
    "__version__",
    "compare",
    "errors",
    "events",
    "unpacked",
]
