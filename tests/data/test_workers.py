"""Workers share the work, and end with the process that gave it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from mgrd_jax.data import workers
from tests.conftest import ROOT

CODE = """
import os, time
from mgrd_jax.data import workers

def told(at):
  print(os.getpid(), flush=True)
  time.sleep(0.1)

if __name__ == "__main__":
  with workers.pool(2) as pool:
    list(pool.map(told, range(10_000)))
"""


def test_workers_give_their_results_in_order():
  with workers.pool(2) as pool:
    assert list(pool.map(abs, range(-9, 0))) == list(range(9, 0, -1))


def alive(pid: int) -> bool:
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return False
  with open(f"/proc/{pid}/stat") as file:
    return file.read().split()[2] != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_of_a_killed_process_end(tmp_path):
  script = tmp_path / "script.py"
  script.write_text(CODE)
  process = subprocess.Popen(
    [sys.executable, script],
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    stdout=subprocess.PIPE,
    text=True,
  )
  at_work = {int(process.stdout.readline()) for _ in range(20)}
  assert at_work and all(map(alive, at_work))
  process.send_signal(signal.SIGKILL)
  process.wait()
  until = time.monotonic() + 30
  while any(map(alive, at_work)) and time.monotonic() < until:
    time.sleep(0.01)
  process.stdout.close()
  assert not any(map(alive, at_work))
