"""What a person at the terminal sees of long work: a bar, or lines where standard error is no terminal.

Of several processes the first speaks."""

import sys
import time
from types import TracebackType

from tqdm import tqdm

from ddjax.storage import processes

_SILENCE = 60.0  # seconds without a line, where there is no bar, after which there is one


def say(what: str, progress: bool = True) -> None:
    """One line on what is done now, where there is `progress` to be shown: where a bar would be on a terminal, else where
    lines are."""
    if progress and processes.first_process():
        print(what, file=sys.stderr if sys.stderr.isatty() else sys.stdout, flush=True)


class Bar:
    """How far work has come: a bar on a terminal, and where standard error is none, a line for each report and each minute
    without one.

    Args:
      first, total: units done already, and in all.
      unit: what they are called.
      progress: whether to show anything.
    """

    def __init__(self, first: int, total: int, unit: str, progress: bool):
        progress = progress and processes.first_process()
        disable = None if progress else True  # None: where standard error is no terminal
        self._bar = tqdm(initial=first, total=total, unit=unit, disable=disable, dynamic_ncols=True, smoothing=0.1)
        self._lines = progress and self._bar.disable
        self._done, self._total, self._unit = first, total, unit
        self._told, self._told_at = first, time.monotonic()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._bar.close()

    def update(self, count: int = 1) -> None:
        """So many units more are done."""
        self._bar.update(count)
        self._done += count
        since = time.monotonic() - self._told_at
        if self._lines and self._done < self._total and since >= _SILENCE:
            each = since / (self._done - self._told)
            self._line(f"{self._unit} {self._done}/{self._total}  {each:.3g} s each")

    def report(self, short: str, line: str) -> None:
        """What stands behind the bar from now on, and the line in its place."""
        self._bar.set_postfix_str(short)
        if self._lines:
            self._line(line)

    def note(self, line: str) -> None:
        """A line that stays, above the bar where there is one."""
        if self._lines:
            self._line(line)
        elif not self._bar.disable:
            self._bar.write(line, file=sys.stderr)

    def _line(self, line: str) -> None:
        say(line)
        self._told, self._told_at = self._done, time.monotonic()
