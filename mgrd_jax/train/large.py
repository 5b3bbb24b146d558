"""Train steps whose logits fit nowhere: states, and a head read in chunks.

    states(params, batch) -> hidden_BTD, head
    score(hidden_BTD, head, token_BT) -> logp_BT, entropy_BT of what is chosen

Rows are whole (prompt and response in one) and may hold several examples,
numbered by `segment_BT`; every per-token array has the row's columns.
Parameters rest in float32 and are cast once a step to `dtype`, so that
what moves between devices is of that size.  A critic's parameters are
those of the model and "value".
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mgrd_jax.losses import dpo, logprobs, ppo, reduce, sft
from mgrd_jax.train.steps import PPO
from mgrd_jax.types import Batch, TrainState


def cast(params, dtype):
  """Parameters as they compute; a value head stays as it is."""
  return {
    name: part
    if name == "value"
    else jax.tree.map(lambda x: x.astype(dtype), part)
    for name, part in params.items()
  }


def row_scores(
  params, batch: Batch, *, states: Callable, score: Callable, **scaling
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
  """(logp_BT, entropy_BT): column t describes tokens_BT[:, t].

  The first column of an example describes nothing; no loss reads it.
  """
  hidden_BTD, head = states(params, batch)
  return logprobs.of_rows(
    lambda next_BT: score(hidden_BTD, head, next_BT, **scaling),
    batch.tokens_BT,
  )


def _update(state: TrainState, grads, tx):
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  return TrainState(state.step + 1, params, opt_state)


def sft_step(
  state: TrainState, batch: Batch, *, states, score, tx, dtype
):
  """One supervised step: the mean of -log p over what is trained."""

  def loss_fn(params):
    logp_BT, _ = row_scores(
      cast(params, dtype), batch, states=states, score=score
    )
    total, count = sft.negative_log_likelihood(logp_BT, batch.loss_mask_BT)
    return reduce.ratio(total, count), count

  (loss, count), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
  metrics = {
    "train/loss": loss,
    "train/tokens": count,
    "train/grad_norm": optax.tree.norm(grads),
  }
  return _update(state, grads, tx), metrics


def response_sums(
  params, batch: Batch, *, states, score, examples: int
) -> tuple[Float[Array, "B G"], Float[Array, "B G"]]:
  """(log π of each response of each row, its tokens), summed where trained.

  `examples` is the most that a row holds; G counts them.  With a reference's
  parameters these are the constants that `dpo_step` asks for.
  """
  logp_BT, _ = row_scores(params, batch, states=states, score=score)
  segment_BT = batch.segment_BT
  if segment_BT is None:
    segment_BT = batch.valid_BT.astype(jnp.int32)
  own_BTG = segment_BT[..., None] == jnp.arange(1, examples + 1)
  keep_BTG = own_BTG & batch.loss_mask_BT[..., None]
  sum_BG = jnp.where(keep_BTG, logp_BT[..., None], 0.0).sum(1)
  return sum_BG, keep_BTG.sum(1).astype(jnp.float32)


def dpo_step(
  state: TrainState,
  pairs: Batch,
  ref_BG,
  *,
  states,
  score,
  tx,
  dtype,
  examples: int,
  beta: float = 0.1,
  alpha: float = 0.0,
):
  """One step of direct preference optimisation (rl.md 6.9).

    L = mean over pairs of -log σ(β margin)  +  α mean over tokens of -log p(y⁺)

  The first half of the rows holds chosen responses, the second half the
  rejected ones in the same places.  `ref_BG` is `response_sums` of the
  reference, of `pairs`.
  """

  def halves(x):
    return jnp.split(x, 2)

  def loss_fn(params):
    sum_BG, count_BG = response_sums(
      cast(params, dtype), pairs, states=states, score=score, examples=examples
    )
    chosen_BG, rejected_BG = halves(sum_BG)
    given = chosen_BG, rejected_BG, *halves(ref_BG)
    mask_BG = halves(count_BG)[0] > 0
    loss = reduce.masked_mean(dpo.preference(*given, beta=beta), mask_BG)
    nll = reduce.ratio(-chosen_BG.sum(), halves(count_BG)[0].sum())
    metrics = {"dpo/loss": loss, "dpo/nll": nll} | {
      f"dpo/{name}": reduce.masked_mean(value, mask_BG)
      for name, value in dpo.stats(*given).items()
    }
    return loss + alpha * nll, metrics

  grads, metrics = jax.grad(loss_fn, has_aux=True)(state.params)
  metrics["dpo/grad_norm"] = optax.tree.norm(grads)
  return _update(state, grads, tx), metrics


def policy_step(
  state: TrainState,
  batch: Batch,
  frozen: dict,
  *,
  states,
  score,
  tx,
  dtype,
  hp: PPO,
  ban_V,
):
  """One PPO step of the actor: clipped surrogate, no KL (rl.md 6.4).

  `frozen` holds, over the row's columns, adv_BT (whitened if asked) and
  old_logp_BT, which the ratio is against.
  """

  def loss_fn(params):
    logp_BT, entropy_BT = row_scores(
      cast(params, dtype),
      batch,
      states=states,
      score=score,
      temperature=hp.temperature,
      ban_V=ban_V,
    )
    mask_BT = batch.loss_mask_BT
    given = logp_BT, frozen["old_logp_BT"], frozen["adv_BT"]
    clip = dict(eps_lo=hp.clip, eps_hi=hp.clip)
    loss_BT = ppo.clipped_surrogate(*given, **clip)
    loss = reduce.masked_mean(loss_BT, mask_BT)
    stats = ppo.surrogate_stats(*given, **clip)
    metrics = {
      "train/policy/loss": loss,
      "train/policy/entropy": reduce.masked_mean(entropy_BT, mask_BT),
    } | {
      f"train/policy/{name}": reduce.masked_mean(value, mask_BT)
      for name, value in stats.items()
    }
    return loss, metrics

  grads, metrics = jax.grad(loss_fn, has_aux=True)(state.params)
  metrics["train/policy/grad_norm"] = optax.tree.norm(grads)
  return _update(state, grads, tx), metrics


def row_values(params, batch: Batch, *, values) -> Float[Array, "B T"]:
  """The critic's value of the state before each token; 0 in column 0."""
  return logprobs.shifted(values(params, batch))


def critic_step(
  state: TrainState,
  batch: Batch,
  frozen: dict,
  *,
  values,
  tx,
  dtype,
  clip: float | None,
):
  """One regression step of the critic on the returns.

  `values(params, batch)` gives v_BT of the states at each column;
  `frozen` holds value_BT, from before any step, and return_BT; `clip` is None
  while the critic warms up (trap 33).
  """

  def loss_fn(params):
    value_BT = row_values(cast(params, dtype), batch, values=values)
    loss_BT = ppo.value_loss(
      value_BT, frozen["value_BT"], frozen["return_BT"], clip=clip
    )
    return reduce.masked_mean(loss_BT, batch.loss_mask_BT)

  loss, grads = jax.value_and_grad(loss_fn)(state.params)
  metrics = {
    "train/critic/loss": loss,
    "train/critic/grad_norm": optax.tree.norm(grads),
  }
  return _update(state, grads, tx), metrics
