"""The old name of `inginious_container_api`: ``from inginious import feedback`` finds its modules."""

import inginious_container_api

__path__ = list(inginious_container_api.__path__)
DEBUG = inginious_container_api.DEBUG
