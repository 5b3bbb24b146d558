"""The programs of a stage on a TPU slice, over shapes alone: nothing runs.

    config.tpu, devices -> mesh, Program(step, arguments, model FLOPs)

Arguments are shapes with shardings, so the devices may be those of a topology
description.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from mgrd_jax import sharding
from mgrd_jax.audio import features
from mgrd_jax.losses import logprobs
from mgrd_jax.models import audio_lm, decoder
from mgrd_jax.train import fit, optim, scores, steps
from mgrd_jax.types import Batch

MEL_FRAMES = 3000  # of the longest clip, 30 s
# What a step of AdamW is compiled with; numbers do not change its cost.
_RATE = dict(lr=1e-5, steps=1000)


@dataclasses.dataclass(frozen=True)
class Program:
  """A step and what it is given.

  Attributes:
    name: as in config.tpu.programs.
    mesh: that it runs on.
    step: pure and unjitted.
    args: shapes, with shardings.
    donate: positions of what the step replaces.
    model_flops: of all devices; see `fit.roofline`.
    useful: share of its columns that hold a token.
    beside: bytes a device of the stage's other states, which stay in memory.
    out: shardings of the results, or None: the compiler's choice.
  """

  name: str
  mesh: object
  step: Callable
  args: tuple
  donate: tuple[int, ...]
  model_flops: float
  useful: float = 1.0
  beside: int = 0
  out: object = None

  def lower(self):
    """The traced program, for `compile` or `as_text`."""
    options = {} if self.out is None else {"out_shardings": self.out}
    jitted = jax.jit(self.step, donate_argnums=self.donate, **options)
    with jax.set_mesh(self.mesh):
      return jitted.lower(*self.args)


def meshes(tpu) -> dict[str, dict[str, int]]:
  """Sizes of the axes of the two meshes, to train over and to sample over."""
  train = tpu.mesh.to_dict()
  rest = train["data"] * train["sequence"] * train["tensor"]
  train["fsdp"] = train["fsdp"] or tpu.chips // rest
  data, tensor = tpu.rollout.data, tpu.rollout.tensor
  rollout = dict(data=data, fsdp=1, sequence=1, tensor=tensor)
  return {"mesh": train, "rollout": rollout}


def check(config, only: Sequence[str] = ()) -> None:
  """Refuses what cannot be built, before any device is asked for.

  Raises:
    ValueError: an unknown model or program; a parameter without a place; a
      mesh that is not of the slice, or does not divide the model.
  """
  tpu = config.tpu
  if config.model not in audio_lm.VARIANTS:
    raise ValueError(
      f"unknown model {config.model!r}; have {sorted(audio_lm.VARIANTS)}"
    )
  for name in (*tpu.programs, *only):
    if name not in PROGRAMS:
      raise ValueError(f"unknown program {name!r}; have {list(PROGRAMS)}")
  if tpu.rows % tpu.accumulate:
    raise ValueError(
      f"config.tpu.accumulate={tpu.accumulate} does not divide rows {tpu.rows}"
    )
  sizes = audio_lm.VARIANTS[config.model]()
  bare = sharding.uncovered(audio_lm.abstract(sizes))
  if bare:
    raise ValueError(
      f"no rule of the sharding table covers {', '.join(bare)}; a parameter's "
      "name ends in its axes"
    )
  rows = dict(
    mesh=(tpu.rows // tpu.accumulate, tpu.time),
    rollout=(tpu.rollout.rows, tpu.rollout.prompt),
  )
  for name, mesh in meshes(tpu).items():
    if math.prod(mesh.values()) != tpu.chips:
      raise ValueError(
        f"config.tpu.{name}: {mesh} is not {tpu.chips} chips of {tpu.slice}"
      )
    wrong = fit.undivided(sizes, mesh, *rows[name])
    if wrong:
      raise ValueError(f"config.tpu.{name}: {'; '.join(wrong)}")


class Setting:
  """A model's sizes, the two meshes of a slice, and shapes over them."""

  def __init__(self, config, devices: Sequence):
    tpu = config.tpu
    sizes = audio_lm.VARIANTS[config.model]()
    self.tpu = tpu
    self.dtype = jnp.dtype(tpu.dtype)
    self.config = dataclasses.replace(
      sizes,
      decoder=dataclasses.replace(
        sizes.decoder, remat=tpu.remat, attention=tpu.attention
      ),
    )
    self.mesh, self.rollout_mesh = (
      sharding.make_mesh(**sizes, devices=devices)
      for sizes in meshes(tpu).values()
    )
    self.tx = optim.named("adamw", **_RATE)

  def put(self, tree, table=sharding.DATA, mesh=None):
    """Shapes with the shardings of a table."""
    mesh = self.mesh if mesh is None else mesh
    return jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
      tree,
      sharding.shardings(mesh, tree, table),
    )

  def params(self, dtype=jnp.float32, value: bool = False) -> dict:
    """What is trained: adapter and decoder, and a value head."""
    found = audio_lm.abstract(self.config, dtype)
    del found["encoder"]
    if value:
      width = self.config.decoder.width
      make = functools.partial(audio_lm.init_value_head, width)
      found["value"] = jax.eval_shape(make)
    return found

  def state(self, value: bool = False):
    """A TrainState of AdamW in float32."""
    make = functools.partial(steps.init_state, tx=self.tx)
    return self.put(
      jax.eval_shape(make, self.params(value=value)), sharding.WEIGHT
    )

  def encoder(self) -> dict:
    """The frozen encoder, as it computes."""
    found = audio_lm.abstract(self.config, self.dtype)["encoder"]
    return self.put(found, sharding.WEIGHT)

  def batch(self, rows: int, time: int, clips: int, mesh=None) -> Batch:
    """Packed rows, or prompts."""
    S, i32 = jax.ShapeDtypeStruct, jnp.int32
    frames = features.pooled_frames(MEL_FRAMES)
    width = self.config.encoder.width
    found = Batch(
      tokens_BT=S((rows, time), i32),
      valid_BT=S((rows, time), bool),
      loss_mask_BT=S((rows, time), bool),
      audio_index_BT=S((rows, time), i32),
      enc_BAE=S((rows * clips, frames, width), self.dtype),
      segment_BT=S((rows, time), i32),
    )
    return self.put(found, mesh=mesh)

  def rows(self) -> Batch:
    return self.batch(self.tpu.rows, self.tpu.time, self.tpu.clips)

  def frozen(self, *names: str) -> dict:
    """What PPO holds over the rows' columns, the masks of responses too."""
    shape = self.tpu.rows, self.tpu.time
    dtypes = {name: jnp.float32 for name in names}
    dtypes |= {"valid_BT": bool, "loss_mask_BT": bool}
    return self.put(
      {n: jax.ShapeDtypeStruct(shape, dtype) for n, dtype in dtypes.items()}
    )

  def forward_flops(
    self, rows: int, time: int, clips: int, within: float = 1.0
  ) -> float:
    """Of rows, `within` of whose pairs of columns are of one example."""
    c = self.config
    pairs = within * rows * time * (time + 1) / 2
    frames = clips * features.adapter_frames(features.pooled_frames(MEL_FRAMES))
    return fit.decoder_flops(c.decoder, rows * time, pairs) + (
      rows * fit.adapter_flops(c.adapter, frames)
    )

  def train_flops(self) -> float:
    """Forward, and twice that backward."""
    t = self.tpu
    return 3 * self.forward_flops(t.rows, t.time, t.clips, t.within)


def _scores(setting: Setting) -> Callable:
  """Log-probabilities of rows, the head read in chunks."""
  config = setting.config
  return functools.partial(
    scores.of_rows,
    states=functools.partial(audio_lm.states, config=config),
    score=functools.partial(
      logprobs.head_logprobs,
      chunks=setting.tpu.chunks,
      shards=setting.tpu.mesh.tensor,
      tied=config.decoder.tied,
    ),
    dtype=setting.dtype,
  )


def _encoder(setting: Setting) -> Program:
  config, t = setting.config, setting.tpu
  clips = t.rows * t.clips
  S = jax.ShapeDtypeStruct
  mels = {
    "mel_BRM": S((clips, MEL_FRAMES, config.encoder.mels), setting.dtype),
    "len_B": S((clips,), jnp.int32),
  }

  def encode(params, given):
    return audio_lm.encode(
      params, given["mel_BRM"], given["len_B"], config=config
    )

  return Program(
    "encoder",
    setting.mesh,
    encode,
    (setting.encoder(), setting.put(mels)),
    (),
    fit.encoder_flops(config.encoder, clips, MEL_FRAMES),
  )


def _trained(setting: Setting, name: str, step, *given, value=False, **kwargs):
  return Program(
    name,
    setting.mesh,
    functools.partial(
      step, tx=setting.tx, accumulate=setting.tpu.accumulate, **kwargs
    ),
    (setting.state(value), *given),
    (0,),
    setting.train_flops(),
    setting.tpu.useful,
  )


def _sft(setting: Setting) -> Program:
  return _trained(
    setting,
    "sft",
    steps.sft_step,
    (setting.rows(),),
    scores=_scores(setting),
  )


def _dpo(setting: Setting) -> Program:
  t = setting.tpu
  sums = jax.ShapeDtypeStruct((t.rows, t.examples), jnp.float32)
  sums = setting.put({"ref_BG": sums})["ref_BG"]
  return _trained(
    setting,
    "dpo",
    steps.dpo_step,
    setting.rows(),
    sums,
    scores=_scores(setting),
    examples=t.examples,
  )


def _ppo_actor(setting: Setting) -> Program:
  ban_V = jnp.zeros((setting.config.decoder.vocab,))
  return _trained(
    setting,
    "ppo_actor",
    steps.policy_step,
    setting.rows(),
    setting.frozen("adv_BT", "old_logp_BT"),
    scores=_scores(setting),
    hp=steps.PPO(on_policy=False),
    ban_V=ban_V,
  )


def _ppo_critic(setting: Setting) -> Program:
  c = setting.config.decoder
  program = _trained(
    setting,
    "ppo_critic",
    steps.critic_step,
    setting.rows(),
    setting.frozen("value_BT", "return_BT"),
    value=True,
    values=functools.partial(
      scores.values_of_rows,
      values=functools.partial(audio_lm.row_values, config=setting.config),
      dtype=setting.dtype,
    ),
    clip=steps.PPO().value_clip,
  )
  # It has no head, but a scalar one.
  t = setting.tpu
  head = 3 * 2.0 * t.rows * t.time * c.width * c.vocab
  return dataclasses.replace(program, model_flops=program.model_flops - head)


def _sampler(setting: Setting) -> dict:
  """The parameters that sample, over their own mesh."""
  return setting.put(
    setting.params(setting.dtype), sharding.WEIGHT, setting.rollout_mesh
  )


def _cache(setting: Setting):
  rollout = setting.tpu.rollout
  make = functools.partial(
    decoder.empty_cache,
    setting.config.decoder,
    rollout.rows,
    rollout.slots,
    setting.dtype,
  )
  return setting.put(jax.eval_shape(make), mesh=setting.rollout_mesh)


def _logits(setting: Setting):
  shape = setting.tpu.rollout.rows, setting.config.decoder.vocab
  found = {"logits_BV": jax.ShapeDtypeStruct(shape, jnp.float32)}
  return setting.put(found, mesh=setting.rollout_mesh)["logits_BV"]


def _out(setting: Setting):
  return jax.tree.map(
    lambda x: x.sharding, (_logits(setting), _cache(setting))
  )


def _prefill(setting: Setting) -> Program:
  rollout, c = setting.tpu.rollout, setting.config
  rows, prompt = rollout.rows, rollout.prompt
  flops = setting.forward_flops(rows, prompt, 1)
  # One position of each row reaches the head.
  flops -= 2.0 * rows * (prompt - 1) * c.decoder.width * c.decoder.vocab
  return Program(
    "prefill",
    setting.rollout_mesh,
    functools.partial(
      audio_lm.prefill, config=c, slots=rollout.slots, block=256
    ),
    (
      _sampler(setting),
      setting.batch(rows, prompt, 1, setting.rollout_mesh),
    ),
    (),
    flops,
    out=_out(setting),
  )


def _decode(setting: Setting) -> Program:
  rollout, c = setting.tpu.rollout, setting.config
  ids = {
    name: jax.ShapeDtypeStruct((rollout.rows,), jnp.int32)
    for name in ("token_B", "pos_B")
  }
  ids = setting.put(ids, mesh=setting.rollout_mesh)

  def decode(params, token_B, pos_B, cache):
    return audio_lm.decode(params, token_B, pos_B, cache, config=c)

  # In the middle of the longest response.
  pairs = rollout.rows * rollout.slots / 2
  return Program(
    "decode",
    setting.rollout_mesh,
    decode,
    (_sampler(setting), ids["token_B"], ids["pos_B"], _cache(setting)),
    (3,),
    fit.decoder_flops(c.decoder, rollout.rows, pairs),
    out=_out(setting),
  )


PROGRAMS = {
  "encoder": _encoder,
  "sft": _sft,
  "dpo": _dpo,
  "prefill": _prefill,
  "decode": _decode,
  "ppo_actor": _ppo_actor,
  "ppo_critic": _ppo_critic,
}
# What each holds, of what stays on the chip between programs.
_HOLDS = {
  "encoder": "encoder",
  "sft": "actor",
  "dpo": "actor",
  "ppo_actor": "actor",
  "ppo_critic": "critic",
}


def bytes_of(tree) -> int:
  """Bytes of a device's share of arrays."""
  return sum(
    jnp.dtype(x.dtype).itemsize * math.prod(x.sharding.shard_shape(x.shape))
    for x in jax.tree.leaves(tree)
  )



def build(config, devices: Sequence, only: Sequence[str] = ()) -> list[Program]:
  """The programs of config.tpu.programs, or those of `only`.

  While one runs, the states that the others train rest beside it.

  Raises:
    ValueError: what `check` raises.
  """
  check(config, only)
  setting = Setting(config, devices)
  names = tuple(config.tpu.programs)
  kept = {
    "encoder": setting.encoder,
    "actor": setting.state,
    "critic": functools.partial(setting.state, value=True),
  }
  sizes = {
    held: bytes_of(kept[held]())
    for held in {_HOLDS[n] for n in names if n in _HOLDS}
  }
  found = []
  for name in only or names:
    own = _HOLDS.get(name)
    beside = sum(size for held, size in sizes.items() if held != own)
    found.append(dataclasses.replace(PROGRAMS[name](setting), beside=beside))
  return found
