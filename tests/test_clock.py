"""What a run has cost is told with the parts that were killed."""

import multiprocessing
import signal
import subprocess
import sys
import time

import pytest

from experiments import clock as clock_lib
from experiments import files, provenance
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
  before = files.read_json(path)
  assert before["commits"] == [provenance.commit()]
  # As if another commit had needed more than this process does.
  before |= {"peak_rss_mb": 1e6, "commits": ["old"]}
  files.write_json(path, before)
  with Clock(path) as seconds:
    time.sleep(0.05)
  assert before["seconds"] + 0.05 <= seconds() < 30
  cost = {"peak_rss_mb": 1e6, "commits": ["old", provenance.commit()]}
  assert seconds.cost() == cost
  assert files.read_json(path) == {"seconds": seconds()} | cost


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
  told = {"seconds": 7.0, "peak_rss_mb": 0.5, "commits": ["old"]}
  files.write_json(path, told)
  with Clock(path, runs=False) as seconds:
    time.sleep(0.01)
  assert seconds() == 7.0 and files.read_json(path) == told
  assert {"seconds": 7.0} | seconds.cost() == told


def test_costs_add_up_to_the_highest_peak_and_each_commit_once():
  parts = [
    {"peak_rss_mb": 2.0, "commits": ["a", "b"]},
    {"peak_rss_mb": 3.0, "commits": ["c"]},
    {"peak_rss_mb": 1.0, "commits": ["b", "a"]},
  ]
  want = {"peak_rss_mb": 3.0, "commits": ["a", "b", "c"]}
  assert clock_lib.total(iter(parts)) == want


def hold(megabytes, ready, leave):
  kept = b"x" * (megabytes << 20)
  ready.set()
  assert leave.wait(60) and kept


def test_workers_alive_at_once_count_in_full_and_nothing_counts_twice():
  spawn = multiprocessing.get_context("spawn")
  kept = b"x" * (300 << 20)
  before = clock_lib.peak_rss_mb()
  assert kept and before > 300
  # Between fork and exec, a child is as large as its parent.
  subprocess.run(["true"], check=True)
  assert clock_lib.peak_rss_mb() - before < 20
  leave, held = spawn.Event(), []
  for _ in range(2):
    ready = spawn.Event()
    worker = spawn.Process(target=hold, args=(100, ready, leave))
    worker.start()
    held.append(worker)
    assert ready.wait(60)
  both = clock_lib.peak_rss_mb() - before
  leave.set()
  for worker in held:
    worker.join()
  own = 200  # what a worker needs for itself, at most
  assert 200 < both < 2 * (100 + own)
  assert clock_lib.peak_rss_mb() - before < 20
