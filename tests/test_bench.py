"""The core of the benches, the format of their rows, and their error lines."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import bench, bench_core, bench_decode, bench_load
from mgrd_jax.models import convert, released
from tests.conftest import ROOT

KEYS = {"name", "ours", "other", "other_name", "unit", "ratio", "goal", "ok"}
COMMAND = (sys.executable, "-m", "experiments.bench")


@pytest.fixture(autouse=True)
def rested(monkeypatch):
  """The rests between turns, not slept."""
  found = []
  monkeypatch.setattr(bench_core.time, "sleep", found.append)
  return found


def clock(calls, name, seconds):
  """A function that says it took these seconds, one a call."""
  left = iter(seconds)

  def run():
    calls.append(name)
    return next(left)

  return run


def test_two_sides_run_in_turn_and_neither_is_always_first(rested):
  calls = []
  ours = clock(calls, "a", [9.0, 1.0, 2.0, 4.0])
  other = clock(calls, "b", [9.0, 2.0, 8.0, 4.0])
  turns = bench_core.alternate(ours, other, 3)
  assert "".join(calls) == "baabbaab"
  assert rested == [bench_core.REST] * 8
  # The first turn of each does not count.
  assert turns.ours.tolist() == [1, 2, 4] and turns.other.tolist() == [2, 8, 4]
  assert turns.medians == (2, 4)
  assert turns.speedup == (2, (1, 4))


def test_without_warm_up_every_turn_counts():
  turns = bench_core.alternate(lambda: 1.0, lambda: 3.0, 2, warm=False)
  assert turns.ours.tolist() == [1, 1] and turns.other.tolist() == [3, 3]


def test_what_follows_a_part_is_the_whole_less_its_median():
  part = bench_core.Turns(np.array([1.0, 1.0, 5.0]), np.array([2.0, 2.0, 2.0]))
  whole = bench_core.Turns(np.array([4.0, 5.0]), np.array([8.0, 9.0]))
  rest = whole.after(part)
  assert rest.ours.tolist() == [3, 4] and rest.other.tolist() == [6, 7]


def test_a_part_that_took_longer_than_its_whole_tells_nothing():
  part = bench_core.Turns(np.array([4.0, 4.0]), np.array([1.0, 1.0]))
  whole = bench_core.Turns(np.array([3.0, 3.5]), np.array([2.0, 2.0]))
  row = bench_core.rate("x", whole.after(part), 10, "y", "s", goal=(">=", 1))
  assert row["ok"] is False
  bench.show([row])
  written = json.loads(json.dumps(bench.report("x", [row]), allow_nan=False))
  assert written["rows"][0]["ratio"] is None


def test_a_clock_waits_for_the_work_and_returns_seconds():
  done = []
  seconds = bench_core.clocked(lambda: done.append(1))()
  assert done == [1] and 0 <= seconds < 1


@pytest.mark.parametrize(
  "goal, ok",
  [
    ((">=", 1.5), True),
    ((">=", 2.5), False),
    (("<=", 2), True),
    (("<=", 1), False),
    (None, None),
  ],
)
def test_a_row_says_whether_its_ratio_will_do(goal, ok):
  row = bench_core.row("n", 4.0, 2.0, "other", "s", goal=goal)
  assert row["ratio"] == 2 and row["ok"] is ok and KEYS == row.keys()
  assert row["goal"] == (goal and f"{goal[0]} {goal[1]}")


def test_a_rate_is_so_many_a_second_and_its_ratio_that_of_the_turns():
  turns = bench_core.Turns(np.array([1.0, 2.0, 2.0]), np.array([2.0, 2.0, 8.0]))
  row = bench_core.rate("n", turns, 8, "other", "x/s", goal=(">=", 2))
  assert (row["ours"], row["other"]) == (4, 4)
  assert row["ratio"] == 2 and row["spread"] == (1, 4) and row["ok"]


def test_features_run_on_tiny_clips_and_write_the_format(tmp_path, capsys):
  path = tmp_path / "new" / "rows.json"
  bench.main(["features", "--quick", f"--json={path}"])
  shown = capsys.readouterr().out
  report = json.loads(path.read_text())
  assert report.keys() == {"suite", "device", "jax", "commit", "rows"}
  assert report["suite"] == "features" and report["jax"] == jax.__version__
  assert report["device"].startswith("cpu, ") and report["commit"]
  # transformers' row is there where transformers is.
  assert 2 <= len(report["rows"]) <= 3
  for row in report["rows"]:
    assert row.keys() >= KEYS and row["unit"] == "clips/s"
    assert row["ours"] > 0 and row["other"] > 0
    threads = row["other_name"].endswith("threads")
    assert (row["goal"], row["ok"]) == (None, None) if threads else (
      isinstance(row["ok"], bool) and row["goal"].startswith(">= ")
    )
    assert row["other_name"] in shown


def test_a_load_runs_on_the_cpu_whatever_else_there_is(tmp_path):
  path = tmp_path / "rows.json"
  done = subprocess.run(
    [*COMMAND, "load", "--quick", f"--json={path}"],
    # Whoever heeds it, of the bench and the processes it starts, finds nothing.
    env=os.environ | {"JAX_PLATFORMS": "absent", "PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  report = json.loads(path.read_text())
  assert report["device"].startswith("cpu, ")
  time, peak, *whole = report["rows"]
  for row in report["rows"]:
    assert row.keys() >= KEYS
    assert row["ours"] > 0 and row["other"] > 0
    assert row["other_name"] in done.stdout
  assert time["goal"] == "<= 2" and peak["goal"] == "<= 1" and peak["ok"]
  # Of the command that saves what was loaded, time is shown and not judged.
  for row, judged in zip(whole, (time, peak), strict=True):
    assert row["name"].startswith("convert import")
    assert row["unit"] == judged["unit"]
  assert [row["goal"] for row in whole] == [None, "<= 1"] and whole[1]["ok"]


def made(quick):
  """rows of which one misses its goal, whose name is said, in any size"""
  yield bench_core.row("fast", 4.0, 2.0, "other", "s", goal=(">=", 1))
  yield bench_core.row("slow", 1.0, 2.0, "other", "s", goal=(">=", 1))
  yield bench_core.row("shown", 1.0, 2.0, "other", "s")


def test_a_goal_that_is_missed_fails_the_bench_unless_it_is_quick(
  monkeypatch, tmp_path, capsys
):
  monkeypatch.setitem(bench.SUITES, "made", made)
  path = tmp_path / "rows.json"
  assert bench.main(["made", f"--json={path}"]) == 1
  assert capsys.readouterr().out.splitlines()[-1] == "goals missed: slow"
  assert len(json.loads(path.read_text())["rows"]) == 3
  assert bench.main(["made", "--quick"]) == 0
  assert "goals missed" not in capsys.readouterr().out


def test_what_is_not_installed_is_one_line_and_the_other_rows_stay(
  monkeypatch, capsys
):
  monkeypatch.setitem(sys.modules, "transformers", None)
  assert bench.main(["features", "--quick"]) == 1
  out, err = capsys.readouterr()
  assert "librosa" in out
  assert err.count("\n") == 1 and "`make parity` installs" in err
  assert bench.main(["decode", "--quick"]) == 1
  out, err = capsys.readouterr()
  assert not out and err.count("\n") == 1
  assert err.startswith("bench decode: ") and "`make parity` installs" in err


def test_an_unknown_suite_is_one_line(capsys):
  with pytest.raises(SystemExit, match="2"):
    bench.main(["speed"])
  err = capsys.readouterr().err
  assert err.count("\n") == 1 and "'speed'" in err and "features" in err


def test_a_file_that_cannot_be_written_is_one_line(tmp_path, capsys):
  (tmp_path / "file").write_text("")
  path = tmp_path / "file" / "rows.json"
  assert bench.main(["features", "--quick", f"--json={path}"]) == 1
  assert str(path.parent) in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_a_random_checkpoint_has_shards_and_is_read_back(dtype, tmp_path):
  text = bench_decode.QUICK.text | {"tie_word_embeddings": False}
  config = bench_load.step_audio(text, width=16, heads=2, layers=1)
  total = bench_load.write_random(tmp_path, config, dtype, shard=2**17)
  shards = list(tmp_path.glob("*.safetensors"))
  index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
  assert len(shards) > 2
  assert set(index["weight_map"].values()) == {path.name for path in shards}
  # A header each beside the weights.
  size = sum(path.stat().st_size for path in shards)
  assert total < size < total + 2**16 == index["metadata"]["total_size"] + 2**16
  params = convert.load(tmp_path, released.read(tmp_path), dtype=dtype)
  leaves = jax.tree.leaves(params)
  assert {leaf.dtype for leaf in leaves} == {jnp.dtype(dtype)}
  assert sum(leaf.nbytes for leaf in leaves) == total
  for leaf in leaves:
    assert np.isfinite(np.asarray(leaf, np.float32)).all()


def test_the_bandwidth_is_that_of_some_memory():
  assert 1e8 < bench_decode.read_bandwidth(2**22, repeats=2) < 1e13
