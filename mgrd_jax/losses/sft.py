"""Supervised fine-tuning: the likelihood of what should have been said.

    L = sum(mask · -log π(token | earlier tokens)) / sum(mask)
"""

from jaxtyping import Array, Bool, Float

from mgrd_jax.losses import reduce


def negative_log_likelihood(
  logp_BT: Float[Array, "*B"], loss_mask_BT: Bool[Array, "*B"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
  """Negative log-likelihood in nats as (sum, tokens).

  The mask keeps the think block, the reply and the end-of-turn token; the
  prompt, the audio positions and padding are out.  Add the pairs of all
  micro-batches and devices, then divide once with `reduce.ratio`.
  Step-Audio-R1, https://arxiv.org/abs/2511.15848, eq. 1.
  """
  return reduce.masked_sum_count(-logp_BT, loss_mask_BT)
