"""Train steps: pure, unjitted; arrays in, arrays out.

    TrainState, batch -> TrainState, metrics

`scores`, `values` (see train/scores.py) and `tx` are handed in and bound by
the caller; they decide which columns the arrays of a batch cover.  Losses
carry (sum, count) and are divided once, so that nothing depends on how rows are
bucketed, packed, split over devices or taken in `accumulate` micro-batches.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from mgrd_jax.losses import dpo, ppo, recognition, reduce, sft
from mgrd_jax.train import gradients
from mgrd_jax.types import Batch, TrainState


def init_state(params, tx) -> TrainState:
  """Step 0 of training `params` with `tx`."""
  return TrainState(jnp.int32(0), params, tx.init(params))


def _update(state: TrainState, grads, tx):
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  return TrainState(state.step + 1, params, opt_state)


def sft_step(
  state: TrainState,
  batches: tuple[Batch, ...],
  *,
  scores: Callable,
  tx,
  accumulate: int = 1,
):
  """One supervised step over buckets of different shapes.

    L = sum_buckets sum(m * -log p) / sum_buckets sum(m)

  (Step-Audio-R1, eq. 1 and 5.)
  """

  def loss_fn(params, batches):
    total, count = 0.0, 0.0
    for batch in batches:
      logp_BT, _ = scores(params, batch)
      part = sft.negative_log_likelihood(logp_BT, batch.loss_mask_BT)
      total, count = total + part[0], count + part[1]
    return total, (count, ())

  loss, count, _, grads = gradients.of_mean(
    loss_fn,
    state.params,
    batches,
    rows=tuple(batch.rows for batch in batches),
    accumulate=accumulate,
  )
  metrics = {
    "train/loss": loss,
    "train/tokens": count,
    **_filled(batches),
    "train/grad_norm": optax.tree.norm(grads),
  }
  return _update(state, grads, tx), metrics


def _filled(batches: tuple[Batch, ...]) -> dict:
  """Columns that hold a token, and their share of those that are computed."""
  held = sum(batch.valid_BT.sum() for batch in batches)
  columns = sum(batch.valid_BT.size for batch in batches)
  return {"train/held": held, "train/fill": held / columns}


def response_logprobs(params, pairs: Batch, *, scores: Callable, examples: int):
  """log π of each response of each row, sum_BG; at most `examples` a row.

  Of a reference's parameters they are what `dpo_step` asks for.
  """
  logp_BT, _ = scores(params, pairs)
  return dpo.response_sums(logp_BT, _responses(pairs, examples))


def _responses(pairs: Batch, examples: int):
  segment_BT = pairs.segment_BT
  if segment_BT is None:
    segment_BT = pairs.valid_BT.astype(jnp.int32)
  return dpo.responses(segment_BT, pairs.loss_mask_BT, examples=examples)


def dpo_step(
  state: TrainState,
  pairs: Batch,
  ref_BG,
  *,
  scores: Callable,
  tx,
  examples: int,
  beta: float = 0.1,
  alpha: float = 0.0,
  accumulate: int = 1,
):
  """One step of direct preference optimisation (rl.md 6.9).

    L = mean over pairs of -log σ(β margin)  +  α mean over tokens of -log p(y⁺)

  The first half of the rows holds chosen responses, the second half the
  rejected ones in the same places.  `ref_BG` is `response_logprobs` of the
  reference, of `pairs`; `examples` is the most that a row holds.
  """

  def chosen_of(x):
    return jnp.split(x, 2)[0]

  keep_BTG = _responses(pairs, examples)
  tokens = jnp.maximum(chosen_of(keep_BTG).sum(), 1)
  # The mean over tokens, as a mean over pairs.
  per_pair = alpha * chosen_of(keep_BTG.any(1)).sum() / tokens

  def loss_fn(params, given):
    pairs, keep_BTG, ref_BG = given
    logp_BT, _ = scores(params, pairs)
    sum_BG = dpo.response_sums(logp_BT, keep_BTG)
    chosen_BG, rejected_BG = jnp.split(sum_BG, 2)
    sides = chosen_BG, rejected_BG, *jnp.split(ref_BG, 2)
    mask_BG = chosen_of(keep_BTG.any(1))
    loss_BG = dpo.preference(*sides, beta=beta) - per_pair * chosen_BG
    total, count = reduce.masked_sum_count(loss_BG, mask_BG)
    return total, (count, (sides, mask_BG))

  _, _, (sides, mask_BG), grads = gradients.of_mean(
    loss_fn,
    state.params,
    (pairs, keep_BTG, ref_BG),
    rows=pairs.rows,
    accumulate=accumulate,
  )
  loss_BG = dpo.preference(*sides, beta=beta)
  metrics = {
    "dpo/loss": reduce.masked_mean(loss_BG, mask_BG),
    "dpo/nll": -sides[0].sum() / tokens,
    "dpo/grad_norm": optax.tree.norm(grads),
    **_means("dpo", dpo.stats(*sides), mask_BG),
  }
  return _update(state, grads, tx), metrics


def encoder_step(
  state: TrainState, batch: dict, *, encode, heads, ctc_weight: float, tx
):
  """One step of the encoder on words (CTC) and attributes.

  `batch` holds mel_BRM, len_B, words_BT, label_BN and classes_N; the loss
  is `ctc_weight` times CTC per word plus cross-entropy per attribute that is
  present.
  """

  def loss_fn(params):
    enc_BAE, enc_len_B = encode(
      params["encoder"], batch["mel_BRM"], batch["len_B"]
    )
    ctc_BAV, class_BNV = heads(params["heads"], enc_BAE, enc_len_B)
    ctc_B = recognition.ctc(ctc_BAV, enc_len_B, batch["words_BT"])
    loss_BN, hit_BN = recognition.attributes(
      class_BNV, batch["label_BN"], batch["classes_N"]
    )
    words = jnp.maximum((batch["words_BT"] > 0).sum(), 1)
    labels = jnp.maximum((batch["label_BN"] >= 0).sum(), 1)
    ctc, attribute = ctc_B.sum() / words, loss_BN.sum() / labels
    metrics = {
      "encoder/ctc": ctc,
      "encoder/attribute": attribute,
      "encoder/attribute_acc": hit_BN.sum() / labels,
    }
    return ctc_weight * ctc + attribute, metrics

  grads, metrics = jax.grad(loss_fn, has_aux=True)(state.params)
  metrics["encoder/grad_norm"] = optax.tree.norm(grads)
  return _update(state, grads, tx), metrics


@dataclasses.dataclass(frozen=True)
class PPO:
  """Hyper-parameters of the update (rl.md 6.6; paper 4.3).

  `on_policy`: the batch was sampled by the very parameters that are updated,
  so the old log-probabilities are the trainer's own, held constant: the ratio
  is 1 at this one step and the clip never acts.  Else they are the frozen
  ones, which the sampler gave.
  """

  gamma: float = 1.0
  lam: float = 1.0
  clip: float = 0.2
  value_clip: float | None = 0.2
  std_floor: float = 0.05
  whiten: bool = True
  temperature: float = 1.0
  aggregation: str = "token_mean"
  on_policy: bool = True


def advantages(critic_params, scored, *, values: Callable, hp: PPO):
  """Frozen quantities of an update: V, A, G and masks, before any step.

  Returns a dict of value_BT, adv_BT (whitened if asked), return_BT,
  old_logp_BT (the sampler's), valid_BT, loss_mask_BT, of the responses alone,
  and metrics of the critic.
  """
  rollout = scored.rollout
  at_T = jnp.arange(rollout.token_BT.shape[1])
  valid_BT = at_T < rollout.response_len_B[:, None]
  loss_mask_BT = valid_BT & scored.scorable_B[:, None]
  raw_BT = values(critic_params, rollout)
  value_BT = raw_BT * valid_BT
  reward_BT = ppo.terminal_reward(scored.reward_B, valid_BT)
  adv_BT, return_BT = ppo.gae(
    reward_BT, value_BT, valid_BT, gamma=hp.gamma, lam=hp.lam
  )
  metrics = {
    "train/critic/ev": ppo.explained_variance(
      value_BT, return_BT, loss_mask_BT
    ),
    "train/critic/ev_seq": ppo.ev_seq(
      value_BT, scored.reward_B, valid_BT
    ),
  }
  if hp.whiten:
    adv_BT, stats = ppo.whiten(adv_BT, loss_mask_BT, std_floor=hp.std_floor)
    metrics |= stats
  return {
    "value_BT": value_BT,
    "adv_BT": adv_BT,
    "return_BT": return_BT,
    "old_logp_BT": rollout.logp_BT,
    "valid_BT": valid_BT,
    "loss_mask_BT": loss_mask_BT,
  }, metrics


def policy_step(
  state: TrainState,
  batch,
  frozen: dict,
  *,
  scores: Callable,
  tx,
  hp: PPO,
  ban_V,
  accumulate: int = 1,
):
  """One PPO step of the actor: clipped surrogate, no KL (rl.md 6.4).

  How far the policy is from the sampler is logged as the mismatch;
  train/policy/{ratio_max, clip_frac, clip_frac_low, approx_kl_k3} tell what
  the clip makes of it, or would make of it where `hp.on_policy`.

  Args:
    batch: what `scores` takes: a Rollout, or a Batch of whole rows.
    frozen: over the columns of `scores`: adv_BT, old_logp_BT, valid_BT and
      loss_mask_BT, as of `advantages`.
    ban_V: what was not sampled.
  """
  clip = dict(eps_lo=hp.clip, eps_hi=hp.clip)

  def loss_fn(params, given):
    batch, frozen = given
    logp_BT, entropy_BT = scores(
      params, batch, temperature=hp.temperature, ban_V=ban_V
    )
    old_logp_BT = frozen["old_logp_BT"]
    if hp.on_policy:
      old_logp_BT = jax.lax.stop_gradient(logp_BT)
    loss_BT = ppo.clipped_surrogate(
      logp_BT, old_logp_BT, frozen["adv_BT"], **clip
    )
    total, count = reduce.aggregate(
      loss_BT, frozen["loss_mask_BT"], hp.aggregation
    )
    return total, (count, (logp_BT, entropy_BT, frozen))

  loss, _, (logp_BT, entropy_BT, frozen), grads = gradients.of_mean(
    loss_fn,
    state.params,
    (batch, frozen),
    rows=batch.rows,
    accumulate=accumulate,
  )
  valid_BT, mask_BT = frozen["valid_BT"], frozen["loss_mask_BT"]
  old_logp_BT = frozen["old_logp_BT"]
  gap = ppo.mismatch(logp_BT, old_logp_BT, valid_BT)
  stats = ppo.surrogate_stats(logp_BT, old_logp_BT, frozen["adv_BT"], **clip)
  shown = ("clip_frac", "clip_frac_low", "approx_kl_k3")
  metrics = {
    "train/policy/loss": loss,
    "train/policy/entropy": reduce.masked_mean(entropy_BT, valid_BT),
    "train/policy/ratio_max": jnp.where(mask_BT, stats["ratio"], 0).max(),
    **_means("train/policy", {name: stats[name] for name in shown}, mask_BT),
    **{f"mismatch/{name}": value for name, value in gap.items()},
    "train/policy/grad_norm": optax.tree.norm(grads),
  }
  return _update(state, grads, tx), metrics


def critic_step(
  state: TrainState,
  batch,
  frozen: dict,
  *,
  values: Callable,
  tx,
  clip: float | None,
  accumulate: int = 1,
):
  """One regression step of the critic on the returns.

  Args:
    batch: what `values` takes.
    frozen: over the columns of `values`: value_BT, from before any step,
      return_BT and loss_mask_BT, as of `advantages`.
    clip: PPO's value_clip, or None while the critic warms up (trap 33).
  """

  def loss_fn(params, given):
    batch, frozen = given
    value_BT = values(params, batch)
    loss_BT = ppo.value_loss(
      value_BT, frozen["value_BT"], frozen["return_BT"], clip=clip
    )
    total, count = reduce.masked_sum_count(loss_BT, frozen["loss_mask_BT"])
    return total, (count, (value_BT, frozen))

  loss, _, (value_BT, frozen), grads = gradients.of_mean(
    loss_fn,
    state.params,
    (batch, frozen),
    rows=batch.rows,
    accumulate=accumulate,
  )
  metrics = {
    "train/critic/loss": loss,
    "train/critic/grad_norm": optax.tree.norm(grads),
  }
  if clip is not None:
    clipped_BT = ppo.value_clipped(
      value_BT, frozen["value_BT"], frozen["return_BT"], clip=clip
    )
    mask_BT = frozen["loss_mask_BT"]
    metrics["train/critic/clip_frac"] = reduce.masked_mean(clipped_BT, mask_BT)
  return _update(state, grads, tx), metrics


def _means(group: str, per_token: dict, mask_BT) -> dict:
  return {
    f"{group}/{name}": reduce.masked_mean(x_BT, mask_BT)
    for name, x_BT in per_token.items()
  }
