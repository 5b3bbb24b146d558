"""Log-probabilities, entropies and values, aligned to tokens.

    logits_BTV[:, t]  scores  tokens_BT[:, t + 1]

Every result here has column t describe tokens_BT[:, t].  This is the only
file that shifts; whatever a loss receives is already aligned.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# A ban is lowered to this and no further.  exp(-1e9) is exactly 0, so the
# distribution is that of -inf, but a banned token inside a prompt keeps a
# finite log-probability and cannot turn a masked gradient into NaN.
_LOWEST_BAN = -1e9


def token_logprobs(
  logits_BTV: Float[Array, "*B T V"],
  tokens_BT: Int[Array, "*B T"],
  *,
  temperature: float = 1.0,
  ban_V: Float[Array, " V"] | None = None,
) -> Float[Array, "*B T"]:
  """Log-probability of each token given the tokens before it, in nats.

    logp_t = log_softmax((z_{t-1} + ban) / temperature)[tokens_t]

  Column 0 has no predecessor and is 0.  `ban_V` is added to the logits: 0
  where an id may be sampled, -inf where it may not.  Pass the sampler's own
  `temperature` and `ban_V`, else the two distributions differ.  At least
  float32 inside and out, whatever the logits are.
  """
  scaled_BTV = _scaled(logits_BTV, temperature, ban_V)
  # The small arrays are shifted, not the logits: no copy of size BTV.
  next_BT = jnp.roll(tokens_BT, -1, axis=-1)
  picked_BTV = jnp.take_along_axis(scaled_BTV, next_BT[..., None], axis=-1)
  normaliser_BT = jax.nn.logsumexp(scaled_BTV, axis=-1)
  return _shift_right(picked_BTV[..., 0] - normaliser_BT)


def entropy(
  logits_BTV: Float[Array, "*B T V"],
  *,
  temperature: float = 1.0,
  ban_V: Float[Array, " V"] | None = None,
) -> Float[Array, "*B T"]:
  """Entropy of the distribution that each token was drawn from, in nats.

    H_t = -sum_v p_v log p_v,   p = softmax((z_{t-1} + ban) / temperature)

  Aligned as `token_logprobs`: column t is the choice of token t, column 0
  is 0.
  """
  logp_BTV = jax.nn.log_softmax(_scaled(logits_BTV, temperature, ban_V))
  return _shift_right(-jnp.sum(jnp.exp(logp_BTV) * logp_BTV, axis=-1))


def shift_values(
  value_BT: Float[Array, "*B T"],
) -> Float[Array, "*B T"]:
  """Critic outputs moved to the token whose choice they precede.

    V_t = v(h_{t-1})

  In: column t read off the hidden state *at* token t.  Out: column t is the
  value of the state *before* token t, which is what an advantage of token t
  may use; column 0 is 0.
  """
  return _shift_right(value_BT)


def _scaled(logits_BTV, temperature, ban_V):
  dtype = jnp.promote_types(logits_BTV.dtype, jnp.float32)
  scaled_BTV = logits_BTV.astype(dtype)
  if ban_V is not None:
    scaled_BTV += jnp.maximum(ban_V.astype(dtype), _LOWEST_BAN)
  return scaled_BTV / temperature


def _shift_right(x_BT):
  return jnp.concatenate(
    [jnp.zeros_like(x_BT[..., :1]), x_BT[..., :-1]], axis=-1
  )
