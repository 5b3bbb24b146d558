"""Seconds that a piece of work takes, over all the runs it needs.

    with Clock(path) as seconds: ...;  path: {"seconds": so far}
"""

import pathlib
import threading
import time

from experiments import files


class Clock:
  """Seconds spent in a `with` block, those of killed runs included.

  A thread writes them to `path` every `tick` seconds, so a killed run loses
  no more than one tick.  With `runs=False` it stands still and tells what it
  stood at.

  Raises:
    ValueError: the file is damaged; names it.
  """

  def __init__(self, path, *, tick: float = 1.0, runs: bool = True):
    self.path, self.tick, self.runs = pathlib.Path(path), tick, runs
    found = files.read_json(self.path) if self.path.exists() else {}
    self._before = float(found.get("seconds", 0.0))
    self._start: float | None = None
    self._stop = threading.Event()
    self._thread: threading.Thread | None = None

  def __call__(self) -> float:
    """Seconds so far."""
    now = 0.0 if self._start is None else time.monotonic() - self._start
    return self._before + now

  def __enter__(self) -> "Clock":
    if self.runs:
      self._start = time.monotonic()
      self._stop.clear()
      self._thread = threading.Thread(target=self._write, daemon=True)
      self._thread.start()
    return self

  def __exit__(self, *_) -> None:
    if self._start is None:
      return
    self._stop.set()
    self._thread.join()
    self._before, self._start = self(), None
    self._save()

  def _write(self) -> None:
    while not self._stop.wait(self.tick):
      self._save()

  def _save(self) -> None:
    files.write_json(self.path, {"seconds": self()})
