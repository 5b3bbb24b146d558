"""What stages share: a user's manifest, and whose checkpoint is whose."""

import json
import subprocess

import numpy as np
import pytest
import soundfile
from ml_collections import ConfigDict

from configs import pipeline as pipeline_config
from experiments import assembly, files, flags, pipeline
from mgrd_jax.data import schema, sources, synthetic


@pytest.fixture
def own(tmp_path, recipe):
  """A config of the recipe with a manifest of the user's, not yet split."""
  folder = tmp_path / "own"
  folder.mkdir()
  lines = []
  for n in range(6):
    wave_W = 0.1 * np.sin(np.arange(16000) * 0.02 * (n + 1))
    soundfile.write(folder / f"{n}.wav", wave_W, 16000)
    lines += [
      {
        "id": f"test-{n}-{k}",
        "audio": f"{n}.wav",
        "question": f"what is {k} of {n}?",
        "answer": f"{k} {n}",
        "answer_type": "text",
      }
      for k in "ab"
    ]
  path = folder / "manifest.jsonl"
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  config = ConfigDict(recipe.config.to_dict())
  config.data.manifest = str(path)
  return config


def test_a_manifest_of_ones_own_is_the_test_and_keeps_its_rows(own, tmp_path):
  context = assembly.load(own, tmp_path / "run")
  found = {e.id: e for e in context.examples if e.meta.get("own")}
  assert len(found) == 12 and not context.skipped
  test = context.split("test")
  assert {e.id for e in test} == {
    "own:test-0-a", "own:test-0-b", "own:test-5-a", "own:test-5-b"
  }  # fmt: skip
  # Facts are measured again when a recording is replaced.
  wave_W = np.zeros(16000)
  wave_W[4000:12000] = 0.1 * np.sin(np.arange(8000) * 0.4)
  ref = test[0].audio[0]
  before = context.facts[ref]
  file = assembly.pathlib.Path(own.data.manifest).parent / "0.wav"
  soundfile.write(file, wave_W, 16000)
  after = assembly.load(own, tmp_path / "another").facts[ref]
  assert before["tone_hz"] != after["tone_hz"]


def test_what_the_splits_of_ones_own_do_is_said_once(own, tmp_path, capsys):
  path = assembly.pathlib.Path(own.data.manifest)
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  for given, r in zip(["dev", "test", "train", "train"] * 3, rows, strict=True):
    r["split"] = given
  rows[2]["audio"] = rows[1]["audio"]
  path.write_text("".join(json.dumps(r) + "\n" for r in rows))
  context = assembly.load(own, tmp_path / "run")
  out = capsys.readouterr().out
  said = f"{path}: split is not read (3 rows): no stage reads 'dev'; write"
  assert out.count(said) == 1
  assert out.count("also learned from (1 row): '0.wav': keep all") == 1
  mine = [e for e in context.examples if e.meta.get("own")]
  assert len(mine) == 9 and len(context.split("test")) == 3
  for r in rows:
    r["split"] = "1"
  path.write_text("".join(json.dumps(r) + "\n" for r in rows))
  with pytest.raises(SystemExit, match="no row can be used; run python -m"):
    assembly.load(own, tmp_path / "run")
  assert "(12 rows): no stage reads '1'" in capsys.readouterr().out


@pytest.fixture
def home(tmp_path):
  folder = tmp_path / "run" / "stages" / "01_cold_start"
  folder.mkdir(parents=True)
  config = pipeline_config.get_config("tiny")
  config.seed = 1
  text = json.dumps(config.to_dict())
  (tmp_path / "run" / "config.json").write_text(text)
  return folder


def test_a_checkpoint_of_another_seed_is_refused(home):
  same = ConfigDict({"seed": 1, "model": "tiny"})
  assembly.same_run("init", home, same, ("seed", "model"))
  assembly.same_run("init", home.parents[2] / "elsewhere", same, ("seed",))
  other = ConfigDict({"seed": 0, "model": "tiny"})
  with pytest.raises(ValueError, match="made with seed 1, not 0; give --con"):
    assembly.same_run("init", home, other, ("seed", "model"))


def test_a_base_that_is_not_finished_is_refused(home, tmp_path):
  config = pipeline_config.get_config("tiny")
  config.seed, config.base = 1, str(home.parents[1])
  with pytest.raises(ValueError, match="encoder is not finished there"):
    pipeline.run(config, tmp_path / "ablation")
  assert not list((home.parents[1] / "stages").glob("00_*"))


@pytest.mark.parametrize(
  "field, value, said",
  [
    ("data.manifest", "m.jsonl", "made with data.manifest '', not 'm.jsonl'"),
    ("data.labelled", 0.5, "made with data.labelled 0.4, not 0.5"),
    ("data.sizes.text", 9, "made with data.sizes.text 3000, not 9; give"),
  ],
)
def test_a_base_of_other_data_is_refused(home, tmp_path, field, value, said):
  config = pipeline_config.get_config("tiny")
  config.seed, config.base = 1, str(home.parents[1])
  # Where the data are kept is no part of what they are.
  config.data.cache, config.data.workers = "elsewhere", 7
  config.update_from_flattened_dict({field: value})
  with pytest.raises(ValueError, match=said) as error:
    pipeline.run(config, tmp_path / "ablation")
  assert f"--config.{field} the same value" in str(error.value)
  assert "\n" not in str(error.value)


@pytest.fixture
def begun(own, tmp_path):
  """A run over a manifest of the user's, which has grown since its start."""
  folder = tmp_path / "run"
  flags.save_config(own, folder)
  assembly.load(own, folder)
  path = assembly.pathlib.Path(own.data.manifest)
  last = json.loads(path.read_text().splitlines()[-1])
  with path.open("a") as manifest:
    manifest.write(json.dumps(last | {"id": "one-more"}) + "\n")
  return folder


CHANGED = "holds a run from other data (changed: manifest rows: 12 before, 13 "


def test_a_manifest_that_has_changed_is_refused_and_nothing_is_lost(
  own, recipe, begun
):
  before = {p.name: p.read_bytes() for p in begun.iterdir()}
  assert before.keys() == {
    "config.json", "data.json", "own.json", "tokenizer.json",
  }  # fmt: skip
  done = subprocess.run(
    recipe.command(begun, **{"data.manifest": own.data.manifest}),
    env=recipe.environment,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 1 and "Traceback" not in done.stderr
  line = done.stderr.splitlines()[-1]
  assert line.startswith(f"error: {begun}: {CHANGED}now); put back")
  assert not (begun / "stages").exists()
  assert before == {name: (begun / name).read_bytes() for name in before}


def test_a_base_of_a_changed_manifest_is_refused(own, begun, tmp_path):
  # As if all of its stages were finished.
  for number, (name, _, _) in enumerate(pipeline.plan(own)):
    folder = pipeline._folder(begun, number, name)
    files.write_json(folder / "result.json", {"name": name})
  own.base, folder = str(begun), tmp_path / "ablation"
  with pytest.raises(ValueError) as error:
    pipeline.run(own, folder)
  assert str(error.value).startswith(f"{begun}: {CHANGED}now); put back")
  assert str(error.value).endswith("or run the base again")
  assert not (folder / "stages").exists()


def test_a_recipe_without_rounds_is_refused_before_anything_is_made(tmp_path):
  config = pipeline_config.get_config("tiny,rounds=0")
  with pytest.raises(ValueError, match="config.rounds=0: at least one"):
    pipeline.run(config, tmp_path)


@pytest.fixture
def made(tmp_path):
  """A config whose built-in set is made: a row and its clip, in a shard."""
  config = pipeline_config.get_config("smoke")
  config.data.cache = str(tmp_path / "cache")
  sizes = synthetic.Sizes(**config.data.sizes.to_dict())
  key = synthetic.cache_key(sizes, config.seed, config.data.labelled)
  folder = tmp_path / "cache" / key
  folder.mkdir(parents=True)
  write_shard(folder)
  return config, folder


def write_shard(folder):
  """clips.arrayrecord and a manifest of one row about it."""
  path = folder / "clips.arrayrecord"
  (ref,) = sources.write_clips(path, [np.ones(16_000, np.float32) / 3])
  row = schema.Example("a", "what?", "a", "text", (ref,))
  schema.write_manifest(folder / "manifest.jsonl", [row])
  return path


def test_a_missing_shard_is_one_line(made, tmp_path):
  config, folder = made
  examples, _, _ = assembly._examples(config.data, config.seed)
  assert [e.audio for e in examples] == [("0:clips.arrayrecord#0",)]
  # The user's own: its shards.json says what there has to be.
  own = tmp_path / "own"
  own.mkdir()
  path = write_shard(own)
  size, sha256 = sources.fingerprint(path)
  told = {path.name: {"rows": 1, "bytes": size, "sha256": sha256}}
  (own / sources.INDEX).write_text(json.dumps({"shards": told}))
  config.data.manifest = str(own / "manifest.jsonl")
  examples, _, _ = assembly._examples(config.data, config.seed)
  assert len(examples) == 2
  path.rename(own / "elsewhere")
  with pytest.raises(OSError, match="clips.arrayrecord: missing .1 of the 1"):
    assembly._examples(config.data, config.seed)
  config.data.manifest = ""
  (folder / "clips.arrayrecord").unlink()
  with pytest.raises(ValueError) as error:
    assembly._examples(config.data, config.seed)
  said = str(error.value)
  assert said.startswith(f"{folder / 'manifest.jsonl'}: line 1 ")
  assert "missing file" in said and f"remove {folder}, and the same" in said
  assert "\n" not in said
