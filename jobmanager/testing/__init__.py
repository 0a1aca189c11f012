"""What your own tests need: a fake engine, which stands for a whole Docker host."""

from jobmanager.testing.fake_engine_server import FakeContainerRecord, FakeEngineServer, Faults

__all__ = ["FakeContainerRecord", "FakeEngineServer", "Faults"]
