"""Metrics: flat dicts of scalars, one jsonl line a step, finite or an error.

    {"train/loss": x, ...} -> metrics.jsonl: {"step": n, "train/loss": ...}
"""

import json
import math
import pathlib


class NonFiniteError(FloatingPointError):
  """A metric is NaN or infinite; the message names it and the step."""


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
  wrote past that step.
  """

  def __init__(self, path, *, start: int = 0):
    self.path = pathlib.Path(path)
    self.path.parent.mkdir(parents=True, exist_ok=True)
    kept = [row for row in read(self.path) if row["step"] < start]
    text = "".join(json.dumps(row) + "\n" for row in kept)
    part = self.path.with_name(f".{self.path.name}.part")
    part.write_text(text)
    part.replace(self.path)

  def write(self, step: int, metrics: dict[str, float]) -> None:
    """Appends one line; raises NonFiniteError before writing it."""
    check_finite(step, metrics)
    with self.path.open("a") as file:
      file.write(json.dumps({"step": step} | metrics) + "\n")


def read(path) -> list[dict]:
  """All whole lines of a metrics.jsonl; a torn last line is dropped."""
  path = pathlib.Path(path)
  rows = []
  for line in path.read_text().splitlines() if path.exists() else []:
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError:
      break
  return rows
