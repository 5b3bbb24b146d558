"""The command line of a stage: --config, --workdir, --dry_run."""

import json
import os
import re
import sys
from collections.abc import Callable

import jax
from absl import app, logging
from absl import flags as absl_flags
from etils import epath
from ml_collections import config_flags

from experiments import command, files
from mgrd_jax import paths, processes
from mgrd_jax.train import loop, writers

FLAGS = absl_flags.FLAGS
_TOLD_BY = (
  "JAX_COORDINATOR_ADDRESS",
  "JAX_NUM_PROCESSES",
  "JAX_PROCESS_ID",
)


def compile_once(cache) -> None:
  """Programs are kept beside the data: stages and resumed runs share them.

  JAX_COMPILATION_CACHE_DIR, where it is set, names another folder.
  """
  if not jax.config.jax_compilation_cache_dir:
    folder = str(paths.absolute(cache) / "programs")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def join() -> None:
  """Makes this process one of several that run the same command.

  A Cloud TPU host knows of the others; elsewhere JAX_COORDINATOR_ADDRESS,
  JAX_NUM_PROCESSES and JAX_PROCESS_ID tell.

  Raises:
    ValueError: nothing tells, or the others do not come.
  """
  given = [os.environ.get(name) for name in _TOLD_BY]
  try:
    if all(given):
      address, count, index = given
      jax.distributed.initialize(address, int(count), int(index))
    else:
      jax.distributed.initialize()
  except (ValueError, RuntimeError) as error:
    reason = str(error).strip().splitlines()[0]
    raise ValueError(
      f"--distributed: {reason}; on a machine that is no TPU host set "
      f"{', '.join(_TOLD_BY)}"
    ) from error


def main(run: Callable, finish: Callable = print) -> None:
  """Parses flags and calls run(config, workdir); bad input is one line."""
  config_flag = config_flags.DEFINE_config_file(
    "config", None, "configs/STAGE.py:ARG", lock_config=True
  )
  workdir_flag = absl_flags.DEFINE_string("workdir", None, "output folder")
  dry_flag = absl_flags.DEFINE_bool(
    "dry_run", False, "print config, budget, memory, first batch; then stop"
  )
  distributed_flag = absl_flags.DEFINE_bool(
    "distributed", False, "one of several processes, as on each host of a slice"
  )
  absl_flags.mark_flags_as_required(["config", "workdir"])

  def start(argv):
    logging.set_verbosity(logging.WARNING)
    if not os.environ.get("MGRD_TRACEBACK"):
      command.hush()
    if len(argv) > 1:
      raise SystemExit(f"unexpected argument {argv[1]!r}; flags begin with --")
    config, workdir = config_flag.value, epath.Path(workdir_flag.value)
    try:
      if distributed_flag.value:
        join()
      if dry_flag.value:
        from experiments import dry_run

        dry_run.show(config, workdir)
        return
      save_config(config, workdir)
      compile_once(config.data.cache)
      found = run(config, workdir)
      if processes.writes():
        finish(found)
    except SystemExit as stop:
      if stop.code == loop.STOPPED:
        print("stopped, and saved: the same command goes on", file=sys.stderr)
      raise
    except Exception as error:
      said = command.of_store(error)
      known = (ValueError, FloatingPointError, OSError, ImportError)
      if isinstance(error, known):
        said = said or str(error)
      if not said or os.environ.get("MGRD_TRACEBACK"):
        raise
      raise SystemExit(f"error: {said}") from error

  app.run(start, flags_parser=parse)


def parse(argv):
  """absl's parser; what it refuses is one line, a config's own words last."""
  try:
    return FLAGS(argv)
  except absl_flags.Error as error:
    said = [line for line in str(error).splitlines() if line.strip()]
    name = said[0].split(": Error whilst")[0]
    last = said[-1].strip().removeprefix("ValueError: ")
    told = last if len(said) == 1 else f"{name}: {last}"
    raise SystemExit(f"error: {told}") from None
  except (AttributeError, KeyError) as error:
    # ml_collections: 'sampls', and on a new line: Did you mean "samples" ...
    said = str(error.args[0] if error.args else error)
    name, near = (
      re.search(pattern, said)
      for pattern in (r"'(\w+)\\?'", r'mean "(\w+)"')
    )
    if not name:
      raise
    flags = (arg.split("=")[0] for arg in argv)
    flag = next((f for f in flags if name[1] in f.split(".")), "--config")
    hint = f"; did you mean {near[1]!r}?" if near else ""
    raise SystemExit(
      f"error: {flag}: the config has no field {name[1]!r}{hint}"
    ) from None


def log(config) -> Callable:
  """Where a stage's metrics go, as its config and this process say."""
  return writers.chosen(
    process=jax.process_index(),
    settings=config.to_dict(),
    **config.log.to_dict(),
  )


def save_config(config, workdir) -> None:
  """Keeps the resolved config beside the results; refuses a changed one."""
  path = epath.Path(workdir) / "config.json"
  text = json.dumps(config.to_dict(), indent=1, default=list, sort_keys=True)
  if path.exists() and path.read_text() != text:
    fix = "choose another --workdir or remove it"
    old, new = files.read_json(path, fix), json.loads(text)
    # What is learned depends on neither who is told nor where it is.
    changed = sorted(
      n
      for n in _differences(old, new)
      if n.split(".")[0] not in ("log", "mesh")
    )
    if changed:
      raise ValueError(
        f"{workdir}: holds a run of another config (changed: "
        f"{', '.join(changed)}); {fix}"
      )
  files.write(path, text)


def _differences(old, new, prefix: str = ""):
  for name in old.keys() | new.keys():
    a, b = old.get(name), new.get(name)
    if isinstance(a, dict) and isinstance(b, dict):
      yield from _differences(a, b, f"{prefix}{name}.")
    elif a != b:
      yield prefix + name
