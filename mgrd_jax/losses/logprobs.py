"""Log-probabilities and entropies, aligned to tokens.

    logits_BTV[:, t]  of a whole row scores  tokens_BT[:, t + 1]
    logits_BTV[:, t]  of continuations scores  token_BT[:, t]

Every result here has column t describe token t.  This is the only file that
shifts; whatever a loss receives is already aligned.
"""

import functools

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
  (logp_BT,) = of_rows(
    lambda next_BS: (choice_logprobs(logits_BSV, next_BS),),
    tokens_BT,
    at_BS=at_BS,
  )
  return logp_BT


def of_rows(
  score,
  tokens_BT: Int[Array, "*B T"],
  *,
  at_BS: Int[Array, "B S"] | None = None,
) -> tuple:
  """What a scorer of choices says of the tokens of whole rows.

  Args:
    score: function of the token that each column chooses, next_BT, such as
      `head_logprobs` of a row's states; returns arrays over T.
    at_BS: the columns that it scores, of `predictors`; all by default.

  Returns:
    the same arrays, column t being of tokens_BT[:, t]; 0 where none is
    scored, and in column 0.
  """
  # The small arrays are shifted, not the logits: no copy of size BTV.
  next_BS = jnp.roll(tokens_BT, -1, axis=-1)
  if at_BS is None:
    return tuple(shifted(x_BT) for x_BT in score(next_BS))
  found = score(jnp.take_along_axis(next_BS, at_BS, axis=-1))
  time = tokens_BT.shape[-1]
  return tuple(shifted(_spread(x_BS, at_BS, time)) for x_BS in found)


def shifted(x_BT: Float[Array, "*B T"]) -> Float[Array, "*B T"]:
  """What each state says, in the column of the token that it precedes.

  A value of the state at column t - 1 is of the state before token t.
  """
  return jnp.concatenate(
    [jnp.zeros_like(x_BT[..., :1]), x_BT[..., :-1]], axis=-1
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


def head_logprobs(
  hidden_BTD: Float[Array, "B T D"],
  head: Float[Array, "_ _"],
  token_BT: Int[Array, "B T"],
  *,
  chunks: int,
  shards: int = 1,
  tied: bool = False,
  temperature: float = 1.0,
  ban_V: Float[Array, " V"] | None = None,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
  """`choice_logprobs` and `entropy` of a head, in chunks of its vocabulary.

    lse = log sum_v exp z_v,   logp = z_token - lse,   H = lse - sum_v p_v z_v

  The sums run over chunks, in the backward pass as well, where each chunk's
  logits are made once more: no array of size BTV ever exists.  Both results
  are in float32 and differentiable in `hidden_BTD` and `head`.

  Args:
    hidden_BTD: states; column t chooses token t.
    head: head_DV, or embed_VD where `tied`.
    chunks: how many; with `shards` they divide V.
    shards: over how many devices V is split, so that every chunk lies on all
      of them: V is cut into `shards` parts and each part into chunks.

  Raises:
    ValueError: V cannot be cut so.
  """
  V = head.shape[0 if tied else 1]
  if V % (shards * chunks):
    raise ValueError(
      f"a vocabulary of {V} cannot be cut into {shards} shards x {chunks} "
      "chunks; give a number of chunks that divides it"
    )
  if ban_V is None:
    ban_V = jnp.zeros((V,), jnp.float32)
  cut = (shards, chunks, V // (shards * chunks))
  ban = jnp.maximum(ban_V, _LOWEST_BAN).astype(jnp.float32).reshape(cut)
  if tied:
    head = head.reshape(*cut, head.shape[1])
  else:
    head = head.reshape(head.shape[0], *cut)
  return _by_chunks(tied, temperature, hidden_BTD, head, token_BT, ban)


def _chunk(i, hidden_BTD, head, token_BT, ban, *, tied, temperature):
  """(z, is_token, head) of chunk i: arrays over [shards, ids of the chunk].

  In einsums S is the shards and V a chunk's ids of one shard.
  """
  shards, _, size = ban.shape
  head = jax.lax.dynamic_index_in_dim(head, i, 1 if tied else 2, False)
  axes = "BTD,SVD->BTSV" if tied else "BTD,DSV->BTSV"
  z_BTSV = jnp.einsum(
    axes, hidden_BTD, head, preferred_element_type=jnp.float32
  )
  ban_SV = jax.lax.dynamic_index_in_dim(ban, i, 1, False)
  z_BTSV = (z_BTSV + ban_SV) / temperature
  id_SV = jnp.arange(ban.size).reshape(shards, -1, size)
  id_SV = jax.lax.dynamic_index_in_dim(id_SV, i, 1, False)
  return z_BTSV, token_BT[..., None, None] == id_SV, head


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _by_chunks(tied, temperature, hidden_BTD, head, token_BT, ban):
  out, _ = _by_chunks_forward(
    tied, temperature, hidden_BTD, head, token_BT, ban
  )
  return out


def _by_chunks_forward(tied, temperature, hidden_BTD, head, token_BT, ban):
  def step(carry, i):
    top_BT, sum_BT, weighted_BT, picked_BT = carry
    z_BTSV, is_token_BTSV, _ = _chunk(
      i, hidden_BTD, head, token_BT, ban, tied=tied, temperature=temperature
    )
    new_BT = jnp.maximum(top_BT, z_BTSV.max((-2, -1)))
    exp_BTSV = jnp.exp(z_BTSV - new_BT[..., None, None])
    shrink_BT = jnp.exp(top_BT - new_BT)
    return (
      new_BT,
      sum_BT * shrink_BT + exp_BTSV.sum((-2, -1)),
      weighted_BT * shrink_BT + (exp_BTSV * z_BTSV).sum((-2, -1)),
      picked_BT + jnp.where(is_token_BTSV, z_BTSV, 0.0).sum((-2, -1)),
    ), None

  zero_BT = jnp.zeros(token_BT.shape, jnp.float32)
  start = (jnp.full_like(zero_BT, -jnp.inf), zero_BT, zero_BT, zero_BT)
  (top_BT, sum_BT, weighted_BT, picked_BT), _ = jax.lax.scan(
    step, start, jnp.arange(ban.shape[1])
  )
  lse_BT = top_BT + jnp.log(sum_BT)
  entropy_BT = lse_BT - weighted_BT / sum_BT
  saved = hidden_BTD, head, token_BT, ban, lse_BT, entropy_BT
  return (picked_BT - lse_BT, entropy_BT), saved


def _by_chunks_backward(tied, temperature, saved, grads):
  """dlogp/dz_v = 1[v = token] - p_v,   dH/dz_v = -p_v (log p_v + H)."""
  hidden_BTD, head, token_BT, ban, lse_BT, entropy_BT = saved
  grad_BT11, slope_BT11 = (g[..., None, None] for g in grads)
  back = "BTSV,SVD->BTD" if tied else "BTSV,DSV->BTD"
  down = "BTD,BTSV->SVD" if tied else "BTD,BTSV->DSV"
  at = 1 if tied else 2

  def step(carry, i):
    grad_BTD, grad_head = carry
    z_BTSV, is_token_BTSV, part = _chunk(
      i, hidden_BTD, head, token_BT, ban, tied=tied, temperature=temperature
    )
    logp_BTSV = z_BTSV - lse_BT[..., None, None]
    p_BTSV = jnp.exp(logp_BTSV)
    grad_BTSV = grad_BT11 * (is_token_BTSV - p_BTSV)
    grad_BTSV -= slope_BT11 * p_BTSV * (
      logp_BTSV + entropy_BT[..., None, None]
    )
    grad_BTSV = (grad_BTSV / temperature).astype(hidden_BTD.dtype)
    wide = dict(preferred_element_type=jnp.float32)
    grad_BTD += jnp.einsum(back, grad_BTSV, part, **wide)
    own = jnp.einsum(down, hidden_BTD, grad_BTSV, **wide)
    grad_head = jax.lax.dynamic_update_index_in_dim(
      grad_head, own.astype(head.dtype), i, at
    )
    return (grad_BTD, grad_head), None

  start = jnp.zeros(hidden_BTD.shape, jnp.float32), jnp.zeros_like(head)
  (grad_BTD, grad_head), _ = jax.lax.scan(
    step, start, jnp.arange(ban.shape[1])
  )
  return grad_BTD.astype(hidden_BTD.dtype), grad_head, None, None


_by_chunks.defvjp(_by_chunks_forward, _by_chunks_backward)


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
