"""Heads that train the encoder, and are dropped: words and attributes.

    enc_BAE -> CTC logits over words          (what is said, what happens)
    enc_BAE -attention pooling-> one softmax per attribute

The released encoder was pretrained on recognition, attributes and events
(Step-Audio 2 report, 3.1); this is the same step at laptop size.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mgrd_jax.models import layers


class RecognitionHeads(nn.Module):
  """Attributes:
  words: size of the CTC vocabulary, blank (id 0) included.
  attributes: number of attributes.
  classes: the most values that an attribute has.
  """

  words: int
  attributes: int
  classes: int

  @nn.compact
  def __call__(self, enc_BAE, enc_len_B):
    """Returns (ctc_BAV, class_BNV); N counts attributes."""
    E = enc_BAE.shape[-1]
    words_EV = self.param("words_EV", layers.fan_in(E), (E, self.words))
    shape = (self.attributes, E)
    query_NE = self.param("query_NE", layers.fan_in(E), shape)
    class_NEV = self.param(
      "class_NEV", layers.fan_in(E), (*shape, self.classes)
    )
    ctc_BAV = jnp.einsum("BAE,EV->BAV", enc_BAE, words_EV)
    score_BNA = jnp.einsum("BAE,NE->BNA", enc_BAE, query_NE)
    keep_BA = jnp.arange(enc_BAE.shape[1]) < enc_len_B[:, None]
    score_BNA = jnp.where(keep_BA[:, None], score_BNA, -1e10)
    weight_BNA = jax.nn.softmax(score_BNA, axis=-1)
    pooled_BNE = jnp.einsum("BNA,BAE->BNE", weight_BNA, enc_BAE)
    return ctc_BAV, jnp.einsum("BNE,NEV->BNV", pooled_BNE, class_NEV)


def init_heads(key, heads: RecognitionHeads, width: int) -> dict:
  """Random head parameters for an encoder of `width`."""
  enc = jnp.zeros((1, 4, width))
  return heads.init(key, enc, jnp.array([4]))["params"]
