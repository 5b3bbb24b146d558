"""What a piece of work takes, over all the runs it needs.

    with Clock(path) as clock: ...
    path: {"seconds": so far, "peak_rss_mb": the most, "commits": [...]}
"""

import contextlib
import multiprocessing
import os
import re
import resource
import sys
import threading
import time
from collections.abc import Iterable, Mapping

from etils import epath

from experiments import files, provenance
from mgrd_jax import paths


class Clock:
  """Seconds spent in a `with` block, those of killed runs included.

  With them the peak of memory, and the commits of the code that ran.  A thread
  writes all to `path` every `tick` seconds (1, and 30 where each write is an
  upload), so a killed run loses no more than one tick.  With `runs=False` it
  stands still and tells what it stood at.

  Raises:
    ValueError: the file is damaged; names it.
  """

  def __init__(self, path, *, tick: float = 0.0, runs: bool = True):
    self.path, self.runs = epath.Path(path), runs
    self.tick = tick or (30.0 if paths.is_remote(path) else 1.0)
    found = files.read_json(self.path) if self.path.exists() else {}
    self._before = float(found.get("seconds", 0.0))
    self._peak = float(found.get("peak_rss_mb", 0.0))
    self._commits = list(found.get("commits", ()))
    self._start: float | None = None
    self._stop = threading.Event()
    self._thread: threading.Thread | None = None

  def __call__(self) -> float:
    """Seconds so far."""
    now = 0.0 if self._start is None else time.monotonic() - self._start
    return self._before + now

  def cost(self) -> dict:
    """{"peak_rss_mb", "commits"} so far, the commits in order of first use."""
    return {"peak_rss_mb": self._peak, "commits": list(self._commits)}

  def __enter__(self) -> "Clock":
    if self.runs:
      if provenance.commit() not in self._commits:
        self._commits.append(provenance.commit())
      self._start = time.monotonic()
      self._stop.clear()
      self._thread = threading.Thread(target=self._write, daemon=True)
      self._thread.start()
    return self

  def __exit__(self, error, *_) -> None:
    if self._start is None:
      return
    self._stop.set()
    self._thread.join()
    self._before, self._start = self(), None
    # What ended the work is what is to be heard of.
    with contextlib.suppress(Exception) if error else contextlib.nullcontext():
      self._save()

  def _write(self) -> None:
    while not self._stop.wait(self.tick):
      # The work may go on where a tick is lost; the last one is not.
      with contextlib.suppress(Exception):
        self._save()

  def _save(self) -> None:
    self._peak = max(self._peak, peak_rss_mb())
    files.write_json(self.path, {"seconds": self()} | self.cost())


def total(costs: Iterable[Mapping]) -> dict:
  """The cost of several pieces of work: the highest peak, all commits."""
  costs = list(costs)
  commits = dict.fromkeys(c for cost in costs for c in cost["commits"])
  peak = max(cost["peak_rss_mb"] for cost in costs)
  return {"peak_rss_mb": peak, "commits": list(commits)}


def peak_rss_mb() -> float:
  """Peak resident memory of this process and its living workers, in MiB.

  The sum of each one's own peak: no less than they ever held at once.
  getrusage cannot tell it: of children it knows the largest alone, and a
  child begins at its parent's peak.  Where /proc does not say it, of this
  process alone.
  """
  workers = (worker.pid for worker in multiprocessing.active_children())
  peak = sum(map(_peak_kib, (os.getpid(), *workers)))
  if peak:
    return peak / 2**10
  own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return own / (2**20 if sys.platform == "darwin" else 2**10)


def _peak_kib(pid: int) -> int:
  try:
    status = epath.Path(f"/proc/{pid}/status").read_text()
  except OSError:
    return 0
  found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
  return int(found[1]) if found else 0
