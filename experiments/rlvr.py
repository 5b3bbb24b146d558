"""PPO from verifiable rewards: on text, or on audio and text after a round.

    pool x 8 --pass@8 in 3..6--> prompts;  prompts x 16 -> rewards -> PPO
    R_text = acc,  R_audio = 0.8 acc + 0.2 present   (paper, eq. 6 to 8)

A batch holds `prompts.audio` and `prompts.text` questions, 3 to 2 after a
round as in the released model's RL where enough of both are of medium
difficulty, and is one update.

COMMAND: python -m experiments.rlvr --config=configs/rlvr.py:tiny \\
           --workdir=out/rlvr --config.init=out/tiny/stages/03_mgrd_1_sft
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from experiments import assembly, files, flags, mgrd, placement, responses
from mgrd_jax import sharding
from mgrd_jax.data import transforms
from mgrd_jax.eval import stats
from mgrd_jax.mgrd import select
from mgrd_jax.models import audio_lm
from mgrd_jax.rewards import combine
from mgrd_jax.rollout import collect
from mgrd_jax.train import checkpoint, loop, optim, scores, steps
from mgrd_jax.types import Scored


def modality(example) -> str:
  """Which of the two rewards an answer to `example` is paid."""
  return "audio" if example.audio else "text"


def counted(examples) -> dict[str, int]:
  """How many of `examples` are of each modality."""
  names = [modality(e) for e in examples]
  return {name: names.count(name) for name in ("audio", "text")}


def questions(context, config) -> list:
  """What the stage asks, in order: the audio pool, then texts to reason on."""
  asked: list = []
  if config.prompts.audio:
    asked += mgrd.pool(context, config.seed, config.questions)
  if config.prompts.text:
    told = [e for e in context.split("train") if not e.audio]
    told = [e for e in told if e.source in config.sources]
    rng = np.random.default_rng((config.seed, config.stage))
    order = rng.permutation(len(told))[: config.questions.text]
    asked += [told[i] for i in order]
  return asked


def shares(chosen, config) -> dict[str, int]:
  """Prompts a step of each modality; {} where the stage has too few to train.

  Its own modality is audio, or text where it asks for no audio.  Texts that
  are too few for a share of their own leave it to audio.

  Raises:
    ValueError: the config asks for no prompts.
  """
  counts = config.prompts.to_dict()
  if not any(counts.values()):
    raise ValueError("config.prompts: audio and text are 0; give one of them 1")
  found, least = counted(chosen), max(1, config.min_selected)
  if found["audio" if counts["audio"] else "text"] < least:
    return {}
  if found["text"] < least:
    counts = {"audio": sum(counts.values())}
  return {name: count for name, count in counts.items() if count}


def selected(context, params, examples, *, config, workdir) -> list:
  """Questions of medium difficulty: `lo` to `hi` right of 8 (paper 4.3).

  Writes hits.json; an interrupted run reads it back.
  """
  path = workdir / "hits.json"
  if files.exists(path):
    hits = files.read_json(path)
    if hits.keys() != {e.id for e in examples}:
      raise ValueError(f"{path}: hits of other questions; {files.REDO}")
  else:
    key = jax.random.fold_in(jax.random.key(config.seed), 7 * config.stage)
    hits = {}
    groups: dict[str, list] = {}
    for e in examples:
      groups.setdefault(modality(e), []).append(e)
    for at, group in enumerate(groups.values()):
      own_key = jax.random.fold_in(key, at)
      drawn = responses.draw(
        context,
        params,
        group,
        own_key,
        config=config,
        samples=config.select_samples,
        temperature=1.0,
      )
      pairs = [
        (e, *said)
        for e, one in zip(group, drawn, strict=True)
        for said in one
      ]
      found = select.count_hits(
        np.array([mgrd.score(e, s.stopped, t)["acc"] for e, s, t in pairs]),
        [e.id for e, _, _ in pairs],
      )
      hits |= {id_: right for id_, (right, _) in found.items()}
    files.write_json(path, hits)
  lo, hi = config.band
  return [e for e in examples if select.band(int(hits[e.id]), lo, hi)]


class Sampler:
  """Rolls out prompts of both modalities in one shape, and scores them.

  The shape is that of all questions, not of those `chosen`: another round
  chooses others, and needs no other programs.  `shares` must not be empty.
  """

  def __init__(self, context, questions, chosen, config):
    self.context, self.examples, self.config = context, chosen, config
    self.shares = shares(chosen, config)
    self.max_new = responses.max_new(context, config)
    self.items = [assembly.prompt_item(context, e) for e in chosen]
    self.shape = transforms.shape_of(
      [assembly.prompt_item(context, e) for e in questions],
      width=context.model.encoder.width,
    )

  def batch_for(self, step: int) -> list[int]:
    """Indices of the step's prompts: seeded epochs of each modality."""
    picked = []
    for name, count in self.shares.items():
      own = [i for i, e in enumerate(self.examples) if modality(e) == name]
      for at in range(step * count, (step + 1) * count):
        epoch, place = divmod(at, len(own))
        rng = np.random.default_rng((self.config.seed, epoch))
        picked.append(own[rng.permutation(len(own))[place]])
    return picked

  def rollout(self, params, step: int, key):
    """(Scored, texts, parts) of the step's prompts x samples."""
    c = self.config
    at = self.batch_for(step)
    count = len(at)
    items = [self.items[i] for i in at]
    generate = responses.generator(
      self.context,
      params,
      jax.random.fold_in(key, step),
      samples=c.samples,
      max_new=self.max_new,
      temperature=c.temperature,
    )
    # One batch holds them all: what is sampled from is trained on.
    prompts = transforms.collate(items, self.shape)
    groups = collect.run(
      items,
      generate,
      lambda _: prompts,
      rows=count,
      samples=c.samples,
    )
    drawn = [s for group in groups for s in group]
    ids = np.repeat(at, c.samples)
    rollout = collect.pack(prompts, drawn, ids, time=self.max_new)
    texts = [responses.decoded(self.context, s) for s in drawn]
    return self._score(rollout, drawn, texts, ids)

  def _score(self, rollout, drawn, texts, ids):
    examples = [self.examples[i] for i in ids]
    parts = combine.stack(
      [
        mgrd.score(
          e, s.stopped, text, format_weight=self.config.format_reward
        )
        for e, s, text in zip(examples, drawn, texts, strict=True)
      ]
    )
    scored = Scored(
      rollout,
      parts["acc"],
      parts["present"],
      parts["scorable"] > 0,
      np.array([bool(e.audio) for e in examples]),
      parts["reward"],
    )
    return scored, texts, parts


def _rollout_metrics(scored, parts) -> dict[str, float]:
  length = np.asarray(scored.rollout.response_len_B)
  audio_B = np.asarray(scored.audio_B)
  names = ("acc", "reward", "think_present", "stopped")
  shown = {n: parts[n.removeprefix("think_")] for n in names}
  # Apart as well: the two are paid by different rewards.
  by_modality = {
    f"rollout/{name}/{kind}": float(part_B[keep_B].mean())
    for kind, keep_B in (("audio", audio_B), ("text", ~audio_B))
    for name, part_B in shown.items()
    if keep_B.any()
  }
  return by_modality | {
    **{f"rollout/{name}": float(part.mean()) for name, part in shown.items()},
    "rollout/length/mean": float(length.mean()),
    "rollout/length/p90": float(np.quantile(length, 0.9)),
    # A mean of empty and of long responses is the length of none.
    "rollout/length/bimodal": stats.bimodality(length)["flag"],
    "rollout/unscorable": float(1 - parts["scorable"].mean()),
    **select.group_metrics(
      scored.acc_B,
      scored.reward_B,
      np.asarray(scored.rollout.example_B),
      keep_B=np.asarray(scored.scorable_B),
    ),
  }


def _optimisers(config):
  """Those of the actor and of the critic."""
  adamw = functools.partial(
    optim.named, "adamw", steps=config.steps, final=1.0
  )
  return adamw(**config.actor), adamw(**config.critic)


def _programs(context, config, state):
  """Jitted functions of actor and critic, whose states are `state`."""
  hp = steps.PPO(**config.ppo, temperature=config.temperature)
  values = functools.partial(
    scores.values_of_responses,
    values=functools.partial(audio_lm.values, config=context.model),
  )
  own_scores = functools.partial(
    scores.of_responses,
    apply=functools.partial(audio_lm.continuations, config=context.model),
  )
  ban_V = responses.ban_vector(context)
  actor_tx, critic_tx = _optimisers(config)
  frozen = functools.partial(steps.advantages, values=values, hp=hp)
  policy = functools.partial(
    steps.policy_step, scores=own_scores, tx=actor_tx, hp=hp, ban_V=ban_V
  )
  critic = functools.partial(
    steps.critic_step, values=values, tx=critic_tx
  )
  step = functools.partial(placement.training_step, context.mesh)
  actor, critic_state = state
  return {
    "start": functools.partial(placement.initial, context.mesh, tx=critic_tx),
    "advantages": placement.program(context.mesh, frozen),
    "policy": step(policy, actor),
    "warm": step(functools.partial(critic, clip=None), critic_state),
    "critic": step(functools.partial(critic, clip=hp.value_clip), critic_state),
  }


def _ppo_step(state, scored, programs, *, mesh, config, step):
  """Critic and actor over one batch of rollouts."""
  actor, critic = state
  if not step:
    # The critic starts at the first batch's mean reward (rl.md 6.5).
    bias = jnp.float32(scored.reward_B.mean())
    value = critic.params["value"] | {"bias": bias}
    critic = programs["start"](critic.params | {"value": value})
  scored = placement.place(mesh, scored)
  frozen, measured = programs["advantages"](critic.params, scored)
  warming = step < config.warmup
  for update in range(config.critic_updates):
    # At the first the value is the frozen one, and no clip can act.
    regress = programs["critic" if update and not warming else "warm"]
    critic, more = regress(critic, scored.rollout, frozen)
    measured |= more
  if not warming:
    actor, more = programs["policy"](actor, scored.rollout, frozen)
    measured |= more
  return (actor, critic), measured


def train(context, params, sampler, *, config, workdir):
  """The PPO loop; resumes from its newest checkpoint.

  Returns:
    (actor, critic), the TrainStates after the last step.
  """
  mesh = context.mesh
  trained = {k: v for k, v in params.items() if k != "encoder"}
  head = audio_lm.init_value_head(context.model.decoder.width, 0.5)
  head = placement.place(mesh, head, sharding.WEIGHT)
  copy = functools.partial(jax.tree.map, jnp.array)
  state = tuple(
    placement.initial(mesh, copy(params), tx)
    for params, tx in zip(
      (trained, trained | {"value": head}), _optimisers(config), strict=True
    )
  )
  programs = _programs(context, config, state)
  key = jax.random.key(config.seed + 31 * config.stage)

  def step_fn(state, step):
    scored, _, parts = sampler.rollout(state[0].params, step, key)
    measured = _rollout_metrics(scored, parts)
    state, more = _ppo_step(
      state, scored, programs, mesh=mesh, config=config, step=step
    )
    return state, measured | more

  with assembly.bar(workdir.name) as update:
    return loop.run(
      step_fn,
      state,
      lambda step: step,
      steps=config.steps,
      folder=workdir,
      save_every=config.save_every,
      log=flags.log(config),
      progress=lambda done, total, m: update(
        done, total, f"reward {m['rollout/reward']:.2f}"
      ),
    )


def run(config, workdir, context=None) -> dict:
  """Selection and PPO from config.init; writes `workdir/params`."""
  workdir = epath.Path(workdir)
  # Mesh, data, model.
  context = context or assembly.load(config, workdir)
  placement.check_rows(context.mesh, config)
  params = placement.restore(context.mesh, config.init)
  if not context.enc:
    assembly.encode_clips(context, params["encoder"])
  examples = questions(context, config)
  mgrd.tell_left_out(workdir.name, context, examples)
  # Selection by pass@8.
  chosen = selected(context, params, examples, config=config, workdir=workdir)
  asked, found = counted(examples), counted(chosen)
  result = {"questions": asked, "selected": found, "steps": 0}
  trains = shares(chosen, config)
  for name, count in config.prompts.items():
    if count and found[name] < config.min_selected:
      print(
        f"{workdir.name}: {found[name]} of {asked[name]} {name} questions are "
        f"of medium difficulty, under {config.min_selected}: no PPO step is "
        f"taken{' on them' if trains else ''}"
      )
  if not trains:
    trained = {k: v for k, v in params.items() if k != "encoder"}
  else:
    # Loop.
    sampler = Sampler(context, examples, chosen, config)
    actor, _ = train(context, params, sampler, config=config, workdir=workdir)
    trained, result["steps"] = actor.params, config.steps
  saved = {**trained, "encoder": params["encoder"]}
  checkpoint.save(workdir / "params", saved)
  return result


if __name__ == "__main__":
  flags.main(run)
