"""Metrics: flat dicts of scalars, one jsonl line a step, finite or an error.

    {"train/loss": x, ...} -> metrics.jsonl: {"step": n, "train/loss": ...}
"""

import json
import math
from typing import Protocol, runtime_checkable

from etils import epath

from mgrd_jax import paths


class NonFiniteError(FloatingPointError):
  """A metric is NaN or infinite; the message names it and the step."""


@runtime_checkable
class Writer(Protocol):
  """Where metrics go: `Log` here, others in `train.writers`."""

  def write(self, step: int, metrics: dict[str, float]) -> None: ...

  def flush(self) -> None: ...

  def close(self) -> None: ...


def to_floats(metrics: dict) -> dict[str, float]:
  """Device scalars to Python floats."""
  return {name: float(value) for name, value in metrics.items()}


def check_finite(step: int, metrics: dict[str, float]) -> None:
  """Raises NonFiniteError if any metric is not finite."""
  bad = [name for name, value in metrics.items() if not math.isfinite(value)]
  if bad:
    raise NonFiniteError(f"step {step}: not finite: {', '.join(sorted(bad))}")


class Log:
  """An append-only metrics.jsonl; every step stands in it once.

  Opening it for a run that starts at `start` drops what an interrupted run
  wrote past that step.  A line is on disk when `write` returns; on gs://,
  where nothing can be appended to, when `flush` does.
  """

  def __init__(self, path, *, start: int = 0):
    self.path = epath.Path(path)
    self._remote = paths.is_remote(self.path)
    kept = [row for row in read(self.path) if row["step"] < start]
    self._text = "".join(json.dumps(row) + "\n" for row in kept)
    paths.write(self.path, self._text)

  def write(self, step: int, metrics: dict[str, float]) -> None:
    """Appends one line; raises NonFiniteError before writing it."""
    check_finite(step, metrics)
    line = json.dumps({"step": step} | metrics) + "\n"
    if self._remote:
      self._text += line
    else:
      with self.path.open("a") as file:
        file.write(line)

  def flush(self) -> None:
    """All lines are on disk."""
    if self._remote:
      paths.write(self.path, self._text)

  def close(self) -> None:
    self.flush()


def jsonl(folder, start: int) -> Log:
  """The log of a run that resumes at step `start`."""
  return Log(epath.Path(folder) / "metrics.jsonl", start=start)


def read(path) -> list[dict]:
  """All whole lines of a metrics.jsonl; a torn last line is dropped."""
  path = epath.Path(path)
  rows = []
  for line in path.read_text().splitlines() if path.exists() else []:
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return rows
