"""Ours beside what others use, as ratios within one run.

  python -m experiments.bench load|decode|features|train [--json=FILE] [--quick]

Both sides run in turn on the same cores of the CPU, whatever else there is,
each after a rest and after a run that does not count (compilation, page
cache).  Medians; a ratio is ours / the other's, its spread the extremes of the
turns.  A goal that is missed is a line and a non-zero exit, but not of sizes
that are too small to judge by (--quick).
"""

import json
import math
import os
import pathlib
import sys
from collections.abc import Callable, Iterator

import jax
import rich.box
import rich.console
import rich.table

from experiments import (
  bench_decode,
  bench_features,
  bench_load,
  bench_train,
  command,
  provenance,
)

# name -> function of `quick` that gives the rows of its table.
SUITES: dict[str, Callable[[bool], Iterator[dict]]] = {
  "load": bench_load.load,
  "decode": bench_decode.decode,
  "features": bench_features.features,
  "train": bench_train.train,
}


def report(suite: str, rows: list[dict]) -> dict:
  """What --json writes: the rows, and where they come from."""
  device = jax.devices()[0].device_kind
  return {
    "suite": suite,
    "device": f"{device}, {os.cpu_count()} cores",
    "jax": jax.__version__,
    "commit": provenance.commit(),
    "rows": [{k: _known(v) for k, v in row.items()} for row in rows],
  }


def _known(value):
  """JSON has no NaN."""
  if isinstance(value, tuple):
    return [_known(each) for each in value]
  return None if isinstance(value, float) and math.isnan(value) else value


def show(rows: list[dict]) -> None:
  """The rows as a table."""
  columns = ("", "ours", "other", "", "unit", "ratio", "spread", "goal", "ok")
  table = rich.table.Table(*columns, box=rich.box.SIMPLE)
  for r in rows:
    spread = r.get("spread")
    table.add_row(
      r["name"],
      f"{r['ours']:.4g}",
      f"{r['other']:.4g}",
      r["other_name"],
      r["unit"],
      f"{r['ratio']:.2f}",
      f"{spread[0]:.2f} to {spread[1]:.2f}" if spread else "",
      r["goal"] or "",
      {None: "", True: "yes", False: "no"}[r["ok"]],
    )
  # A pipe has no width, and a table that wraps is no table.
  console = rich.console.Console(markup=False, highlight=False)
  if not console.is_terminal:
    console.width = 140
  console.print(table)


def _parser() -> command.Parser:
  parser = command.Parser(prog="bench", description=__doc__)
  about = "; ".join(f"{name}: {run.__doc__}" for name, run in SUITES.items())
  parser.add_argument("suite", choices=SUITES, help=about)
  parser.add_argument("--json", metavar="FILE", help="write the rows here too")
  parser.add_argument(
    "--quick", action="store_true", help="tiny sizes: whether it runs at all"
  )
  return parser


def main(argv: list[str] | None = None) -> int:
  """Runs one suite; returns the exit status."""
  args = _parser().parse_args(argv)
  # What it is compared with knows no accelerator; no backend has begun yet.
  jax.config.update("jax_platforms", "cpu")
  rows, status = [], 0
  try:
    for row in SUITES[args.suite](args.quick):
      rows.append(row)
  except (ValueError, OSError) as error:
    print(f"bench {args.suite}: {error}", file=sys.stderr)
    status = 1
  if rows:
    show(rows)
  missed = [row["name"] for row in rows if row["ok"] is False]
  if missed and not args.quick:
    print(f"goals missed: {'; '.join(missed)}")
    status = 1
  if rows and args.json:
    path = pathlib.Path(args.json)
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(json.dumps(report(args.suite, rows), indent=1) + "\n")
    except OSError as error:
      print(f"bench {args.suite}: {error}", file=sys.stderr)
      status = 1
  return status


if __name__ == "__main__":
  sys.exit(main())
