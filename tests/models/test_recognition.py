"""Heads of the encoder: what they read, and what padding is to them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgrd_jax.models import recognition
from tests import toys

HEADS = recognition.RecognitionHeads(words=5, attributes=2, classes=3)
PARAMS = recognition.init_heads(jax.random.key(0), HEADS, toys.WIDTH)
ENC_BAE = jax.random.normal(jax.random.key(1), (2, 6, toys.WIDTH))
RUN = toys.jit(lambda enc, n: HEADS.apply({"params": PARAMS}, enc, n))


def test_words_are_scored_by_frame_and_attributes_by_clip():
  ctc_BAV, class_BNV = RUN(ENC_BAE, jnp.array([6, 6]))
  assert ctc_BAV.shape == (2, 6, 5) and class_BNV.shape == (2, 2, 3)
  # By hand: a softmax over frames, the mean under it, a map for each.
  enc_AE = np.asarray(ENC_BAE[1], np.float64)
  query_E, map_EV = PARAMS["query_NE"][1], PARAMS["class_NEV"][1]
  weight_A = np.exp(enc_AE @ query_E)
  pooled_E = weight_A @ enc_AE / weight_A.sum()
  np.testing.assert_allclose(class_BNV[1, 1], pooled_E @ map_EV, atol=1e-5)
  np.testing.assert_allclose(
    ctc_BAV[1, 4], enc_AE[4] @ PARAMS["words_EV"], atol=1e-5
  )


@pytest.mark.parametrize("padding", [0.0, 100.0])
def test_frames_past_the_end_are_in_no_attribute(padding):
  alone = RUN(ENC_BAE[:, :4], jnp.array([4, 4]))
  padded_BAE = ENC_BAE.at[:, 4:].set(padding)
  ctc_BAV, class_BNV = RUN(padded_BAE, jnp.array([4, 4]))
  np.testing.assert_allclose(class_BNV, alone[1], atol=1e-6)
  np.testing.assert_allclose(ctc_BAV[:, :4], alone[0], atol=1e-6)
