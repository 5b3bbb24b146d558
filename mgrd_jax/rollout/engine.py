"""Prompts to samples on the device: prefill once, fork, decode together.

    prefill(prompts) -> state --repeat G--> while any row is live: decode

Knows ids; does not know text or models: `prefill` and `decode` are handed
in.  The loop ends when every row has stopped, or after some steps, so that
a listener may read along.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mgrd_jax.rollout import sampling
from mgrd_jax.types import Batch


def start(
  params,
  batch: Batch,
  request_B: jax.Array,
  *,
  prefill: Callable,
  samples: int,
  slots: int,
  max_new: int,
) -> dict:
  """The state of B*G rows before their first token, prompt-major.

  Args:
    params, batch, request_B, prefill, samples: as for `generate`.
    slots: positions of the cache; what `advance` may fill.
    max_new: columns of the response.

  Returns:
    step, cache, logits_BV of the next token, start_B (prompt lengths),
    request_B (the id of each row's draws), and the responses so far:
    token_BT, logp_BT, len_B, stopped_B.
  """
  logits_BV, cache = prefill(params, batch, slots=slots)

  def fork(x):
    return x if samples == 1 else jnp.repeat(x, samples, axis=0)

  logits_BV, cache = jax.tree.map(fork, (logits_BV, cache))
  start_B = fork(batch.valid_BT.sum(1).astype(jnp.int32))
  within_B = jnp.tile(jnp.arange(samples), len(request_B))
  rows = start_B.shape[0]
  return {
    "step": jnp.int32(0),
    "start_B": start_B,
    "request_B": fork(request_B) * samples + within_B,
    "logits_BV": logits_BV,
    "cache": cache,
    "token_BT": jnp.zeros((rows, max_new), jnp.int32),
    "logp_BT": jnp.zeros((rows, max_new), jnp.float32),
    "len_B": jnp.zeros((rows,), jnp.int32),
    "stopped_B": jnp.zeros((rows,), bool),
  }


def advance(
  params,
  state: dict,
  key: jax.Array,
  *,
  decode: Callable,
  pick: Callable,
  stop_ids: tuple[int, ...],
  steps: int,
) -> dict:
  """Decodes at most `steps` tokens a row; ends early when all have stopped.

  Args:
    params: the policy.
    state: of `start`, or of an earlier call; its cache has room.
    key: folded with request and position for every draw.
    decode: (params, token_B, pos_B, cache) -> (logits_BV, cache).
    pick: (state, key_B) -> (token_B, logp_B).
    stop_ids: ids that end a row; the last token of a stopped one.
    steps: how far to go; the response's columns bound it.
  """
  end = jnp.minimum(state["step"] + steps, state["token_BT"].shape[1])
  fixed = {name: state[name] for name in ("start_B", "request_B")}

  def live(s):
    return (s["step"] < end) & ~jnp.all(s["stopped_B"])

  def one(s):
    step, alive_B = s["step"], ~s["stopped_B"]
    pos_B = fixed["start_B"] + step
    keys = sampling.keys(key, fixed["request_B"], pos_B)
    token_B, logp_B = pick(s | fixed, keys)
    token_B = jnp.where(alive_B, token_B, 0)
    logits_BV, cache = decode(params, token_B, pos_B, s["cache"])
    stop_B = jnp.isin(token_B, jnp.asarray(stop_ids))
    return {
      "step": step + 1,
      "logits_BV": logits_BV,
      "cache": cache,
      "token_BT": s["token_BT"].at[:, step].set(token_B),
      "logp_BT": s["logp_BT"].at[:, step].set(jnp.where(alive_B, logp_B, 0.0)),
      "len_B": s["len_B"] + alive_B,
      "stopped_B": s["stopped_B"] | (alive_B & stop_B),
    }

  moving = {name: x for name, x in state.items() if name not in fixed}
  return jax.lax.while_loop(live, one, moving) | fixed


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
  state = start(
    params,
    batch,
    request_B,
    prefill=prefill,
    samples=samples,
    slots=batch.tokens_BT.shape[1] + max_new,
    max_new=max_new,
  )

  def pick(state, key_B):
    return sampling.sample(
      state["logits_BV"], key_B, temperature=temperature, ban_V=ban_V
    )

  end = advance(
    params,
    state,
    key,
    decode=decode,
    pick=pick,
    stop_ids=(stop_id,),
    steps=max_new,
  )
  return end["token_BT"], end["logp_BT"], end["len_B"], end["stopped_B"]
