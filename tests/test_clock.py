"""What a run has cost is told with the parts that were killed."""

import signal
import subprocess
import sys
import time

import pytest

from experiments import files
from experiments.clock import Clock


def test_seconds_of_a_killed_run_count(tmp_path):
  path = tmp_path / "stage" / "clock.json"
  code = (
    "import time; from experiments.clock import Clock\n"
    f"with Clock({str(path)!r}, tick=0.01): time.sleep(60)"
  )
  process = subprocess.Popen([sys.executable, "-c", code])
  while not path.exists() or files.read_json(path)["seconds"] < 0.2:
    assert process.poll() is None
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL
  before = files.read_json(path)["seconds"]
  with Clock(path) as seconds:
    time.sleep(0.05)
  assert before + 0.05 <= seconds() < 30
  assert files.read_json(path) == {"seconds": seconds()}


def test_a_clock_goes_on_where_it_stood_and_not_between(tmp_path):
  clock = Clock(tmp_path / "clock.json")
  with clock:
    time.sleep(0.02)
  first = clock()
  time.sleep(0.02)
  assert clock() == first
  with clock:
    time.sleep(0.02)
  assert first + 0.02 <= clock() == Clock(clock.path)()


def test_an_error_inside_is_time_spent_too(tmp_path):
  with pytest.raises(KeyError), Clock(tmp_path / "clock.json"):
    time.sleep(0.02)
    raise KeyError
  assert Clock(tmp_path / "clock.json")() >= 0.02


def test_a_clock_that_does_not_run_only_tells(tmp_path):
  path = tmp_path / "clock.json"
  files.write_json(path, {"seconds": 7.0})
  with Clock(path, runs=False) as seconds:
    time.sleep(0.01)
  assert seconds() == 7.0 and files.read_json(path) == {"seconds": 7.0}
