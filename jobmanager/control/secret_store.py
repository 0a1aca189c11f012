"""The secrets of a manager: looked up by name when a phase starts, so that they can be rotated, and in no message or repr."""

from __future__ import annotations

from collections.abc import Mapping

from jobmanager.errors import InvalidTask, InvalidValue
from jobmanager.model._exact import exact
from jobmanager.model._utf8 import to_utf8
from jobmanager.model.phase import Phase
from jobmanager.model.pipeline import Pipeline

_MAX_BYTES = 64 * 1024  # of one value


class SecretStore:
    """The caller's mapping of names to values. It is kept, not copied."""

    def __init__(self, given: Mapping[str, str | bytes] | None = None) -> None:
        if given is not None and not isinstance(given, Mapping):
            raise InvalidValue(f"secrets must map names to values, not {type(given).__name__}")
        self._given: Mapping[str, str | bytes] = {} if given is None else given

    def check(self, pipeline: Pipeline) -> None:
        """Refuse a pipeline whose secrets are not all there.

        Raises:
            InvalidTask: one is missing, or its value cannot be given to a phase.
        """
        for phase in pipeline.phases:
            try:
                self.files(phase), self.variables(phase)
            except InvalidValue as wrong:
                raise InvalidTask(str(wrong)) from None

    def files(self, phase: Phase) -> dict[str, bytes]:
        """The present values of the secrets that are files of a phase, by name.

        Raises:
            InvalidValue: one is missing, or its value cannot be given to a phase.
        """
        return {secret.name: self._value(phase, secret.name) for secret in phase.named_secrets if secret.variable is None}

    def variables(self, phase: Phase) -> dict[str, str]:
        """The present values of the secrets that are environment variables of a phase, by variable.

        Raises:
            InvalidValue: one is missing, or its value cannot be given to a phase.
        """
        return {
            secret.variable: self._text(phase, secret.name) for secret in phase.named_secrets if secret.variable is not None
        }

    def _value(self, phase: Phase, name: str) -> bytes:
        wanted = f"phase {phase.name!r} wants the secret {name!r}"
        try:
            value = exact(self._given[name])
            content = to_utf8(value) if isinstance(value, str) else value
        except KeyError:
            raise InvalidValue(
                f"{wanted}, which is not there: give JobManager(secrets={{{name!r}: ...}}), or on a node jobmanager worker --secret"
                f" {name}=FILE"
            ) from None
        except Exception as error:  # noqa: BLE001 - the caller's own mapping, and a message that may hold the value
            raise InvalidValue(f"{wanted}, and looking it up raised {type(error).__name__}") from None
        if not isinstance(content, bytes):
            raise InvalidValue(f"{wanted}, which must be text or bytes, not {type(value).__name__}")
        if not 0 < len(content) <= _MAX_BYTES:
            raise InvalidValue(f"{wanted}, which must have 1 to {_MAX_BYTES} bytes, not {len(content)}")
        return content

    def _text(self, phase: Phase, name: str) -> str:
        content = self._value(phase, name)
        try:
            text = content.decode()
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            wanted = f"phase {phase.name!r} wants the secret {name!r} as a variable"
            raise InvalidValue(f"{wanted}, which can hold UTF-8 without NUL only: take a file")
        return text
