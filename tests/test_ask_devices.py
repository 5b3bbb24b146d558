"""A released model over eight devices, and how often its programs run."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from experiments import answering, listener
from mgrd_jax.audio import features
from mgrd_jax.models import convert
from tests.models import checkpoints
from tests.test_ask_released import QUESTION, config_of, greedy
from tests.text import byte_pairs

eight = pytest.mark.skipif(
  jax.device_count() != 8, reason="needs eight devices"
)


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
  """A model of eight heads of each kind, over all devices, in float32."""
  config = config_of("step-audio")
  config["text_config"] |= {
    "num_attention_heads": 8, "num_key_value_heads": 8,
    "num_attention_groups": 8,
  }  # fmt: skip
  home = tmp_path_factory.mktemp("eight") / "step-audio"
  checkpoints.write(home, config)
  byte_pairs.write(home, byte_pairs.SPECIAL["step-audio"])
  return listener.read_released(home, dtype="float32").loaded()


def asked(heard, seconds=1.3):
  rng = np.random.default_rng(0)
  wave_W = rng.normal(0, 0.1, int(seconds * features.RATE)).astype(np.float32)
  pieces = answering.chunked(wave_W, heard.piece)
  return pieces, answering.prompt(heard, [pieces], QUESTION)


def watched(heard):
  """[(name, result)] of every call to come; the programs are the real ones."""
  calls = []

  def watch(name, program):
    def run(*args):
      result = program(*args)
      # Not the arrays: a state is given away to the program that advances it.
      shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
        result,
      )
      calls.append((name, shapes))
      return result

    return run

  for key, program in heard.programs.items():
    heard.programs[key] = watch(key[0], program)
  return calls


@eight
def test_heads_and_cache_are_split_and_the_ids_are_those_of_one_device(
  heard, monkeypatch
):
  q_DNH = heard.params["decoder"]["layers"][0]["q_DNH"]
  assert {s.data.size for s in q_DNH.addressable_shards} == {q_DNH.size // 8}
  # A cache that has to grow on the way.
  monkeypatch.setattr(answering, "BLOCK", 8)
  pieces, row = asked(heard)
  many, ids = greedy(heard, pieces, row, steps=80)
  calls = watched(many)
  greedy(heard, pieces, row, steps=80, programs=many.programs)
  states = [(name, result) for name, result in calls if name != "_hear"]
  assert {name for name, _ in states} == {"_start", "_grow", "_advance"}
  for name, state in states:
    for x in jax.tree.leaves(state["cache"]):
      part = math.prod(x.sharding.shard_shape(x.shape))
      assert part == math.prod(x.shape) // 8, (name, x.sharding)
  params = convert.load(
    heard.folder, heard.model, dtype="float32", unstacked=True
  )
  assert len(jax.tree.leaves(params)[0].devices()) == 1
  one = dataclasses.replace(heard, mesh=None, params=params)
  assert greedy(one, pieces, row, steps=80)[1] == ids


def test_a_piece_is_encoded_once_and_the_prompt_prefilled_once(heard):
  # Two clips, of two pieces and of one.
  clips = [asked(heard, seconds)[0] for seconds in (31.0, 1.3)]
  row = answering.prompt(heard, clips, QUESTION)
  pieces = [piece for clip in clips for piece in clip]
  assert len(pieces) == 3
  one, ids = greedy(heard, pieces, row, steps=20)
  calls = watched(one)
  assert greedy(heard, pieces, row, steps=20, programs=one.programs)[1] == ids
  names = [name for name, _ in calls]
  looks = -(-len(ids) // answering.STEPS)
  assert looks == 3
  assert names == ["_hear"] * 3 + ["_start"] + ["_advance"] * looks
