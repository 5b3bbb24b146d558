"""Responses against the keys of a prompt that runs once: as whole rows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgrd_jax.losses import logprobs
from mgrd_jax.models import audio_lm
from mgrd_jax.types import Batch
from tests import toys

A, B, C = toys.clip(0), toys.clip(1), toys.clip(2, frames=3)
G, NEW = 3, 5
PROMPTS = {
  2: (
    toys.item([1], A, [2, 3], B, [4]),
    toys.item([5, 6], C, [7]),
    toys.item([8]),
  ),
  1: (toys.item([1], B, [2]), toys.item([3, 4, 5, 6])),
  0: (toys.item([1, 2, 3]), toys.item([4, 5, 6, 7, 8, 9])),
}
RNG = np.random.default_rng(0)
TOKEN_BT = RNG.integers(0, toys.PATCH, (9, NEW), np.int32)
POLICY = toys.trained_parts(noise=0.1)
# Embeddings of unit size: the first norm would multiply the gradients, and
# their rounding, of small ones by fifty.
EMBED_VD = 50 * POLICY["decoder"]["embed_VD"]
PARAMS = POLICY | {
  "decoder": POLICY["decoder"] | {"embed_VD": EMBED_VD},
  "value": {
    "value_D": jnp.asarray(RNG.normal(size=16), jnp.float32),
    "bias": jnp.float32(0.5),
  },
}


def whole_rows(items, token_BT, clips):
  """[prompt, response] in one row each, and the columns before each token."""
  count = len(token_BT) // len(items)
  each = [item for item in items for _ in range(count)]
  rows = []
  for item, token_T in zip(each, token_BT, strict=True):
    ids = np.concatenate([item.row.tokens, token_T])
    row = dataclasses.replace(
      item.row, tokens=ids, loss=np.zeros(len(ids), bool)
    )
    rows.append(dataclasses.replace(item, row=row))
  start_B = jnp.array([len(item.row.tokens) for item in each])
  batch = toys.batch(rows, time=20, clips=clips)
  return batch, logprobs.predictors(start_B, token_BT.shape[1], 20)


def whole_values(params, batch: Batch, at_BS):
  """Values of whole rows, read before each token."""
  hidden_BTD, _ = audio_lm._hidden(params, batch, toys.CONFIG)
  head = {"params": params["value"]}
  value_BT = audio_lm.ValueHead().apply(head, hidden_BTD)
  return jnp.take_along_axis(value_BT, at_BS, axis=1)


def with_gradients(model, out_grad):
  """(params, ...) -> what the model returns, and its parameters' gradients."""

  def run(params, *rest):
    out, pull = jax.vjp(lambda params: model(params, *rest), params)
    return out, pull(out_grad)[0]

  return toys.jit(run)


@pytest.mark.parametrize(
  "clips, apart, together",
  [
    (2, toys.continuations, toys.apply),
    (1, toys.values, whole_values),
    (0, toys.continuations, toys.apply),
  ],
)
def test_a_prompt_that_runs_once_is_heard_as_in_whole_rows(
  clips, apart, together
):
  items = PROMPTS[clips]
  token_BT = TOKEN_BT[: G * len(items)]
  shape = token_BT.shape
  if together is toys.apply:
    shape = (*shape, toys.VOCAB)
  # As of a mean over all tokens.
  out_grad = np.random.default_rng(1).normal(size=shape) / token_BT.size
  out_grad = jnp.asarray(out_grad, jnp.float32)
  prompts = toys.batch(items, time=12, clips=clips)
  got, own = with_gradients(apart, out_grad)(PARAMS, prompts, token_BT)
  rows = whole_rows(items, token_BT, clips)
  want, golden = with_gradients(together, out_grad)(PARAMS, *rows)
  # float32 sums in another order.
  assert got.shape == want.shape
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
  assert toys.difference(own, golden) < 1e-5
  # They are no zeros, but for the adapter's without a clip.
  largest = jax.tree.map(lambda leaf: float(jnp.abs(leaf).max()), golden)
  assert largest["decoder"]["k_LDKH"] > 1e-3
  assert (largest["adapter"]["conv_REE"] > 1e-3) == (clips > 0)


def test_neither_padding_nor_another_response_changes_a_state():
  items = PROMPTS[1]
  run = toys.CONTINUATIONS
  base = run(PARAMS, toys.batch(items, time=12), TOKEN_BT[:4])
  longer = run(PARAMS, toys.batch(items, time=16), TOKEN_BT[:4])
  np.testing.assert_allclose(longer, base, atol=1e-5)
  token_BT = TOKEN_BT[:4].copy()
  token_BT[1], token_BT[0, 3:] = 7, 7
  other = run(PARAMS, toys.batch(items, time=12), token_BT)
  np.testing.assert_array_equal(other[0, :4], base[0, :4])
  np.testing.assert_array_equal(other[2:], base[2:])
  assert np.abs(other[1, 1:] - base[1, 1:]).max(-1).min() > 1e-3


def test_a_single_token_is_scored_by_its_prompt_alone():
  prompts = toys.batch(PROMPTS[1], time=12)
  logits_BTV = toys.CONTINUATIONS(PARAMS, prompts, TOKEN_BT[:4, :1])
  golden_BV, _ = toys.jit(toys.prefill, static_argnames="slots")(
    PARAMS, prompts, slots=12
  )
  golden_BV = np.repeat(golden_BV, 2, axis=0)
  np.testing.assert_allclose(logits_BTV[:, 0], golden_BV, atol=1e-5)


def test_sixteen_responses_cost_less_than_two_fifths_of_whole_rows():
  # The share of prompt and response in a row is that of the recipe.
  long, short, new = toys.item([1] * 34), toys.item([2] * 30), 10
  items, token_BT = (long, short), np.ones((32, new), np.int32)
  prompts = toys.batch(items, time=34, clips=0)
  each = [item for item in items for _ in range(16)]
  rows = toys.batch(each, time=34 + new, clips=0)
  at_BS = logprobs.predictors(jnp.full(32, 30), new, 34 + new)

  def flops(model, *rest):
    total = lambda params: model(params, *rest).sum()
    program = jax.jit(jax.grad(total)).lower(PARAMS)
    return program.cost_analysis()["flops"]

  once = flops(toys.continuations, prompts, token_BT)
  assert once < 0.4 * flops(toys.apply, rows, at_BS)
