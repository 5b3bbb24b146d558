"""The folder of a run: its config is kept, and programs are kept once."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import jax
import ml_collections
import pytest

from experiments import flags

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def no_programs():
  """No compilation cache during a test; what was set comes back."""
  names = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
  )
  before = {name: getattr(jax.config, name) for name in names}
  jax.config.update(names[0], None)
  yield
  for name, value in before.items():
    jax.config.update(name, value)


def test_programs_are_kept_beside_the_data(no_programs, tmp_path):
  flags.compile_once(tmp_path / "cache")
  kept = jax.config.jax_compilation_cache_dir
  assert kept == str(tmp_path / "cache" / "programs")


def test_a_folder_that_is_set_already_stays(no_programs, tmp_path):
  jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
  flags.compile_once(tmp_path / "cache")
  assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")


def test_a_changed_config_is_refused_and_the_kept_one_left(tmp_path):
  config = ml_collections.ConfigDict({"steps": 3, "optim": {"lr": 0.1}})
  flags.save_config(config, tmp_path)
  kept = (tmp_path / "config.json").read_text()
  flags.save_config(config, tmp_path)
  config.optim.lr = 0.2
  with pytest.raises(ValueError, match=r"changed: optim\.lr\)"):
    flags.save_config(config, tmp_path)
  assert (tmp_path / "config.json").read_text() == kept
  assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_a_damaged_config_is_named(tmp_path):
  config = ml_collections.ConfigDict({"steps": 3})
  (tmp_path / "config.json").write_text("{")
  with pytest.raises(ValueError, match="config.json: damaged .*another --wor"):
    flags.save_config(config, tmp_path)


@pytest.mark.parametrize(
  "flag, hint",
  [
    ("--config.mgrd.sampls", "'sampls'; did you mean 'samples'?"),
    ("--config.mgrdd.samples", "'mgrdd'; did you mean 'mgrd'?"),
    ("--config.zzqq", "'zzqq'"),
  ],
)
def test_a_field_that_the_config_lacks_is_one_line(tmp_path, flag, hint):
  command = [sys.executable, "-m", "experiments.pipeline"]
  command += ["--config=configs/pipeline.py:smoke", f"--workdir={tmp_path}/o"]
  command += [f"{flag}=3"]
  done = subprocess.run(
    command,
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  assert done.stderr == f"error: {flag}: the config has no field {hint}\n"
  assert not list(tmp_path.iterdir())


def test_a_store_that_cannot_be_read_is_one_line():
  if importlib.util.find_spec("gcsfs"):
    pytest.skip("gcsfs is installed here")
  command = [sys.executable, "-m", "experiments.sft", "--workdir=gs://a/run"]
  done = subprocess.run(
    [*command, "--config=configs/sft.py:smoke"],
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1 and done.stderr.count("\n") == 1
  assert done.stderr.startswith("error: gs://a/run/config.json: ImportError: ")
  assert done.stderr.endswith("; pip install -e '.[gcs]'\n")


FULL_DISK = """
import resource
import jax
from experiments import flags
from mgrd_jax.train import checkpoint

def run(config, workdir):
  key = jax.random.key(config.seed)
  many = {f"up{at}_DF": jax.random.normal(key, (300, 300)) for at in range(30)}
  most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
  resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, most))
  checkpoint.save(workdir / "params", many)

flags.main(run)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_a_full_disk_is_one_line(tmp_path):
  """Each array that cannot be written has an error of its own."""
  done = subprocess.run(
    [
      sys.executable,
      "-c",
      FULL_DISK,
      "--config=configs/sft.py:smoke",
      f"--config.data.cache={tmp_path}/cache",
      f"--workdir={tmp_path}/run",
    ],
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1 and not done.stdout
  assert done.stderr == (
    f"error: {tmp_path}/run/params: cannot be written (File too large); what "
    "was saved before is untouched, and the same command goes on from there\n"
  )
