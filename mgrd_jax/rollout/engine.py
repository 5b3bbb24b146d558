"""Prompts to samples on the device: prefill once, fork, decode together.

    prefill(prompts) -> cache --repeat G--> while any row is live: decode

Knows ids; does not know text or models: `prefill` and `decode` are handed
in.  The loop ends when every row has stopped.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mgrd_jax.rollout import sampling
from mgrd_jax.types import Batch


def generate(
  params,
  batch: Batch,
  request_B: jax.Array,
  key: jax.Array,
  *,
  prefill: Callable,
  decode: Callable,
  samples: int,
  max_new: int,
  stop_id: int,
  temperature: float,
  ban_V: jax.Array | None = None,
):
  """Samples `samples` continuations of each prompt.

  Args:
    params: the policy.
    batch: B prompts, left-aligned; audio is heard in the prefill, once.
    request_B: an id per prompt; sample g of a request uses key id G*r + g.
    key: folded with request and position for every draw.
    prefill: (params, batch, slots=) -> (logits_BV, cache).
    decode: (params, token_B, pos_B, cache) -> (logits_BV, cache).
    samples: G.
    max_new: most new tokens; a row that reaches it has not stopped.
    stop_id: the end-of-turn id; it is the last token of a stopped row.
    temperature: of the softmax; 0 takes the most likely token.
    ban_V: added to the logits.

  Returns:
    (token_BT, logp_BT, len_B, stopped_B) over B*G rows, prompt-major;
    T = max_new, zeros past a row's length.
  """
  slots = batch.tokens_BT.shape[1] + max_new
  logits_BV, cache = prefill(params, batch, slots=slots)

  def fork(x):
    return jnp.repeat(x, samples, axis=0)

  logits_BV, cache = jax.tree.map(fork, (logits_BV, cache))
  start_B = fork(batch.valid_BT.sum(1).astype(jnp.int32))
  within_B = jnp.tile(jnp.arange(samples), len(request_B))
  request_B = fork(request_B) * samples + within_B
  rows = start_B.shape[0]
  state = {
    "step": jnp.int32(0),
    "logits_BV": logits_BV,
    "cache": cache,
    "token_BT": jnp.zeros((rows, max_new), jnp.int32),
    "logp_BT": jnp.zeros((rows, max_new), jnp.float32),
    "len_B": jnp.zeros((rows,), jnp.int32),
    "stopped_B": jnp.zeros((rows,), bool),
  }

  def live(s):
    return (s["step"] < max_new) & ~jnp.all(s["stopped_B"])

  def advance(s):
    step, alive_B = s["step"], ~s["stopped_B"]
    pos_B = start_B + step
    token_B, logp_B = sampling.sample(
      s["logits_BV"],
      sampling.keys(key, request_B, pos_B),
      temperature=temperature,
      ban_V=ban_V,
    )
    token_B = jnp.where(alive_B, token_B, 0)
    logits_BV, cache = decode(params, token_B, pos_B, s["cache"])
    return {
      "step": step + 1,
      "logits_BV": logits_BV,
      "cache": cache,
      "token_BT": s["token_BT"].at[:, step].set(token_B),
      "logp_BT": s["logp_BT"].at[:, step].set(jnp.where(alive_B, logp_B, 0.0)),
      "len_B": s["len_B"] + alive_B,
      "stopped_B": s["stopped_B"] | (alive_B & (token_B == stop_id)),
    }

  end = jax.lax.while_loop(live, advance, state)
  return end["token_BT"], end["logp_BT"], end["len_B"], end["stopped_B"]
