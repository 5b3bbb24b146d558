"""The head read in chunks gives the steps of all logits, on any rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgrd_jax import sharding
from mgrd_jax.models import audio_lm
from mgrd_jax.train import scores, steps
from mgrd_jax.types import Batch
from tests import toys

PARAMS = toys.trained_parts(noise=0.1)
A, B = toys.clip(0), toys.clip(1)
VALUES = functools.partial(
  scores.values_of_rows,
  values=functools.partial(audio_lm.row_values, config=toys.CONFIG),
  dtype=jnp.float32,
)
SFT = toys.jit(
  functools.partial(steps.sft_step, scores=toys.OF_ROWS, tx=toys.TX)
)
# The sampler's log-probabilities, a program of its own, are the old ones.
POLICY = toys.jit(
  functools.partial(
    steps.policy_step,
    scores=toys.OF_ROWS,
    tx=toys.TX,
    hp=steps.PPO(on_policy=False),
    ban_V=toys.PATCH_BAN_V,
  )
)
CRITIC = toys.jit(
  functools.partial(
    steps.critic_step, values=VALUES, tx=toys.TX, clip=None
  )
)


def state_of(params=PARAMS):
  return steps.init_state(params, toys.TX)


def items():
  return [
    toys.item([1, 2], A, [3, 4, 5], target=3),
    toys.item([6, 7, 8, 9], target=2),
    toys.item([1], B, [2, 12], target=1),
    toys.item([13, 14], [15, 16], target=2),
  ]


def test_a_supervised_step_is_that_on_all_logits_and_packing_changes_nothing():
  wanted, known = toys.SFT(state_of(), (toys.batch(items()),))
  one, two, three, four = items()
  for groups in ([[one, two], [three, four]], [[four, three, one], [two]]):
    batch = toys.packed_rows(groups)
    found, metrics = SFT(state_of(), (batch,))
    # float32 sums in another order.
    assert toys.difference(found.params, wanted.params) < 1e-5
    for name, value in known.items():
      if name != "train/fill":
        assert float(metrics[name]) == pytest.approx(float(value), abs=1e-5)
    assert metrics["train/fill"] > known["train/fill"]


def test_a_window_holds_the_scores_of_what_is_trained_and_no_others():
  batch = toys.batch(items(), time=24)
  scaling = dict(temperature=0.7, ban_V=toys.PATCH_BAN_V)
  of_window, of_rows = (
    toys.jit(functools.partial(each, **scaling))(PARAMS, batch)
    for each in (toys.IN_WINDOW, toys.OF_ROWS)
  )
  mask_BT = np.asarray(batch.loss_mask_BT)
  for some_BT, every_BT in zip(of_window, of_rows, strict=True):
    np.testing.assert_allclose(
      some_BT[mask_BT], every_BT[mask_BT], atol=1e-5
    )
    # Eight columns of a row at most.
    assert (np.asarray(some_BT) != 0).sum(1).max() <= 8 < mask_BT.shape[1]


def test_bfloat16_is_where_it_computes_and_float32_where_it_rests():
  coarse = functools.partial(toys.OF_ROWS, dtype=jnp.bfloat16)
  step = functools.partial(steps.sft_step, scores=coarse, tx=toys.TX)
  one, two, three, four = items()
  batch = toys.packed_rows([[one, two], [three, four]])
  found, metrics = toys.jit(step)(state_of(), (batch,))
  _, exact = SFT(state_of(), (batch,))
  dtypes = {str(x.dtype) for x in jax.tree.leaves(found.params)}
  assert dtypes == {"float32"}
  # Eight bits of mantissa.
  assert abs(metrics["train/loss"] - exact["train/loss"]) < 0.03
  assert metrics["train/loss"] != exact["train/loss"]


def whole_rows(rollout, frozen) -> tuple[Batch, dict]:
  """Prompt and response of each sample in one row, and what is frozen."""
  prompts, samples = rollout.prompts, len(rollout.token_BT) // 2
  len_B = np.repeat(np.asarray(prompts.valid_BT.sum(1)), samples)
  window = rollout.token_BT.shape[1]

  def behind(before_BT, after_BT, fill=0):
    before_BT = np.repeat(np.asarray(before_BT), samples, axis=0)
    row_BT = np.pad(before_BT, ((0, 0), (0, window)), constant_values=fill)
    for b, n in enumerate(len_B):
      row_BT[b, n : n + window] = after_BT[b]
    return jnp.asarray(row_BT)

  def alone(x_BT):
    return behind(np.zeros(prompts.tokens_BT.shape, x_BT.dtype), x_BT)

  index_BT = behind(
    prompts.audio_index_BT, np.full(rollout.token_BT.shape, -1), -1
  )
  # Each row has a copy of its prompt's clip.
  batch = Batch(
    tokens_BT=behind(prompts.tokens_BT, rollout.token_BT),
    valid_BT=behind(prompts.valid_BT, frozen["valid_BT"]),
    loss_mask_BT=alone(frozen["loss_mask_BT"]),
    audio_index_BT=index_BT,
    enc_BAE=jnp.repeat(prompts.enc_BAE, samples, axis=0),
  )
  return batch, {name: alone(x_BT) for name, x_BT in frozen.items()}


@pytest.fixture(scope="module")
def update():
  """A rollout, its update by `steps`, and the same as whole rows."""
  asked = (toys.item([1], A, [2]), toys.item([1], B, [2]))
  rollout = toys.sampled(PARAMS, asked)
  critic = toys.critic(bias=0.3)
  scored = toys.scored(rollout, np.arange(32) % 3 == 0)
  state, frozen, metrics = toys.UPDATE(
    state_of(), critic, scored, toys.PATCH_BAN_V
  )
  return rollout, critic, state, frozen, metrics, whole_rows(rollout, frozen)


def test_a_policy_step_on_whole_rows_is_that_on_continuations(update):
  _, _, wanted, _, known, (batch, frozen) = update
  found, metrics = POLICY(state_of(), batch, frozen)
  # The sampler is a program of its own, and rounds as one.
  assert toys.difference(found.params, wanted.params) < 1e-4
  for name, value in known.items():
    if name.startswith(("train/policy", "mismatch")):
      assert float(metrics[name]) == pytest.approx(float(value), abs=1e-4), name
  assert metrics["train/policy/clip_frac"] == 0


def test_a_policy_that_moved_is_clipped(update):
  *_, (batch, frozen) = update
  moved = state_of(toys.trained_parts(1, noise=0.1))
  _, metrics = POLICY(moved, batch, frozen)
  assert metrics["train/policy/clip_frac"] > 0.1


def test_a_critic_step_on_whole_rows_is_that_on_continuations(update):
  rollout, critic, _, old, _, (batch, frozen) = update
  wanted, known = toys.CRITIC(state_of(critic), rollout, old)
  found, metrics = CRITIC(state_of(critic), batch, frozen)
  assert toys.difference(found.params, wanted.params) < 1e-5
  for name, value in known.items():
    assert float(metrics[name]) == pytest.approx(float(value), abs=1e-5)


@pytest.mark.parametrize("name", ["sft", "policy", "critic"])
def test_on_eight_devices_a_step_is_that_on_one(update, name):
  if jax.device_count() != 8:
    pytest.skip("needs eight devices")
  *_, (rows, frozen) = update
  step, state, given = {
    "sft": (
      SFT,
      state_of(),
      {"batches": (toys.packed_rows([[i] for i in items()]),)},
    ),
    "policy": (POLICY, state_of(), {"batch": rows, "frozen": frozen}),
    "critic": (
      CRITIC, state_of(toys.critic()), {"batch": rows, "frozen": frozen}
    ),
  }[name]  # fmt: skip
  alone, known = step(state, *given.values())
  mesh = sharding.make_mesh(data=2, fsdp=2, tensor=2)
  state, given = (
    jax.device_put(x, sharding.shardings(mesh, x, table))
    for x, table in ((state, sharding.WEIGHT), (given, sharding.DATA))
  )
  with jax.set_mesh(mesh):
    spread, metrics = step(state, *given.values())
  # float32 sums in another order.
  assert toys.difference(alone.params, spread.params) < 1e-5
  for key, value in known.items():
    assert float(metrics[key]) == pytest.approx(float(value), abs=1e-5), key
