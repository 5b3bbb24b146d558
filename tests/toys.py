"""A model small enough to compile in a second, and rows to feed it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mgrd_jax import types
from mgrd_jax.audio import features
from mgrd_jax.data import transforms
from mgrd_jax.losses import logprobs
from mgrd_jax.models import adapter, audio_encoder, audio_lm, decoder
from mgrd_jax.rollout import collect, engine, sampling
from mgrd_jax.text.chat import Row
from mgrd_jax.train import scores, steps

VOCAB = 24
PATCH, STOP = 22, 23
FRAMES = 6  # 25 Hz states a clip: 3 audio tokens
WIDTH = 16
CONFIG = audio_lm.Config(
  encoder=audio_encoder.EncoderConfig(
    mels=8, width=WIDTH, heads=2, layers=2, ffn=24, positions=64
  ),
  adapter=adapter.AdapterConfig(WIDTH, 12, 16),
  decoder=decoder.DecoderConfig(
    vocab=VOCAB,
    width=16,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=8,
    ffn=24,
    rope_theta=1e4,
  ),
)

# Programs that run for a millisecond: optimising them takes far longer.
jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)
# As XLA compiles by itself, whatever conftest tells it: for the sampler and the
# trainer, whose rounding is compared.
plain_jit = functools.partial(
  jax.jit,
  compiler_options={"xla_backend_optimization_level": 0}
  | (
    {"xla_cpu_use_fusion_emitters": True}
    if jax.__version_info__[:2] == (0, 10)
    else {}
  ),
)
apply = functools.partial(audio_lm.apply, config=CONFIG)
continuations = functools.partial(audio_lm.continuations, config=CONFIG)
values = functools.partial(audio_lm.values, config=CONFIG)
prefill = functools.partial(audio_lm.prefill, config=CONFIG)
decode = functools.partial(audio_lm.decode, config=CONFIG)
APPLY = jit(apply)
CONTINUATIONS = jit(continuations)


@functools.cache
def params(seed: int = 0, noise: float = 0.1, config=CONFIG):
  """Parameters of the shapes of `init`, drawn by numpy.

  Compiling the draws of some forty shapes takes longer than all tests.
  With noise no bias is zero and no scale is one, so none is idle.
  """
  rng = np.random.default_rng((3, seed))
  init = functools.partial(audio_lm.init, config=config)
  shapes = jax.eval_shape(init, jax.random.key(0))

  def draw(path, leaf):
    name = path[-1].key
    start = 1.0 if "norm" in name and "bias" not in name else 0.0
    scale = noise
    if not start and "bias" not in name:
      scale = 0.02 if name == "embed_VD" else WIDTH**-0.5
    value = start + scale * rng.normal(size=leaf.shape)
    return jnp.asarray(value, jnp.float32)

  return jax.tree_util.tree_map_with_path(draw, shapes)


def trained_parts(seed: int = 0, noise: float = 0.0):
  """Adapter and decoder; the encoder is frozen and its states are given."""
  return {k: v for k, v in params(seed, noise).items() if k != "encoder"}


def critic(seed: int = 0, bias: float = 0.0):
  """The same network with a value head."""
  head = audio_lm.init_value_head(CONFIG.decoder.width, bias)
  return trained_parts(seed) | {"value": head}


def clip(seed: int, frames: int = FRAMES) -> np.ndarray:
  """Encoder states of a made-up clip."""
  rng = np.random.default_rng((7, seed))
  return rng.normal(size=(frames, WIDTH)).astype(np.float32)


def item(*parts, target: int = 0) -> transforms.Item:
  """A row of ids (lists) and clips (arrays); the last `target` are scored."""
  tokens, spans, enc = [], [], []
  for part in parts:
    if isinstance(part, np.ndarray):
      count = features.adapter_frames(len(part))
      spans.append((len(tokens), count))
      enc.append(part)
      tokens += [PATCH] * count
    else:
      tokens += part
  loss = np.arange(len(tokens)) >= len(tokens) - target
  ids = np.array(tokens, np.int32)
  row = Row(ids, loss, len(tokens) - target, tuple(spans))
  return transforms.Item(row, tuple(enc))


def batch(items, *, time: int = 16, clips: int = 1, rows: int = 0):
  """A Batch of one shape, whatever the items."""
  frames = FRAMES if clips else 0
  shape = transforms.Shape(time, clips, frames, WIDTH)
  return jax.tree.map(jnp.asarray, transforms.collate(items, shape, rows))


def packed_rows(groups, *, time: int = 24, clips: int = 2):
  """A Batch whose rows hold several items each."""
  shape = transforms.Shape(time, clips, FRAMES, WIDTH)
  return jax.tree.map(jnp.asarray, transforms.collate_packed(groups, shape))


@functools.cache
def generator(*, samples: int, max_new: int, temperature: float):
  """(params, batch, request_B, key, ban_V) -> the engine's samples."""

  @plain_jit
  def generate(params, batch, request_B, key, ban_V):
    return engine.generate(
      params,
      batch,
      jnp.asarray(request_B),
      key,
      prefill=prefill,
      decode=decode,
      samples=samples,
      max_new=max_new,
      stop_id=STOP,
      temperature=temperature,
      ban_V=ban_V,
    )

  return generate


def packed(items, drawn, *, samples: int):
  """The drawn samples beside their prompts, as the trainer reads them."""
  token_BT, logp_BT, len_B, stopped_B = map(np.asarray, drawn)
  rows = [
    collect.Sample(t[:n], p[:n], bool(s))
    for t, p, n, s in zip(token_BT, logp_BT, len_B, stopped_B, strict=True)
  ]
  rollout = collect.pack(
    batch(items, time=10),
    rows,
    np.repeat(np.arange(len(items)), samples),
    time=token_BT.shape[1],
  )
  return jax.tree.map(jnp.asarray, rollout)


# One optimiser and one shape for all tests of the steps: each new pair costs
# a compilation.  Momentum, unlike Adam, keeps small differences small.
TX = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.2, momentum=0.9))
HP = steps.PPO()
PATCH_BAN_V = sampling.ban(VOCAB, (PATCH,))
IN_WINDOW = functools.partial(scores.of_window, apply=apply, window=8)
OF_ROWS = functools.partial(
  scores.of_rows,
  states=functools.partial(audio_lm.states, config=CONFIG),
  score=functools.partial(logprobs.head_logprobs, chunks=3),
  dtype=jnp.float32,
)
OF_RESPONSES = functools.partial(scores.of_responses, apply=continuations)
VALUES = functools.partial(scores.values_of_responses, values=values)
SFT = jit(functools.partial(steps.sft_step, scores=IN_WINDOW, tx=TX))
CRITIC = jit(
  functools.partial(steps.critic_step, values=VALUES, tx=TX, clip=None)
)


@plain_jit
def UPDATE(state, critic_params, scored, ban_V):
  """Advantages and one policy step: (state, frozen, metrics)."""
  frozen, metrics = steps.advantages(
    critic_params, scored, values=VALUES, hp=HP
  )
  rollout = scored.rollout
  state, more = steps.policy_step(
    state, rollout, frozen, scores=OF_RESPONSES, tx=TX, hp=HP, ban_V=ban_V
  )
  return state, frozen, metrics | more


def sampled(policy, items, *, key: int = 0, ban_V=PATCH_BAN_V):
  """Sixteen responses of up to six tokens to each of two prompts, packed."""
  program = generator(samples=16, max_new=6, temperature=1.0)
  names = np.arange(len(items))
  prompts = batch(items, time=10)
  drawn = program(policy, prompts, names, jax.random.key(key), ban_V)
  return packed(items, drawn, samples=16)


def scored(rollout, reward_B, scorable_B=None) -> types.Scored:
  """A Scored whose reward is given."""
  reward_B = jnp.asarray(reward_B, jnp.float32)
  every_B = jnp.ones(len(reward_B), bool)
  return types.Scored(
    rollout=rollout,
    acc_B=reward_B,
    present_B=every_B,
    scorable_B=every_B if scorable_B is None else jnp.asarray(scorable_B),
    audio_B=every_B,
    reward_B=reward_B,
  )


def difference(tree, other) -> float:
  """The largest absolute difference of any two leaves."""
  gap = jax.tree.map(
    lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(), tree, other
  )
  return float(max(jax.tree.leaves(gap)))
