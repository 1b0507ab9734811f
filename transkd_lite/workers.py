"""Where a batch's runs are executed: in this process one after the other, side by side, or on a Dask cluster.

dask is imported only for the last two.
"""

import contextlib
import functools
import logging
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transkd_lite.attempts import execute
from transkd_lite.interrupts import StopRequest
from transkd_lite.parameters import ParameterError
from transkd_lite.planning import PlannedRun
from transkd_lite.stopping import run_aside, stop_kernels

__all__ = ["execute_all"]


def execute_all(
    pending: Sequence[PlannedRun], root: Path, jobs: int, scheduler: str | None, stop: StopRequest
) -> Iterator[tuple[PlannedRun, str]]:
    """Execute runs and yield each with its outcome as it ends; after a signal those that it did not cut short."""
    if pending and (scheduler is not None or jobs > 1):
        yield from _execute_on_dask(pending, root, jobs, scheduler, stop)
        return
    for run in pending:
        error = run_aside(functools.partial(execute, run, root), stop)
        if error and stop.signal is not None:
            return
        yield run, error
        if stop.signal is not None:
            return


def _execute_on_dask(
    pending: Sequence[PlannedRun], root: Path, jobs: int, scheduler: str | None, stop: StopRequest
) -> Iterator[tuple[PlannedRun, str]]:
    """Send the runs to a cluster; when a worker dies in mid-notebook, the notebook runs again elsewhere.

    After a signal nothing more is started; notebooks under way on another machine's cluster run to their end.
    """
    import dask
    from distributed import Client, LocalCluster, wait

    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.scheduler.allowed-failures": 3}))
        threads = None
        address: Any = scheduler
        if scheduler is None:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            threads = max(1, cores // jobs)
            how: dict[str, Any] = {"processes": True, "memory_limit": 0, "silence_logs": logging.ERROR}
            how |= {"dashboard_address": "127.0.0.1:0", "preload": ["transkd_lite.stopping"]}
            address = stack.enter_context(LocalCluster(n_workers=jobs, threads_per_worker=1, **how))
        try:
            client = stack.enter_context(Client(address, timeout="20s"))
        except (OSError, ValueError) as error:
            raise ParameterError(f"no Dask scheduler answers at {address}: {error}") from error
        batch = uuid.uuid4().hex[:8]
        futures: dict[Any, PlannedRun] = {}
        for position, run in enumerate(pending):
            needed = next((f for f, r in futures.items() if r.folder == run.needs), None)
            key = f"{run.folder}-{batch}"
            # Without a priority Dask may begin with the last run.
            order: dict[str, Any] = {"key": key, "pure": False, "retries": 1, "priority": -position}
            futures[client.submit(execute, run, root, threads, needed, **order)] = run
        running = list(futures)
        while running and stop.signal is None:
            with contextlib.suppress(TimeoutError):
                ended = wait(running, timeout=0.5, return_when="FIRST_COMPLETED").done
                for future in (f for f in running if f in ended):
                    died = future.exception() if future.status == "error" else None
                    yield futures[future], f"{type(died).__name__}: {died}" if died else future.result()
                running = [future for future in running if future not in ended]
        if stop.signal is not None:
            client.cancel(list(futures))
            stop_kernels()
