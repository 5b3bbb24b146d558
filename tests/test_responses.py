"""How long responses may be, and the text that is made of them."""

import dataclasses

import jax
import numpy as np
import pytest

from configs import pipeline as pipeline_config
from experiments import assembly, responses, rlvr, sft
from mgrd_jax.data import text_tasks
from mgrd_jax.data.lexicon import draw_world
from mgrd_jax.rollout import collect
from mgrd_jax.text import chat
from tests import toys, world

# Eight words a clause; with tags, answer and end mark well over 32 tokens.
LONG = ". ".join(["the low tone swells and then fades out"] * 6) + ". so tango"
FLOOR = 32


def learning(reasoning, split="train", **fields):
  """The world, where the user's own row of a split has a chain."""
  context = world.context()
  examples = [
    dataclasses.replace(e, reasoning=reasoning, **fields)
    if e.source == "own" and e.split == split
    else e
    for e in context.examples
  ]
  tokenizer = world.Tokenizer(assembly.build_tokenizer(examples).raw)
  decoder = dataclasses.replace(
    context.model.decoder, vocab=tokenizer.vocab_size
  )
  model = dataclasses.replace(context.model, decoder=decoder)
  return dataclasses.replace(
    context, examples=examples, tokenizer=tokenizer, model=model
  )


def spoken(context, split="train") -> int:
  """Tokens that the user's own row of a split has a model say."""
  (own,) = [e for e in context.split(split) if e.source == "own"]
  item = assembly.supervised_item(context, own)
  return len(item.row.tokens) - item.row.prompt_len


@pytest.mark.parametrize("split", ["train", "pool"])
def test_a_response_may_be_as_long_as_the_longest_that_is_learned(split):
  context = learning(LONG, split)
  config = world.stage("mgrd", max_new=FLOOR)
  needed = spoken(context, split)
  most = responses.max_new(context, config)
  assert most >= needed > FLOOR
  assert most - needed < 8 and not most % 8
  # A beginning that is given in training is said in sampling.
  context = learning(LONG, split, meta={"own": True, "given": "it fades. " * 4})
  assert responses.max_new(context, config) > most


def test_short_rows_and_those_of_the_test_leave_it_as_configured():
  config = world.stage("mgrd", max_new=FLOOR)
  for context in (learning("so tango"), learning(LONG, "test")):
    assert responses.max_new(context, config) == FLOOR


def test_the_built_in_set_leaves_it_as_configured():
  """Its longest chains fit."""
  drawn = draw_world(0)
  told = [
    e
    for source in text_tasks.SOURCES
    for e in text_tasks.build(drawn, source, 300, seed=0, hint_share=0.8)
  ]
  context = dataclasses.replace(world.context(), examples=told)
  context.tokenizer = assembly.build_tokenizer(told)
  for block in ("text_rlvr", "mgrd", "audio_rlvr", "evaluate"):
    own = pipeline_config.get_config("tiny")[block]
    assert own.max_new == responses.max_new(context, own) == FLOOR
  for e in told:
    given = e.meta.get("given", "")
    parts = chat.response(
      context.tokenizer, given=given, reasoning=e.reasoning, answer=e.answer
    )
    assert sum(map(len, parts)) <= FLOOR, e


def test_sampling_rl_and_fine_tuning_take_the_same_length():
  context = learning(LONG)
  most = responses.max_new(context, world.stage("mgrd", max_new=2))
  params = toys.params(config=context.model)
  (own,) = [e for e in context.split("train") if e.source == "own"]
  config = world.stage("audio_rlvr", max_new=2, rows=1, samples=2)
  config.prompts, config.min_selected = {"audio": 1, "text": 0}, 1
  key = jax.random.key(0)
  (group,) = responses.draw(
    context, params, [own], key, config=config, samples=4, temperature=1.0
  )
  # An untrained model hardly stops: it is cut.
  assert max(len(sample.tokens) for sample, _ in group) == most
  sampler = rlvr.Sampler(context, [own], [own], config)
  scored, *_ = sampler.rollout(params, 0, key)
  assert scored.rollout.token_BT.shape == (2, most)
  assert scored.rollout.response_len_B.max() == most
  _, window = sft.streams(context, world.stage("mgrd"), asked=[own])
  assert window == most


@pytest.mark.parametrize("direct", [False, True])
def test_the_text_of_a_sample_ends_where_the_model_ended_it(direct):
  context = world.context()
  said = "so tango\n</think>\nanswer: tango"
  ids = np.array(context.tokenizer.encode(f"{said}<|EOT|>"), np.int32)
  opening = chat.EMPTY if direct else chat.OPEN
  for tokens, stopped in ((ids, True), (ids[:-1], False)):
    sample = collect.Sample(tokens, np.zeros(len(tokens)), stopped)
    found = responses.decoded(context, sample, direct=direct)
    assert found == opening + said
