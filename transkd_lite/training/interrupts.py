"""Ctrl-C and SIGTERM as a request: finish the step, save, then go."""

import contextlib
import signal
import threading
from types import FrameType
from typing import NoReturn, Self

__all__ = ["StopRequest"]


class StopRequest(contextlib.ExitStack):
    """Within the context the first SIGINT or SIGTERM only sets `signal`; a second one acts at once.

    Outside the main thread, where Python takes no signals, it does nothing.
    """

    signal: int | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before = signal.signal(number, self._receive)
                self.callback(signal.signal, number, before or signal.SIG_DFL)
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self.close()  # the handlers of before

    def leave(self) -> NoReturn:
        """Raise what the signal would have raised: KeyboardInterrupt, or SystemExit(143) for SIGTERM."""
        raise SystemExit(128 + signal.SIGTERM) if self.signal == signal.SIGTERM else KeyboardInterrupt
