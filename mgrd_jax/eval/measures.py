"""report.json: what a run measured, read without surprises.

    report = {seed, config_sha, commit, last: {format_reward, gamma},
              wall_s: {stage: s}, peak_rss_mb, params, stages: [{name,
              think: M, direct: M, silence: M, swap: M, paired: P}],
              funnel: [...], controls: {name: M}, chance}
    M = {acc, ci95, n, acc_conflict, acc_heldout, think_tokens,
         frac_empty_think, frac_coherent, frac_offered, claim_precision,
         claim_lift, surrogate_rate}
    P = {diff, ci95, only_think, only_direct, p}, thinking against direct

`commit` joins by "+" those that a resumed run was made at; `last` is what the
last PPO stage was rewarded by.  What is missing, null or NaN reads as None.
"""

import json
import math
import numbers
import os
from collections.abc import Mapping

import numpy as np
from etils import epath

from mgrd_jax import paths

CONTROLS = {
  "elicited_before_mgrd": "*hint, before MGRD*",
  "mgrd_without_grounding_filter": "*MGRD, grounding filter off*",
}


class ReportError(ValueError):
  """A report that cannot be used; the message is one line."""


def number(row: Mapping, *path: str) -> float | None:
  """The number at row[path[0]][path[1]]…; None if there is none."""
  value: object = row
  for key in path:
    if not isinstance(value, Mapping):
      return None
    value = value.get(key)
  # NumPy's scalars are Real too.
  if isinstance(value, bool) or not isinstance(value, numbers.Real):
    return None
  return float(value) if math.isfinite(value) else None


def points(high: float | None, low: float | None) -> float | None:
  """100 (high - low), free of the last bits: 0.58 - 0.50 is 8, not 7.99…"""
  return None if high is None or low is None else round(100 * (high - low), 6)


def rows(report: Mapping) -> list[tuple[str, Mapping]]:
  """(name, {"think": M, "direct": M, …}): the stages in order, then controls.

  A control is an evaluation of thinking alone.
  """
  found = [(stage["name"], stage) for stage in report.get("stages") or ()]
  controls = report.get("controls") or {}
  for name in [*CONTROLS, *(n for n in controls if n not in CONTROLS)]:
    control = controls.get(name)
    if control:
      found.append((CONTROLS.get(name, name), {"think": control}))
  return found


def save(report: Mapping, path: str | os.PathLike) -> None:
  """Writes report.json whole or not at all; NaN and infinities become null."""
  text = json.dumps(_finite(report), indent=1, ensure_ascii=False)
  paths.write(path, text + "\n")


def load(path: str | os.PathLike) -> dict:
  """Reads what `save` wrote.

  Raises:
    ReportError: no report is there, or the file is none.
  """
  try:
    report = json.loads(epath.Path(path).read_bytes())
  except OSError as error:
    why = error.strerror or type(error).__name__
    raise ReportError(f"{path}: {why}") from None
  except ValueError:
    raise ReportError(f"{path}: not a JSON file") from None
  stages = report.get("stages") if isinstance(report, dict) else None
  named = isinstance(stages, list) and all(
    isinstance(s, dict) and isinstance(s.get("name"), str) for s in stages
  )
  if not named:
    raise ReportError(f"{path}: no report: it has no list of named stages")
  return report


def _finite(value):
  if isinstance(value, Mapping):
    return {str(k): _finite(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return [_finite(v) for v in value]
  # Measurements may be NumPy scalars, which json refuses.
  value = value.item() if isinstance(value, np.generic) else value
  lost = isinstance(value, float) and not math.isfinite(value)
  return None if lost else value
