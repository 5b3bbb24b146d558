"""metrics.jsonl: each step once, whole lines, finite numbers or an error."""

import json
import math

import jax.numpy as jnp
import pytest

from mgrd_jax.train import metrics


def test_what_is_written_reads_back_step_by_step(tmp_path):
  path = tmp_path / "stage" / "metrics.jsonl"
  log = metrics.Log(path)
  for step in range(3):
    log.write(step, metrics.to_floats({"train/loss": jnp.float32(step / 2)}))
  rows = metrics.read(path)
  assert rows == [{"step": s, "train/loss": s / 2} for s in range(3)]
  assert metrics.read(tmp_path / "nowhere.jsonl") == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named_and_not_written(tmp_path, value):
  path = tmp_path / "metrics.jsonl"
  log = metrics.Log(path)
  with pytest.raises(metrics.NonFiniteError, match="step 7: .*: b, c$"):
    log.write(7, {"a": 1.0, "c": value, "b": value})
  assert metrics.read(path) == []


def test_a_log_opened_at_a_step_drops_what_is_past_it(tmp_path):
  path = tmp_path / "metrics.jsonl"
  log = metrics.Log(path)
  for step in range(5):
    log.write(step, {"loss": float(step)})
  metrics.Log(path, start=3).write(3, {"loss": -1.0})
  assert [r["loss"] for r in metrics.read(path)] == [0, 1, 2, -1]
  assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("torn", ['{"step": 2, "lo', '{"step": 2', ""])
def test_a_torn_last_line_is_no_line(tmp_path, torn):
  path = tmp_path / "metrics.jsonl"
  lines = [json.dumps({"step": s}) for s in range(2)]
  path.write_text("\n".join([*lines, torn]))
  assert metrics.read(path) == [{"step": 0}, {"step": 1}]
