"""``map`` and ``amap``: one task on many inputs. A manager, a client of a cluster and a ``ClientFuture`` have both."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable
from typing import TYPE_CHECKING

from jobmanager.batch.iteration import BatchInput, async_pairs, pairs
from jobmanager.batch.settings import BatchSettings, Key, OnRefused, ResultsPath, ShowProgress
from jobmanager.client import BatchOptions, Client, takes_job_options
from jobmanager.model.pipeline import Pipeline
from jobmanager.model.result import JobResult
from jobmanager.model.task import Task

if TYPE_CHECKING:
    from typing_extensions import Unpack


class BatchMethods:
    """Gives them to a class whose objects run jobs themselves, or have a client that does."""

    def _batch_client(self) -> Client:
        """Who runs the jobs."""
        raise NotImplementedError

    @takes_job_options(BatchOptions)
    def map(
        self,
        task: Task | Pipeline,
        inputs: Iterable[BatchInput],
        *,
        key: Key = None,
        results: ResultsPath = None,
        ordered: bool = True,
        at_once: int | None = None,
        progress: ShowProgress = False,
        on_refused: OnRefused = None,
        **options: Unpack[BatchOptions],
    ) -> Generator[tuple[BatchInput, JobResult], None, None]:
        """Run one task on many inputs: an iterator of pairs, (input, JobResult).

        Only some jobs are under way at a time, and an input is taken when there is room for it: the inputs may be endless. When the
        iterator is closed, its consumer raises, or ctrl-C comes, the jobs under way are killed, and nothing is left.

        Args:
            task: what to run on each input.
            inputs: an iterable of what ``new_job`` takes: JobInputs, mappings of answers, None.
            key: what names an input in the results file, as a function of the input that returns a text; None: a digest of the
                input as data. Inputs of one key are numbered.
            results: the path of a file. Each result is written to it, as a line of JSON, before its pair is given out. Started
                again with the same task, the batch goes on: the results of inputs that are in the file come from there.
            ordered: whether pairs come in the order of the inputs; else as they end.
            at_once: how many jobs may be under way; None: twice the slots of the hosts that are up, at least 2.
            progress: True shows a bar, in a terminal (extra ``cli``) or a notebook (extra ``notebook``). A function is called with
                a BatchProgress.
            on_refused: is called with an input that ``new_job`` refuses, and the InvalidInput; then the batch goes on without it.
                None: the error ends the batch.

        Raises:
            InvalidValue: an argument makes no sense; at the first step: the file is damaged, in use, or of another task.
            WouldDeadlock: at the first step, inside a callback.

        Each step raises what ``new_job`` raises (a full queue is waited for), what the inputs raise, and OSError when a result
        cannot be written.
        """
        settings = BatchSettings.checked(
            self._batch_client(),
            task,
            key=key,
            results=results,
            ordered=ordered,
            at_once=at_once,
            progress=progress,
            on_refused=on_refused,
            options=options,
        )
        return pairs(settings, inputs)

    @takes_job_options(BatchOptions)
    def amap(
        self,
        task: Task | Pipeline,
        inputs: Iterable[BatchInput] | AsyncIterable[BatchInput],
        *,
        key: Key = None,
        results: ResultsPath = None,
        ordered: bool = True,
        at_once: int | None = None,
        progress: ShowProgress = False,
        on_refused: OnRefused = None,
        **options: Unpack[BatchOptions],
    ) -> AsyncGenerator[tuple[BatchInput, JobResult], None]:
        """``map`` for asyncio: an asynchronous iterator of the same pairs, with the same arguments.

        The inputs may be an asynchronous iterable, too. A plain one is asked for the next input in the event loop. When the task
        that iterates is cancelled, the jobs under way are killed, and nothing is left. Whoever leaves the loop early closes it:
        ``async with contextlib.aclosing(manager.amap(...)) as pairs``.
        """
        settings = BatchSettings.checked(
            self._batch_client(),
            task,
            key=key,
            results=results,
            ordered=ordered,
            at_once=at_once,
            progress=progress,
            on_refused=on_refused,
            options=options,
        )
        return async_pairs(settings, inputs)
