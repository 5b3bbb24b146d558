"""`--dry_run` tells what a stage would do, and touches nothing."""

import dataclasses
import importlib
import re

import numpy as np
import pytest

from experiments import dry_run
from mgrd_jax.audio import io
from mgrd_jax.data import lexicon, schema, sources, synthetic, text_tasks
from mgrd_jax.text import chat
from tests.test_ask import tokenizer as built_in_tokenizer

STAGES = ("encoder", "sft", "rlvr", "mgrd", "evaluate", "pipeline")


def config_of(stage, tmp_path, arg="smoke"):
  config = importlib.import_module(f"configs.{stage}").get_config(arg)
  config.data.cache = str(tmp_path / "cache")
  return config


def shown(config, workdir, capsys):
  dry_run.show(config, workdir)
  return capsys.readouterr().out


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_tells_its_plan_and_writes_nothing(
  stage, tmp_path, capsys
):
  config = config_of(stage, tmp_path)
  out = shown(config, tmp_path / "out", capsys)
  titles = re.findall(r"^# (\w+)", out, re.MULTILINE)
  for title in ("config", "examples", "budget", "parameters", "memory"):
    assert title in titles
  sizes = config.data.sizes
  assert f"data.sizes.train.voice = {sizes.train.voice}\n" in out
  clips = sum(sum(sizes[k].values()) for k in ("train", "pool", "test"))
  assert f"planned, not made yet; {clips} clips" in out
  assert not list(tmp_path.iterdir())


def test_the_budget_is_rows_times_columns_times_steps(tmp_path, capsys):
  config = config_of("sft", tmp_path)
  config.steps, config.text_rows = 7, 3
  config.audio_rows, config.pair_rows = 5, 2
  out = shown(config, tmp_path, capsys)
  lines = re.findall(
    r"^stage, (\w+): (\d+) x (\d+) x (\d+) = ([\d,]+)$", out, re.MULTILINE
  )
  found = {
    name: [int(n.replace(",", "")) for n in numbers]
    for name, *numbers in lines
  }
  assert set(found) == {"audio", "pairs", "text"}
  for rows, columns, steps, tokens in found.values():
    assert steps == 7 and tokens == rows * columns * steps
  assert [found[n][0] for n in ("audio", "pairs", "text")] == [5, 2, 3]
  # A clip of 3 s has 38 audio tokens, and two may be compared.
  assert 38 < found["audio"][1] and 2 * 38 < found["pairs"][1]
  total = sum(tokens for *_, tokens in found.values())
  assert f"\nin all: {total:,}\n" in out


def test_the_budget_counts_only_rows_that_would_be_drawn(tmp_path):
  """A source of weight 0 is no batch, as in the stage itself."""
  config = config_of("sft", tmp_path)
  planned = dry_run.plan(config.data, config.seed)
  tokenizer = dry_run.tokenizer_of(tmp_path, planned.examples)

  context = dry_run.context_of(config, planned, tokenizer)

  def names():
    return [w.name for w in dry_run.work(config, context)]

  assert names() == ["audio", "pairs", "text"]
  config.weights.update(dict.fromkeys(config.weights, 0.0))
  assert names() == []
  config.weights.compared_heard = 0.1
  assert names() == ["pairs"]


def test_the_first_batch_marks_the_loss_and_counts_the_placeholders(
  tmp_path, capsys
):
  out = shown(config_of("sft", tmp_path), tmp_path, capsys)
  title, *rows = out.split("# first batch of stage")[1].splitlines()
  assert title == " (loss in [brackets]; clips not made yet count 3 s)"
  heard = [l for l in rows if l.count("<audio_start>") == 1]
  assert heard and all(
    "<audio_start><audio_patch>×38<audio_end>" in l for l in heard
  )
  empty = r"assistant\\n<think>\\n\\n</think>\\n\[answer: [^\[\]]+<\|EOT\|>\]$"
  assert any(re.search(empty, l) for l in heard)
  # The chain is given; only its conclusion is learned.
  assert any(re.search(r"<think>\\n[^\[]+\.\[ so ", l) for l in rows)


def test_a_source_of_no_weight_is_not_in_the_first_batch(tmp_path, capsys):
  config = config_of("sft", tmp_path)
  config.weights.update(dict.fromkeys(config.weights, 0.0))
  config.weights.sums = 0.1
  out = shown(config, tmp_path, capsys)
  _, *rows = out.split("# first batch of stage")[1].splitlines()
  # The sums that are heard, and those that are read.
  assert len(rows) == config.audio_rows + config.text_rows
  asked = {re.search(r"(?:<audio_end>|human\\n)([^<]+)", l)[1] for l in rows}
  assert lexicon.SUM in {a.split("\\n")[0] for a in asked}
  assert not any("describe the sound" in a for a in asked)


@pytest.mark.parametrize(
  "stage, kind, rows",
  [
    ("encoder", "what each clip teaches", 8),
    ("mgrd", "prompts", 8),
    ("rlvr", "prompts", 8),
    ("evaluate", "prompts", 16),
  ],
)
def test_the_first_batch_of_each_kind_is_shown_whole(
  stage, kind, rows, tmp_path, capsys
):
  out = shown(config_of(stage, tmp_path), tmp_path, capsys)
  title, *found = out.split("# first batch of stage")[1].splitlines()
  assert title.startswith(f" ({kind}") and len(found) == rows
  if stage == "encoder":
    assert any("voice.pitch" in l or "music.mode" in l for l in found)
  else:
    hinted = [chat.HINT.strip() in l for l in found]
    assert all(hinted) if stage == "mgrd" else not any(hinted)
    assert all(l.endswith("assistant\\n<think>\\n") for l in found)


def test_the_recipe_shows_the_encoder_and_the_first_batch_with_text(
  tmp_path, capsys
):
  out = shown(config_of("pipeline", tmp_path), tmp_path, capsys)
  titles = re.findall(r"^# first batch of (\w+)", out, re.MULTILINE)
  assert titles == ["encoder", "cold_start"]


def test_a_planned_set_counts_what_would_be_built(tmp_path):
  """Against the rows that the generator gives once clips have lengths."""
  config = config_of("sft", tmp_path)
  planned = dry_run.plan(config.data, config.seed)
  sizes = synthetic.Sizes(**config.data.sizes.to_dict())
  splits = (sizes.train, sizes.pool, sizes.test)
  clips = sum(sum(split.values()) for split in splits)
  assert planned.clips == clips
  captions = [e for e in planned.examples if e.source == "caption"]
  kinds = ("voice", "music", "events")
  assert len(captions) == sum(sizes.train[k] for k in kinds)
  for source in text_tasks.SOURCES:
    told = [e for e in planned.examples if e.source == source and not e.audio]
    assert len(told) == sizes.text
    heard = [e for e in planned.examples if e.source == f"{source}_heard"]
    assert len(heard) == sizes.background
    beside = 2 if source == "compared" else 1
    assert {len(e.audio) for e in heard} == {beside}


def test_clips_that_exist_are_told_by_their_own_lengths(tmp_path, capsys):
  """A cached set of two clips, and a manifest with one of the user's."""
  config = config_of("sft", tmp_path)
  sizes = synthetic.Sizes(**config.data.sizes.to_dict())
  key = synthetic.cache_key(sizes, config.seed, config.data.labelled)
  folder = tmp_path / "cache" / key
  folder.mkdir(parents=True)
  waves = [np.ones(n, np.float32) for n in (16_000, 32_000)]
  refs = sources.write_clips(folder / "clips.arrayrecord", waves)
  config.weights.update(dict.fromkeys(config.weights, 0.0))
  config.weights.caption = config.weights.own = 1.0
  row = schema.Example(
    id="a",
    question="how is the pitch?",
    answer="high",
    answer_type="text",
    audio=(refs[0],),
    source="caption",
    split="train",
  )
  rows = [row, dataclasses.replace(row, id="b", audio=(refs[1],))]
  schema.write_manifest(folder / "manifest.jsonl", rows)
  io.write_wav(tmp_path / "own.wav", waves[1])
  own = dataclasses.replace(row, id="c", audio=("own.wav",), split="train")
  schema.write_manifest(tmp_path / "own.jsonl", [own])
  config.data.manifest = str(tmp_path / "own.jsonl")
  out = shown(config, tmp_path / "out", capsys)
  assert "in the cache; 3 clips" in out
  # The only clip of a manifest without a test is the test.
  assert "train: 2 (caption 2)" in out and "test: 1 (own 1)" in out
  batch = out.split("# first batch of stage")[1]
  assert "not made yet" not in batch
  for count in (13, 25):
    assert f"<audio_patch>×{count}<audio_end>how is the pitch?" in batch
  assert not (tmp_path / "out").exists()


def test_the_length_of_a_response_follows_the_rows_of_ones_own(
  tmp_path, capsys
):
  config = config_of("evaluate", tmp_path)
  assert "\nstage, a response: 32 tokens at most\n" in shown(
    config, tmp_path, capsys
  )
  told = schema.Example(
    id="a",
    question="how is the pitch?",
    answer="high",
    answer_type="text",
    reasoning="the pitch is high. " * 9 + "so high",
  )
  schema.write_manifest(tmp_path / "own.jsonl", [told])
  config.data.manifest = str(tmp_path / "own.jsonl")
  # 9 x 5 + 2 words and stops, then "\n</think>\nanswer: high<|EOT|>".
  assert "\nstage, a response: 56 tokens at most\n" in shown(
    config, tmp_path, capsys
  )


def test_a_row_is_shown_with_runs_of_loss_in_brackets():
  tokenizer = built_in_tokenizer()
  row = chat.supervised(
    tokenizer, "how is the pitch?", counts=[4], answer="high"
  )
  assert dry_run.shown(tokenizer, row) == (
    "<|BOT|>human\\n<audio_start><audio_patch>×4<audio_end>how is the pitch?"
    "<|EOT|><|BOT|>assistant\\n<think>\\n\\n</think>\\n[answer: high<|EOT|>]"
  )


def test_parameters_are_counted_as_they_are_made(tmp_path, capsys):
  out = shown(config_of("evaluate", tmp_path), tmp_path, capsys)
  parts = re.search(
    r"adapter: ([\d,]+)\ndecoder: ([\d,]+)\nencoder: ([\d,]+)\n"
    r"in all: ([\d,]+) \(vocabulary (\d+)\)",
    out,
  )
  numbers = [int(g.replace(",", "")) for g in parts.groups()]
  assert sum(numbers[:3]) == numbers[3]
  # Embedding and head are 96 wide; the rest does not depend on the words.
  assert numbers[1] - 2 * 96 * numbers[4] == 305_376
