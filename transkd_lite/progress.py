"""How a run tells where it is: one bar for a person who looks on, a line now and then for a log."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType

from tqdm.auto import tqdm

__all__ = ["Progress"]

LINE_EVERY_S = 15.0
MODES = ("auto", "bar", "lines", "none")


class Progress:
    """A tqdm bar in a terminal or notebook, otherwise a line at most every 15 s.

    mode: "auto", "bar", "lines" or "none". "auto" asks the environment variable TRANSKD_PROGRESS first (a
    batch sets it to "lines"), then whether standard error is a terminal or the code runs in a notebook.
    """

    def __init__(self, total: int, start: int = 0, mode: str = "auto", title: str = "train") -> None:
        if mode not in MODES:
            raise ValueError(f"progress must be one of {', '.join(map(repr, MODES))}; got {mode!r}")
        if mode == "auto":
            mode = os.environ.get("TRANSKD_PROGRESS", "") or ("bar" if _someone_watches() else "lines")
        self.total, self.step, self.title, self.mode = total, start, title, mode
        self._last_line = time.monotonic()
        self._bar = tqdm(total=total, initial=start, desc=title, unit="step") if mode == "bar" else None

    def update(self, step: int, **values: float) -> None:
        """Show that `step` steps are done, with a few numbers beside it."""
        text = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self.step)
        elif self.mode == "lines" and (
            step >= self.total or time.monotonic() - self._last_line > LINE_EVERY_S
        ):
            self._last_line = time.monotonic()
            sys.stdout.write(f"{self.title}: step {step}/{self.total}, {text}\n")
            sys.stdout.flush()
        self.step = step

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def _someone_watches() -> bool:
    in_notebook = "ipykernel" in sys.modules and type(sys.stdout).__module__.startswith("ipykernel")
    return in_notebook or sys.stderr.isatty()
