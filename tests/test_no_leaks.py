"""Nothing is learned from the test, and each control hears what it should.

The stages' own code runs on a tiny world (tests/world.py) that notes which
clips are played and which words are read; nothing is trained.
"""

import dataclasses
import json

import pytest

from experiments import assembly, encoder, evaluate, files, mgrd, rlvr, sft
from mgrd_jax.text import chat
from tests import toys, world


def splits(names) -> set[str]:
  """The splits that ids or refs of the tiny world belong to."""
  return {name.split(":")[-1].split("-")[0] for name in names}


def test_the_encoder_learns_from_no_clip_and_no_word_of_the_test():
  found = encoder.targets(world.examples())
  assert splits(found) == {"train"} and len(found) == 5
  words, _ = encoder.vocabulary(found)
  assert set(words) == {"trained"}
  assert splits(encoder.targets(world.examples(), "test")) == {"test"}


def test_fine_tuning_plays_no_clip_and_reads_no_word_of_the_test():
  context = world.context()
  data, _ = sft.streams(context, world.stage("cold_start"))
  assert len(data(0)) > 1
  assert splits(context.enc.refs) == {"train"}
  assert len(set(context.enc.refs)) == 9
  read = " ".join(context.tokenizer.texts)
  assert "what does the train tell?" in read
  assert "pool" not in read and "test" not in read


def test_kept_chains_are_the_only_ones_of_the_pool_to_be_learned():
  context = world.context()
  kept = dataclasses.replace(world.of_split("pool")[2], source="chain")
  sft.streams(context, world.stage("mgrd"), extra=[kept])
  assert set(context.enc.refs) > {"0:pool-2"}
  assert {r for r in context.enc.refs if "train" not in r} == {"0:pool-2"}


def test_mgrd_asks_the_pool_and_ones_own_but_never_the_test():
  asked = mgrd.questions(world.context(), world.stage("mgrd"))
  assert [e.id for e in asked if e.split != "pool"] == ["train-own"]
  assert splits(e.id for e in asked) == {"train", "pool"}
  assert len(asked) == 1 + 7 and all(e.audio for e in asked)


@pytest.mark.parametrize("block", ["text_rlvr", "audio_rlvr"])
def test_rl_asks_no_question_of_the_test(tmp_path, block):
  """An earlier selection holds the hits of these and of no others."""
  asked, audio = ["train-told"], 0
  if block == "audio_rlvr":
    heard = [e.id for e in world.of_split("pool") if e.audio] + ["train-own"]
    asked, audio = asked + heard, len(heard)
  context = world.context()
  files.write_json(tmp_path / "hits.json", dict.fromkeys(asked, 8))
  init = world.finished(tmp_path / "init", context)
  found = rlvr.run(world.stage(block, init), tmp_path, context)
  assert found == {
    "questions": {"audio": audio, "text": 1},
    "selected": {"audio": 0, "text": 0},
    "steps": 0,
  }


def test_the_tokenizer_knows_no_word_of_the_test():
  learned = [e for e in world.examples() if e.split != "test"]
  hidden = dataclasses.replace(
    world.of_split("test")[0],
    question="zither?",
    options=("oboe", "viola"),
    answer="bassoon",
    reasoning="harp",
    transcript="lute",
    meta={"given": "cello"},
  )
  names = ("zither", "oboe", "viola", "bassoon", "harp", "lute", "cello")
  built = assembly.build_tokenizer([*learned, hidden])
  assert built.raw.to_str() == assembly.build_tokenizer(learned).raw.to_str()
  assert all(len(built.encode(f" {name}")) > 1 for name in names)
  for split in ("train", "pool"):
    told = dataclasses.replace(hidden, split=split)
    known = assembly.build_tokenizer([*learned, told])
    assert all(len(known.encode(f" {name}")) == 1 for name in names)


@dataclasses.dataclass(frozen=True)
class Asked:
  """One question of an evaluation: its example, clips played, prompt."""

  example: object
  refs: tuple[str, ...]
  prompt: str


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
  """Mode -> [Asked], in one evaluation of an untrained model."""
  context, folder = world.context(), tmp_path_factory.mktemp("evaluation")
  params = toys.params(config=context.model)
  evaluate.run(world.stage("evaluate"), folder, context, params)
  lines = (folder / "items.jsonl").read_text().splitlines()
  examples = {e.id: e for e in context.examples}
  refs, found = iter(context.enc.refs), {}
  prompts = context.tokenizer.prompts
  for line, prompt in zip(lines, prompts, strict=True):
    row = json.loads(line)
    example = examples[row["id"]]
    played = tuple(next(refs) for _ in example.audio)
    found.setdefault(row["mode"], []).append(Asked(example, played, prompt))
  assert not list(refs)
  return found


@pytest.mark.parametrize("mode", ["think", "direct"])
def test_every_question_of_the_test_is_asked_about_its_own_clip(asked, mode):
  assert [a.example for a in asked[mode]] == world.of_split("test")
  assert all(a.refs == a.example.audio for a in asked[mode])


def test_silence_plays_no_clip(asked):
  assert [a.example for a in asked["silence"]] == world.of_split("test")
  for one in asked["silence"]:
    assert one.refs == tuple(f"silent/{ref}" for ref in one.example.audio)


def test_a_swap_plays_the_clips_of_a_question_with_another_answer(asked):
  owner = {e.audio: e for e in world.of_split("test")}
  assert len(asked["swap"]) == 6  # four dances and two pairs have partners
  for one in asked["swap"]:
    assert owner[one.refs].answer != one.example.answer
    assert owner[one.refs].question == one.example.question


def test_evaluation_does_not_hint_unless_it_is_told_to(asked):
  prompts = [a.prompt for mode in asked.values() for a in mode]
  assert not any(chat.HINT in p for p in prompts)
  context = world.context()
  evaluate.measure(
    context,
    toys.params(config=context.model),
    config=world.stage("evaluate"),
    mode="think",
    hint=True,
  )
  prompts = context.tokenizer.prompts
  assert len(prompts) == len(world.of_split("test"))
  assert all(chat.HINT in p for p in prompts)
