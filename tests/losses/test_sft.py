"""The likelihood of what should have been said, as a sum and a count."""

import jax
import jax.numpy as jnp
import numpy as np

from mgrd_jax.losses import reduce, sft

LOGP_BT = jnp.log(jnp.array([[0.5, 0.25, 0.1, 1.0], [0.2, 0.5, 0.5, 0.9]]))
MASK_BT = jnp.array([[0, 1, 1, 0], [0, 0, 1, 0]], bool)


def test_the_loss_is_the_surprise_of_the_kept_tokens_alone():
  total, count = sft.negative_log_likelihood(LOGP_BT, MASK_BT)
  assert count == 3
  np.testing.assert_allclose(total, -np.log(0.25 * 0.1 * 0.5), rtol=1e-6)
  nan_BT = jnp.where(MASK_BT, LOGP_BT, jnp.nan)
  again = sft.negative_log_likelihood(nan_BT, MASK_BT)
  np.testing.assert_array_equal(again, (total, count))

  def loss(logp_BT):
    return reduce.ratio(*sft.negative_log_likelihood(logp_BT, MASK_BT))

  grad_BT = jax.grad(loss)(LOGP_BT)
  np.testing.assert_allclose(grad_BT, jnp.where(MASK_BT, -1 / 3, 0), rtol=1e-6)


def test_pairs_of_micro_batches_add_up_to_the_pair_of_the_batch():
  whole = sft.negative_log_likelihood(LOGP_BT, MASK_BT)
  rows = [
    sft.negative_log_likelihood(LOGP_BT[b], MASK_BT[b]) for b in range(2)
  ]
  np.testing.assert_allclose(np.sum(rows, axis=0), whole, rtol=1e-6)
