"""What a stage is told is what it does: the last PPO stage, the reward, the
hint, and the round without the grounding filter.

Responses are written by hand; nothing is trained.
"""

import dataclasses
import json

import numpy as np
import pytest

from configs import pipeline as pipeline_config
from experiments import (
  assembly,
  files,
  mgrd,
  pipeline,
  responses,
  rlvr,
  sft,
)
from mgrd_jax.data import schema, transforms
from mgrd_jax.rollout import collect
from mgrd_jax.text import chat
from tests import toys, world

RIGHT = f"{world.CHAIN}\n</think>\nanswer: tango<|EOT|>"
UNTHOUGHT = "\n</think>\nanswer: tango<|EOT|>"
WRONG = f"{world.CHAIN}\n</think>\nanswer: hymn<|EOT|>"
CUT = f"{world.CHAIN}\n</think>\nanswer: tango"


@pytest.fixture(scope="module")
def ablation():
  arg = "smoke,rounds=2,format_reward=0.5,gamma=0.9"
  return pipeline_config.get_config(arg)


def settings(config, block, last):
  """(format_reward, gamma) of a stage that takes `block`."""
  own = pipeline.stage_config(config, block, number=4, init="", last=last)
  return own.format_reward, own.ppo.gamma


def test_the_last_stage_takes_the_reward_and_the_gamma_of_the_ablation(
  ablation
):
  _, script, block = pipeline.plan(ablation)[-1]
  assert script is rlvr
  assert settings(ablation, block, last=True) == (0.5, 0.9)


def test_no_other_stage_takes_them(ablation):
  blocks = [b for _, script, b in pipeline.plan(ablation) if script is rlvr]
  assert len(blocks) == 3
  assert {settings(ablation, b, last=False) for b in blocks} == {(0.2, 1.0)}
  # A stage before changes nothing for the next.
  settings(ablation, blocks[-1], last=True)
  assert settings(ablation, blocks[-1], last=False) == (0.2, 1.0)


@pytest.mark.parametrize(
  "weight, want", [(0.0, [0.8, 0.8, 0, 0]), (0.5, [1.3, 0.8, 0.5, 0])]
)
def test_the_rollouts_are_rewarded_by_the_weight_of_the_config(weight, want):
  context = world.context()
  (dance,) = [e for e in context.examples if e.id == "pool-2"]
  (told,) = [e for e in context.examples if e.id == "train-told"]
  config = world.stage("audio_rlvr", format_reward=weight)
  sampler = rlvr.Sampler(context, [dance, told], [dance, told], config)
  drawn = []
  for text in (RIGHT, UNTHOUGHT, WRONG, CUT) * 2:
    ids = np.array(context.tokenizer.encode(text), np.int32)
    zeros = np.zeros(len(ids), np.float32)
    drawn.append(collect.Sample(ids, zeros, text.endswith("<|EOT|>")))
  at = np.repeat([0, 1], 4)
  rollout = collect.pack(
    transforms.collate(sampler.items, sampler.shape),
    drawn,
    at,
    time=max(len(s.tokens) for s in drawn),
  )
  texts = [responses.decoded(context, s) for s in drawn]
  scored, _, parts = sampler._score(rollout, drawn, texts, at)
  # A question without a clip is rewarded for its answer alone.
  np.testing.assert_allclose(scored.reward_B, want + [1, 1, 0, 0], rtol=1e-6)
  np.testing.assert_array_equal(scored.acc_B, [1, 1, 0, 0] * 2)
  np.testing.assert_array_equal(parts["reward"], scored.reward_B)


def test_the_pool_is_sampled_with_the_hint(tmp_path):
  context = world.context()
  config = world.stage("mgrd", samples=1, max_new=2)
  params = toys.params(config=context.model)
  asked = mgrd.questions(context, config)
  found = mgrd.distil(context, params, asked, config=config, workdir=tmp_path)
  prompts = context.tokenizer.prompts
  assert len(prompts) == len(found) == len(asked)
  assert all(chat.HINT in p for p in prompts)


def test_samples_of_another_run_that_are_not_there_are_not_drawn_anew(tmp_path):
  context = world.context()
  path = tmp_path / "mistyped.jsonl"
  config = world.stage("mgrd", sampled=str(path))
  with pytest.raises(ValueError, match="mistyped.jsonl: no such file") as error:
    mgrd.distil(context, {}, [], config=config, workdir=tmp_path / "run")
  assert str(error.value).startswith(f"config.sampled={path}")
  assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def sampled(folder, context):
  """Hand-written responses to three of the pool, as a round leaves them.

  One is right and grounded, one right and says nothing of its clip, one
  wrong.
  """
  said = {
    "pool-1": WRONG,
    "pool-2": RIGHT,
    "pool-3": "a lovely dance. so hymn\n</think>\nanswer: hymn",
  }
  rows = []
  for e in mgrd.questions(context, world.stage("mgrd")):
    texts = [chat.OPEN + said[e.id]] if e.id in said else []
    texts = [text.removesuffix("<|EOT|>") for text in texts]
    rows.append({"id": e.id, "responses": [[True, t] for t in texts]})
  files.write_lines(folder / "sampled.jsonl", rows)
  return folder


def kept(folder) -> list[schema.Example]:
  return schema.read_manifest(folder / "kept.jsonl", check_files=False)[0]


def test_a_kept_chain_is_learned_word_for_word_and_without_the_hint(tmp_path):
  context = world.context()
  init = world.finished(tmp_path / "init", context)
  config = world.stage("mgrd", init)
  funnel = mgrd.run(config, sampled(tmp_path, context), context)
  assert [funnel[n] for n in ("sampled", "correct", "kept")] == [3, 2, 1]
  (chain,) = kept(tmp_path)
  assert chain.id.endswith("pool-2") and chain.reasoning == world.CHAIN
  # What fine-tuning makes of it.
  config.weights = {"chain": 1.0}
  data, window = sft.streams(context, config, extra=[chain])
  (batch,) = data(0)
  (asked,) = [e for e in context.examples if e.id == "pool-2"]
  assert asked.meta["hint"]
  plain = assembly.prompt_item(context, asked)
  assert chat.HINT not in context.tokenizer.decode(plain.row.tokens)
  rows = (batch.tokens_BT, batch.valid_BT, batch.loss_mask_BT)
  for tokens_T, valid_T, loss_T in zip(*rows, strict=True):
    assert tokens_T[valid_T & ~loss_T].tolist() == plain.row.tokens.tolist()
    assert context.tokenizer.decode(tokens_T[loss_T]) == RIGHT
    assert loss_T.sum() == window
  heard_BAE = batch.enc_BAE[:, : len(plain.enc[0])]
  assert (heard_BAE == plain.enc[0]).all()


def test_a_rounds_program_fits_whatever_chains_it_keeps():
  context, config = world.context(), world.stage("mgrd")
  pool = world.of_split("pool")
  rounds = [{0: world.CHAIN}, {1: "so tango", 2: "so tango"}, {}]

  def shapes(kept, asked):
    rows = [
      dataclasses.replace(pool[at], source="chain", reasoning=said)
      for at, said in kept.items()
    ]
    data, window = sft.streams(context, config, rows, asked)
    return window, [(b.tokens_BT.shape, b.enc_BAE.shape) for b in data(0)]

  asked = mgrd.questions(context, config)
  one, *others = (shapes(kept, asked) for kept in rounds)
  assert others == [one, one]
  one, *others = (shapes(kept, ()) for kept in rounds)
  assert others != [one, one]


def test_the_controls_are_the_hint_alone_and_a_round_without_the_filter(
  tmp_path
):
  context, config = world.context(), world.recipe()
  folders = {
    "text_rlvr": world.finished(tmp_path / "before", context),
    "mgrd_1_sft": sampled(tmp_path / "round", context),
  }
  found = pipeline._controls(context, config, folders, tmp_path)
  test = len(context.split("test"))
  prompts = context.tokenizer.prompts
  # The first evaluation is elicited; the last is that of the other round.
  assert all(chat.HINT in p for p in prompts[:test])
  assert not any(chat.HINT in p for p in prompts[-test:])
  assert found["elicited_before_mgrd"]["think"]["n"] == test
  folder = tmp_path / "controls" / "mgrd_without_grounding_filter"
  assert {e.id.split("-", 2)[2] for e in kept(folder)} == {"pool-2", "pool-3"}
  written = json.loads((folder / "funnel.json").read_text())
  assert [written[n] for n in ("grounded", "kept")] == [1, 2]
  assert found["mgrd_without_grounding_filter"]["think"]["n"] == test


def mixture(audio: int, text: int, **fields):
  """(chosen questions of each modality, the config that asks them)."""
  every = world.of_split("pool")
  dances = [e for e in every if len(e.audio) == 1]
  told = [e for e in every if not e.audio]
  chosen = (dances * audio)[:audio] + (told * text)[:text]
  return chosen, world.stage("audio_rlvr", min_selected=2, **fields)


@pytest.mark.parametrize(
  "audio, text, want",
  [
    (3, 5, {"audio": 3, "text": 2}),
    (3, 1, {"audio": 5}),  # too few texts leave their share to audio
    (1, 5, {}),  # and too little audio leaves nothing to learn from
  ],
)
def test_a_step_of_a_round_asks_both_modalities(audio, text, want):
  chosen, config = mixture(audio, text, prompts={"audio": 3, "text": 2})
  assert rlvr.shares(chosen, config) == want


def test_what_is_too_little_is_named_and_nothing_else(tmp_path, capsys):
  context = world.context()
  init = world.finished(tmp_path / "init", context)
  config = world.stage("audio_rlvr", init, prompts={"audio": 1, "text": 1})
  config.min_selected = 1
  asked = rlvr.questions(context, config)
  lo, _ = config.band
  hits = {e.id: 9 if e.audio else lo for e in asked}
  files.write_json(tmp_path / "hits.json", hits)
  assert rlvr.run(config, tmp_path, context)["steps"] == 0
  said = capsys.readouterr().out
  assert "0 of 8 audio questions are of medium difficulty" in said
  assert "text questions" not in said


def test_no_prompts_and_other_hits_are_refused(tmp_path):
  context = world.context()
  config = world.stage("audio_rlvr", prompts={"audio": 0, "text": 0})
  with pytest.raises(ValueError, match="audio and text are 0"):
    rlvr.shares([], config)
  config.prompts.text = 1
  asked = rlvr.questions(context, config)
  assert asked and not any(e.audio for e in asked)
  files.write_json(tmp_path / "hits.json", {"another": 3})
  with pytest.raises(ValueError, match="hits.json: hits of other questions"):
    rlvr.selected(context, {}, asked, config=config, workdir=tmp_path)


def test_text_rl_asks_no_audio():
  chosen, _ = mixture(3, 2)
  config = world.stage("text_rlvr", min_selected=2)
  assert rlvr.shares(chosen, config) == {"text": config.prompts.text}
  assert rlvr.shares(chosen[:3], config) == {}


def test_each_modality_goes_through_its_questions_in_epochs():
  chosen, config = mixture(4, 3, prompts={"audio": 3, "text": 2})
  sampler = rlvr.Sampler(world.context(), chosen, chosen, config)
  steps = [sampler.batch_for(step) for step in range(12)]
  audio = [at for step in steps for at in step[:3]]
  text = [at for step in steps for at in step[3:]]
  for at in range(0, 36, 4):
    assert sorted(audio[at : at + 4]) == [0, 1, 2, 3]
  for at in range(0, 24, 3):
    assert sorted(text[at : at + 3]) == [4, 5, 6]
