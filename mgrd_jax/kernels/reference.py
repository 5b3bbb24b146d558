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
  G = N // K
  # A group's heads stand beside its queries, as further queries: the cache is
  # never repeated, and every product, the gradients' too, sums over one axis.
  # One that sums over two is given a transposed copy on a CPU.
  q_BTKGH = q_BTNH.reshape(B, T, K, G, H)
  q_BKTH = jnp.einsum("BTKGH->BKTGH", q_BTKGH).reshape(B, K, T * G, H)
  logits_BKTS = jnp.einsum(
    "BKTH,BSKH->BKTS", q_BKTH, k_BSKH, preferred_element_type=jnp.float32
  )
  bias_BTS = jnp.where(mask_BTS, 0.0, -1e10)
  if mask_BTS.shape[1] > 1:
    bias_BTS = jnp.repeat(bias_BTS, G, axis=1)
  logits_BKTS = logits_BKTS * H**-0.5 + bias_BTS[:, None]
  probs_BKTS = jax.nn.softmax(logits_BKTS, axis=-1).astype(v_BSKH.dtype)
  out_BKTH = jnp.einsum("BKTS,BSKH->BKTH", probs_BKTS, v_BSKH)
  out_BKTGH = out_BKTH.reshape(B, K, T, G, H)
  return jnp.einsum("BKTGH->BTKGH", out_BKTGH).reshape(B, T, N, H)
