"""The adapter: its equations, and its lengths."""

import jax
import numpy as np
import pytest

from mgrd_jax.audio import features
from mgrd_jax.models import adapter
from tests import toys
from tests.models.test_audio_encoder import conv, gelu

MODULE = adapter.Adapter(toys.CONFIG.adapter)


def test_the_adapter_is_conv_gelu_linear_relu_linear():
  w = toys.params()["adapter"]
  enc_AE = toys.clip(0, 7)
  out_BAD = toys.jit(MODULE.apply)({"params": w}, enc_AE[None])
  w = jax.tree.map(lambda a: np.asarray(a, np.float64), w)
  x = gelu(conv(enc_AE, w["conv_REE"], w["conv_bias_E"], 2))
  x = np.maximum(x @ w["up_EF"] + w["up_bias_F"], 0)
  x = x @ w["down_FD"] + w["down_bias_D"]
  np.testing.assert_allclose(out_BAD[0], x, atol=1e-5)


@pytest.mark.parametrize("frames", [1, 2, 3, 7, 8, 625, 750])
def test_a_clip_of_l_states_gives_half_of_it_rounded_up(frames):
  enc = jax.ShapeDtypeStruct((1, frames, toys.WIDTH), np.float32)
  weights = {"params": toys.params()["adapter"]}
  out = jax.eval_shape(MODULE.apply, weights, enc)
  assert out.shape == (1, (frames + 1) // 2, toys.CONFIG.adapter.decoder_width)
  assert out.shape[1] == features.adapter_frames(frames)
