"""The user's own manifest, from good and bad rows to what a stage asks."""

import contextlib
import dataclasses
import io
import pathlib

import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments import (
  assembly,
  files,
  mgrd,
  own_data,
  pipeline,
  placement,
  rlvr,
  sft,
)
from experiments.clock import Clock
from mgrd_jax.audio import io as audio_io
from mgrd_jax.data import schema
from mgrd_jax.data.schema import Example
from mgrd_jax.text import chat
from tests import toys, world
from tests.mgrd import chains


def row(name, *audio, **fields):
  values = dict(
    id=name, question="what?", answer="a", answer_type="text", audio=audio
  )
  return Example(**values | fields)


def tone(folder, name, samples=8000):
  wave_W = 0.1 * np.sin(np.arange(samples) * 0.1)
  audio_io.write_wav(folder / name, wave_W.astype(np.float32))


def test_all_questions_about_a_clip_are_held_out_together():
  rows = [row(f"{clip}-{k}", f"{clip}.wav") for clip in range(10) for k in "ab"]
  rows += [row("pair", "1.wav", "2.wav"), row("text")]
  found = own_data._hold_out(rows)
  assert [r.id for r in found] == [r.id for r in rows]
  parts = {
    part: {ref for r in found if r.split == part for ref in r.audio}
    for part in ("train", "test")
  }
  assert parts["train"] and parts["test"] and not parts["train"] & parts["test"]
  # A fifth of nine groups: clips 1 and 2 are in one.
  assert parts["test"] == {"0.wav", "6.wav"}
  assert next(r for r in found if r.id == "text").split == "train"


BAD = {
  "missing": "missing file",
  "empty": "empty file",
  "corrupt": "corrupt or cut short",
  "words": "not audio that can be decoded",
  "short": "too short",
}


def bad_rows(folder) -> list[Example]:
  """Rows of which each has another fault in its clip."""
  for name, data in (("empty", b""), ("words", b"these are words\n" * 50)):
    (folder / f"{name}.wav").write_bytes(data)
  tone(folder, "corrupt.wav")
  whole = (folder / "corrupt.wav").read_bytes()
  (folder / "corrupt.wav").write_bytes(whole[: len(whole) // 2])
  tone(folder, "short.wav", 320)
  # Two faults of one row are one row.
  found = [row(f"my {name}", f"{name}.wav") for name in BAD]
  return [*found, row("two", "gone.wav", "lost.wav")]


def configured(recipe, manifest):
  config = ConfigDict(recipe.config.to_dict())
  config.data.manifest = str(manifest)
  return config


@dataclasses.dataclass
class Loaded:
  """A run's data with two good rows among bad ones; what was printed."""

  config: ConfigDict
  workdir: pathlib.Path
  context: assembly.Context
  printed: str


@pytest.fixture(scope="module")
def loaded(recipe, tmp_path_factory) -> Loaded:
  folder = tmp_path_factory.mktemp("own")
  for name in ("good.wav", "held.wav"):
    tone(folder, name)
  rows = bad_rows(folder)
  rows += [row("mine", "good.wav", reasoning="it hums on. " * 12 + "so a")]
  rows += [row("tested", "held.wav", split="test")]
  schema.write_manifest(folder / "m.jsonl", rows)
  config = configured(recipe, folder / "m.jsonl")
  printed = io.StringIO()
  with recipe.programs(), contextlib.redirect_stdout(printed):
    context = assembly.load(config, folder / "run")
  return Loaded(config, folder / "run", context, printed.getvalue())


def test_rows_of_bad_clips_are_counted_and_named_in_the_report(loaded, recipe):
  folders = sorted((recipe.workdir / "stages").iterdir())
  results = [
    files.read_json(f / "result.json") | {"folder": f} for f in folders
  ]
  context = loaded.context
  loading = Clock(recipe.workdir / "load_clock.json", runs=False)
  report = pipeline.summarise(loaded.config, results, {}, loading, context)
  skipped = report["skipped"]
  assert f"skipped {len(skipped)} rows; the first: " in loaded.printed
  assert len(skipped) == len(BAD) + 1
  for name, reason in BAD.items():
    (line,) = [s for s in skipped if f"my {name}" in s]
    assert f"{name}.wav" in line and reason in line
  (line,) = [s for s in skipped if "(id two)" in s]
  assert "gone.wav" in line and "\n" not in line


def test_a_run_goes_on_with_the_good_rows(loaded, recipe):
  context, config = loaded.context, loaded.config
  own = [e for e in context.examples if e.meta.get("own")]
  assert [e.id for e in own] == ["own:mine", "own:tested"]
  assert context.split("test") == own[1:]
  folder = min((recipe.workdir / "stages").iterdir())
  with recipe.programs():
    params = placement.restore(None, folder)
    assembly.encode_clips(context, params["encoder"])
  learned = pipeline.stage_config(
    config, config.cold_start, number=1, init="", last=False
  )
  learned.weights.update(dict.fromkeys(learned.weights, 0.0))
  learned.weights.own = 1.0
  (batch,) = sft.streams(context, learned)[0](0)
  assert batch.loss_mask_BT.any(1).all()
  assert assembly.prompt_item(context, own[1]).row.spans


def test_what_own_chains_need_is_left_where_ask_finds_it(loaded):
  needed = files.read_json(loaded.workdir / "own.json")
  assert needed == {"max_new": loaded.context.own_response}
  assert needed["max_new"] > 12 * 4


def test_a_manifest_without_a_good_row_ends_the_run_in_one_line(
  recipe, tmp_path
):
  manifest = tmp_path / "m.jsonl"
  schema.write_manifest(manifest, bad_rows(tmp_path))
  with pytest.raises(SystemExit) as error:
    assembly.load(configured(recipe, manifest), tmp_path / "run")
  assert str(error.value) == (
    f"{manifest}: no row can be used; run python -m experiments.prepare "
    f"check {manifest}"
  )


@pytest.fixture
def mixed(tmp_path):
  """The world with three of the user's: two clips that are asked alike.

  The ids of two are those of built-in questions.
  """
  for name in ("a.wav", "b.wav"):
    tone(tmp_path, name)
  ask = dict(
    question="which dance is this?",
    answer="tango",
    answer_type="choice",
    options=chains.LABELS,
  )
  rows = [
    row("pool-2", "a.wav", **ask),
    row("pool-pair-0", "b.wav", **ask),
    row("tested", "b.wav", split="test", **ask),
  ]
  schema.write_manifest(tmp_path / "m.jsonl", rows)
  stores = assembly.Stores([tmp_path, tmp_path], 20)
  own, _ = own_data.read(tmp_path / "m.jsonl", stores)
  built_in = [e for e in world.examples() if e.source != "own"]
  context = world.context()
  facts = chains.clips()[2][1]  # those that `world.CHAIN` speaks of
  for at, ref in enumerate(("1:a.wav", "1:b.wav")):
    context.clips[ref], context.facts[ref] = world.CLIP, facts
    context.enc[ref] = toys.clip(at, len(context.enc["0:pool-0"]))
  return dataclasses.replace(
    context, examples=own_data.joined(built_in, own)
  )


def test_no_two_questions_have_one_id(mixed):
  ids = [e.id for e in mixed.examples]
  assert len(set(ids)) == len(ids)
  assert {"pool-2", "own:pool-2", "own:pool-pair-0"} <= set(ids)


def test_each_question_is_selected_by_its_own_hits(mixed, tmp_path):
  config = world.stage("audio_rlvr", max_new=2, band=(3, 6))
  asked = rlvr.questions(mixed, config)
  none = dict.fromkeys((e.id for e in asked), 0)
  assert len(none) == len(asked)
  # The same question about two clips, and two questions of the same name.
  for name in ("own:pool-2", "pool-2", "own:pool-pair-0"):
    files.write_json(tmp_path / "hits.json", none | {name: 4})
    found = rlvr.selected(mixed, {}, asked, config=config, workdir=tmp_path)
    assert [e.id for e in found] == [name]


def test_each_question_keeps_its_own_chains(mixed, tmp_path):
  """Two right chains of each; a round keeps two of a question."""
  config = world.stage("mgrd")
  asked = [e for e in mgrd.questions(mixed, config) if "pool-2" in e.id]
  asked += [e for e in mixed.examples if e.id == "own:pool-pair-0"]
  other = world.CHAIN.replace(", ", " and ", 1)
  texts = [
    f"{chat.OPEN}{said}\n</think>\nanswer: tango"
    for said in (world.CHAIN, other)
  ]
  path = tmp_path / "sampled.jsonl"
  rows = [{"id": e.id, "responses": [[True, t] for t in texts]} for e in asked]
  files.write_lines(path, rows)
  found = mgrd.distil(mixed, {}, asked, config=config, workdir=tmp_path)
  kept = mgrd.filtered(
    found, config=config, workdir=tmp_path, grounding=False
  ).kept
  heard = [e.audio[0] for e in kept]
  assert sorted(heard) == sorted(["0:pool-2", "1:a.wav", "1:b.wav"] * 2)


def many(count: int):
  """The world, with `count` questions of the user's to learn from."""
  context = world.context()
  (one,) = [e for e in context.split("train") if e.source == "own"]
  more = [dataclasses.replace(one, id=f"own:{i}") for i in range(count)]
  rest = [e for e in context.examples if e.source != "own"]
  return dataclasses.replace(context, examples=rest + more)


@pytest.mark.parametrize(
  "block, ask", [("mgrd", mgrd.questions), ("audio_rlvr", rlvr.questions)]
)
def test_own_questions_are_bounded_by_a_draw_of_the_seed(block, ask, capsys):
  context, config = many(40), world.stage(block)

  def own(context, config):
    asked = ask(context, config)
    mgrd.tell_left_out("stage", context, asked)
    return [e.id for e in asked if e.meta.get("own")]

  config.questions.own = 40
  assert own(context, config) == [f"own:{i}" for i in range(40)]
  assert not capsys.readouterr().out
  config.questions.own = 6
  drawn = own(context, config)
  assert len(set(drawn)) == 6 and drawn == own(context, config)
  assert drawn == sorted(drawn, key=lambda i: int(i.split(":")[1]))
  first, again = capsys.readouterr().out.splitlines()
  assert first == again == (
    "stage: 34 of the manifest's 40 questions on clips are left out; "
    "config.questions.own says how many are asked"
  )
  config.seed += 1
  assert own(context, config) != drawn
  # The built-in ones are as many as before.
  built_in = [e for e in ask(context, config) if not e.meta.get("own")]
  assert sum(bool(e.audio) for e in built_in) == 6


def test_a_stage_that_asks_no_audio_leaves_nothing_out(capsys):
  context, config = many(40), world.stage("text_rlvr")
  mgrd.tell_left_out("stage", context, rlvr.questions(context, config))
  assert not capsys.readouterr().out


def test_the_eighty_clips_of_esc10_are_all_asked():
  config = world.recipe("tiny")
  for block in (config.mgrd, config.audio_rlvr):
    assert block.questions.own >= 80
