"""mel_BRM -> enc_BAE: Whisper-style encoder with a 25 Hz output.

    conv k3 -> GELU -> conv k3 stride 2 -> GELU -> + positions
      -> L pre-norm blocks -> average pool 2 -> LayerNorm

As in Step-Audio 2 and Qwen2-Audio: exact GELU, keys without bias, no causal
mask, the norm after the pooling.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mgrd_jax import sharding
from mgrd_jax.audio import features
from mgrd_jax.kernels import attention as attention_op
from mgrd_jax.models import layers


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
  """Sizes.

  `fixed` is Qwen2-Audio's rule: an input always has 2 * positions frames, and
  what lies beyond a clip is the silence that pads it, heard by the
  convolutions and hidden from attention.  Step-Audio's inputs end where the
  clip ends; `tail` of their mel frames do not count as valid: two in the
  published code, none in its server.
  """

  mels: int = 128
  width: int = 1280
  heads: int = 20
  layers: int = 32
  ffn: int = 5120
  positions: int = 1500
  fixed: bool = False
  tail: int = 2


def sinusoids(positions: int, width: int) -> np.ndarray:
  """Whisper's position table [A, E]: what the trained one starts from."""
  step = np.log(10_000) / (width // 2 - 1)
  angle = np.arange(positions)[:, None] * np.exp(
    -step * np.arange(width // 2)[None]
  )
  return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype("f4")


def _own_frames(config: EncoderConfig, frames: int, mel_len_B):
  """Mel frames that a clip itself has: some more than count as valid."""
  if not config.fixed:
    return mel_len_B + config.tail
  if frames != 2 * config.positions:
    raise ValueError(
      f"this encoder hears {2 * config.positions} mel frames, not {frames}; "
      "use features.log_mel_30s"
    )
  return jnp.full_like(mel_len_B, frames)


class Encoder(nn.Module):
  """The encoder; rows of a batch do not see each other's padding."""

  config: EncoderConfig

  def weights(self):
    """Stacked block weights, leading axis L."""
    c = self.config
    L, E, N, F = c.layers, c.width, c.heads, c.ffn
    H = E // N
    zeros, ones = nn.initializers.zeros, nn.initializers.ones
    return {
      "norm1_LE": self.param("attn_norm_LE", ones, (L, E)),
      "bias1_LE": self.param("attn_norm_bias_LE", zeros, (L, E)),
      "q": self.param("q_LENH", layers.fan_in(E), (L, E, N, H)),
      "q_bias": self.param("q_bias_LNH", zeros, (L, N, H)),
      "k": self.param("k_LENH", layers.fan_in(E), (L, E, N, H)),
      "v": self.param("v_LENH", layers.fan_in(E), (L, E, N, H)),
      "v_bias": self.param("v_bias_LNH", zeros, (L, N, H)),
      "out": self.param("out_LNHE", layers.fan_in(E), (L, N, H, E)),
      "out_bias": self.param("out_bias_LE", zeros, (L, E)),
      "norm2_LE": self.param("mlp_norm_LE", ones, (L, E)),
      "bias2_LE": self.param("mlp_norm_bias_LE", zeros, (L, E)),
      "up": self.param("up_LEF", layers.fan_in(E), (L, E, F)),
      "up_bias": self.param("up_bias_LF", zeros, (L, F)),
      "down": self.param("down_LFE", layers.fan_in(F), (L, F, E)),
      "down_bias": self.param("down_bias_LE", zeros, (L, E)),
    }

  @nn.compact
  def __call__(self, mel_BRM, mel_len_B):
    """Encodes a padded batch of log-mels.

    Args:
      mel_BRM: normalised log-mel, padded right with 0.0.
      mel_len_B: valid frames, `features.encoder_input_len` of each clip.

    Raises:
      ValueError: the encoder is `fixed` and the input has another length.

    Returns:
      (enc_BAE, enc_len_B): 25 Hz states, zero past each clip's own pooled
      length, and the number of valid ones.
    """
    c = self.config
    frames = mel_BRM.shape[1]
    own_B = _own_frames(c, frames, mel_len_B)
    zeros, E = nn.initializers.zeros, c.width
    kernel_RME = self.param(
      "conv1_RME", layers.fan_in(3 * c.mels), (3, c.mels, E)
    )
    x = layers.conv1d(
      mel_BRM.astype(kernel_RME.dtype),
      kernel_RME,
      self.param("conv1_bias_E", zeros, (E,)),
      stride=1,
    )
    x = jax.nn.gelu(x, approximate=False)
    # A clip alone has zeros, not gelu(bias), beyond its last frame.
    x = jnp.where((jnp.arange(frames) < own_B[:, None])[..., None], x, 0.0)
    x = layers.conv1d(
      x,
      self.param("conv2_REE", layers.fan_in(3 * E), (3, E, E)),
      self.param("conv2_bias_E", zeros, (E,)),
      stride=2,
    )
    x = jax.nn.gelu(x, approximate=False)
    table_AE = self.param(
      "position_AE", lambda _: jnp.asarray(sinusoids(c.positions, E))
    )
    length = x.shape[1]
    x = x + table_AE[:length].astype(x.dtype)
    # Step-Audio subsamples its frame mask from an offset that depends on the
    # parity of the clip's length; Qwen2-Audio from none.
    offset_B1 = 0 if c.fixed else (own_B[:, None] + 1) % 2
    at_BA = 2 * jnp.arange(length) + offset_B1
    keep_B1A = (at_BA < mel_len_B[:, None])[:, None]

    def block(x_BAE, w):
      # Weights are gathered, not states summed over the devices.
      x = sharding.tokens(sharding.constrain(x_BAE, "BAE"))
      y = layers.layer_norm(x, w["norm1_LE"], w["bias1_LE"])
      q = jnp.einsum("...E,ENH->...NH", y, w["q"]) + w["q_bias"]
      k = jnp.einsum("...E,ENH->...NH", y, w["k"])
      v = jnp.einsum("...E,ENH->...NH", y, w["v"]) + w["v_bias"]
      q, k, v = (
        heads.reshape(*x_BAE.shape[:2], *heads.shape[-2:])
        for heads in (q, k, v)
      )
      y = sharding.tokens(attention_op.attention(q, k, v, keep_B1A))
      x = x + jnp.einsum("...NH,NHE->...E", y, w["out"]) + w["out_bias"]
      y = layers.layer_norm(x, w["norm2_LE"], w["bias2_LE"])
      y = jnp.einsum("...E,EF->...F", y, w["up"]) + w["up_bias"]
      y = jax.nn.gelu(y, approximate=False)
      x = x + jnp.einsum("...F,FE->...E", y, w["down"]) + w["down_bias"]
      return x.reshape(x_BAE.shape), None

    x, _ = jax.lax.scan(block, x, self.weights())
    pooled = length // 2
    x = 0.5 * (x[:, 0 : 2 * pooled : 2] + x[:, 1 : 2 * pooled : 2])
    x = layers.layer_norm(
      x,
      self.param("norm_E", nn.initializers.ones, (E,)),
      self.param("norm_bias_E", zeros, (E,)),
    )
    exists_BA = jnp.arange(pooled) < features.pooled_frames(own_B)[:, None]
    enc_BAE = jnp.where(exists_BA[..., None], x, 0.0)
    count = features.fixed_frames if c.fixed else features.encoder_frames
    return enc_BAE, count(mel_len_B)
