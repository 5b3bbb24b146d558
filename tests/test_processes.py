"""Two processes train and roll out as one does; the first of them writes."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from mgrd_jax import processes, sharding
from mgrd_jax.train import checkpoint, metrics
from tests import toys
from tests.conftest import ROOT
from tests.test_placement import context, difference

DEVICES = 2  # of each process


def free_port() -> int:
  with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    return taken.getsockname()[1]


def begun(folder, fsdp: int, devices: int, **environment) -> subprocess.Popen:
  flags = f"--xla_force_host_platform_device_count={devices}"
  return subprocess.Popen(
    [sys.executable, "-m", "tests.duet", str(folder), str(fsdp)],
    cwd=ROOT,
    env=os.environ | {"XLA_FLAGS": flags} | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """(folder of one process, folder of two, what the two said)."""
  home = tmp_path_factory.mktemp("duet")
  checkpoint.save(home / "init" / "params", toys.params(config=context().model))
  port = free_port()
  two = [
    begun(
      home / "two",
      2 * DEVICES,
      DEVICES,
      JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
      JAX_NUM_PROCESSES="2",
      JAX_PROCESS_ID=str(index),
    )
    for index in range(2)
  ]
  said = [process.communicate(timeout=400)[0] for process in two]
  assert [process.returncode for process in two] == [0, 0], "\n".join(said)
  one = begun(home / "one", 1, 1)
  told = one.communicate(timeout=400)[0]
  assert not one.returncode, told
  return home / "one", home / "two", said


def rows(folder) -> list[dict]:
  return metrics.read(folder / "metrics.jsonl")


@pytest.mark.parametrize("stage", ["sft", "ppo"])
def test_two_processes_are_one(runs, stage):
  one, two, said = runs
  for index, text in enumerate(said):
    assert f"process {index} of 2 is done" in text
  assert len(rows(one / stage)) > 1 or stage == "sft"
  for this, other in zip(rows(one / stage), rows(two / stage), strict=True):
    assert other == {k: pytest.approx(v, abs=1e-5) for k, v in this.items()}
  assert difference(one / stage, two / stage) < 1e-5
  assert difference(one / stage, one.parent / "init") > 1e-2


def test_every_file_is_written_once(runs):
  one, two, _ = runs
  names = [
    {str(path.relative_to(home)) for path in home.rglob("*.json*")}
    for home in (one, two)
  ]
  assert names[0] == names[1] and any("metrics.jsonl" in n for n in names[0])
  assert checkpoint.steps(two / "sft") == checkpoint.steps(one / "sft") == [5]


def test_alone_nothing_is_asked_of_others():
  assert (processes.count(), processes.index()) == (1, 0)
  assert processes.writes() and processes.agreed(7) == 7
  assert processes.any_of(True) and not processes.any_of(False)
  assert processes.in_turn(lambda: 3) == 3


def test_a_process_holds_all_rows_where_it_is_alone():
  mesh = sharding.make_mesh()
  assert sharding.own_rows(mesh, 8 * int(np.prod(mesh.devices.shape))) == (
    0,
    8 * mesh.size,
  )
