"""Log-probabilities and entropies, aligned to tokens.

    logits_BTV[:, t]  of a whole row scores  tokens_BT[:, t + 1]
    logits_BTV[:, t]  of continuations scores  token_BT[:, t]

Every result here has column t describe token t.  This is the only file that
shifts; whatever a loss receives is already aligned.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# A ban is lowered to this and no further.  exp(-1e9) is exactly 0, so the
# distribution is that of -inf, but a banned id in the padding keeps a finite
# log-probability and cannot turn a masked gradient into NaN.
_LOWEST_BAN = -1e9


def choice_logprobs(
  logits_BTV: Float[Array, "*B T V"],
  token_BT: Int[Array, "*B T"],
  *,
  temperature: float = 1.0,
  ban_V: Float[Array, " V"] | None = None,
) -> Float[Array, "*B T"]:
  """Log-probability of each token under the logits it was chosen by, in nats.

    logp_t = log_softmax((z_t + ban) / temperature)[token_t]

  `ban_V` is added to the logits: 0 where an id may be sampled, -inf where it
  may not.  Pass the sampler's own `temperature` and `ban_V`, else the two
  distributions differ.  At least float32 inside and out, whatever the logits
  are.
  """
  scaled_BTV = _scaled(logits_BTV, temperature, ban_V)
  # Sums over one place, not gathers: what gathers leave to the backward pass
  # is a scatter, and that is a serial loop on a CPU.
  is_token_BTV = token_BT[..., None] == jnp.arange(scaled_BTV.shape[-1])
  picked_BT = jnp.where(is_token_BTV, scaled_BTV, 0.0).sum(-1)
  return picked_BT - jax.nn.logsumexp(scaled_BTV, axis=-1)


def token_logprobs(
  logits_BSV: Float[Array, "*B S V"],
  tokens_BT: Int[Array, "*B T"],
  *,
  at_BS: Int[Array, "B S"] | None = None,
) -> Float[Array, "*B T"]:
  """Log-probability of each token given the tokens before it, in nats.

    logp_t = log_softmax(z_{t-1})[tokens_t]

  Column 0 has no predecessor and is 0.  With `at_BS`, from `predictors`,
  `logits_BSV` holds the logits of those columns alone, and tokens that they
  do not score are 0; without, S is T.
  """
  # The small arrays are shifted, not the logits: no copy of size BTV.
  next_BS = jnp.roll(tokens_BT, -1, axis=-1)
  if at_BS is not None:
    next_BS = jnp.take_along_axis(next_BS, at_BS, axis=-1)
  found_BS = choice_logprobs(logits_BSV, next_BS)
  if at_BS is not None:
    found_BS = _spread(found_BS, at_BS, tokens_BT.shape[-1])
  return jnp.concatenate(
    [jnp.zeros_like(found_BS[..., :1]), found_BS[..., :-1]], axis=-1
  )


def predictors(
  start_B: Int[Array, " B"], window: int, time: int
) -> Int[Array, "B S"]:
  """The columns whose logits score tokens start .. start + window - 1.

  What is trained is a small part of its row, and the head is the widest
  matrix of the model: no other logits are needed.  Of `time` columns
  the last one scores nothing; a window that reaches past it is moved back.
  """
  first_B = jnp.clip(start_B - 1, 0, max(time - 1 - window, 0))
  return first_B[:, None] + jnp.arange(min(window, time))


def entropy(
  logits_BTV: Float[Array, "*B T V"],
  *,
  temperature: float = 1.0,
  ban_V: Float[Array, " V"] | None = None,
) -> Float[Array, "*B T"]:
  """Entropy of the distribution that each token was drawn from, in nats.

    H_t = -sum_v p_v log p_v,   p = softmax((z_t + ban) / temperature)

  Aligned as `choice_logprobs`.
  """
  logp_BTV = jax.nn.log_softmax(_scaled(logits_BTV, temperature, ban_V))
  return -jnp.sum(jnp.exp(logp_BTV) * logp_BTV, axis=-1)


def _scaled(logits_BTV, temperature, ban_V):
  dtype = jnp.promote_types(logits_BTV.dtype, jnp.float32)
  scaled_BTV = logits_BTV.astype(dtype)
  if ban_V is not None:
    scaled_BTV += jnp.maximum(ban_V.astype(dtype), _LOWEST_BAN)
  return scaled_BTV / temperature


def _spread(x_BS, at_BS, time):
  """Columns at_BS of a row, which are consecutive, back in their places."""
  at_BST = at_BS[..., None] == jnp.arange(time)
  return jnp.where(at_BST, x_BS[..., None], 0.0).sum(-2)
