"""What a slice is to run: shapes, aliases, size; and the command's answers."""

import dataclasses
import functools
import math
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import mgrd, rlvr, sft, slices
from experiments import fit, programs
from mgrd_jax import sharding
from mgrd_jax.data import packing, transforms
from mgrd_jax.models import audio_lm
from mgrd_jax.text import chat
from mgrd_jax.train import cost as cost_lib

ROOT = pathlib.Path(__file__).parent.parent
TRAINED = ("sft", "dpo", "ppo_actor", "ppo_critic")


@functools.cache
def of_tiny() -> dict[str, programs.Program]:
  """Every program of the tiny model on eight devices of this machine."""
  config = rlvr.get_config("model=tiny,tpu=v5p-16")
  found = programs.build(config, jax.devices(), tuple(programs.PROGRAMS))
  return {program.name: program for program in found}


@pytest.fixture(autouse=True)
def eight_devices():
  if jax.device_count() != 8:
    pytest.skip("needs eight devices")


def test_the_stages_name_programs_that_there_are():
  named = set()
  for stage in (sft, mgrd, rlvr):
    config = stage.get_config("model=step-audio-r1,tpu=v5p-128")
    named |= set(config.tpu.programs)
  assert named == set(programs.PROGRAMS)


@functools.cache
def compiled(name: str):
  options = {"xla_backend_optimization_level": 0}
  return of_tiny()[name].lower().compile(compiler_options=options)


def test_a_train_step_writes_its_state_where_it_was():
  stats = compiled("sft").memory_analysis()
  state = programs.bytes_of(of_tiny()["sft"].args[0])
  assert stats.alias_size_in_bytes >= state > 0
  # Every trained program donates so.
  assert all(of_tiny()[name].donate == (0,) for name in TRAINED)


def test_decoding_writes_its_cache_where_it_was():
  stats = compiled("decode").memory_analysis()
  cache = programs.bytes_of(of_tiny()["decode"].args[3])
  assert stats.alias_size_in_bytes >= cache > 0


@pytest.mark.parametrize("name", ["sft", "dpo", "ppo_actor"])
def test_no_step_holds_all_logits(name):
  program = of_tiny()[name]
  batch = program.args[1][0] if name == "sft" else program.args[1]
  rows, time = batch.tokens_BT.shape
  vocab = 1024
  shapes = re.findall(r"tensor<([\dx]+)x[a-z]", program.lower().as_text())
  sizes = {tuple(map(int, shape.split("x"))) for shape in shapes}
  assert (rows, time) in sizes
  wide = [s for s in sizes if rows in s and time in s and vocab in s]
  assert not wide
  # The chunk's are there: the search would find them.
  assert [s for s in sizes if rows in s and time in s and vocab // 2 in s]


def test_no_device_gathers_the_clips_of_other_rows():
  (batch,) = of_tiny()["sft"].args[1]
  frames = batch.enc_BAE.shape[1] // 2 * batch.enc_BAE.shape[0]
  shapes = re.findall(r"\[([\d,]+)\]", compiled("sft").as_text())
  sizes = {math.prod(map(int, shape.split(","))) for shape in shapes}
  # The adapter's output: a row's clips are here, all rows' are not.
  assert frames // 8 * 96 in sizes and frames * 96 not in sizes


def of_layers(name: str, layers: int) -> str:
  """The program of the large model with so many layers."""
  config = rlvr.get_config("model=step-audio-r1,tpu=v5p-16")
  config.tpu.attention = "reference"  # the kernel is none for this machine
  setting = programs.Setting(config, jax.devices())
  # The kernel is for TPUs, and of one size whatever the layers.
  decoder = dataclasses.replace(
    setting.config.decoder, layers=layers, attention="reference"
  )
  setting.config = dataclasses.replace(setting.config, decoder=decoder)
  return programs.PROGRAMS[name](setting).lower().as_text()


@pytest.mark.parametrize("name", ["sft", "ppo_critic"])
def test_a_program_is_as_large_for_four_layers_as_for_two(name):
  two, four = of_layers(name, 2), of_layers(name, 4)
  assert len(two) == len(four) > 10_000
  assert "4x5120x27648" in four and "4x5120x27648" not in two


def test_what_is_trained_elsewhere_rests_beside():
  found = of_tiny()
  actor, critic = (
    programs.bytes_of(found[name].args[0])
    for name in ("ppo_actor", "ppo_critic")
  )
  encoder = programs.bytes_of(found["encoder"].args[0])
  assert found["ppo_actor"].beside == critic + encoder
  assert found["ppo_critic"].beside == actor + encoder
  assert found["decode"].beside == actor + critic + encoder


def test_what_the_model_must_compute_is_what_the_program_computes():
  """Attention apart: the oracle computes all pairs, not half of them."""
  program = of_tiny()["sft"]
  cost = cost_lib.Counter(compiled("sft").as_text(), 8).total()
  c, tpu = audio_lm.VARIANTS["tiny"]().decoder, slices.settings(
    "tiny", "v5p-16", ()
  )
  # Forward is 4 heads of 24, T * T pairs; backward twice that.
  rest = tpu.time**2 - tpu.within * tpu.time * (tpu.time + 1) / 2
  more = 8 * 3 * 4 * c.layers * c.heads * c.head_dim * rest
  # A layer is computed once more, and the head's logits are.
  assert 1.0 < 8 * cost.flops / (program.model_flops + more) < 1.4


def test_an_unknown_slice_is_one_line_and_status_1():
  done = subprocess.run(
    [
      sys.executable,
      "-m",
      "experiments.fit",
      "--config=configs/sft.py:model=step-audio-r1,tpu=v9-1",
    ],
    cwd=ROOT,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1
  (line,) = done.stderr.strip().splitlines()
  assert line.startswith("error: ") and "unknown slice 'v9-1'; have" in line


def test_a_model_without_settings_is_refused():
  with pytest.raises(ValueError, match="unknown model 'gpt'; have"):
    sft.get_config("model=gpt,tpu=v5p-128")


def test_a_parameter_that_no_rule_covers_is_told_by_its_path():
  S = jax.ShapeDtypeStruct
  tree = {
    "decoder": {"up_LDF": S((2, 8, 8), "f4"), "gate": S((8, 8), "f4")},
    "norm_D": S((8,), "f4"),
    "scale": S((), "f4"),
    "taps_RM": S((3, 8), "f4"),
  }
  assert sharding.uncovered(tree) == ["decoder.gate", "taps_RM"]
  for sizes in audio_lm.VARIANTS.values():
    assert not sharding.uncovered(audio_lm.abstract(sizes()))


def test_useful_shares_are_what_packing_leaves():
  """Log-normal responses of 2,500 tokens in the mean, after prompts of 500."""
  t = slices.settings("step-audio-r1", "v5p-128", ())
  rng = np.random.default_rng(0)
  mu = np.log(2500) - 0.4**2 / 2
  lengths = 500 + rng.lognormal(mu, 0.4, 8 * t.rows).astype(int)
  lengths = np.minimum(lengths, t.time)
  clip = ((0, 1),), (np.zeros((1, 1), np.float32),)
  items = [
    transforms.Item(chat.Row(np.arange(n), np.ones(n), 0, clip[0]), clip[1])
    for n in lengths
  ]
  shape = transforms.Shape(t.time, t.clips)
  groups = packing.first_fit(items, rows=t.rows, shape=shape)
  held = [lengths[group] for group in groups]
  useful = sum(map(np.sum, held)) / (t.rows * t.time)
  within = sum(np.sum(n * (n + 1.0)) for n in held)
  within /= t.rows * t.time * (t.time + 1)
  assert t.useful == pytest.approx(useful, abs=0.02)
  assert t.within == pytest.approx(within, abs=0.02)
  assert max(map(len, held)) <= t.examples


@pytest.mark.parametrize(
  "field, value, said",
  [
    ("mesh.fsdp", 12, "mesh: .* is not 64 chips of v5p-128"),
    ("rollout.tensor", 4, "rollout: .* is not 64 chips"),
    ("rows", 63, "mesh: data x fsdp=64 does not divide rows 63"),
    ("accumulate", 3, "accumulate=3 does not divide rows 64"),
    ("accumulate", 2, "mesh: data x fsdp=64 does not divide rows 32"),
    ("programs", ("sftt",), "unknown program 'sftt'; have"),
  ],
)
def test_what_does_not_go_together_is_refused_before_devices_are(
  field, value, said
):
  config = sft.get_config("model=step-audio-r1,tpu=v5p-128")
  config.update_from_flattened_dict({f"tpu.{field}": value})
  with pytest.raises(ValueError, match=said):
    list(fit.run(config))


def test_a_config_of_no_slice_is_refused():
  with pytest.raises(ValueError, match="names no slice; add ,tpu="):
    list(fit.run(sft.get_config("tiny")))


def test_a_slice_has_settings_for_every_model():
  for model in ("step-audio-r1", "step-audio-2-mini", "qwen2-audio-7b"):
    for tpu, chips in slices.CHIPS.items():
      t = slices.settings(model, tpu, ("sft",))
      mesh = t.mesh
      assert mesh.data * mesh.fsdp * mesh.sequence * mesh.tensor == chips
      assert t.rollout.data * t.rollout.tensor == chips
      assert t.rows % (mesh.data * mesh.fsdp) == 0
