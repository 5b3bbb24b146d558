"""logits -> next token; one key per request and position.

    key(request, position) = fold_in(fold_in(key, request), position)

A sample does not depend on its batch neighbours, its slot or the order of
the batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def log_probs(
  logits_BV: Float[Array, "*B V"],
  *,
  temperature: float = 1.0,
  ban_V: Float[Array, " V"] | None = None,
) -> Float[Array, "*B V"]:
  """log softmax((z + ban) / T) in float32: what is sampled and scored."""
  logits_BV = logits_BV.astype(jnp.float32)
  if ban_V is not None:
    logits_BV = logits_BV + ban_V
  return jax.nn.log_softmax(logits_BV / temperature, axis=-1)


def keys(key, request_B: Int[Array, " B"], pos_B: Int[Array, " B"]):
  """The key of each row at its position."""

  def one(request, position):
    return jax.random.fold_in(jax.random.fold_in(key, request), position)

  return jax.vmap(one)(request_B, pos_B)


def sample(
  logits_BV: Float[Array, "B V"],
  key_B,
  *,
  temperature: float,
  ban_V: Float[Array, " V"] | None = None,
) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
  """Next tokens and their log-probabilities under the sampler.

  At temperature 0 the most likely token is taken and scored at T = 1.
  """
  logp_BV = log_probs(
    logits_BV, temperature=temperature or 1.0, ban_V=ban_V
  )
  if temperature:
    token_B = jax.vmap(jax.random.categorical)(key_B, logp_BV)
  else:
    token_B = jnp.argmax(logp_BV, axis=-1)
  token_B = token_B.astype(jnp.int32)
  logp_B = jnp.take_along_axis(logp_BV, token_B[:, None], axis=-1)[:, 0]
  return token_B, logp_B


def ban(vocab: int, ids) -> jax.Array:
  """ban_V: -1e9 on ids that must not be generated, 0 elsewhere.

  One vector serves the sampler and the trainer (trap 24).
  """
  ban_V = jnp.zeros((vocab,), jnp.float32)
  return ban_V.at[jnp.asarray(sorted(ids), jnp.int32)].set(-1e9)
