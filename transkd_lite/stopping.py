"""A batch that is asked to stop: the signal reaches the notebooks' kernels, which save, and none outlives the batch.

Jupyter starts every kernel in a session of its own, which a terminal's Ctrl-C does not reach, and nbclient would
take a signal for a failure of the notebook. So notebooks are executed in other threads or processes; the main
thread hears the signal, interrupts the kernels as a person would, and waits until they are gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import psutil

from transkd_lite.interrupts import StopRequest

__all__ = ["dask_setup", "run_aside", "running_kernels", "stop_kernels"]

T = TypeVar("T")
# An interrupt that meets a kernel between two cells is lost, and a second one during training gives up saving.
PATIENCE_S = 20.0


def run_aside(work: Callable[[], T], stop: StopRequest) -> T:
    """The result of `work`, called in a thread of its own; after a signal its kernels are stopped."""
    result: Future[T] = Future()

    def call() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    while thread.is_alive() and stop.signal is None:
        thread.join(0.2)
    stop_kernels(thread.is_alive)
    return result.result()


def running_kernels() -> list[psutil.Process]:
    """Kernels that this process or one below it started; not the processes that a kernel started."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has gone
            if any("ipykernel_launcher" in part for part in process.cmdline()):
                found[process.pid] = (process, process.ppid())
    return [process for process, parent in found.values() if parent not in found]


def stop_kernels(busy: Callable[[], Any] = running_kernels) -> None:
    """Interrupt kernels, also those that start meanwhile, until nothing is busy; kill what does not listen."""
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM if os.name == "nt" else signal.SIGKILL):
        until, told = time.monotonic() + PATIENCE_S, set()
        while busy() and time.monotonic() < until:
            for kernel in running_kernels():
                if kernel.pid not in told:
                    told.add(kernel.pid)
                    with contextlib.suppress(psutil.Error):
                        kernel.send_signal(number)
            time.sleep(0.1)


async def dask_setup(worker: Any) -> None:
    """Preloaded by the workers of a batch's own cluster: a terminal's Ctrl-C is the batch's to answer, not theirs."""
    signal.signal(signal.SIGINT, lambda number, frame: None)  # unlike SIG_IGN, kernels do not inherit it
