"""The steps on a toy model: what moves the loss, and what is learned."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgrd_jax.losses import logprobs
from mgrd_jax.models import audio_lm
from mgrd_jax.models import recognition as recognition_heads
from mgrd_jax.rollout import sampling
from mgrd_jax.train import optim, steps
from tests import toys

PARAMS = toys.trained_parts(noise=0.1)
A, B = toys.clip(0), toys.clip(1)
# The same words over two clips.
ITEMS = (toys.item([1], A, [2]), toys.item([1], B, [2]))


def sft(*batches):
  """Parameters and metrics after one step from PARAMS."""
  state, metrics = toys.SFT(steps.init_state(PARAMS, toys.TX), batches)
  return state.params, metrics


def rows():
  """Four rows of unequal length and unequal share of scored tokens."""
  return [
    toys.item([1, 2], A, [3, 4, 5], target=3),
    toys.item([6], B, [7, 8, 9, 10, 11], target=5),
    toys.item([1], A, [2, 12], target=1),
    toys.item([13, 14], A, [15, 16], target=2),
  ]


def surprises(batch):
  """Per row, minus the log-probability of each scored token."""
  logits_BTV = np.asarray(toys.APPLY(PARAMS, batch), np.float64)
  logp_BTV = logits_BTV - np.log(np.exp(logits_BTV).sum(-1, keepdims=True))
  return [
    [
      -logp_BTV[b, t - 1, batch.tokens_BT[b, t]]
      for t in np.flatnonzero(batch.loss_mask_BT[b])
    ]
    for b in range(len(logits_BTV))
  ]


def test_the_loss_is_the_mean_surprise_of_the_scored_tokens():
  batch = toys.batch(rows())
  golden = np.concatenate(surprises(batch))
  _, metrics = sft(batch)
  assert metrics["train/tokens"] == len(golden) == 11
  assert float(metrics["train/loss"]) == pytest.approx(golden.mean(), abs=1e-5)


def test_masked_tokens_do_not_change_the_loss():
  batch = toys.batch(rows())
  params, metrics = sft(batch)
  # Padding, and valid tokens behind the last scored one.
  len_B1 = batch.valid_BT.sum(1, keepdims=True)
  after_BT = jnp.arange(16) >= len_B1
  changed = dataclasses.replace(
    batch,
    tokens_BT=jnp.where(after_BT, 19, batch.tokens_BT),
    valid_BT=batch.valid_BT | (after_BT & (jnp.arange(16) < 12)),
  )
  other, other_metrics = sft(changed)
  assert float(metrics["train/loss"]) == pytest.approx(
    float(other_metrics["train/loss"]), abs=1e-6
  )
  assert toys.difference(params, other) < 1e-6
  # A token before the scored ones is heard.
  tokens_BT = batch.tokens_BT.at[:, 0].set(19)
  before = dataclasses.replace(batch, tokens_BT=tokens_BT)
  assert abs(sft(before)[1]["train/loss"] - metrics["train/loss"]) > 1e-3


def test_rows_in_buckets_equal_rows_in_one_batch():
  whole, metrics = sft(toys.batch(rows()))
  first, *others = rows()
  split, split_metrics = sft(toys.batch(others), toys.batch([first], time=8))
  assert float(metrics["train/loss"]) == pytest.approx(
    float(split_metrics["train/loss"]), abs=1e-6
  )
  # float32 sums in another order.
  assert toys.difference(whole, split) < 1e-6
  # The mean of the buckets' means is another number.
  head, *tail = surprises(toys.batch(rows()))
  means = np.mean([np.mean(head), np.mean(np.concatenate(tail))])
  assert abs(means - metrics["train/loss"]) > 1e-3


def test_a_batch_without_scored_tokens_changes_nothing():
  batch = toys.batch(rows())
  nothing = jnp.zeros_like(batch.loss_mask_BT)
  params, metrics = sft(dataclasses.replace(batch, loss_mask_BT=nothing))
  assert metrics["train/loss"] == 0 and metrics["train/grad_norm"] == 0
  assert toys.difference(params, PARAMS) == 0


def test_the_end_of_turn_is_learned_when_it_is_scored():
  row = toys.item([1, 2], A, [3, toys.STOP], target=1)
  batch = toys.batch([row] * 4)
  params, _ = sft(batch)
  before, after = (toys.APPLY(p, batch)[0, 5] for p in (PARAMS, params))
  assert after[toys.STOP] - before[toys.STOP] > 0.05


def test_four_prompts_are_overfit_with_their_clips():
  # Rows 0 and 1 differ in nothing but the clip.
  batch = toys.batch([
    toys.item([1], A, [2, 3, toys.STOP], target=2),
    toys.item([1], B, [2, 4, toys.STOP], target=2),
    toys.item([5], A, [2, 6, 7, toys.STOP], target=3),
    toys.item([8], B, [9, toys.STOP], target=2),
  ])  # fmt: skip
  state = steps.init_state(toys.trained_parts(), toys.TX)
  for _ in range(100):
    state, metrics = toys.SFT(state, (batch,))
  assert metrics["train/loss"] < 0.05
  assert int(state.step) == 100
  guess_BT = np.asarray(toys.APPLY(state.params, batch).argmax(-1))
  for b, t in np.argwhere(batch.loss_mask_BT):
    assert guess_BT[b, t - 1] == batch.tokens_BT[b, t]


def update(rollout, reward_B, *, bias=0.5, scorable_B=None):
  """One update of PARAMS on a rollout of theirs."""
  return toys.UPDATE(
    steps.init_state(PARAMS, toys.TX),
    toys.critic(bias=bias),
    toys.scored(rollout, reward_B, scorable_B),
    toys.PATCH_BAN_V,
  )


def test_an_update_on_policy_has_no_loss_and_a_gradient():
  rollout = toys.sampled(PARAMS, ITEMS)
  reward_B = np.arange(32) % 3 == 0
  state, frozen, metrics = update(rollout, reward_B)
  # The ratio is one and whitened advantages have no mean.
  assert abs(metrics["train/policy/loss"]) < 1e-6
  assert metrics["train/policy/grad_norm"] > 1e-2
  assert toys.difference(state.params, PARAMS) > 1e-3
  # Trap 34: the sampler's own scores against the trainer's.  Of 4 to 8 nats,
  # they are 4.8e-7 apart in float32; 1e-6 is two such steps, four are allowed.
  assert (-rollout.logp_BT).max() < 8
  assert metrics["mismatch/max_abs"] <= 4 * np.spacing(np.float32(4))
  assert metrics["mismatch/k3"] < 1e-11
  assert metrics["train/policy/ratio_max"] == pytest.approx(1, abs=2e-6)
  assert metrics["train/policy/clip_frac"] == 0
  assert (frozen["valid_BT"].sum(1) == rollout.response_len_B).all()
  np.testing.assert_allclose(
    frozen["return_BT"], frozen["valid_BT"] * reward_B[:, None], atol=1e-6
  )


def test_a_sampler_that_is_not_the_trainer_shows_in_the_clip():
  # By half a nat on every token: rho is 1.65 there, or 0.61.
  rollout = toys.sampled(PARAMS, ITEMS)
  reward_B = np.arange(32) % 3 == 0
  honest = update(rollout, reward_B)[2]
  for shift, low in ((-0.5, 0), (0.5, 1)):
    stale = dataclasses.replace(rollout, logp_BT=rollout.logp_BT + shift)
    state, frozen, metrics = update(stale, reward_B)
    wrong_BT = frozen["adv_BT"] * (-1) ** low > 0
    share = wrong_BT[frozen["loss_mask_BT"]].mean()
    assert metrics["train/policy/clip_frac"] == pytest.approx(float(share))
    assert metrics["train/policy/clip_frac_low"] == low * share
    ratio = float(metrics["train/policy/ratio_max"])
    assert ratio == pytest.approx(np.exp(-shift), rel=1e-5)
    assert metrics["mismatch/k3"] > 0.1
    # It is told, and changes nothing: the loss holds the trainer's own.
    assert metrics["train/policy/loss"] == honest["train/policy/loss"]


def test_the_critic_tells_where_its_clip_acts():
  rollout = toys.sampled(PARAMS, ITEMS)
  critic = steps.init_state(toys.critic(bias=0.5), toys.TX)
  _, frozen, _ = update(rollout, np.ones(32))

  @functools.partial(toys.jit, static_argnames="clip")
  def regress(frozen, clip):
    return steps.critic_step(
      critic, rollout, frozen, values=toys.VALUES, tx=toys.TX, clip=clip
    )[1]

  # V is .5 and G is 1: held back where V has moved up by more than .2.
  at_T = np.arange(6)
  old_BT = np.where(at_T < 2, 0.2, 0.4) * np.ones((32, 1))
  moved = frozen | {"value_BT": jnp.asarray(old_BT, jnp.float32)}
  share = (at_T < 2)[None].repeat(32, 0)[np.asarray(frozen["valid_BT"])].mean()
  metrics = regress(moved, clip=0.2)
  assert metrics["train/critic/clip_frac"] == pytest.approx(share)
  assert 0 < share < 1
  assert "train/critic/clip_frac" not in regress(moved, clip=None)


def test_an_update_raises_what_was_rewarded_against_what_was_not():
  rollout = toys.sampled(PARAMS, ITEMS)
  reward_B = np.arange(32) % 2 == 0
  state, frozen, _ = update(rollout, reward_B)
  mask_BT = np.asarray(frozen["valid_BT"])

  def margin(params):
    logits_BTV = toys.CONTINUATIONS(params, rollout.prompts, rollout.token_BT)
    logp_BT = logprobs.choice_logprobs(
      logits_BTV, rollout.token_BT, ban_V=toys.PATCH_BAN_V
    )
    return (logp_BT * frozen["adv_BT"] * mask_BT).sum() / mask_BT.sum()

  assert margin(state.params) > margin(PARAMS) + 1e-2


def test_rows_that_cannot_be_scored_leave_the_loss():
  rollout = toys.sampled(PARAMS, ITEMS)
  odd_B = np.arange(32) == 3
  reward_B = np.arange(32) % 3 == 0
  state, frozen, _ = update(rollout, reward_B, scorable_B=~odd_B)
  assert not frozen["loss_mask_BT"][3].any() and frozen["valid_BT"][3].any()
  other, _, _ = update(rollout, reward_B ^ odd_B, scorable_B=~odd_B)
  assert toys.difference(state.params, other.params) == 0


def test_rewards_that_the_critic_foresaw_change_nothing():
  rollout = toys.sampled(PARAMS, ITEMS)
  state, _, metrics = update(rollout, np.ones(32), bias=1.0)
  assert metrics["adv/frac_floor"] == 1
  assert toys.difference(state.params, PARAMS) == 0


def test_the_values_of_an_update_precede_their_tokens():
  rollout = toys.sampled(PARAMS, ITEMS)
  rng = np.random.default_rng(0)
  width = toys.CONFIG.decoder.width
  head = toys.critic()["value"] | {"value_D": rng.normal(size=width)}
  critic = PARAMS | {"value": head}
  advantages = toys.jit(
    functools.partial(steps.advantages, values=toys.VALUES, hp=toys.HP)
  )

  def values(rollout):
    frozen, _ = advantages(critic, toys.scored(rollout, np.ones(32)))
    return np.asarray(frozen["value_BT"])

  # V_j knows the tokens before j, the prompt among them, and not j itself.
  token_BT = rollout.token_BT.at[:, 2].set((rollout.token_BT[:, 2] + 1) % 20)
  changed = values(dataclasses.replace(rollout, token_BT=token_BT))
  moved_BT = np.abs(changed - values(rollout)) > 1e-6
  at_T, len_B1 = np.arange(6), np.asarray(rollout.response_len_B)[:, None]
  np.testing.assert_array_equal(moved_BT, (at_T > 2) & (at_T < len_B1))


def test_a_policy_learns_to_stop_at_the_rewarded_length():
  allowed = {1, 2, toys.STOP}
  ban_V = sampling.ban(toys.VOCAB, set(range(toys.VOCAB)) - allowed)
  state = steps.init_state(toys.trained_parts(), toys.TX)
  earned = []
  for step in range(30):
    rollout = toys.sampled(state.params, ITEMS, key=step, ban_V=ban_V)
    reward_B = rollout.stopped_B & (rollout.response_len_B == 3)
    earned.append(float(reward_B.mean()))
    critic = toys.critic(bias=earned[-1])
    state, _, _ = toys.UPDATE(
      state, critic, toys.scored(rollout, reward_B), ban_V
    )
  # At first two others and then the end of turn: 4 in 27.
  assert np.mean(earned[:2]) < 0.4, earned
  assert np.mean(earned[-3:]) > 0.9, earned


def test_the_critic_hears():
  # The reward is of the clip alone: all words are the same.
  rollout = toys.sampled(PARAMS, ITEMS)
  reward_B = jnp.repeat(jnp.array([1.0, 0.0]), 16)
  zeros = jnp.zeros_like(rollout.prompts.enc_BAE)
  deaf = dataclasses.replace(
    rollout, prompts=dataclasses.replace(rollout.prompts, enc_BAE=zeros)
  )

  def measure(critic, rollout):
    _, frozen, metrics = toys.UPDATE(
      steps.init_state(PARAMS, toys.TX),
      critic,
      toys.scored(rollout, reward_B),
      toys.PATCH_BAN_V,
    )
    return frozen, float(metrics["train/critic/ev_seq"])

  def trained(rollout):
    state = steps.init_state(toys.critic(bias=0.5), toys.TX)
    frozen, _ = measure(state.params, rollout)
    for _ in range(60):
      state, metrics = toys.CRITIC(state, rollout, frozen)
    assert np.isfinite(metrics["train/critic/loss"])
    return state.params

  critic = trained(rollout)
  frozen, heard = measure(critic, rollout)
  assert heard > 0.8
  first_B = np.asarray(frozen["value_BT"])[:, 0]
  assert abs(first_B[0] - first_B[16]) > 0.5
  # The same critic with its ears shut, and one that never had any.
  assert abs(measure(critic, deaf)[1]) < 0.05
  assert abs(measure(trained(deaf), deaf)[1]) < 0.05


HEADS = recognition_heads.RecognitionHeads(words=4, attributes=2, classes=3)
# Five words, and six labels.
SOUNDS = {
  "mel_BRM": jax.random.normal(jax.random.key(5), (4, 32, 8)),
  "len_B": jnp.array([32, 24, 32, 32]),
  "words_BT": jnp.array([[1, 2], [3, 0], [0, 0], [2, 1]]),
  "label_BN": jnp.array([[0, 2], [1, -1], [-1, 0], [1, 1]]),
  "classes_N": jnp.array([2, 3]),
}
ENCODER_TX = optim.named("adamw", lr=1e-2, steps=80)


def encoder_state():
  heads = recognition_heads.init_heads(jax.random.key(0), HEADS, toys.WIDTH)
  trained = {"encoder": toys.params()["encoder"], "heads": heads}
  return steps.init_state(trained, ENCODER_TX)


encoder_step = toys.jit(
  functools.partial(
    steps.encoder_step,
    encode=functools.partial(audio_lm.encode, config=toys.CONFIG),
    heads=lambda p, enc, n: HEADS.apply({"params": p}, enc, n),
    ctc_weight=0.5,
    tx=ENCODER_TX,
  )
)


def test_the_encoder_learns_the_words_and_attributes_that_are_there():
  state = encoder_state()
  _, first = encoder_step(state, SOUNDS)
  for _ in range(80):
    state, last = encoder_step(state, SOUNDS)
  assert int(state.step) == 80
  assert first["encoder/attribute_acc"] < 1 == last["encoder/attribute_acc"]
  for name in ("encoder/ctc", "encoder/attribute"):
    assert last[name] < 0.1 < first[name], name


def test_a_clip_of_which_nothing_is_known_changes_no_step_of_the_encoder():
  more = {
    name: x if name == "classes_N" else jnp.concatenate([x, x[:1]])
    for name, x in SOUNDS.items()
  }
  more["words_BT"] = more["words_BT"].at[4].set(0)
  more["label_BN"] = more["label_BN"].at[4].set(-1)
  _, metrics = encoder_step(encoder_state(), SOUNDS)
  _, other = encoder_step(encoder_state(), more)
  # It is in no sum and in no count; float32 sums in another order.
  for name, value in metrics.items():
    assert float(other[name]) == pytest.approx(float(value), abs=1e-5), name
  known = more | {"label_BN": more["label_BN"].at[4].set(0)}
  _, known_metrics = encoder_step(encoder_state(), known)
  for name in ("encoder/attribute", "encoder/grad_norm"):
    assert abs(known_metrics[name] - metrics[name]) > 1e-3, name
