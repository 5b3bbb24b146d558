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
    assert row["ours"] > 0 and row["other"] > 0
    assert (row["goal"] is None) == row["name"].endswith(TO_BOUND)
  decodes = [row for row in rows if "same_ids" in row]
  assert [row["same_ids"] for row in decodes] == [1, 1]
  # Eight ids a prompt, which would agree by chance if they were all the same.
  assert all(row["different_ids"] > 3 for row in decodes)


def test_log_mels_run_beside_librosas_and_whispers(tmp_path, monkeypatch):
  rows = rows_of("features", tmp_path, monkeypatch)
  others = [row["other_name"] for row in rows]
  assert others == ["librosa", "WhisperFeatureExtractor"]
  for row in rows:
    assert row.keys() >= KEYS and row["unit"] == "clips/s"
    assert row["ours"] > 0 and row["other"] > 0
