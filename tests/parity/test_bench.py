"""The benches that run beside torch and transformers, at tiny sizes."""

import json

import pytest

from experiments import bench, bench_core

pytestmark = pytest.mark.parity
TO_BOUND = ", of the bound"
KEYS = {"name", "ours", "other", "other_name", "unit", "ratio", "goal", "ok"}


def rows_of(suite, tmp_path, monkeypatch):
  """What --json writes of a suite that ran to its end."""
  monkeypatch.setattr(bench_core, "REST", 0)
  path = tmp_path / "rows.json"
  assert bench.main([suite, "--quick", f"--json={path}"]) == 0
  return json.loads(path.read_text())["rows"]


def test_both_sides_decode_the_same_ids(tmp_path, monkeypatch):
  rows = rows_of("decode", tmp_path, monkeypatch)
  assert [row["name"] for row in rows] == [
    f"{name}, batch {size}{of}"
    for size in (1, 2)
    for name, of in (("prefill", ""), ("decode", ""), ("decode", TO_BOUND))
  ]
  for row in rows:
    assert row.keys() >= KEYS and row["unit"] == "tokens/s"
    # Beside other work a prefill of these may take as long as a whole.
    assert all(row[side] is None or row[side] > 0 for side in ("ours", "other"))
    assert (row["goal"] is None) == row["name"].endswith(TO_BOUND)
  decodes = [row for row in rows if "same_ids" in row]
  assert [row["same_ids"] for row in decodes] == [1, 1]
  # Eight ids a prompt, which would agree by chance if they were all the same.
  assert all(row["different_ids"] > 3 for row in decodes)


def test_a_step_trains_beside_torch_eager_and_compiled(tmp_path, monkeypatch):
  eager, compiled, bound = rows_of("train", tmp_path, monkeypatch)
  assert eager["other_name"].startswith("PyTorch, eager")
  assert compiled["other_name"].startswith("PyTorch, compiled")
  # The goal is on the faster of the two.
  best = max((eager, compiled), key=lambda row: row["other"])
  assert [row["goal"] is not None for row in (eager, compiled)] == [
    row is best for row in (eager, compiled)
  ]
  assert bound["name"].endswith(TO_BOUND) and 0 < bound["ratio"] < 1.5


def test_log_mels_run_beside_librosas_and_whispers(tmp_path, monkeypatch):
  rows = rows_of("features", tmp_path, monkeypatch)
  others = [row["other_name"] for row in rows]
  assert others[::2] == ["librosa", "WhisperFeatureExtractor"]
  assert others[1].startswith("librosa, ")
  for row in rows:
    assert row.keys() >= KEYS and row["unit"] == "clips/s"
    assert row["ours"] > 0 and row["other"] > 0
