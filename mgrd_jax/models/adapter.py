"""enc_BAE (25 Hz) -> audio_BAD, encoder width to decoder width.

    conv:    conv k3 stride 2 -> GELU -> linear -> ReLU -> linear  (12.5 Hz)
    linear:  linear                                                (25 Hz)

The first is Step-Audio's adapter, the second Qwen2-Audio's projector.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from mgrd_jax.models import layers


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
  encoder_width: int = 1280
  hidden: int = 2048
  decoder_width: int = 3584
  kind: str = "conv"


class Adapter(nn.Module):
  """The adapter of `config.kind`; "conv" makes (L-1)//2 + 1 of L states."""

  config: AdapterConfig

  @nn.compact
  def __call__(self, enc_BAE):
    c = self.config
    E, F, D = c.encoder_width, c.hidden, c.decoder_width
    zeros = nn.initializers.zeros
    if c.kind == "linear":
      proj_ED = self.param("proj_ED", layers.fan_in(E), (E, D))
      x = jnp.einsum("BAE,ED->BAD", enc_BAE, proj_ED)
      return x + self.param("proj_bias_D", zeros, (D,))
    x = layers.conv1d(
      enc_BAE,
      self.param("conv_REE", layers.fan_in(3 * E), (3, E, E)),
      self.param("conv_bias_E", zeros, (E,)),
      stride=2,
    )
    x = jax.nn.gelu(x, approximate=False)
    up_EF = self.param("up_EF", layers.fan_in(E), (E, F))
    x = jnp.einsum("BAE,EF->BAF", x, up_EF)
    x = jax.nn.relu(x + self.param("up_bias_F", zeros, (F,)))
    down_FD = self.param("down_FD", layers.fan_in(F), (F, D))
    x = jnp.einsum("BAF,FD->BAD", x, down_FD)
    return x + self.param("down_bias_D", zeros, (D,))
