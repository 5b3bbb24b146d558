"""Whether a stage's programs fit a TPU slice, compiled without a TPU.

  python -m experiments.fit \\
    --config=configs/rlvr.py:model=step-audio-r1,tpu=v5p-128 \\
    [--programs=ppo_actor,ppo_critic] [--json=FILE]

Needs the extra [tpu], whose libtpu holds the compiler.
Per chip: bytes of arguments, temporaries and results, FLOPs, bytes between
chips, and the roofline of the three units; see mgrd_jax/train/fit.py.  Exit
status 1 when a program does not fit.
"""

import os
import re
import sys
import time
from collections.abc import Iterator, Sequence

import jax
import rich.box
import rich.console
import rich.table
from absl import app
from absl import flags as absl_flags
from jax.experimental import topologies
from ml_collections import config_flags

from experiments import files, flags, programs
from mgrd_jax.train import cost as cost_lib
from mgrd_jax.train import fit

# libtpu asks a metadata server for the machine's chips, and logs to stderr.
_ALONE = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5p-8",  # any: what is compiled for is told apart
  "TPU_STDERR_LOG_LEVEL": "3",
  "TPU_LOG_DIR": "disabled",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def devices_of(where: fit.Slice):
  """The chips of a slice that is not here.

  Raises:
    ValueError: there is no compiler for TPUs.
  """
  for name, value in _ALONE.items():
    os.environ.setdefault(name, value)
  try:
    found = topologies.get_topology_desc(where.topology, platform="tpu")
  except (RuntimeError, jax.errors.JaxRuntimeError) as error:
    raise ValueError(
      f"no compiler for {where.topology} ({error}); "
      "pip install -e '.[tpu]'"
    ) from error
  return found.devices


def _refused(program: programs.Program, error: Exception) -> dict:
  """What is known of a program that the compiler finds too large."""
  text = str(error)
  sizes = re.search(r"\(([\d.]+)([GMK])\) exceeds|Used ([\d.]+)([GMK])", text)
  if "RESOURCE_EXHAUSTED" not in text or not sizes:
    raise error
  number, unit = (g for g in sizes.groups() if g)
  size = float(number) * 1024 ** {"K": 1, "M": 2, "G": 3}[unit]
  args = programs.bytes_of(program.args)
  return {
    "name": program.name,
    "args_bytes": args,
    "resident_bytes": program.beside,
    "total_bytes": max(size, args) + program.beside,
    "fits": False,
  }


def analyse(program: programs.Program, where: fit.Slice) -> dict:
  """Compiles a program and counts what it costs a chip."""
  lowered = program.lower()
  start, start_cpu = time.perf_counter(), time.process_time()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    return _refused(program, error)
  seconds = time.perf_counter() - start
  # Of all cores together, whatever else the machine did.
  cpu_seconds = time.process_time() - start_cpu
  counter = cost_lib.Counter(compiled.as_text(), where.chips)
  cost = counter.total()
  coords = [d.coords for d in program.mesh.devices.flat]
  ici = fit.ici_seconds(cost.collectives, coords, where)
  model_flops = program.model_flops / where.chips
  return {
    "name": program.name,
    **fit.memory(compiled.memory_analysis(), where.chip, program.beside),
    "model_flops": model_flops,
    "hlo_flops": cost.flops,
    "hbm_traffic_bytes": cost.hbm_bytes,
    "collective_bytes": fit.by_axis(
      cost.collectives, dict(program.mesh.shape)
    ),
    "uncounted_kernels": sorted(cost.unknown),
    "instructions": sum(map(len, counter.computations.values())),
    **fit.roofline(cost, model_flops, ici, where.chip, program.useful),
    "useful_tokens": program.useful,
    "compile_s": seconds,
    "compile_cpu_s": cpu_seconds,
  }


def report(config, rows: list[dict]) -> dict:
  """What --json writes."""
  where = fit.SLICES[config.tpu.slice]
  return {
    "config": {"model": config.model} | config.tpu.to_dict(),
    "topology": where.topology,
    "chips": where.chips,
    "hbm_bytes": where.chip.hbm_bytes,
    "fits": all(row["fits"] for row in rows),
    "programs": rows,
  }


def _size(value) -> str:
  return f"{value / fit.GIB:.1f}"


def show(found: dict) -> None:
  """The report as a table, GiB and seconds a chip and step."""
  columns = (
    "program", "args", "temp", "beside", "total", "spare", "HLO/model",
    "between chips, GB", "compute", "HBM", "ICI", "bound", "MFU proj.",
    "serial", "compile",
  )  # fmt: skip
  table = rich.table.Table(*columns, box=rich.box.SIMPLE)
  for r in found["programs"]:
    spare = 1 - r["total_bytes"] / found["hbm_bytes"]
    cells = [
      r["name"],
      _size(r["args_bytes"]),
      _size(r["temp_bytes"]) if "temp_bytes" in r else "",
      _size(r["resident_bytes"]),
      _size(r["total_bytes"]),
      f"{spare:.0%}",
    ]
    if "bound" in r:
      exchanged = ", ".join(
        f"{kind} {axis} {size / 1e9:.3g}"
        for kind, axes in r["collective_bytes"].items()
        for axis, size in axes.items()
        if size > 1e-3 * sum(sum(a.values()) for a in
                             r["collective_bytes"].values())
      )  # fmt: skip
      cells += [
        f"{r['hlo_flops'] / r['model_flops']:.2f}",
        exchanged,
        *(f"{r[f'{unit}_s']:.3g}" for unit in ("compute", "hbm", "ici")),
        r["bound"],
        f"{r['mfu_projected']:.0%}",
        f"{r['mfu_serial']:.0%}",
        f"{r['compile_s']:.0f}",
      ]
    table.add_row(*cells)
  console = rich.console.Console(markup=False, highlight=False)
  if not console.is_terminal:
    console.width = 180
  title = f"{found['config']['model']} on {found['topology']}"
  console.print(
    f"{title}: {found['chips']} chips, {_size(found['hbm_bytes'])} GiB each"
  )
  console.print(table)
  for r in found["programs"]:
    if not r["fits"]:
      console.print(
        f"{r['name']} does not fit: {_size(r['total_bytes'])} GiB of "
        f"{_size(found['hbm_bytes'])}"
      )


def run(config, only: Sequence[str] = ()) -> Iterator[dict]:
  """Compiles the stage's programs, one after the other: a row of each.

  Raises:
    ValueError: the config is of no slice; what `programs.check` raises.
  """
  if "tpu" not in config:
    raise ValueError("the config names no slice; add ,tpu=v5p-128 to its name")
  programs.check(config, only)
  where = fit.SLICES[config.tpu.slice]
  for program in programs.build(config, devices_of(where), only):
    print(f"compiling {program.name} ...", file=sys.stderr, flush=True)
    yield analyse(program, where)


def main() -> None:
  # The accelerators of this machine have no part in it.
  jax.config.update("jax_platforms", "cpu")
  config_flag = config_flags.DEFINE_config_file(
    "config", None, "configs/STAGE.py:model=MODEL,tpu=SLICE", lock_config=True
  )
  json_flag = absl_flags.DEFINE_string("json", "", "write the report here too")
  only_flag = absl_flags.DEFINE_list("programs", [], "of the stage's: only")
  absl_flags.mark_flag_as_required("config")

  def start(argv):
    if len(argv) > 1:
      raise SystemExit(f"unexpected argument {argv[1]!r}; flags begin with --")
    try:
      rows = []
      for row in run(config_flag.value, only_flag.value):
        rows.append(row)
        found = report(config_flag.value, rows)
        # A program takes minutes: what is known is kept.
        if json_flag.value:
          files.write_json(json_flag.value, found)
      show(found)
    except (ValueError, OSError) as error:
      if os.environ.get("MGRD_TRACEBACK"):
        raise
      raise SystemExit(f"error: {error}") from error
    sys.exit(0 if found["fits"] else 1)

  app.run(start, flags_parser=flags.parse)


if __name__ == "__main__":
  main()
