"""Eight fake devices on a CPU, set before anything imports jax."""

import contextlib
import dataclasses
import importlib.metadata
import os
import pathlib
import sys

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
_FLAGS = {"--xla_force_host_platform_device_count": "8"}
if importlib.metadata.version("jax").startswith("0.10."):
  # A third of the tests' time, as in `placement.training_step`; XLA ends a
  # process that names a flag it does not know.
  _FLAGS["--xla_cpu_use_fusion_emitters"] = "false"
for _name, _value in _FLAGS.items():
  _given = os.environ.get("XLA_FLAGS", "")
  if _name not in _given:
    os.environ["XLA_FLAGS"] = f"{_given} {_name}={_value}"

ROOT = pathlib.Path(__file__).parent.parent


def compile_options(folder) -> dict:
  """Settings of jax to compile in a hurry, and each program only once."""
  return {
    "jax_compilation_cache_dir": str(folder),
    "jax_persistent_cache_min_compile_time_secs": 0.1,
    "jax_disable_most_optimizations": True,
  }


@contextlib.contextmanager
def compiling(options: dict):
  """Inside, this process compiles with `compile_options`."""
  import jax
  from jax.experimental.compilation_cache import compilation_cache

  for name, value in options.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
  yield
  # jax's own values again.
  for name, value in zip(options, (None, 1.0, False), strict=True):
    jax.config.update(name, value)
  compilation_cache.reset_cache()


@dataclasses.dataclass
class Recipe:
  """A smoke run of the whole recipe.

  Attributes:
    workdir: where it lies.
    config: its ConfigDict: configs/pipeline.py:smoke,rounds=1, and
      `overrides`, by name.
    options: jax settings that compile in a hurry, and only once.
    report: what `run` returned.
  """

  workdir: pathlib.Path
  config: object
  overrides: dict
  options: dict
  report: dict = dataclasses.field(default_factory=dict)

  def programs(self):
    """Inside, this process compiles as the recipe was compiled."""
    return compiling(self.options)

  @property
  def environment(self) -> dict[str, str]:
    """For another process: the same programs, from the same cache."""
    options = {n.upper(): str(value) for n, value in self.options.items()}
    return dict(os.environ) | options | {"PYTHONPATH": str(ROOT)}

  def command(self, workdir, **changes) -> list[str]:
    """The recipe's own command line."""
    values = self.overrides | changes
    return [
      sys.executable,
      "-m",
      "experiments.pipeline",
      "--config=configs/pipeline.py:smoke,rounds=1",
      f"--workdir={workdir}",
      *(f"--config.{name}={value}" for name, value in values.items()),
    ]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
  """Two workers: a file stays on one; what looks at the recipe comes first.

  All of that is one group, so that the recipe is run once and not last.  A
  worker of xdist reads the groups in this very hook: before it, or never.
  """
  for item in items:
    group = "recipe" if _whole(item) else str(item.path)
    item.add_marker(pytest.mark.xdist_group(group))
  items.sort(key=lambda item: not _whole(item))


def _whole(item) -> bool:
  return "recipe" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def recipe(tmp_path_factory) -> Recipe:
  """Runs the whole recipe, once for all tests that look at it."""
  from configs import pipeline as pipeline_config
  from experiments import flags, pipeline

  root = tmp_path_factory.mktemp("recipe")
  config = pipeline_config.get_config("smoke,rounds=1")
  optim = config.cold_start.optim
  overrides = {
    "data.cache": str(root / "run" / "cache"),
    # A model of ten steps is right about nothing: PPO takes every question.
    "audio_rlvr.band": (0, 4),
    # Room to be killed in.
    "cold_start.steps": 12,
    # Shapes that cost little: what is said and heard does not matter here.
    "encoder.batch_frames": 2000,
    "evaluate.rows": 64,
    "evaluate.max_new": 12,
    # Both fine-tunings are then one program.
    "mgrd.steps": 12,
    "mgrd.optim.lr": optim.lr,
    "mgrd.optim.warmup": optim.warmup,
  }
  config.update_from_flattened_dict(overrides)
  options = compile_options(root / "programs")
  found = Recipe(root / "run", config.lock(), overrides, options)
  flags.save_config(config, found.workdir)
  with found.programs():
    found.report = pipeline.run(config, found.workdir)
  return found
