"""The oracle: attention as a float32 einsum.

    softmax(q k^T / sqrt(H) + mask) v
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def attention(
  q_BTNH: Float[Array, "B T N H"],
  k_BSKH: Float[Array, "B S K H"],
  v_BSKH: Float[Array, "B S K H"],
  mask_BTS: Bool[Array, "#B #T S"],
) -> Float[Array, "B T N H"]:
  """Grouped-query attention; query head n reads kv head n // (N / K).

  Scale and softmax run in float32.  A query row whose mask is empty attends
  uniformly and stays finite.
  """
  B, T, N, H = q_BTNH.shape
  K = k_BSKH.shape[2]
  # Heads are split into (K, G), so that the cache is never repeated; G stands
  # after T, the order in which the dot leaves it.
  q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
  logits_BKTGS = jnp.einsum(
    "BTKGH,BSKH->BKTGS", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32
  )
  logits_BKTGS = jnp.where(
    mask_BTS[:, None, :, None], logits_BKTGS * H**-0.5, -1e10
  )
  probs_BKTGS = jax.nn.softmax(logits_BKTGS, axis=-1).astype(v_BSKH.dtype)
  out_BTKGH = jnp.einsum("BKTGS,BSKH->BTKGH", probs_BKTGS, v_BSKH)
  return out_BTKGH.reshape(B, T, N, H)
