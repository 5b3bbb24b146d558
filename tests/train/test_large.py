"""Steps that read the head in chunks are the steps on all of its logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgrd_jax import sharding
from mgrd_jax.data import transforms
from mgrd_jax.losses import logprobs
from mgrd_jax.models import audio_lm
from mgrd_jax.train import large, steps
from mgrd_jax.types import Batch
from tests import toys

PARAMS = toys.trained_parts(noise=0.1)
A, B = toys.clip(0), toys.clip(1)
GIVEN = dict(
  states=functools.partial(audio_lm.states, config=toys.CONFIG),
  score=functools.partial(logprobs.head_logprobs, chunks=3),
)
STEP = dict(tx=toys.TX, dtype=jnp.float32)
VALUES = functools.partial(audio_lm.row_values, config=toys.CONFIG)
SFT = toys.jit(functools.partial(large.sft_step, **GIVEN, **STEP))
DPO = toys.jit(
  functools.partial(large.dpo_step, examples=3, alpha=0.1, **GIVEN, **STEP)
)
SUMS = toys.jit(functools.partial(large.response_sums, examples=3, **GIVEN))
POLICY = toys.jit(
  functools.partial(
    large.policy_step,
    hp=toys.HP,
    ban_V=toys.PATCH_BAN_V,
    **GIVEN,
    **STEP,
  )
)
CRITIC = toys.jit(
  functools.partial(large.critic_step, values=VALUES, clip=None, **STEP)
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


def packed(groups, *, time: int = 24, clips: int = 2) -> Batch:
  shape = transforms.Shape(time, clips, toys.FRAMES, toys.WIDTH)
  batch = transforms.collate_packed(groups, shape)
  return jax.tree.map(jnp.asarray, batch)


def test_a_supervised_step_is_that_on_all_logits_and_packing_changes_nothing():
  wanted, known = toys.SFT(state_of(), (toys.batch(items()),))
  one, two, three, four = items()
  for groups in ([[one, two], [three, four]], [[four, three, one], [two]]):
    batch = packed(groups)
    found, metrics = SFT(state_of(), batch)
    # float32 sums in another order.
    assert toys.difference(found.params, wanted.params) < 1e-5
    for name, value in known.items():
      assert float(metrics[name]) == pytest.approx(float(value), abs=1e-5)


def test_bfloat16_is_where_it_computes_and_float32_where_it_rests():
  step = functools.partial(
    large.sft_step, **GIVEN, **dict(STEP, dtype=jnp.bfloat16)
  )
  one, two, three, four = items()
  batch = packed([[one, two], [three, four]])
  found, metrics = toys.jit(step)(state_of(), batch)
  _, exact = SFT(state_of(), batch)
  dtypes = {str(x.dtype) for x in jax.tree.leaves(found.params)}
  assert dtypes == {"float32"}
  # Eight bits of mantissa.
  assert abs(metrics["train/loss"] - exact["train/loss"]) < 0.03
  assert metrics["train/loss"] != exact["train/loss"]


def pairs() -> tuple[Batch, Batch]:
  """Three pairs, of two and one to a row, and the same, one to a row."""
  better = [
    toys.item([1], A, [2, 3], target=2),
    toys.item([4, 5, 6], target=1),
    toys.item([7], B, [8, 9, 10], target=3),
  ]
  worse = [
    toys.item([1], A, [11], target=1),
    toys.item([4, 12, 13], target=2),
    toys.item([7], B, [14], target=1),
  ]
  groups = [[0, 1], [2]]
  rows = [[side[i] for i in g] for side in (better, worse) for g in groups]
  return packed(rows), toys.batch(better + worse)


def test_sums_are_of_each_response_of_a_row():
  together, alone = pairs()
  sum_BG, count_BG = SUMS(PARAMS, together)
  each_BG, number_BG = SUMS(PARAMS, alone)
  places = [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (3, 0)]
  for row, place in enumerate(places):
    assert sum_BG[place] == pytest.approx(float(each_BG[row, 0]), abs=1e-5)
    assert count_BG[place] == number_BG[row, 0]
  assert number_BG[:, 0].tolist() == [2, 1, 3, 1, 2, 1]
  assert float(count_BG.sum()) == 10  # no pair, nothing


def test_from_the_reference_a_pair_loses_log_2_and_a_step_widens_its_margin():
  batch, _ = pairs()
  ref_BG, _ = SUMS(PARAMS, batch)
  state, before = DPO(state_of(), batch, ref_BG)
  assert float(before["dpo/loss"]) == pytest.approx(np.log(2), abs=1e-6)
  assert float(before["dpo/margin"]) == pytest.approx(0, abs=1e-5)
  count_BG = SUMS(PARAMS, batch)[1]
  mean = float(ref_BG[:2].sum() / count_BG[:2].sum())
  assert float(before["dpo/nll"]) == pytest.approx(-mean, abs=1e-5)
  _, after = DPO(state, batch, ref_BG)
  assert after["dpo/loss"] < before["dpo/loss"]
  assert after["dpo/margin"] > 1e-3 and after["dpo/accuracy"] > 0.6
  assert after["dpo/nll"] < before["dpo/nll"]
  ratios = after["dpo/logratio_chosen"], after["dpo/logratio_rejected"]
  assert float(ratios[0] - ratios[1]) == pytest.approx(
    float(after["dpo/margin"]), abs=1e-5
  )


def test_pairs_that_are_packed_give_the_step_of_pairs_that_are_not():
  found = []
  for batch in pairs():
    ref_BG, _ = SUMS(toys.trained_parts(1, noise=0.1), batch)
    found.append(DPO(state_of(), batch, ref_BG))
  (one, metrics), (other, others) = found
  assert toys.difference(one.params, other.params) < 1e-5
  assert float(metrics["dpo/loss"]) == pytest.approx(
    float(others["dpo/loss"]), abs=1e-5
  )


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
  return batch, {
    "adv_BT": alone(frozen["adv_BT"]),
    "old_logp_BT": alone(rollout.logp_BT),
    "value_BT": alone(frozen["value_BT"]),
    "return_BT": alone(frozen["return_BT"]),
  }


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
  # The sampler's log-probabilities, a program of its own, are the old ones.
  assert toys.difference(found.params, wanted.params) < 1e-4
  assert float(metrics["train/policy/entropy"]) == pytest.approx(
    float(known["train/policy/entropy"]), abs=1e-4
  )
  assert metrics["train/policy/clip_frac"] == 0
  assert abs(metrics["train/policy/ratio"] - 1) < 1e-5


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


@pytest.mark.parametrize("name", ["sft", "dpo", "policy", "critic"])
def test_on_eight_devices_a_step_is_that_on_one(update, name):
  if jax.device_count() != 8:
    pytest.skip("needs eight devices")
  *_, (rows, frozen) = update
  two, _ = pairs()
  # No pair is a tie.
  far_BG, _ = SUMS(toys.trained_parts(1, noise=0.1), two)
  step, state, given = {
    "sft": (SFT, state_of(), {"batch": packed([[i] for i in items()])}),
    "dpo": (DPO, state_of(), {"pairs": two, "ref_BG": far_BG}),
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
