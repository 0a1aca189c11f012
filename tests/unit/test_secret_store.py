"""Secrets: what is missing or unfit is refused at the call, the present value counts, and no value is ever shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from jobmanager import JobManager, Task
from jobmanager.control.request import job_request
from jobmanager.control.secret_store import SecretStore
from jobmanager.control.settings import ManagerSettings
from jobmanager.errors import InvalidTask, InvalidValue
from jobmanager.model.phase import Phase, Secret
from jobmanager.model.pipeline import Pipeline

TASK = Task("x", command="true")
BUILD = Phase("build", TASK)
REPORT = Phase("report", TASK, secrets=["token", Secret("key", variable="KEY")])
PIPELINE = Pipeline([BUILD, REPORT])
VALUES = {"token": "hush", "key": b"still"}


def refusal(values: Mapping[str, object]) -> str:
    with pytest.raises(InvalidTask) as refused:
        job_request(PIPELINE, None, None, {}, ssh_timeout_s=1.0, secrets=SecretStore(values))  # type: ignore[arg-type]
    assert "hush" not in str(refused.value) and "still" not in str(refused.value)
    assert refused.value.__cause__ is None and refused.value.__suppress_context__
    return str(refused.value)


def test_a_phase_gets_the_secrets_that_it_names_as_files_and_as_variables() -> None:
    store = SecretStore({**VALUES, "other": "not this"})
    store.check(PIPELINE)

    assert (store.files(REPORT), store.variables(REPORT)) == ({"token": b"hush"}, {"KEY": "still"})
    assert (store.files(BUILD), store.variables(BUILD)) == ({}, {})


def test_a_secret_that_the_manager_does_not_have_is_refused_at_the_call_and_the_message_says_where_to_give_it() -> None:
    says = refusal({"token": "hush"})

    assert says == (
        "phase 'report' wants the secret 'key', which is not there: give JobManager(secrets={'key': ...}), or on a node"
        " jobmanager worker --secret key=FILE"
    )
    with pytest.raises(InvalidTask, match="wants the secret 'token', which is not there"):
        job_request(PIPELINE, None, None, {}, ssh_timeout_s=1.0)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("token", None, "must be text or bytes, not NoneType"),
        ("token", 5, "must be text or bytes, not int"),
        ("token", ["hush"], "must be text or bytes, not list"),
        ("token", "", "must have 1 to 65536 bytes, not 0"),
        ("token", b"", "must have 1 to 65536 bytes, not 0"),
        ("token", "x" * 65_537, "must have 1 to 65536 bytes, not 65537"),
        ("token", "hush\ud800", "looking it up raised UnicodeEncodeError"),
        ("key", "hush\0", "as a variable, which can hold UTF-8 without NUL only: take a file"),
        ("key", b"hush\xff", "as a variable, which can hold UTF-8 without NUL only: take a file"),
    ],
)
def test_a_value_that_no_phase_can_be_given_is_refused_at_the_call(name: str, value: object, says: str) -> None:
    assert says in refusal({**VALUES, name: value})


def test_a_file_may_hold_any_bytes() -> None:
    assert SecretStore({**VALUES, "token": b"\0\xff"}).files(REPORT) == {"token": b"\0\xff"}


def test_a_value_that_was_changed_is_the_one_that_a_phase_gets() -> None:
    values = {"token": "old", "key": "k"}
    store = SecretStore(values)
    store.check(PIPELINE)
    values["token"] = "new"

    assert store.files(REPORT) == {"token": b"new"}
    del values["token"]
    with pytest.raises(InvalidValue, match="wants the secret 'token', which is not there"):
        store.files(REPORT)


class Vault(Mapping[str, str]):
    """It is asked elsewhere, and says too much when that fails."""

    def __getitem__(self, name: str) -> str:
        raise RuntimeError("the value hush is locked")

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("nobody may list it")

    def __len__(self) -> int:
        raise AssertionError("nobody may count it")


def test_what_a_mapping_raises_is_told_by_its_kind_alone() -> None:
    assert refusal(Vault()) == "phase 'report' wants the secret 'token', and looking it up raised RuntimeError"


@pytest.mark.parametrize("given", ["token", ["token"], 5])
def test_secrets_that_are_no_mapping_are_refused_when_the_manager_is_made(given: object) -> None:
    with pytest.raises(InvalidValue, match="secrets must map names to values, not"):
        JobManager("unix:///nowhere", secrets=given)  # type: ignore[arg-type]


def test_no_value_is_in_the_repr_of_what_holds_it() -> None:
    settings = ManagerSettings.checked(
        "unix:///nowhere",
        None,
        max_waiting_jobs=1,
        queue_timeout_s=1,
        callback_threads=1,
        pool_size=1,
        host_lost_timeout_s=1,
        engine_timeout_s=1,
        ssh_timeout_s=1,
        secrets=VALUES,
    )
    manager = JobManager("unix:///nowhere", secrets=VALUES)

    for holder in (settings, settings.secrets, manager):
        assert "hush" not in repr(holder) and "still" not in repr(holder)
