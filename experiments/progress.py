"""How far a piece of work is: a bar in a terminal, lines in a log."""

import contextlib
import datetime
import sys
import time
from collections.abc import Callable, Iterator

from rich import progress as rich_progress


@contextlib.contextmanager
def bar(title: str, *, every: float | None = None) -> Iterator[Callable]:
  """A progress bar with an ETA: yields update(done, total, note="").

  Where stderr is no terminal nothing is shown, or a line each `every` seconds.
  """
  if not sys.stderr.isatty():
    yield _lines(title, every) if every else lambda done, total, note="": None
    return
  columns = (
    rich_progress.TextColumn("{task.description:<22}"),
    rich_progress.BarColumn(bar_width=24),
    rich_progress.MofNCompleteColumn(),
    rich_progress.TimeElapsedColumn(),
    rich_progress.TextColumn("eta"),
    rich_progress.TimeRemainingColumn(),
    rich_progress.TextColumn("{task.fields[note]}"),
  )
  with rich_progress.Progress(*columns, transient=True) as shown:
    task = shown.add_task(title, total=None, note="")

    def update(done: int, total: int, note: str = "") -> None:
      shown.update(task, completed=done, total=total, note=note)

    yield update


def _lines(title: str, every: float) -> Callable:
  start = told = time.monotonic()

  def update(done: int, total: int, note: str = "") -> None:
    nonlocal told
    now = time.monotonic()
    if now - told < every or not done:
      return
    told = now
    left = (now - start) * (total - done) / done
    left = datetime.timedelta(seconds=round(left))
    line = f"{title}: {done} of {total}, eta {left}"
    print(f"{line}, {note}" if note else line, file=sys.stderr, flush=True)

  return update
