"""What tests of single languages share: the fixtures of the tests of whole jobs."""

from tests.integration.conftest import nothing_left_behind, outsider, run, shared_manager, submit

__all__ = ["nothing_left_behind", "outsider", "run", "shared_manager", "submit"]
