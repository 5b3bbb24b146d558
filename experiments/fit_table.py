"""Reports of `python -m experiments.fit --json=FILE` as one table for a README.

  python -m experiments.fit_table experiments/results/fit-*.json
"""

import json
import pathlib
import sys
from collections.abc import Iterable

from experiments import command

_COLUMNS = (
  "model", "slice", "program", "rows x tokens", "GiB a chip", "spare",
  "HLO / model FLOPs", "compute s", "HBM s", "ICI s", "bound",
  "MFU *projected*", "without overlap", "compile, CPU s",
)  # fmt: skip


def lines(report: dict) -> list[list[str]]:
  """A row of cells for each program of a report."""
  config, found = report["config"], []
  for r in report["programs"]:
    spare = 1 - r["total_bytes"] / report["hbm_bytes"]
    cells = [
      config["model"],
      config["slice"],
      r["name"],
      _shape(config, r["name"]),
      f"{r['total_bytes'] / 2**30:.1f} of {report['hbm_bytes'] / 2**30:.1f}",
      f"{spare:.0%}",
    ]
    if "bound" in r:
      cells += [
        f"{r['hlo_flops'] / r['model_flops']:.2f}",
        *(f"{r[f'{unit}_s']:.3g}" for unit in ("compute", "hbm", "ici")),
        r["bound"],
        f"{r['mfu_projected']:.0%}",
        f"{r['mfu_serial']:.0%}",
        f"{r['compile_cpu_s']:.0f}",
      ]
    else:
      cells += ["does not fit"] + [""] * (len(_COLUMNS) - len(cells) - 1)
    found.append(cells)
  return found


def _shape(config: dict, name: str) -> str:
  rollout = config["rollout"]
  if name == "encoder":
    return f"{config['rows'] * config['clips']} clips of 30 s"
  if name == "prefill":
    return f"{rollout['rows']} x {rollout['prompt']}"
  if name == "decode":
    return f"{rollout['rows']} x 1 of {rollout['slots']}"
  return f"{config['rows']} x {config['time']}"


def table(files: Iterable) -> str:
  """The programs of all files, in their order, as Markdown.

  Raises:
    ValueError: a file is none of `fit`'s; names it.
  """
  rows = [list(_COLUMNS), ["---"] * len(_COLUMNS)]
  for name in files:
    try:
      rows += lines(json.loads(pathlib.Path(name).read_bytes()))
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(f"{name}: no report of fit ({error})") from error
  return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(argv: list[str] | None = None) -> int:
  parser = command.Parser(prog="fit_table", description=__doc__)
  parser.add_argument("files", nargs="+", metavar="FILE")
  args = parser.parse_args(argv)
  try:
    print(table(args.files))
  except (OSError, ValueError) as error:
    print(f"fit_table: {error}", file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
