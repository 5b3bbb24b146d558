"""What every bench shares: two sides run in turn, and the rows of a table.

    alternate(ours, other, repeats) -> Turns -> row {ours, other, ratio, ok}
"""

import dataclasses
import importlib
import os
import time
from collections.abc import Callable

import jax
import numpy as np

Goal = tuple[str, float]  # (">=" or "<=", the ratio that is asked)


class Missing(ValueError):
  """What a suite compares with is not installed; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Turns:
  """Seconds of both sides, turn by turn."""

  ours: np.ndarray
  other: np.ndarray

  @property
  def medians(self) -> tuple[float, float]:
    return float(np.median(self.ours)), float(np.median(self.other))

  @property
  def speedup(self) -> tuple[float, tuple[float, float]]:
    """How many times faster ours is: median of the turns, and extremes."""
    each = self.other / self.ours
    return float(np.median(each)), (float(each.min()), float(each.max()))

  def after(self, part: "Turns") -> "Turns":
    """What is left without the part that each run begins with.

    NaN where nothing is: on a busy machine a part may take longer than a
    whole, and then nothing is known of the rest.
    """
    ours, other = part.medians

    def left(whole, part):
      return np.where(whole > part, whole - part, np.nan)

    return Turns(left(self.ours, ours), left(self.other, other))


REST = 0.3  # seconds before each run


def alternate(
  ours: Callable[[], float],
  other: Callable[[], float],
  repeats: int,
  *,
  warm: bool = True,
) -> Turns:
  """Runs both in turn, so that a slow minute hits both.

  Each begins rested: the threads of a BLAS go on spinning for some ten
  milliseconds after their work, on the cores of whoever comes next.

  Args:
    ours, other: functions that return the seconds they took.
    repeats: turns that count; who goes first changes with each.
    warm: one more turn goes before them (compilation, page cache).
  """

  def rested(work) -> float:
    time.sleep(REST)
    return work()

  took = []
  for turn in range(warm + repeats):
    first, second = (ours, other) if turn % 2 else (other, ours)
    both = rested(first), rested(second)
    took.append(both if turn % 2 else both[::-1])
  return Turns(*np.array(took[warm:]).T)


def clocked(work: Callable) -> Callable[[], float]:
  """A function that does the work to its end and returns its seconds."""

  def run() -> float:
    start = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - start

  return run


def row(
  name: str,
  ours: float,
  other: float,
  other_name: str,
  unit: str,
  *,
  goal: Goal | None = None,
  ratio: float | None = None,
  **more,
) -> dict:
  """A line of a table: numbers in `unit`, their ratio, whether it will do.

  Args:
    goal: None where nothing is asked; `ok` is then None as well.  A ratio
      that is NaN, and so unknown, reaches no goal.
    ratio: ours / other unless given.
    more: further keys.
  """
  ratio = ours / other if ratio is None else ratio
  ok = None
  if goal is not None:
    ok = ratio >= goal[1] if goal[0] == ">=" else ratio <= goal[1]
  return {
    "name": name,
    "ours": ours,
    "other": other,
    "other_name": other_name,
    "unit": unit,
    "ratio": ratio,
    "goal": None if goal is None else f"{goal[0]} {goal[1]:g}",
    "ok": ok,
    **more,
  }


def rate(
  name: str, turns: Turns, units: float, other_name: str, unit: str, **more
) -> dict:
  """A row of `units` that each run does, as so many a second."""
  ours, other = turns.medians
  ratio, spread = turns.speedup
  more = {"ratio": ratio, "spread": spread} | more
  return row(name, units / ours, units / other, other_name, unit, **more)


def on_all_cores() -> tuple:
  """torch, on as many threads as there are cores, and transformers.

  Raises:
    Missing: one of them is absent.
  """
  torch, transformers = installed("torch", "transformers")
  torch.set_num_threads(os.cpu_count())
  return torch, transformers


def installed(*packages: str) -> list:
  """The modules of these names.

  Raises:
    Missing: one of them is absent.
  """
  try:
    return [importlib.import_module(package) for package in packages]
  except ImportError as error:
    raise Missing(
      f"{error.name} is not installed, and {packages[-1]} is what it compares "
      "with; `make parity` installs both"
    ) from error
