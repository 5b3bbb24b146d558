"""Leaves from tensors: on one device, on eight, and layer by layer."""

import functools
import json
import math

import jax
import numpy as np
import pytest

from mgrd_jax import sharding
from mgrd_jax.models import assemble, audio_lm, convert, released
from tests.models import checkpoints
from tests.models.checkpoints import assert_equal


def test_a_leaf_of_two_dtypes_holds_the_values_of_both(tmp_path):
  config = released.from_json(checkpoints.STEP)
  found = checkpoints.tensors(config)
  name = "model.layers.1.input_layernorm.weight"
  found[name] = (1 + found[name].astype(np.float32) / 3).astype(np.float32)
  folder = checkpoints.write(tmp_path / "in", checkpoints.STEP, found)
  params = convert.load(folder, config)
  norm_LD = params["decoder"]["attn_norm_LD"]
  assert norm_LD.dtype == np.float32
  np.testing.assert_array_equal(norm_LD[1], found[name])
  convert.save(params, config, tmp_path / "out", like=folder)
  assert checkpoints.contents(tmp_path / "out") == checkpoints.contents(folder)


def on_mesh(tmp_path, family, config, shape):
  """A checkpoint, and where its model's leaves lie on eight devices."""
  if jax.device_count() != 8:
    pytest.skip("needs eight devices")
  shardings = sharding.shardings(
    sharding.make_mesh(**shape), audio_lm.abstract(config)
  )
  family_json = checkpoints.FAMILIES[family]
  return checkpoints.write(tmp_path / "in", family_json), shardings


def test_eight_devices_are_given_what_one_is(tmp_path, family, config):
  mesh = dict(data=2, fsdp=2, tensor=2)
  folder, shardings = on_mesh(tmp_path, family, config, mesh)
  alone = convert.load(folder, config)
  wide = convert.load(folder, config, dtype="float32", shardings=shardings)
  spread = convert.load(folder, config, shardings=shardings)
  assert_equal(alone, spread)
  assert_equal(wide, convert.load(folder, config, dtype="float32"))
  for leaf, placed in zip(
    jax.tree.leaves(spread), jax.tree.leaves(shardings), strict=True
  ):
    assert leaf.sharding == placed
  gate = spread["decoder"]["gate_LDF"]
  assert {s.data.size for s in gate.addressable_shards} == {gate.size // 4}
  convert.save(spread, config, tmp_path / "out", like=folder)
  assert checkpoints.contents(tmp_path / "out") == checkpoints.contents(folder)


def test_layers_of_their_own_lie_as_their_stack_did(tmp_path, family, config):
  mesh = dict(fsdp=4, tensor=2)
  folder, shardings = on_mesh(tmp_path, family, config, mesh)
  params = convert.load(folder, config, shardings=shardings)
  straight = convert.load(folder, config, shardings=shardings, unstacked=True)
  stacks = {
    name: (np.asarray(leaf), leaf.sharding)
    for name, leaf in params["decoder"].items()
  }
  alone = audio_lm.unstack(params)["decoder"]
  assert not [n for n in params["decoder"] if "_L" in n]
  assert len(alone["layers"]) == config.decoder.layers
  for i, layer in enumerate(alone["layers"]):
    for name, leaf in layer.items():
      stack, placed = stacks["_L".join(name.rsplit("_", 1))]
      np.testing.assert_array_equal(leaf, stack[i])
      assert tuple(leaf.sharding.spec) == tuple(placed.spec[1:]), name
  gate = alone["layers"][0]["gate_DF"]
  assert {s.data.size for s in gate.addressable_shards} == {gate.size // 8}
  # Loaded without a stack, they are the same and lie the same.
  straight_leaves, leaves = map(jax.tree.leaves, (straight["decoder"], alone))
  assert_equal(straight["decoder"], alone)
  for leaf, other in zip(straight_leaves, leaves, strict=True):
    assert leaf.sharding.is_equivalent_to(other.sharding, leaf.ndim)


def deep_checkpoint(folder):
  """24 layers whose matrices are the largest tensors of the model."""
  config_json = json.loads(json.dumps(checkpoints.STEP))
  config_json["text_config"] |= {
    "num_hidden_layers": 24, "intermediate_size": 8000,
  }  # fmt: skip
  checkpoints.write(folder, config_json)
  return released.from_json(config_json)


@pytest.mark.parametrize("devices", [1, 8])
def test_no_more_than_one_tensor_is_built_at_a_time(
  devices, tmp_path, monkeypatch
):
  config = deep_checkpoint(tmp_path / "in")
  shardings = None
  if devices > 1:
    mesh = sharding.make_mesh(tensor=jax.device_count())
    shardings = sharding.shardings(mesh, audio_lm.abstract(config))
  built, empty = [], assemble._empty

  def watched(shape, dtype):
    built.append(math.prod(shape) * dtype.itemsize)
    return empty(shape, dtype)

  monkeypatch.setattr(assemble, "_empty", watched)
  load = functools.partial(
    convert.load, tmp_path / "in", config, shardings=shardings
  )
  alone = load(unstacked=True)
  gate = alone["decoder"]["layers"][23]["gate_DF"]
  assert gate.shape == (40, 8000) and max(built) <= gate.nbytes
  built.clear()
  stacked = load()
  assert max(built) == 24 * gate.nbytes // devices
  assert_equal(alone, audio_lm.unstack(stacked))
