"""One request, read along: sampling filters, and a cache that grows.

    start -> state -advance n tokens-> state -> what is new -> ... -> stop

Filters of the distribution live here alone: what reinforcement learning
samples is scored over the whole distribution (`rollout.sampling`).
"""

from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mgrd_jax.rollout import sampling

BLOCK = 256  # slots that a cache grows by at least


def penalise(
  logits_BV: Float[Array, "B V"], seen_BV: Bool[Array, "B V"], penalty: float
) -> Float[Array, "B V"]:
  """Makes ids that were seen less likely: z / penalty, or z * penalty if < 0.

  Keskar et al. 2019, https://arxiv.org/abs/1909.05858, section 4.1.
  """
  lower_BV = jnp.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
  return jnp.where(seen_BV, lower_BV, logits_BV)


def nucleus(logits_BV: Float[Array, "B V"], top_p: float):
  """Keeps the likeliest ids whose probabilities first reach `top_p`.

  The rest is -inf; of equally likely ids no more are kept than are needed, the
  later ones.  Holtzman et al. 2020, https://arxiv.org/abs/1904.09751.
  """
  order_BV = jnp.argsort(logits_BV, axis=-1)
  prob_BV = jax.nn.softmax(logits_BV, axis=-1)
  prob_BV = jnp.take_along_axis(prob_BV, order_BV, axis=-1)
  # What goes are the least likely, while all that goes is 1 - top_p at most.
  keep_BV = jnp.cumsum(prob_BV, axis=-1) > 1 - top_p
  keep_BV = keep_BV.at[:, -1].set(True)
  keep_BV = jnp.put_along_axis(
    jnp.zeros_like(keep_BV), order_BV, keep_BV, axis=-1, inplace=False
  )
  return jnp.where(keep_BV, logits_BV, -jnp.inf)


def likeliest(logits_BV: Float[Array, "B V"], top_k: int):
  """Keeps the `top_k` likeliest ids and their equals; the rest is -inf."""
  floor_B1 = jax.lax.top_k(logits_BV, top_k)[0][:, -1:]
  return jnp.where(logits_BV >= floor_B1, logits_BV, -jnp.inf)


def picker(
  seen_BV: Bool[Array, "B V"] | None = None,
  *,
  temperature: float,
  top_p: float = 1.0,
  top_k: int = 0,
  repetition_penalty: float = 1.0,
  ban_V: Float[Array, " V"] | None = None,
) -> Callable:
  """(state, key_B) -> (token_B, logp_B) for `engine.advance`.

  The order is that of Hugging Face's generation: repetition penalty,
  temperature, top-k, top-p.

  Args:
    seen_BV: ids of the prompt; needed where there is a penalty.
    temperature: 0 takes the most likely token.
    top_p: 1 keeps everything.
    top_k: 0 keeps everything.
    repetition_penalty: 1 is none.
    ban_V: negative for ids that are never said.
  """

  def pick(state, key_B):
    logits_BV = state["logits_BV"].astype(jnp.float32)
    if repetition_penalty != 1:
      rows, columns = state["token_BT"].shape
      # Column 0 is id 0 until it is written: count what exists alone.
      said_BT = jnp.arange(columns) < state["step"]
      token_BT = jnp.where(said_BT, state["token_BT"], logits_BV.shape[1])
      at_B1 = jnp.arange(rows)[:, None]
      all_BV = seen_BV.at[at_B1, token_BT].set(True, mode="drop")
      logits_BV = penalise(logits_BV, all_BV, repetition_penalty)
    if ban_V is not None:
      # Not a large number: a temperature could make it a small one.
      logits_BV = jnp.where(ban_V < 0, -jnp.inf, logits_BV)
    if temperature:
      logits_BV = logits_BV / temperature
      if top_k:
        logits_BV = likeliest(logits_BV, min(top_k, logits_BV.shape[1]))
      if top_p < 1:
        logits_BV = nucleus(logits_BV, top_p)
    return sampling.sample(
      logits_BV, key_B, temperature=1.0 if temperature else 0.0
    )

  return pick


def grow(cache, slots: int):
  """The same cache with `slots` positions; zeros behind what it held."""

  def one(path, x):
    # The letter S of a leaf's name is its axis of slots.
    axis = _slot_axis(path)
    pad = [(0, 0)] * x.ndim
    pad[axis] = (0, slots - x.shape[axis])
    return jnp.pad(x, pad)

  return jax.tree_util.tree_map_with_path(one, cache)


def _slot_axis(path) -> int:
  name = next(
    getattr(k, "name", getattr(k, "key", None))
    for k in reversed(path)
    if isinstance(getattr(k, "name", getattr(k, "key", None)), str)
  )
  return name.rsplit("_", 1)[-1].index("S")


def stream(
  state: dict,
  *,
  slots: int,
  advance: Callable,
  grow: Callable,
  steps: int = 8,
) -> Iterator[Sequence[int]]:
  """Yields the new ids of a single request as they come.

  Args:
    state: of `engine.start`, one row.
    slots: positions of its cache.
    advance: (state) -> state, `steps` tokens further, compiled.
    grow: (state, slots) -> state with a larger cache, compiled; never larger
      than the prompt and the longest response.
    steps: tokens between two looks.
  """
  longest = state["token_BT"].shape[1]
  begin, said = int(state["start_B"][0]), 0
  while not bool(state["stopped_B"][0]) and said < longest:
    if begin + min(said + steps, longest) > slots:
      slots = min(max(slots + BLOCK, slots * 3 // 2), begin + longest)
      state = grow(state, slots)
    state = advance(state)
    now = int(state["len_B"][0])
    yield np.asarray(state["token_BT"][0, said:now]).tolist()
    said = now
