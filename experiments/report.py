"""Merges the reports of several seeds and holds them against the goals.

  python -m experiments.report out/tiny/seed0/report.json [more …] \\
      [--readme=README.md]

Prints the table of stages (mean over seeds, range in brackets) and the goals
with what each seed measured.  --readme writes both between the README's
`<!-- results:begin -->` and `<!-- results:end -->`.  Bad input is one line on
stderr and a non-zero exit.
"""

import dataclasses
import re
import sys
from collections.abc import Callable, Mapping, Sequence

from etils import epath

from experiments import command
from mgrd_jax import paths
from mgrd_jax.eval import measures, report
from mgrd_jax.eval.measures import number, points

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
# What of the table fits a README; report.md has all of it.
README_COLUMNS = (
  "think",
  "direct",
  "held-out think / direct",
  "silence",
  "swap",
  "empty think",
  "surrogate",
  "claim precision",
  "claim lift",
)


@dataclasses.dataclass(frozen=True)
class Goal:
  """One number that a run is to reach.

  `measure` reads it from a report (None: not measured); `sign` is ≥, ≤ or
  empty where the number is only to be shown.
  """

  effect: str
  what: str
  measure: Callable[[Mapping], float | None]
  sign: str = ""
  bound: float = 0.0
  form: str = "{:.1f}"
  unit: str = ""

  def asked(self) -> str:
    if not self.sign:
      return "shown"
    return f"{self.sign} {self.bound:g}{self.unit}"

  def met(self, value: float) -> bool:
    if self.sign == "≥":
      return value >= self.bound
    return not self.sign or value <= self.bound


def _named(run: Mapping, pattern: str) -> Mapping:
  """The last stage whose name matches; empty if there is none."""
  named = [s for s in run["stages"] if re.fullmatch(pattern, s["name"])]
  return named[-1] if named else {}


def _cold(run: Mapping) -> Mapping:
  return _named(run, "cold_start")


def _mended(run: Mapping) -> Mapping:
  return _named(run, r"mgrd_\d+_sft")


def _final(run: Mapping) -> Mapping:
  return _named(run, r"mgrd_\d+_ppo")


def _share(at: Callable[[Mapping], Mapping], *path: str):
  """A share in per cent."""
  return lambda run: points(number(at(run), *path), 0.0)


def _plain(at: Callable[[Mapping], Mapping], *path: str):
  return lambda run: number(at(run), *path)


def _gap(at: Callable[[Mapping], Mapping], high: str, low: str, key="acc"):
  return lambda run: points(
    number(at(run), high, key), number(at(run), low, key)
  )


def _above_chance(at: Callable[[Mapping], Mapping], mode: str):
  """Points above the chance of the control's own items, where it has one."""

  def measure(run):
    own = number(at(run), mode, "chance")
    chance = number(run, "chance") if own is None else own
    return points(number(at(run), mode, "acc"), chance)

  return measure


def _lost_by_ppo(run: Mapping) -> float | None:
  """Points; None where the last PPO stage took no step."""
  before, after = _mended(run), _final(run)
  if number(after, "ppo", "steps") == 0:
    return None
  return points(number(before, "think", "acc"), number(after, "think", "acc"))


def _control(name: str):
  def measure(run):
    return points(number(run, "controls", name, "acc"), 0.0)

  return measure


def _minutes(run: Mapping) -> float | None:
  wall = run.get("wall_s") or {}
  took = [number(wall, stage) for stage in wall]
  return sum(s for s in took if s is not None) / 60 if took else None


def _gib(run: Mapping) -> float | None:
  rss = number(run, "peak_rss_mb")
  return None if rss is None else rss / 1024


COLD, MENDED, PPO = "inverted first", "mended by MGRD", "kept by PPO"
HEARS, CONTROLS, COST = "it hears", "controls", "cost"
GOALS = (
  Goal(COLD, "direct − think after cold start",
       _gap(_cold, "direct", "think"), "≥", 8, unit=" points"),
  Goal(COLD, "coherent chains",
       _share(_cold, "think", "frac_coherent"), "≥", 85, unit=" %"),
  Goal(COLD, "surrogate rate",
       _share(_cold, "think", "surrogate_rate"), "≥", 60, unit=" %"),
  Goal(MENDED, "think − direct after the last MGRD round",
       _gap(_mended, "think", "direct"), "≥", 8, unit=" points"),
  Goal(MENDED, "the same on held-out combinations",
       _gap(_mended, "think", "direct", "acc_heldout"), "≥", 20,
       unit=" points"),
  Goal(MENDED, "surrogate rate",
       _share(_mended, "think", "surrogate_rate"), "≤", 5, unit=" %"),
  Goal(MENDED, "claim precision",
       _share(_mended, "think", "claim_precision"), "≥", 95, unit=" %"),
  Goal(MENDED, "claim lift",
       _plain(_mended, "think", "claim_lift"), "≥", 0.3, "{:.2f}"),
  Goal(PPO, "thinking lost by the last PPO stage",
       _lost_by_ppo, "≤", 3, unit=" points"),
  Goal(PPO, "empty think blocks",
       _share(_final, "think", "frac_empty_think"), "≤", 5, unit=" %"),
  Goal(HEARS, "silence − chance",
       _above_chance(_final, "silence"), "≤", 5, unit=" points"),
  Goal(HEARS, "swapped clip, original answer − chance",
       _above_chance(_final, "swap"), "≤", 5, unit=" points"),
  Goal(HEARS, "answers that follow the swapped clip",
       _share(_final, "swap", "follow"), "≥", 80, unit=" %"),
  Goal(CONTROLS, "hint alone, before MGRD: think",
       _control("elicited_before_mgrd"), unit=" %"),
  Goal(CONTROLS, "MGRD without the grounding filter: think",
       _control("mgrd_without_grounding_filter"), unit=" %"),
  Goal(COST, "wall", _minutes, "≤", 12, unit=" min"),
  Goal(COST, "peak memory", _gib, "≤", 6, "{:.2f}", " GiB"),
)  # fmt: skip


def goals_table(runs: Sequence[Mapping]) -> str:
  """Asked, measured by each seed, and met; blank where not measured."""
  body = []
  for goal in GOALS:
    found = [goal.measure(run) for run in runs]
    measured = [v for v in found if v is not None]
    met = ""
    if measured and goal.sign:
      count = sum(goal.met(v) for v in measured)
      # A seed that did not measure it has not met it.
      every = count == len(runs)
      met = "yes" if every else f"{count} of {len(runs)}" if count else "no"
    cells = [goal.form.format(v) if v is not None else "" for v in found]
    body.append([f"{goal.effect}: {goal.what}", goal.asked(), *cells, met])
  seeds = (f"seed {run.get('seed', '?')}" for run in runs)
  return report.markdown_table(["goal", "asked", *seeds, "met"], body)


def results(runs: Sequence[Mapping], headings: Sequence[str]) -> str:
  """The merged table, what it was run with, and the goals."""
  seeds = ", ".join(str(run.get("seed", "?")) for run in runs)
  commits = {str(run["commit"]) for run in runs if run.get("commit")}
  made = f"commit {', '.join(sorted(commits)) or 'unknown'}. {report.LEGEND}"
  if len(runs) > 1:
    made = f"Mean over seeds {seeds} (least…most), {made}"
  else:
    made = f"Seed {seeds}, {made}"
  return "\n\n".join(
    [report.merged_table(runs, headings), made, goals_table(runs)]
  )


def replace_results(text: str, block: str) -> str:
  """README text with `block` between its two markers.

  Raises:
    ReportError: the markers are missing, doubled or out of order.
  """
  if text.count(BEGIN) != 1 or text.count(END) != 1:
    raise measures.ReportError(f"needs one line {BEGIN} and one line {END}")
  head, rest = text.split(BEGIN)
  if END not in rest:
    raise measures.ReportError(f"{END} stands before {BEGIN}")
  return f"{head}{BEGIN}\n{block}\n{END}{rest.split(END)[1]}"


def load(paths: Sequence[str]) -> list[dict]:
  """Reports in the order of their seeds.

  Raises:
    ReportError: one cannot be read, or two are of the same seed.
  """
  runs, path_of = [], {}
  for path in paths:
    run = measures.load(path)
    seed = run.get("seed")
    if seed in path_of:
      raise measures.ReportError(
        f"{path}: seed {seed} again, after {path_of[seed]}; give each seed once"
      )
    path_of[seed] = path
    runs.append(run)
  return sorted(runs, key=lambda run: str(run.get("seed")).rjust(12))


def write_readme(path: str, runs: Sequence[Mapping]) -> None:
  """Rewrites the README's results.

  Raises:
    ReportError: the file cannot be read or has no markers.
  """
  try:
    text = epath.Path(path).read_text()
    changed = replace_results(text, results(runs, README_COLUMNS))
  except OSError as error:
    why = error.strerror or type(error).__name__
    raise measures.ReportError(f"{path}: {why}") from None
  except measures.ReportError as error:
    raise measures.ReportError(f"{path}: {error}") from None
  paths.write(path, changed)


def main(argv: list[str] | None = None) -> int:
  """Prints the results; returns the exit status."""
  parser = command.Parser(prog="report", description=__doc__)
  parser.add_argument("reports", nargs="+", help="report.json files")
  parser.add_argument("--readme", help="rewrite the results in this file")
  args = parser.parse_args(argv)
  try:
    runs = load(args.reports)
    print(results(runs, tuple(report.COLUMNS)))
    if args.readme:
      write_readme(args.readme, runs)
      print(f"\nwrote the results into {args.readme}")
  except (measures.ReportError, OSError) as error:
    print(f"report: {error}", file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
