"""Train steps: pure, unjitted; arrays in, arrays out.

    TrainState, batch -> TrainState, metrics

`apply`, `values` and `tx` are handed in and bound by the caller.  A step
of PPO hands `apply` and `values` a Rollout's prompts and responses; what they
return is aligned: column t is of the choice of response token t.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from mgrd_jax.losses import logprobs, ppo, recognition, reduce, sft
from mgrd_jax.types import TrainState


def init_state(params, tx) -> TrainState:
  """Step 0 of training `params` with `tx`."""
  return TrainState(jnp.int32(0), params, tx.init(params))


def _update(state: TrainState, grads, tx):
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  return TrainState(state.step + 1, params, opt_state)


def sft_step(state: TrainState, batches: tuple, *, apply, tx, window: int):
  """One supervised step over buckets of different shapes.

    L = sum_buckets sum(m * -log p) / sum_buckets sum(m)

  One division at the end, so how rows are bucketed changes nothing
  (Step-Audio-R1, eq. 1 and 5).  `window` is the most columns from a row's
  first trained token to its last.
  """

  def loss_fn(params):
    total, count = 0.0, 0.0
    for batch in batches:
      at_BS = logprobs.predictors(
        batch.loss_mask_BT.argmax(1), window, batch.tokens_BT.shape[1]
      )
      logits_BSV = apply(params, batch, at_BS)
      logp_BT = logprobs.token_logprobs(
        logits_BSV, batch.tokens_BT, at_BS=at_BS
      )
      part = sft.negative_log_likelihood(logp_BT, batch.loss_mask_BT)
      total, count = total + part[0], count + part[1]
    return total / jnp.maximum(count, 1), count

  (loss, count), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
  metrics = {
    "train/loss": loss,
    "train/tokens": count,
    "train/grad_norm": optax.tree.norm(grads),
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
  """Hyper-parameters of the update (rl.md 6.6; paper 4.3)."""

  gamma: float = 1.0
  lam: float = 1.0
  clip: float = 0.2
  value_clip: float | None = 0.2
  std_floor: float = 0.05
  whiten: bool = True
  temperature: float = 1.0
  aggregation: str = "token_mean"


def advantages(critic_params, scored, *, values, hp: PPO):
  """Frozen quantities of an update: V, A, G and masks, before any step.

  Returns a dict of value_BT, adv_BT (whitened if asked), return_BT,
  valid_BT, loss_mask_BT, of the responses alone, and metrics of the critic.
  """
  rollout = scored.rollout
  at_T = jnp.arange(rollout.token_BT.shape[1])
  valid_BT = at_T < rollout.response_len_B[:, None]
  loss_mask_BT = valid_BT & scored.scorable_B[:, None]
  raw_BT = values(critic_params, rollout.prompts, rollout.token_BT)
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
    "valid_BT": valid_BT,
    "loss_mask_BT": loss_mask_BT,
  }, metrics


def policy_step(
  state: TrainState, rollout, frozen: dict, *, apply, tx, hp: PPO, ban_V
):
  """One on-policy PPO step of the actor (clipped surrogate, no KL).

  The batch was sampled by these very parameters, so the old
  log-probabilities are the trainer's own, held constant: the ratio is 1 at
  this one step and the clip never acts.  Their distance from the sampler's
  is logged as the mismatch; train/policy/{ratio_max, clip_frac,
  clip_frac_low, approx_kl_k3} tell what the clip would make of it.
  """
  valid_BT, mask_BT = frozen["valid_BT"], frozen["loss_mask_BT"]
  scaling = {"temperature": hp.temperature, "ban_V": ban_V}

  def loss_fn(params):
    logits_BTV = apply(params, rollout.prompts, rollout.token_BT)
    logp_BT = logprobs.choice_logprobs(
      logits_BTV, rollout.token_BT, **scaling
    )
    # One engine and one step per batch: the old policy is this policy.
    old_logp_BT = jax.lax.stop_gradient(logp_BT)
    loss_BT = ppo.clipped_surrogate(
      logp_BT, old_logp_BT, frozen["adv_BT"], eps_lo=hp.clip, eps_hi=hp.clip
    )
    loss = reduce.ratio(*reduce.aggregate(loss_BT, mask_BT, hp.aggregation))
    entropy_BT = logprobs.entropy(logits_BTV, **scaling)
    gap = ppo.mismatch(logp_BT, rollout.logp_BT, valid_BT)
    stats = ppo.surrogate_stats(
      logp_BT,
      rollout.logp_BT,
      frozen["adv_BT"],
      eps_lo=hp.clip,
      eps_hi=hp.clip,
    )
    metrics = {
      "train/policy/loss": loss,
      "train/policy/entropy": reduce.masked_mean(entropy_BT, valid_BT),
      "train/policy/ratio_max": jnp.where(mask_BT, stats["ratio"], 0).max(),
      **{
        f"train/policy/{name}": reduce.masked_mean(stats[name], mask_BT)
        for name in ("clip_frac", "clip_frac_low", "approx_kl_k3")
      },
      **{f"mismatch/{name}": value for name, value in gap.items()},
    }
    return loss, metrics

  grads, metrics = jax.grad(loss_fn, has_aux=True)(state.params)
  metrics["train/policy/grad_norm"] = optax.tree.norm(grads)
  return _update(state, grads, tx), metrics


def critic_step(
  state: TrainState, rollout, frozen: dict, *, values, tx, hp: PPO, clip
):
  """One regression step of the critic on the returns.

  `clip` is hp.value_clip, or None while the critic warms up (trap 33).
  """

  def loss_fn(params):
    value_BT = values(params, rollout.prompts, rollout.token_BT)
    loss_BT = ppo.value_loss(
      value_BT, frozen["value_BT"], frozen["return_BT"], clip=clip
    )
    mean = functools.partial(
      reduce.masked_mean, mask_BT=frozen["loss_mask_BT"]
    )
    metrics = {"train/critic/loss": mean(loss_BT)}
    if clip is not None:
      clipped_BT = ppo.value_clipped(
        value_BT, frozen["value_BT"], frozen["return_BT"], clip=clip
      )
      metrics["train/critic/clip_frac"] = mean(clipped_BT)
    return metrics["train/critic/loss"], metrics

  grads, metrics = jax.grad(loss_fn, has_aux=True)(state.params)
  metrics["train/critic/grad_norm"] = optax.tree.norm(grads)
  return _update(state, grads, tx), metrics
