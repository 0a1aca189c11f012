"""What your own tests need: a fake engine, which stands for a whole Docker host, and the steps of its programs."""

from jobmanager.testing.fake_engine_server import FakeContainerRecord, FakeEngineServer, Faults
from jobmanager.testing.steps import (
    AskStudent,
    Burn,
    Die,
    Echo,
    Exit,
    FillWorkspace,
    Forks,
    Print,
    PrintFile,
    ProgramStep,
    Receive,
    Repeat,
    Send,
    Sleep,
    UseMemory,
    WriteFile,
)

__all__ = [
    "AskStudent",
    "Burn",
    "Die",
    "Echo",
    "Exit",
    "FakeContainerRecord",
    "FakeEngineServer",
    "Faults",
    "FillWorkspace",
    "Forks",
    "Print",
    "PrintFile",
    "ProgramStep",
    "Receive",
    "Repeat",
    "Send",
    "Sleep",
    "UseMemory",
    "WriteFile",
]
