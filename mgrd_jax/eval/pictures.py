"""Measurements to pictures: PNGs by matplotlib, without its global state.

    report -> accuracy.png, grounding.png      metrics -> training.png
"""

import io
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from mgrd_jax import paths
from mgrd_jax.eval.measures import number

# Blue, vermilion and green that colour-blind readers tell apart.
THINK, DIRECT, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
MODES = {
  "think": {"color": THINK, "marker": "o"},
  "direct": {"color": DIRECT, "marker": "s"},
}
CLAIM_CURVES = {
  ("surrogate_rate", "surrogate rate"): {"color": DIRECT, "marker": "s"},
  ("claim_precision", "claim precision"): {"color": THINK, "marker": "o"},
  ("claim_lift", "claim lift"): {"color": GREEN, "marker": "^"},
}
# Title of a row of training curves -> metrics that belong on one axis.
TRAINING = {
  "encoder": ("encoder/ctc", "encoder/attribute"),
  "loss": ("train/loss",),
  "reward": ("rollout/reward", "rollout/acc"),
  "entropy": ("train/policy/entropy",),
  "length": ("rollout/length/mean",),
  "critic": ("train/critic/ev_seq",),
}


def curves(report: Mapping, folder: str | os.PathLike) -> list[epath.Path]:
  """accuracy.png and grounding.png: what the stages did; [] without stages.

  Thinking against direct answering on all, conflict and held-out questions,
  with intervals and chance; surrogate rate, claim precision and claim lift.
  """
  stages = report.get("stages") or []
  if not stages:
    return []
  folder = epath.Path(folder)
  fig = _figure(12.6, 4.0)
  panels = {"all": "acc", "conflict": "acc_conflict", "held-out": "acc_heldout"}
  axes = fig.subplots(1, len(panels), sharey=True)
  for ax, (title, key) in zip(axes, panels.items(), strict=True):
    for mode, style in MODES.items():
      _line(ax, stages, (mode, key), mode, style)
      if key == "acc":
        _bars(ax, stages, mode, style["color"])
    _dress(ax, stages, title, (-0.02, 1.02))
  if (chance := number(report, "chance")) is not None:
    axes[0].axhline(chance, color=GREY, ls="--", lw=1, label="chance")
  axes[0].set_ylabel("accuracy")
  # Below the ticks: the curves may run through any corner.
  legend = {"frameon": False, "fontsize": 8, "loc": "outside lower center"}
  fig.legend(*axes[0].get_legend_handles_labels(), ncols=3, **legend)
  accuracy = _save(fig, folder / "accuracy.png")

  fig = _figure(6.4, 4.0)
  ax = fig.subplots()
  for (key, label), style in CLAIM_CURVES.items():
    _line(ax, stages, ("think", key), label, style)
  ax.axhline(0, color=GREY, lw=0.8)
  _dress(ax, stages, "what the chains speak of", (None, 1.02))
  fig.legend(ncols=3, **legend)
  return [accuracy, _save(fig, folder / "grounding.png")]


def training_curves(
  metrics: Mapping[str, Sequence[Mapping]], folder: str | os.PathLike
) -> list[epath.Path]:
  """training.png: a row for each of `TRAINING`, a panel for each stage.

  Args:
    metrics: stage -> rows of its metrics.jsonl, each with "step".
    folder: where the picture goes.

  Returns:
    [] if no stage has any of the metrics.
  """
  drawn = {}
  for title, keys in TRAINING.items():
    stages = [s for s in metrics if any(_series(metrics[s], k) for k in keys)]
    if stages:
      drawn[title] = stages
  if not drawn:
    return []
  widest = max(len(stages) for stages in drawn.values())
  fig = _figure(max(2.3 * widest, 5.0), 1.9 * len(drawn))
  parts = np.atleast_1d(fig.subfigures(len(drawn), 1))
  for part, (title, stages) in zip(parts, drawn.items(), strict=True):
    axes = part.subplots(1, widest, sharey=True, squeeze=False)[0]
    for ax, stage in zip(axes, stages, strict=False):
      _training_panel(ax, metrics[stage], TRAINING[title])
      ax.set_title(stage, fontsize=8)
    # Panels keep one width: a row of few stages leaves room on the right.
    for ax in axes[len(stages) :]:
      ax.set_axis_off()
    axes[0].set_ylabel(title, fontsize=9)
    if len(TRAINING[title]) > 1:
      axes[0].legend(frameon=False, fontsize=7)
  fig.supxlabel("step", fontsize=9)
  return [_save(fig, epath.Path(folder) / "training.png")]


def _figure(width: float, height: float):
  """A figure that belongs to nobody else: no pyplot, no display, no state."""
  # Here, because the import takes longer than all else in this package.
  from matplotlib.backends import backend_agg
  from matplotlib.figure import Figure

  fig = Figure(figsize=(width, height), layout="constrained")
  backend_agg.FigureCanvasAgg(fig)
  return fig


def _save(fig, path: epath.Path) -> epath.Path:
  buffer = io.BytesIO()
  fig.savefig(buffer, format="png", dpi=110)
  paths.write(path, buffer.getvalue())
  return path


def _line(ax, stages, path, label, style) -> None:
  # NaN leaves a gap where a stage was not measured.
  found = [number(stage, *path) for stage in stages]
  height = [math.nan if v is None else v for v in found]
  ax.plot(range(len(stages)), height, lw=1.8, ms=5, label=label, **style)


def _bars(ax, stages, mode, colour) -> None:
  for at, stage in enumerate(stages):
    bounds = (stage.get(mode) or {}).get("ci95") or ()
    if len(bounds) == 2 and None not in bounds:
      ax.vlines(at, *bounds, color=colour, lw=4, alpha=0.3)


def _dress(ax, stages, title, limits) -> None:
  names = [stage["name"] for stage in stages]
  ax.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
  ax.set_xlim(-0.4, len(names) - 0.6)
  ax.set_ylim(*limits)
  ax.set_title(title, fontsize=10)
  ax.grid(alpha=0.25)
  ax.spines[["top", "right"]].set_visible(False)


def _series(log: Sequence[Mapping], key: str) -> list[tuple]:
  pairs = [(row.get("step", n), number(row, key)) for n, row in enumerate(log)]
  return [(step, value) for step, value in pairs if value is not None]


def _training_panel(ax, log, keys) -> None:
  for key, colour in zip(keys, (THINK, DIRECT), strict=False):
    if pairs := _series(log, key):
      style = {"color": colour, "marker": "o" if len(pairs) < 12 else None}
      label = key.split("/", 1)[1]
      ax.plot(*zip(*pairs, strict=True), lw=1.2, ms=3, label=label, **style)
  ax.xaxis.get_major_locator().set_params(integer=True)
  ax.tick_params(labelsize=7)
  ax.spines[["top", "right"]].set_visible(False)
  ax.grid(alpha=0.25)
