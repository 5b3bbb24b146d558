"""Micro-batches of uneven masks give the update of the whole batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mgrd_jax.losses import logprobs
from mgrd_jax.train import gradients, steps
from mgrd_jax.types import Batch, Rollout
from tests import toys

V, ROWS, T, G = 7, 8, 6, 3
TX = optax.sgd(1.0)
RNG = np.random.default_rng(0)


def params():
  """A model of pairs of tokens, and a value of each."""
  rng = np.random.default_rng(1)
  table_VV = rng.normal(size=(V, V)).astype(np.float32)
  return {"table_VV": jnp.asarray(table_VV), "value_V": jnp.zeros(V)}


def scores(params, batch: Batch, **scaling):
  logits_BTV = params["table_VV"][batch.tokens_BT]
  entropy_BT = logprobs.entropy(logits_BTV, **scaling)
  return logprobs.token_logprobs(logits_BTV, batch.tokens_BT), entropy_BT


def response_scores(params, rollout: Rollout, **scaling):
  """Each token given the first of its prompt and the first of its clip."""
  prompts = rollout.prompts
  heard_B = prompts.enc_BAE[:: len(prompts.enc_BAE) // prompts.rows, 0, 0]
  first_B = jnp.repeat(prompts.tokens_BT[:, 0], G)
  logits_BV = params["table_VV"][first_B] * jnp.repeat(heard_B, G)[:, None]
  logits_BTV = jnp.broadcast_to(
    logits_BV[:, None], (*rollout.token_BT.shape, V)
  )
  return (
    logprobs.choice_logprobs(logits_BTV, rollout.token_BT, **scaling),
    logprobs.entropy(logits_BTV, **scaling),
  )


def response_values(params, rollout: Rollout):
  return params["value_V"][rollout.token_BT]


def batch(rows: int = ROWS, time: int = T, clips: int = 2) -> Batch:
  """Rows of which the later ones have more that is trained."""
  len_B1 = 1 + np.arange(rows)[:, None] % time
  valid_BT = np.arange(time) < len_B1
  loss_mask_BT = valid_BT & (np.arange(time) > 0)
  return jax.tree.map(
    jnp.asarray,
    Batch(
      tokens_BT=RNG.integers(0, V, (rows, time)),
      valid_BT=valid_BT,
      loss_mask_BT=loss_mask_BT,
      audio_index_BT=np.full((rows, time), -1),
      enc_BAE=RNG.normal(size=(rows * clips, 2, 1)).astype(np.float32),
    ),
  )


def rollout() -> tuple[Rollout, dict]:
  """G responses to each of the rows of a batch, and what is frozen."""
  prompts = batch()
  shape = ROWS * G, T
  len_B = jnp.asarray(RNG.integers(1, T + 1, ROWS * G))
  floats = iter(RNG.normal(size=(5, *shape)).astype(np.float32))
  found = Rollout(
    prompts=prompts,
    token_BT=jnp.asarray(RNG.integers(0, V, shape)),
    logp_BT=-jnp.abs(next(floats)),
    response_len_B=len_B,
    stopped_B=jnp.ones(ROWS * G, bool),
    example_B=jnp.repeat(jnp.arange(ROWS), G),
  )
  valid_BT = jnp.arange(T) < len_B[:, None]
  names = "old_logp_BT", "adv_BT", "value_BT", "return_BT"
  frozen = {name: jnp.asarray(next(floats)) for name in names}
  # Two responses could not be scored.
  loss_mask_BT = valid_BT & (jnp.arange(ROWS * G) % 11 > 0)[:, None]
  return found, frozen | {"valid_BT": valid_BT, "loss_mask_BT": loss_mask_BT}


def stepped(name: str, aggregation: str = "token_mean"):
  """(step that accumulates, what it is given)."""
  if name == "sft":
    step = functools.partial(steps.sft_step, scores=scores)
    return step, ((batch(), batch(rows=4, time=9, clips=0)),)
  if name == "dpo":
    step = functools.partial(
      steps.dpo_step, scores=scores, examples=1, alpha=0.3
    )
    return step, (batch(), jnp.asarray(RNG.normal(size=(ROWS, 1))))
  if name == "policy":
    step = functools.partial(
      steps.policy_step,
      scores=response_scores,
      hp=steps.PPO(on_policy=False, aggregation=aggregation),
      ban_V=jnp.zeros(V),
    )
    return step, rollout()
  step = functools.partial(
    steps.critic_step, values=response_values, clip=0.2
  )
  return step, rollout()


@pytest.mark.parametrize(
  "name, aggregation",
  [
    ("sft", ""),
    ("dpo", ""),
    ("policy", "token_mean"),
    ("policy", "seq_mean_token_mean"),
    ("critic", ""),
  ],
)
def test_one_two_and_four_micro_batches_give_one_update(name, aggregation):
  step, given = stepped(name, aggregation)
  run = toys.jit(
    functools.partial(step, tx=TX), static_argnames="accumulate"
  )
  state = steps.init_state(params(), TX)
  whole, metrics = run(state, *given, accumulate=1)
  assert toys.difference(whole.params, state.params) > 1e-3
  for parts in (2, 4):
    found, others = run(state, *given, accumulate=parts)
    # float32 sums in another order.
    assert toys.difference(found.params, whole.params) < 1e-6
    assert others.keys() == metrics.keys()
    for key, value in metrics.items():
      assert float(others[key]) == pytest.approx(float(value), abs=2e-6), key


def test_the_mean_of_the_means_of_micro_batches_is_another():
  # So the test above would fail, were each divided by a count of its own.
  whole = batch()
  loss_BT = -np.asarray(toys.jit(scores)(params(), whole)[0])
  loss_BT, mask_BT = (
    gradients.micro_batches(x_BT, ROWS, 4)
    for x_BT in (loss_BT, whole.loss_mask_BT)
  )
  means = np.where(mask_BT, loss_BT, 0).sum((1, 2)) / mask_BT.sum((1, 2))
  assert abs(means.mean() - loss_BT[mask_BT].mean()) > 1e-3


def test_a_micro_batch_holds_every_nth_row_with_its_clips_and_responses():
  found, frozen = rollout()
  parts, kept = gradients.micro_batches((found, frozen), ROWS, 4)
  for part in range(4):
    rows = np.arange(part, ROWS, 4)
    np.testing.assert_array_equal(
      parts.prompts.tokens_BT[part], found.prompts.tokens_BT[rows]
    )
    clips = (2 * rows[:, None] + np.arange(2)).ravel()
    np.testing.assert_array_equal(
      parts.prompts.enc_BAE[part], found.prompts.enc_BAE[clips]
    )
    answers = (G * rows[:, None] + np.arange(G)).ravel()
    np.testing.assert_array_equal(parts.example_B[part], rows.repeat(G))
    np.testing.assert_array_equal(
      kept["adv_BT"][part], frozen["adv_BT"][answers]
    )


def test_rows_that_are_not_so_many_micro_batches_are_refused():
  with pytest.raises(ValueError, match="8 rows are not 3 micro-batches"):
    gradients.micro_batches(batch(), ROWS, 3)
