"""The encoder's losses: CTC over words, cross-entropy per attribute."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


def ctc(
  logits_BAV: Float[Array, "B A V"],
  frames_B: Int[Array, " B"],
  words_BT: Int[Array, "B T"],
) -> Float[Array, " B"]:
  """-log p(words | audio) by connectionist temporal classification.

  Args:
    logits_BAV: scores per 25 Hz frame; id 0 is the blank.
    frames_B: valid frames.
    words_BT: word ids from 1, padded with 0.  A row without words is 0.

  Graves et al. 2006, eq. 14.
  """
  pad_BA = jnp.arange(logits_BAV.shape[1]) >= frames_B[:, None]
  pad_BT = words_BT == 0
  loss_B = optax.ctc_loss(
    logits_BAV, pad_BA.astype(jnp.float32), words_BT, pad_BT.astype(jnp.float32)
  )
  return jnp.where((~pad_BT).any(1), loss_B, 0.0)


def attributes(
  logits_BNV: Float[Array, "B N V"],
  label_BN: Int[Array, "B N"],
  classes_N: Int[Array, " N"],
) -> tuple[Float[Array, "B N"], Float[Array, "B N"]]:
  """Cross-entropy and hits of each attribute; label -1 is absent (0, 0)."""
  exists_NV = jnp.arange(logits_BNV.shape[-1]) < classes_N[:, None]
  logits_BNV = jnp.where(exists_NV, logits_BNV, -1e10)
  logp_BNV = jax.nn.log_softmax(logits_BNV)
  at_BN1 = jnp.maximum(label_BN, 0)[..., None]
  loss_BN = -jnp.take_along_axis(logp_BNV, at_BN1, axis=-1)[..., 0]
  hit_BN = jnp.argmax(logits_BNV, axis=-1) == label_BN
  keep_BN = label_BN >= 0
  return loss_BN * keep_BN, (hit_BN & keep_BN).astype(jnp.float32)
