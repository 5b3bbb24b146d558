"""The head in chunks of its vocabulary, against all of its logits."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgrd_jax.losses import logprobs

B, T, D, V = 2, 7, 16, 48
LEGAL = 40  # ids from here on are banned
SCALING = dict(
  temperature=1.3, ban_V=jnp.where(jnp.arange(V) < LEGAL, 0.0, -jnp.inf)
)
CUTS = [(1, 1), (4, 1), (3, 2), (12, 4)]


@pytest.fixture(scope="module")
def given():
  rng = np.random.default_rng(0)
  hidden_BTD, head_DV = rng.normal(size=(B, T, D)), rng.normal(size=(D, V))
  token_BT = jnp.asarray(rng.integers(0, LEGAL, (B, T)))
  slopes = jnp.asarray(rng.normal(size=(2, B, T)), jnp.float32)
  as_float = functools.partial(jnp.asarray, dtype=jnp.float32)
  return as_float(hidden_BTD), as_float(head_DV), token_BT, slopes


def whole(hidden_BTD, head_DV, token_BT):
  logits_BTV = jnp.einsum("BTD,DV->BTV", hidden_BTD, head_DV)
  return (
    logprobs.choice_logprobs(logits_BTV, token_BT, **SCALING),
    logprobs.entropy(logits_BTV, **SCALING),
  )


def cut(hidden_BTD, head_DV, token_BT, *, chunks, shards, tied):
  return logprobs.head_logprobs(
    hidden_BTD,
    head_DV.T if tied else head_DV,
    token_BT,
    chunks=chunks,
    shards=shards,
    tied=tied,
    **SCALING,
  )


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("chunks, shards", CUTS)
def test_chunks_give_what_all_logits_give(given, chunks, shards, tied):
  hidden_BTD, head_DV, token_BT, slopes = given

  def loss(function, hidden_BTD, head_DV):
    found = function(hidden_BTD, head_DV, token_BT)
    return sum((s * x).sum() for s, x in zip(slopes, found, strict=True)), found

  ours = functools.partial(cut, chunks=chunks, shards=shards, tied=tied)
  both = [
    jax.value_and_grad(functools.partial(loss, f), (0, 1), has_aux=True)(
      hidden_BTD, head_DV
    )
    for f in (whole, ours)
  ]
  # float32 sums of 48 terms in another order.
  for one, other in zip(*map(jax.tree.leaves, both), strict=True):
    np.testing.assert_allclose(one, other, atol=2e-5, rtol=1e-5)


def test_a_banned_token_in_the_padding_leaves_gradients_finite(given):
  hidden_BTD, head_DV, token_BT, _ = given
  token_BT = token_BT.at[:, -1].set(V - 1)

  def loss(hidden_BTD):
    logp_BT, _ = cut(
      hidden_BTD, head_DV, token_BT, chunks=4, shards=1, tied=False
    )
    return jnp.where(jnp.arange(T) < T - 1, logp_BT, 0.0).sum()

  assert np.isfinite(jax.grad(loss)(hidden_BTD)).all()


def test_no_array_of_all_logits_exists_forward_or_backward(given):
  hidden_BTD, head_DV, token_BT, _ = given

  def text(function):
    def loss(hidden_BTD, head_DV):
      return function(hidden_BTD, head_DV, token_BT)[0].sum()

    step = jax.jit(jax.grad(loss, (0, 1)))
    return step.lower(hidden_BTD, head_DV).compile().as_text()

  def largest(program):
    """Elements of the largest array that has the batch's two axes."""
    shapes = re.findall(rf"f32\[{B},{T}((?:,\d+)*)\]", program)
    return max(
      int(np.prod([int(n) for n in s.split(",") if n])) for s in shapes
    )

  ours = functools.partial(cut, chunks=4, shards=1, tied=False)
  assert largest(text(whole)) == V  # or the next line would say nothing
  assert largest(text(ours)) == max(D, V // 4)


def test_a_vocabulary_that_cannot_be_cut_is_refused(given):
  hidden_BTD, head_DV, token_BT, _ = given
  with pytest.raises(ValueError, match="48 .* 1 shards x 5 chunks"):
    cut(hidden_BTD, head_DV, token_BT, chunks=5, shards=1, tied=False)
