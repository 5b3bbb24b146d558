"""Measurements to pages: report.json -> table, curves, report.md.

    report, samples, metrics --table, curves, training_curves--> report.md

The report's fields are those of `eval.measures`.  What is missing, null or
NaN is blank.  Shares are printed in per cent, their differences in points.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence

from etils import epath

from mgrd_jax import paths
from mgrd_jax.eval.measures import number, points, rows
from mgrd_jax.eval.pictures import curves, training_curves

MARKS = {"supported": "✓", "contradicted": "✗", "unverifiable": "?"}
FUNNEL = ("sampled", "correct", "grounded", "coherent", "kept")
LEGEND = (
  "Accuracies and shares in %, gap (think - direct) in points, lift as a "
  "difference of shares. Silence and swap: thinking against the original "
  "answer when the clip is silent or another's; swap follow: of the answers "
  "that were right, the share that went with the other clip."
)
BRACKETS = (
  "In brackets 95 % intervals, bootstrapped over questions; p is of McNemar's "
  "exact test of thinking against direct answering, question by question."
)
MODES = ("think", "direct")

Cell = Callable[[Mapping], float | None]


def _at(*path: str, scale: float = 100.0) -> Cell:
  def cell(stage):
    value = number(stage, *path)
    return None if value is None else scale * value

  return cell


def _gap(stage: Mapping) -> float | None:
  return points(number(stage, "think", "acc"), number(stage, "direct", "acc"))


# Heading -> (format, the numbers of a cell, joined by a slash).
COLUMNS: dict[str, tuple[str, tuple[Cell, ...]]] = {
  "think": ("{:.1f}", (_at("think", "acc"),)),
  "direct": ("{:.1f}", (_at("direct", "acc"),)),
  "gap": ("{:+.1f}", (_gap,)),
  "held-out think / direct": (
    "{:.1f}",
    (_at("think", "acc_heldout"), _at("direct", "acc_heldout")),
  ),
  "conflict think / direct": (
    "{:.1f}",
    (_at("think", "acc_conflict"), _at("direct", "acc_conflict")),
  ),
  "silence": ("{:.1f}", (_at("silence", "acc"),)),
  "swap": ("{:.1f}", (_at("swap", "acc"),)),
  "swap follow": ("{:.1f}", (_at("swap", "follow"),)),
  "empty think": ("{:.1f}", (_at("think", "frac_empty_think"),)),
  "coherent": ("{:.1f}", (_at("think", "frac_coherent"),)),
  "on offer": ("{:.1f}", (_at("think", "frac_offered"),)),
  "surrogate": ("{:.1f}", (_at("think", "surrogate_rate"),)),
  "claim precision": ("{:.1f}", (_at("think", "claim_precision"),)),
  "claim lift": ("{:.2f}", (_at("think", "claim_lift", scale=1.0),)),
  "think tokens": ("{:.1f}", (_at("think", "think_tokens", scale=1.0),)),
}


def _spread(found: Sequence[float], form: str) -> str:
  """The mean, and the range where they differ; blank without any."""
  if not found:
    return ""
  mean = form.format(sum(found) / len(found))
  low, high = form.format(min(found)), form.format(max(found))
  return mean if low == high else f"{mean} ({low}…{high})"


def _cell(stages: Sequence[Mapping], heading: str) -> str:
  form, parts = COLUMNS[heading]
  texts = []
  for part in parts:
    values = [part(stage) for stage in stages]
    texts.append(_spread([v for v in values if v is not None], form))
  return _pair(texts)


def _pair(texts: Sequence[str]) -> str:
  return " / ".join(t or "–" for t in texts) if any(texts) else ""


def markdown_table(headings: Sequence[str], body: Sequence[Sequence]) -> str:
  """A GitHub table; the first column is left-aligned, the others right."""
  rule = ["---"] + ["--:"] * (len(headings) - 1)
  lines = (headings, rule, *body)
  return "\n".join(
    "| " + " | ".join(str(c) for c in line) + " |" for line in lines
  )


def _paired(stage: Mapping) -> str:
  """The interval of the gap in points, and McNemar's p; blank without."""
  pair = stage.get("paired") or {}
  bounds, p = pair.get("ci95") or (), number(pair, "p")
  if len(bounds) != 2 or None in bounds or p is None:
    return ""
  low, high = (100 * float(b) for b in bounds)
  shown = f"{p:.1g}" if p >= 1e-4 else "<1e-4"
  return f" [{low:+.1f}, {high:+.1f}], p {shown}"


def table(report: Mapping) -> str:
  """The stages of one run as a markdown table, the controls below them.

  Accuracies and shares in per cent, the thinking accuracy with its interval;
  gap = think - direct in points, with its interval and the p of McNemar's
  test where the report holds them; swap is the accuracy against the original
  answer when the clip is another's, follow the share of once right answers
  that went with the new clip; lift is a difference of shares.
  """
  body = []
  for name, stage in rows(report):
    cells = {h: _cell([stage], h) for h in COLUMNS}
    bounds = (stage.get("think") or {}).get("ci95") or ()
    if len(bounds) == 2 and cells["think"] and None not in bounds:
      low, high = (100 * float(b) for b in bounds)
      cells["think"] += f" [{low:.1f}, {high:.1f}]"
    if cells["gap"]:
      cells["gap"] += _paired(stage)
    body.append([name, *cells.values()])
  return markdown_table(["stage", *COLUMNS], body)


def merged_table(
  reports: Sequence[Mapping], headings: Sequence[str] = tuple(COLUMNS)
) -> str:
  """As `table`, over several seeds: mean (least…most) of each number."""
  stages: dict[str, list[Mapping]] = {}
  for report in reports:
    for name, stage in rows(report):
      stages.setdefault(name, []).append(stage)
  # Controls come last, even if only a later seed has one of the stages.
  order = sorted(stages, key=lambda name: name.startswith("*"))
  body = [[n, *(_cell(stages[n], h) for h in headings)] for n in order]
  return markdown_table(["stage", *headings], body)


def render(
  report: Mapping,
  samples: Sequence[Mapping],
  metrics: Mapping[str, Sequence[Mapping]],
  folder: str | os.PathLike,
) -> epath.Path:
  """Writes report.md and its pictures into `folder`; each whole or not at all.

  Args:
    report: the report, as in the module's docstring.
    samples: {"stage", "id", "question", "options", "gold", "think", "reply",
      "right": bool, "claims": [{"text", "attribute", "value", "verdict"}],
      "surrogate": bool}; shown by stage, in their order.
    metrics: stage -> rows of its metrics.jsonl.
    folder: made if missing.

  Returns:
    The path of report.md.
  """
  folder = epath.Path(folder)
  pictures = curves(report, folder), training_curves(metrics, folder)
  shown = ["\n\n".join(f"![{p.stem}]({p.name})" for p in ps) for ps in pictures]
  parts = {
    "## Stages": f"{table(report)}\n\n{LEGEND} {BRACKETS}",
    "## Thinking against direct answering": shown[0],
    "## By kind of question": _sources(report),
    "## What MGRD kept": _funnel(report.get("funnel") or []),
    "## Training": shown[1],
    "## Chains": _samples(samples),
  }
  head = [f"# Report, seed {report.get('seed', '?')}", _header(report)]
  text = [f"{h}\n\n{body}" for h, body in parts.items() if body]
  path = folder / "report.md"
  paths.write(path, "\n\n".join(filter(None, head + text)) + "\n")
  return path


def _plain(text: object) -> str:
  """Text that Markdown shows as it is, on one line."""
  return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", " ".join(str(text).split()))


def _last(report: Mapping) -> str | None:
  """What sets an ablation apart: how its last PPO stage was rewarded."""
  weight = number(report, "last", "format_reward")
  gamma = number(report, "last", "gamma")
  if weight is None or gamma is None:
    return None
  pressure = " (γ < 1: a pressure on length)" if gamma < 1 else ""
  return f"format reward {weight:g}, γ {gamma:g}{pressure}"


def _header(report: Mapping) -> str:
  wall = report.get("wall_s") or {}
  took = [s for s in wall if number(wall, s) is not None]
  total = sum(wall[s] for s in took) / 60
  each = ", ".join(f"{s} {wall[s]:.0f} s" for s in took)
  rss, params = number(report, "peak_rss_mb"), number(report, "params")
  chance = number(report, "chance")
  facts = {
    "commit": report.get("commit"),
    "config": report.get("config_sha"),
    "last PPO stage": _last(report),
    "wall": f"{total:.1f} min ({each})" if took else None,
    "peak memory": None if rss is None else f"{rss:.0f} MB resident",
    "parameters": None if params is None else f"{params:,.0f}",
    "chance": None if chance is None else f"{100 * chance:.1f} %",
  }
  return "\n".join(f"- {k}: {v}" for k, v in facts.items() if v)


def _sources(report: Mapping) -> str:
  """Thinking / direct by source of the question, first and last stage."""
  stages = report.get("stages") or []
  ends = stages[:1] + stages[1:][-1:]
  names = {}
  for stage in ends:
    for mode in MODES:
      names |= (stage.get(mode) or {}).get("by_source") or {}
  body = []
  for source in sorted(names):
    cells = []
    for stage in ends:
      pair = [number(stage, mode, "by_source", source) for mode in MODES]
      pair = ["" if v is None else f"{100 * v:.1f}" for v in pair]
      cells.append(_pair(pair))
    body.append([_plain(source), *cells])
  headings = ["source", *(f"{s['name']}: think / direct" for s in ends)]
  return markdown_table(headings, body) if body else ""


def _funnel(funnel: Sequence[Mapping]) -> str:
  if not funnel:
    return ""
  body = []
  for row in funnel:
    swap = number(row, "swap_keep_rate")
    counts = (number(row, key) for key in FUNNEL)
    body.append(
      [row.get("round", "")]
      + ["" if c is None else f"{c:.0f}" for c in counts]
      + ["" if swap is None else f"{100 * swap:.1f} %"]
    )
  text = markdown_table(["round", *FUNNEL, "kept with another's clip"], body)
  reasons: dict[str, int] = {}
  for row in funnel:
    for reason, count in (row.get("reasons") or {}).items():
      reasons[reason] = reasons.get(reason, 0) + count
  if not reasons:
    return text
  body = [
    [_plain(reason)]
    + [(row.get("reasons") or {}).get(reason, 0) for row in funnel]
    for reason in sorted(reasons, key=lambda r: (-reasons[r], r))
  ]
  rounds = (f"round {row.get('round', '')}" for row in funnel)
  return text + "\n\n" + markdown_table(["rejected because", *rounds], body)


def _samples(samples: Sequence[Mapping]) -> str:
  if not samples:
    return ""
  by_stage: dict[str, list[str]] = {}
  for sample in samples:
    by_stage.setdefault(sample["stage"], []).append(_sample(sample))
  marks = ", ".join(f"{mark} {name}" for name, mark in MARKS.items())
  parts = [f"Each claim against the waveform: {marks}."]
  for stage, texts in by_stage.items():
    parts += [f"### {_plain(stage)}", *texts]
  return "\n\n".join(parts)


def _sample(sample: Mapping) -> str:
  outcome = "right" if sample.get("right") else "**wrong**"
  question = f"**{_plain(sample.get('question', ''))}**"
  if options := sample.get("options"):
    question += " (" + ", ".join(_plain(o) for o in options) + ")"
  claims = [
    f"{MARKS.get(c.get('verdict'), '?')} {_plain(c.get('text', ''))} "
    f"({_plain(c.get('attribute', ''))}: {c.get('verdict')})"
    for c in sample.get("claims") or ()
  ]
  if sample.get("surrogate"):
    claims.append("reasons from words in place of sound")
  lines = [
    f"{question} `{sample.get('id', '')}`",
    f"think: {_plain(sample.get('think') or '') or '(empty)'}",
    f"reply: {_plain(sample.get('reply') or '') or '(none)'}: {outcome}, gold "
    f"{_plain(sample.get('gold', ''))}",
    "claims: " + ("; ".join(claims) or "none"),
  ]
  return "- " + "\\\n  ".join(lines)


