"""The table of axes, and eight devices against one."""

import functools

import jax
import numpy as np
import pytest

from mgrd_jax import sharding
from mgrd_jax.models import audio_lm
from mgrd_jax.train import optim, steps
from tests import toys

MESH = dict(data=2, fsdp=2, tensor=2)
A, B = toys.clip(0), toys.clip(1)


@pytest.fixture(scope="module")
def mesh():
  if jax.device_count() != 8:
    pytest.skip("needs eight devices")
  return sharding.make_mesh(**MESH)


def placed(mesh, tree, table=sharding.WEIGHT):
  return jax.device_put(tree, sharding.shardings(mesh, tree, table))


def axes_of(placement):
  """The mesh axes of a placement, flat."""
  found = []
  for entry in placement.spec:
    found += [entry] if isinstance(entry, str) else list(entry or ())
  return found


def test_a_mesh_that_does_not_fit_the_machine_is_refused():
  with pytest.raises(ValueError, match="needs .* devices, there are"):
    sharding.make_mesh(data=jax.device_count() + 1)


def test_all_devices_are_on_fsdp_unless_said_otherwise():
  n = jax.device_count()
  assert dict(sharding.make_mesh().shape) == dict(
    data=1, fsdp=n, sequence=1, tensor=1
  )


def test_letters_come_from_the_last_named_key():
  tree = {"decoder": {"q_LDNH": 0, "bias": 1, "k_BSKH": (2, 3), "mask_bt": 4}}
  paths = jax.tree_util.tree_leaves_with_path(tree)
  found = {leaf: sharding.suffix(path) for path, leaf in paths}
  assert found == {0: "LDNH", 1: "", 2: "BSKH", 3: "BSKH", 4: ""}
  batch = toys.batch([toys.item([1], A)])
  named = jax.tree_util.tree_leaves_with_path(batch)
  assert [sharding.suffix(p) for p, _ in named] == ["BT"] * 4 + ["BAE"]


def test_an_axis_is_used_once_and_only_where_it_divides(mesh):
  spec = functools.partial(sharding.spec, mesh)
  assert tuple(spec("DF", (8, 8), sharding.WEIGHT)) == ("fsdp", "tensor")
  assert tuple(spec("DF", (7, 8), sharding.WEIGHT)) == (None, "tensor")
  assert tuple(spec("NK", (8, 8), sharding.WEIGHT)) == ("tensor", None)
  assert tuple(spec("BT", (8, 3), sharding.DATA)) == (("data", "fsdp"), None)
  assert tuple(spec("BT", (2, 3), sharding.DATA)) == (None, None)
  # What splits tokens shares the weights out as well.
  long = sharding.make_mesh(fsdp=2, sequence=2, tensor=2)
  both = ("fsdp", "sequence"), "tensor"
  assert tuple(sharding.spec(long, "DF", (8, 8), sharding.WEIGHT)) == both
  # A leading axis without a letter, and a scalar.
  assert tuple(spec("D", (3, 8), sharding.WEIGHT)) == (None, "fsdp")
  assert tuple(spec("D", (), sharding.WEIGHT)) == ()


@pytest.mark.parametrize("variant", sorted(audio_lm.VARIANTS))
def test_every_matrix_is_spread_over_the_mesh(mesh, variant):
  config = audio_lm.config_for(variant, vocab=512)
  make = functools.partial(audio_lm.init, config=config)
  shapes = jax.eval_shape(make, jax.random.key(0))
  placements = sharding.shardings(mesh, shapes)
  leaves = jax.tree.leaves_with_path(placements)
  for (path, placement), leaf in zip(
    leaves, jax.tree.leaves(shapes), strict=True
  ):
    axes = axes_of(placement)
    assert len(axes) == len(set(axes)), path
    if len(sharding.suffix(path).strip("L")) > 1:
      assert axes, (jax.tree_util.keystr(path), leaf.shape)


def test_the_optimiser_rests_as_its_parameters_do(mesh):
  state = steps.init_state(toys.trained_parts(), toys.TX)
  placements = sharding.shardings(mesh, state)
  weights = [p.spec for p in jax.tree.leaves(placements.params)]
  moments = [p.spec for p in jax.tree.leaves(placements.opt_state)]
  assert weights == moments


def supervised():
  """A batch of four rows."""
  return toys.batch([
    toys.item([1, 2], A, [3, 4, 5], target=3),
    toys.item([6], B, [7, 8, 9, 10, 11], target=5),
    toys.item([1], A, [2, 12], target=1),
    toys.item([13, 14], A, [15, 16], target=2),
  ])  # fmt: skip


def run_both(mesh, step, state, *rest):
  """The step's results on one device and on all."""
  alone = step(state, *rest)
  state = placed(mesh, state)
  rest = [placed(mesh, x, sharding.DATA) for x in rest]
  with jax.set_mesh(mesh):
    return alone, step(state, *rest)


def assert_same(alone, spread, parts=4):
  (one, one_metrics), (all_, all_metrics) = alone, spread
  # float32 sums in another order; a step of size 0.2 at most.
  assert toys.difference(one.params, all_.params) < 1e-5
  for name, value in one_metrics.items():
    assert float(value) == pytest.approx(float(all_metrics[name]), abs=1e-5)
  leaf = all_.params["decoder"]["up_LDF"]
  assert len({s.device for s in leaf.addressable_shards}) == 8
  assert leaf.addressable_shards[0].data.size == leaf.size // parts


def test_a_supervised_step_on_eight_devices_equals_one(mesh):
  state = steps.init_state(toys.trained_parts(noise=0.1), toys.TX)
  assert_same(*run_both(mesh, toys.SFT, state, (supervised(),)))


def test_a_supervised_step_whose_rows_are_split_equals_one(mesh):
  split = sharding.make_mesh(fsdp=2, sequence=2, tensor=2)
  batch = supervised()
  assert batch.tokens_BT.shape[1] % 2 == 0
  tokens = sharding.shardings(split, batch, sharding.DATA).tokens_BT
  assert tuple(tokens.spec) == ("fsdp", "sequence")
  state = steps.init_state(toys.trained_parts(noise=0.1), toys.TX)
  # What splits a row's tokens shares the weights out as well.
  assert_same(*run_both(split, toys.SFT, state, (batch,)), parts=8)


def test_a_step_of_muon_on_eight_devices_equals_one(mesh):
  tx = optim.named("muon", lr=1e-2, steps=9)
  state = steps.init_state(toys.trained_parts(noise=0.1), tx)
  specs = {
    path[-1].key: placement.spec
    for path, placement in jax.tree_util.tree_leaves_with_path(
      sharding.shardings(mesh, state.params)
    )
  }
  moments = [
    (path[-1].key, placement.spec)
    for path, placement in jax.tree_util.tree_leaves_with_path(
      sharding.shardings(mesh, state.opt_state)
    )
    if isinstance(path[-1], jax.tree_util.DictKey)
  ]
  assert {name for name, _ in moments} == set(specs)
  assert all(placement == specs[name] for name, placement in moments)
  step = functools.partial(steps.sft_step, scores=toys.IN_WINDOW, tx=tx)
  (one, _), (all_, _) = run_both(mesh, jax.jit(step), state, (supervised(),))
  # Adam's part is left out: its first step is the sign of a gradient, and
  # that of a gradient of nearly zero is the order of a sum.
  for part, name in (
    ("adapter", "conv_REE"),
    ("decoder", "q_LDNH"),
    ("decoder", "out_LNHD"),
    ("decoder", "up_LDF"),
  ):
    before = state.params[part][name]
    moved = one.params[part][name] - before
    assert np.abs(moved).max() > 1e-4, name
    np.testing.assert_allclose(
      all_.params[part][name] - before, moved, atol=1e-5, err_msg=name
    )


def test_whitening_and_a_policy_step_on_eight_devices_equal_one(mesh):
  params = toys.trained_parts(noise=0.1)
  items = (toys.item([1], A, [2]), toys.item([1], B, [2]))
  rollout = toys.sampled(params, items)
  # Rows of one reward lie together: shards have means of their own.
  reward_B = (np.arange(32) >= 20) * 1.0
  scored = toys.scored(rollout, reward_B)
  state = steps.init_state(params, toys.TX)
  alone, spread = run_both(
    mesh, toys.UPDATE, state, toys.critic(bias=0.3), scored, toys.PATCH_BAN_V
  )
  np.testing.assert_allclose(
    alone[1]["adv_BT"], spread[1]["adv_BT"], atol=1e-5
  )
  assert np.abs(np.asarray(alone[1]["adv_BT"])).max() > 0.5
  assert_same((alone[0], alone[2]), (spread[0], spread[2]))
