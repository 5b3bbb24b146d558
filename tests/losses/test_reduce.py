"""Masked averages: golden numbers, empty masks, uneven splits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgrd_jax.losses import ppo, reduce, sft

MODES = [
  "token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "seq_mean_const"
]  # fmt: skip
OLD_BT = jnp.array([[-1.0, -2, -0.5, -3]] * 2)
NEW_BT = jnp.array([[-0.7, -2.6, -0.5, -1.2]] * 2)
ADV_BT = jnp.array([[1.0] * 4, [-1.0] * 4])
MASK_BT = jnp.array([[1, 1, 1, 1], [1, 1, 0, 1]], bool)


def test_masked_mean_equals_slicing():
  x_BT = jax.random.normal(jax.random.key(0), (3, 5))
  mask_BT = jnp.arange(5) < jnp.array([[2], [5], [0]])
  want = np.concatenate([x_BT[0, :2], x_BT[1]]).mean()
  np.testing.assert_allclose(
    reduce.masked_mean(x_BT, mask_BT), want, rtol=1e-6
  )


def test_booleans_and_integers_average_as_shares():
  mask_BT = jnp.array([[True, True, True, False]])
  share = reduce.masked_mean(jnp.array([[True, False, False, True]]), mask_BT)
  np.testing.assert_allclose(share, 1 / 3, rtol=1e-6)


@pytest.mark.parametrize("bad", [jnp.inf, jnp.nan])
@pytest.mark.parametrize("mode", MODES)
def test_a_dropped_position_never_reaches_the_sum(mode, bad):
  mask_BT = jnp.array([[True, False], [False, False]])
  loss_BT = jnp.array([[2.0, bad], [bad, bad]])
  total, count = reduce.aggregate(loss_BT, mask_BT, mode, const_len=1.0)
  assert (total, count) == (2.0, 1.0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rows", [0, 1])
def test_masked_rows_and_batches_give_finite_zero_gradients(mode, rows):
  # Trap 8: `rows` live rows of two.
  mask_BT = jnp.zeros((2, 3), bool).at[:rows].set(True)

  def loss(x_BT):
    pair = reduce.aggregate(jnp.square(x_BT), mask_BT, mode, const_len=4.0)
    return reduce.ratio(*pair)

  value, grad_BT = jax.jit(jax.value_and_grad(loss))(jnp.ones((2, 3)))
  assert jnp.isfinite(value) and jnp.isfinite(grad_BT).all()
  assert not grad_BT[rows:].any()
  assert bool((grad_BT[:rows] > 0).all())


def test_negative_log_likelihood_of_a_fully_masked_batch_is_zero():
  total, count = sft.negative_log_likelihood(
    jnp.full((2, 3), -jnp.inf), jnp.zeros((2, 3), bool)
  )
  assert (total, count, reduce.ratio(total, count)) == (0, 0, 0)


def test_negative_log_likelihood_counts_only_kept_tokens():
  logp_BT = jnp.log(jnp.array([[0.9, 0.5, 0.25], [0.125, 0.9, 0.9]]))
  mask_BT = jnp.array([[0, 1, 1], [1, 0, 0]], bool)
  total, count = sft.negative_log_likelihood(logp_BT, mask_BT)
  np.testing.assert_allclose(total, 6 * np.log(2), rtol=1e-6)
  assert count == 3


@pytest.mark.parametrize("mode", MODES)
def test_an_uneven_split_equals_one_batch(mode):
  # Trap 7: sums and counts add up, in value and in gradient.
  loss_BT = jax.random.normal(jax.random.key(0), (5, 7))
  mask_BT = jax.random.bernoulli(jax.random.key(1), 0.4, (5, 7))

  def loss(x_BT, splits):
    pairs = [
      reduce.aggregate(x_BT[s], mask_BT[s], mode, const_len=9.0) for s in splits
    ]
    return reduce.ratio(*map(sum, zip(*pairs, strict=True)))

  def run(*splits):
    return jax.jit(jax.value_and_grad(lambda x_BT: loss(x_BT, splits)))(loss_BT)

  whole, split = run(slice(0, 5)), run(slice(0, 1), slice(1, 5))
  np.testing.assert_allclose(whole[0], split[0], rtol=1e-5)
  np.testing.assert_allclose(whole[1], split[1], rtol=1e-5)


def test_a_mean_per_micro_batch_would_be_wrong_by_a_sixth():
  # The golden error of rows of 4 and 3 tokens, which sums avoid.
  def gradient(split):
    def loss(new_BT):
      l_BT = ppo.clipped_surrogate(
        new_BT, OLD_BT, ADV_BT, eps_lo=0.2, eps_hi=0.28
      )
      rows = [slice(0, 1), slice(1, 2)]
      pairs = [reduce.aggregate(l_BT[r], MASK_BT[r]) for r in rows]
      if split:
        return sum(reduce.ratio(*pair) for pair in pairs) / 2
      return reduce.ratio(*map(sum, zip(*pairs, strict=True)))

    return np.array(jax.grad(loss)(NEW_BT))

  right, wrong = gradient(split=False), gradient(split=True)
  live = right != 0
  error = np.abs(wrong[live] / right[live] - 1).max()
  assert round(float(error), 3) == 0.167


@pytest.mark.parametrize("mode, const_len", [
  ("mean", None), ("seq_mean_const", None), ("seq_mean_const", 0.0)
])  # fmt: skip
def test_an_unknown_mode_or_a_missing_constant_is_refused(mode, const_len):
  with pytest.raises(ValueError):
    reduce.aggregate(ADV_BT, MASK_BT, mode, const_len)
