"""bfloat16 beside float32: how far the logits part, and by whose report."""

import jax
import numpy as np
import pytest

from experiments import convert, precision, verify
from mgrd_jax.models import released
from tests.models import checkpoints


@pytest.mark.parametrize("family", sorted(checkpoints.FAMILIES))
def test_the_two_precisions_are_near_and_not_the_same(family, tmp_path):
  folder = checkpoints.write(tmp_path / "x", checkpoints.FAMILIES[family])
  found = precision.compare(folder, released.read(folder), precision.chirp(1.0))
  # Eight bits of mantissa: a hundredth of the largest logit, not a tenth.
  assert 0 < found["mean"] <= found["largest"] < 0.1 * found["largest_logit"]
  assert 0.5 < found["same_top"] <= 1
  # An id is lost where its lead was within the difference.
  assert found["margin"] <= 2 * found["largest"]


def test_logits_that_are_nan_are_refused_and_not_compared(tmp_path):
  config = released.from_json(checkpoints.STEP)
  found = checkpoints.tensors(config)
  found["model.layers.0.self_attn.q_proj.weight"][0, 0] = np.nan
  folder = checkpoints.write(tmp_path / "x", checkpoints.STEP, found)
  with pytest.raises(ValueError, match="logits in float32 are not finite"):
    precision.compare(folder, config, precision.chirp(1.0))


def test_what_is_compared_is_split_over_all_devices(tmp_path):
  if jax.device_count() != 8:
    pytest.skip("needs eight devices")
  folder = checkpoints.write(tmp_path / "x", checkpoints.STEP)
  params = verify.parameters(folder, released.read(folder), "bfloat16")
  gate = params["decoder"]["gate_LDF"]
  assert {s.data.size for s in gate.addressable_shards} == {gate.size // 8}


def test_the_numbers_are_those_of_the_difference():
  exact_TV = np.array([[1.0, 0.5], [2.0, 2.25]], np.float32)
  rough_TV = np.array([[1.0, 0.5], [2.5, 2.25]], np.float32)
  found = precision._numbers(exact_TV, rough_TV)
  assert found == {
    "largest": 0.5,
    "mean": 0.125,
    "largest_logit": 2.25,
    "same_top": 0.5,
    "margin": 0.25,
  }


def test_the_probe_is_counted_as_the_config_says(tmp_path):
  folder = checkpoints.write(tmp_path / "x", checkpoints.STEP)
  config = released.read(folder)
  # 130 mel frames.
  for one, count in ((config, 16), (released.as_served(config), 17)):
    assert precision._probe(one, precision.chirp(1.3)).spans[0][1] == count


def test_the_command_prints_one_line(tmp_path, capsys):
  folder = checkpoints.write(tmp_path / "x", checkpoints.STEP)
  flags = ["precision", f"--checkpoint={folder}", "--count=vllm"]
  assert convert.main(flags) == 0
  out = capsys.readouterr().out
  assert out.count("\n") == 1 and "bfloat16 differ from float32" in out
  clip = tmp_path / "none.wav"
  flags = ["precision", f"--checkpoint={folder}", f"--clip={clip}"]
  assert convert.main(flags) == 1
  assert "none.wav" in capsys.readouterr().err
