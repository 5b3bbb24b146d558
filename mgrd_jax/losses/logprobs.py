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
  logits_BSV: Float[Array, "*B S V"],
  tokens_BT: Int[Array, "*B T"],
  *,
  temperature: float = 1.0,
  ban_V: Float[Array, " V"] | None = None,
  at_BS: Int[Array, "B S"] | None = None,
) -> Float[Array, "*B T"]:
  """Log-probability of each token given the tokens before it, in nats.

    logp_t = log_softmax((z_{t-1} + ban) / temperature)[tokens_t]

  Column 0 has no predecessor and is 0.  `ban_V` is added to the logits: 0
  where an id may be sampled, -inf where it may not.  Pass the sampler's own
  `temperature` and `ban_V`, else the two distributions differ.  At least
  float32 inside and out, whatever the logits are.

  With `at_BS`, from `predictors`, `logits_BSV` holds the logits of those
  columns alone, and tokens that they do not score are 0; without, S is T.
  """
  scaled_BSV = _scaled(logits_BSV, temperature, ban_V)
  # The small arrays are shifted, not the logits: no copy of size BTV.
  next_BS = jnp.roll(tokens_BT, -1, axis=-1)
  if at_BS is not None:
    next_BS = jnp.take_along_axis(next_BS, at_BS, axis=-1)
  # Sums over one place, not gathers: what gathers leave to the backward pass
  # is a scatter, and that is a serial loop on a CPU.
  is_next_BSV = next_BS[..., None] == jnp.arange(scaled_BSV.shape[-1])
  picked_BS = jnp.where(is_next_BSV, scaled_BSV, 0.0).sum(-1)
  found_BS = picked_BS - jax.nn.logsumexp(scaled_BSV, axis=-1)
  return _shift_right(_spread(found_BS, at_BS, tokens_BT.shape[-1]))


def predictors(
  start_B: Int[Array, " B"], window: int, time: int
) -> Int[Array, "B S"]:
  """The columns whose logits score tokens start .. start + window - 1.

  A response is a small part of its row, and the head is the widest matrix
  of the model: no other logits are needed to train on it.  Of `time` columns
  the last one scores nothing; a window that reaches past it is moved back.
  """
  first_B = jnp.clip(start_B - 1, 0, max(time - 1 - window, 0))
  return first_B[:, None] + jnp.arange(min(window, time))


def entropy(
  logits_BSV: Float[Array, "*B S V"],
  *,
  temperature: float = 1.0,
  ban_V: Float[Array, " V"] | None = None,
  at_BS: Int[Array, "B S"] | None = None,
  time: int | None = None,
) -> Float[Array, "*B T"]:
  """Entropy of the distribution that each token was drawn from, in nats.

    H_t = -sum_v p_v log p_v,   p = softmax((z_{t-1} + ban) / temperature)

  Aligned as `token_logprobs`: column t is the choice of token t, column 0
  is 0; with `at_BS`, in rows of `time` columns.
  """
  logp_BSV = jax.nn.log_softmax(_scaled(logits_BSV, temperature, ban_V))
  found_BS = -jnp.sum(jnp.exp(logp_BSV) * logp_BSV, axis=-1)
  return _shift_right(_spread(found_BS, at_BS, time))


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


def _spread(x_BS, at_BS, time):
  """Columns at_BS of a row, which are consecutive, back in their places."""
  if at_BS is None:
    return x_BS
  at_BST = at_BS[..., None] == jnp.arange(time)
  return jnp.where(at_BST, x_BS[..., None], 0.0).sum(-2)


def _shift_right(x_BT):
  return jnp.concatenate(
    [jnp.zeros_like(x_BT[..., :1]), x_BT[..., :-1]], axis=-1
  )
