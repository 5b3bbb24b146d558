"""The command line of a stage: --config, --workdir, --dry_run."""

import json
import os
import pathlib
from collections.abc import Callable

import jax
from absl import app, logging
from absl import flags as absl_flags
from ml_collections import config_flags

FLAGS = absl_flags.FLAGS


def compile_once(cache) -> None:
  """Programs are kept beside the data: stages and resumed runs share them.

  JAX_COMPILATION_CACHE_DIR, where it is set, names another folder.
  """
  if not jax.config.jax_compilation_cache_dir:
    folder = str(pathlib.Path(cache).absolute() / "programs")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def main(run: Callable, finish: Callable = print) -> None:
  """Parses flags and calls run(config, workdir); bad input is one line."""
  config_flag = config_flags.DEFINE_config_file(
    "config", None, "configs/STAGE.py:ARG", lock_config=True
  )
  workdir_flag = absl_flags.DEFINE_string("workdir", None, "output folder")
  dry_flag = absl_flags.DEFINE_bool(
    "dry_run", False, "print config, budget, memory, first batch; then stop"
  )
  absl_flags.mark_flags_as_required(["config", "workdir"])

  def start(argv):
    logging.set_verbosity(logging.WARNING)
    if len(argv) > 1:
      raise SystemExit(f"unexpected argument {argv[1]!r}; flags begin with --")
    config, workdir = config_flag.value, pathlib.Path(workdir_flag.value)
    try:
      if dry_flag.value:
        from experiments import dry_run

        dry_run.show(config, workdir)
        return
      save_config(config, workdir)
      compile_once(config.data.cache)
      finish(run(config, workdir))
    except (ValueError, FloatingPointError, OSError, ImportError) as error:
      if os.environ.get("MGRD_TRACEBACK"):
        raise
      raise SystemExit(f"error: {error}") from error

  app.run(start)


def save_config(config, workdir) -> None:
  """Keeps the resolved config beside the results; refuses a changed one."""
  path = pathlib.Path(workdir) / "config.json"
  text = json.dumps(config.to_dict(), indent=1, default=list, sort_keys=True)
  if path.exists() and path.read_text() != text:
    old, new = json.loads(path.read_text()), json.loads(text)
    changed = sorted(_differences(old, new))
    raise ValueError(
      f"{workdir}: holds a run of another config (changed: "
      f"{', '.join(changed)}); choose another --workdir or remove it"
    )
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(f".{path.name}.part")
  part.write_text(text)
  part.replace(path)


def _differences(old, new, prefix: str = ""):
  for name in old.keys() | new.keys():
    a, b = old.get(name), new.get(name)
    if isinstance(a, dict) and isinstance(b, dict):
      yield from _differences(a, b, f"{prefix}{name}.")
    elif a != b:
      yield prefix + name
