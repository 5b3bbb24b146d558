"""A stage on a mesh is the stage on one device, and goes on upon another."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import encoder as encoder_config
from configs import rlvr as rlvr_config
from configs import sft as sft_config
from experiments import assembly, encoder, placement, rlvr, sft
from mgrd_jax.audio import features
from mgrd_jax.data import clips as clips_lib
from mgrd_jax.data import schema
from mgrd_jax.train import checkpoint, metrics
from tests import toys
from tests.conftest import compile_options, compiling

ONE = dict(data=1, fsdp=1, sequence=1, tensor=1)
WIDE = ONE | dict(fsdp=4, tensor=2)
FLAT = ONE | dict(data=2, fsdp=4)
SAMPLES = 4000  # of each clip: four audio tokens
LETTERS = ("k", "m")


@pytest.fixture(autouse=True)
def eight_devices():
  if jax.device_count() != 8:
    pytest.skip("needs eight devices")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  """Inside, a program is compiled in a hurry and once."""
  folder = tmp_path_factory.mktemp("placement")
  with compiling(compile_options(folder / "programs")):
    yield folder


def examples() -> list[schema.Example]:
  """Which of two letters a clip is."""
  return [
    schema.Example(
      id=f"{split}-{at}",
      question="which letter is it?",
      answer=LETTERS[at % 2],
      answer_type="choice",
      options=LETTERS,
      audio=(f"1:{split}-{at}",),
      reasoning=f"so {LETTERS[at % 2]}",
      split=split,
      source="own",
      meta={"family": "own", "own": True},
      transcript=f"{LETTERS[at % 2]} it is",
    )
    for split in ("train", "pool", "test")
    for at in range(8)
  ]


def sound(letter: str) -> clips_lib.Clip:
  rng = np.random.default_rng(ord(letter))
  shape = features.mel_frames(SAMPLES), features.MELS
  return clips_lib.Clip(rng.normal(size=shape).astype(np.float16), SAMPLES)


def context(sizes=ONE) -> assembly.Context:
  """Two sounds, heard as states that no encoder made."""
  every = examples()
  tokenizer = assembly.build_tokenizer(every)
  model = dataclasses.replace(
    toys.CONFIG,
    encoder=dataclasses.replace(toys.CONFIG.encoder, mels=features.MELS),
    decoder=dataclasses.replace(
      toys.CONFIG.decoder, vocab=tokenizer.vocab_size
    ),
  )
  frames = features.pooled_frames(features.mel_frames(SAMPLES))
  mesh = placement.mesh_of(sizes)
  placement.check(mesh, model)
  return assembly.Context(
    config=None,
    mesh=mesh,
    tokenizer=tokenizer,
    model=model,
    examples=every,
    clips={e.audio[0]: sound(e.answer) for e in every},
    enc={e.audio[0]: toys.clip(e.answer == "k", frames) for e in every},
    facts={},
    skipped=[],
  )


@pytest.fixture(scope="module")
def config(home):
  """Thirty steps of fine-tuning; the last checkpoint is after 27."""
  params = toys.params(config=context().model)
  checkpoint.save(home / "init" / "params", params)
  config = sft_config.get_config("smoke")
  config.update(init=str(home / "init"), steps=30, save_every=27, pair_rows=8)
  config.weights = ConfigDict({"own": 1.0})
  config.optim = ConfigDict(dict(name="adamw", lr=1e-2))
  return config


@pytest.fixture(scope="module")
def alone(home, config):
  """Fine-tuned on one device."""
  sft.run(config, home / "alone", context())
  assert checkpoint.steps(home / "alone") == [27]
  return home / "alone"


def resumed(config, begun, folder, sizes):
  """Goes on from the checkpoint that another run left."""
  (step,) = checkpoint.steps(begun)
  name = f"step_{step:08d}"
  shutil.copytree(begun / name, folder / name)
  sft.run(config, folder, context(sizes))
  return folder


def difference(folder, other) -> float:
  """Of the parameters that two stages left, but those that nothing moves.

  What all keys of a row share is no part of a softmax: the gradient of keys'
  biases is rounding, of which Adam takes the sign.
  """
  found = [checkpoint.restore(f / "params") for f in (folder, other)]
  for params in found:
    del params["decoder"]["k_bias_LKH"]
  return toys.difference(*found)


def rows(folder) -> list[dict]:
  return metrics.read(folder / "metrics.jsonl")


def test_fine_tuning_goes_on_upon_one_mesh_and_another(
  home, config, alone, tmp_path
):
  want = rows(alone)[-1]
  config = config.copy_and_resolve_references()
  config.save_every = 28
  wide = resumed(config, alone, tmp_path / "wide", WIDE)
  assert checkpoint.steps(wide) == [28]
  flat = resumed(config, wide, tmp_path / "flat", FLAT)
  for folder in (wide, flat):
    assert rows(folder)[-1] == {
      name: pytest.approx(value, abs=1e-6 if name == "train/loss" else 1e-5)
      for name, value in want.items()
    }
    assert difference(alone, folder) < 1e-5
  assert difference(alone, home / "init") > 0.1


def test_ppo_on_a_mesh_is_that_on_one_device(home, alone):
  config = rlvr_config.get_config("smoke")
  config.update(init=str(alone), steps=2, warmup=1, max_new=16)
  config.prompts = ConfigDict(dict(audio=8, text=0))
  config.questions = ConfigDict(dict(audio=0, own=8, text=0))
  folders = home / "ppo", home / "ppo_wide"
  for folder, sizes in zip(folders, (ONE, FLAT), strict=True):
    rlvr.run(config, folder, context(sizes))
  one, spread = map(rows, folders)
  # Some are right and some are not, or there were nothing to learn.
  assert 0 < one[0]["rollout/reward"] < 1
  assert len(one) == 2 and "train/policy/loss" in one[1]
  for this, other in zip(one, spread, strict=True):
    assert other == {k: pytest.approx(v, abs=1e-5) for k, v in this.items()}
  assert difference(*folders) < 1e-5 < difference(folders[0], alone)


def test_packed_rows_are_fuller_and_train_the_same_on_a_mesh(home, config):
  config = config.copy_and_resolve_references()
  config.update(steps=2, save_every=9)
  sft.run(config, home / "padded", context())
  config.pack.update(rows=8, time=128, clips=4)
  for name, sizes in (("packed", ONE), ("packed_wide", FLAT)):
    sft.run(config, home / name, context(sizes))
  padded, one, wide = (
    rows(home / name)[-1] for name in ("padded", "packed", "packed_wide")
  )
  assert one["train/fill"] > 0.7
  # More is learned from in a step, of rows that are as full or fuller.
  assert one["train/held"] > padded["train/held"]
  assert wide == {k: pytest.approx(v, abs=1e-5) for k, v in one.items()}
  assert difference(home / "packed", home / "packed_wide") < 1e-5


def test_an_example_that_fits_no_packed_row_is_refused(home, config):
  config = config.copy_and_resolve_references()
  config.pack.update(rows=8, time=16, clips=4)
  with pytest.raises(ValueError, match="raise config.pack"):
    sft.run(config, home / "short", context())


def test_the_encoder_on_a_mesh_is_that_on_one_device(home):
  config = encoder_config.get_config("smoke")
  config.update(steps=2, batch_frames=256)
  config.weights = ConfigDict({"own": 1.0})
  config.optim = ConfigDict(dict(name="adamw", lr=1e-4))
  found, states = [], []
  for name, sizes in (("one", ONE), ("many", WIDE)):
    here = context(sizes)
    told = encoder.run(config, home / "encoder" / name, here)
    params = placement.restore(here.mesh, home / "encoder" / name)
    assembly.encode_clips(here, params["encoder"])
    found.append((rows(home / "encoder" / name), told))
    states.append(here.enc)
  (one, known), (many, others) = found
  assert known == others and known["words"] == 4
  for this, other in zip(one, many, strict=True):
    assert other == {k: pytest.approx(v, abs=1e-5) for k, v in this.items()}
  assert states[0].keys() == states[1].keys() and len(states[0]) == 32
  for ref, enc_AE in states[0].items():
    np.testing.assert_allclose(states[1][ref], enc_AE, atol=1e-4)


@pytest.mark.parametrize(
  "sizes, said",
  [
    (dict(data=3), "config.mesh: mesh .* needs 6 devices, there are 8; give"),
    (dict(fsdp=4), "config.mesh: mesh .* needs 4 devices, there are 8; give"),
    (dict(tensor=0), "config.mesh.tensor=0: at least one is needed"),
    (dict(tensor=8), "config.mesh: tensor=8 does not divide heads 4"),
    (dict(sequence=8), "does not divide width 12"),
  ],
)
def test_a_mesh_that_is_none_of_these_devices_is_refused(sizes, said):
  with pytest.raises(ValueError, match=said) as error:
    mesh = placement.mesh_of(ONE | dict(fsdp=0) | sizes)
    decoder = toys.CONFIG.decoder
    if "sequence" in sizes:
      decoder = dataclasses.replace(decoder, width=12)
    placement.check(mesh, dataclasses.replace(toys.CONFIG, decoder=decoder))
  assert "\n" not in str(error.value)


def test_a_mesh_that_does_not_divide_the_rows_is_refused(home, tmp_path):
  stages = (
    (sft, sft_config, "text_rows", 12, "12 rows of config.text_rows"),
    (rlvr, rlvr_config, "prompts", dict(audio=3, text=2), "5 rows of config.p"),
  )
  for script, module, field, value, said in stages:
    config = module.get_config("smoke")
    config.update({"pair_rows": 8} if script is sft else {})
    config[field] = value
    with pytest.raises(ValueError, match=f"data x fsdp=8.*the {said}"):
      script.run(config, tmp_path, context(FLAT))


def test_a_stage_takes_the_mesh_of_its_config(tmp_path):
  config = sft_config.get_config("smoke")
  config.mesh.data = 3
  with pytest.raises(ValueError, match="config.mesh: .* needs 3 devices"):
    sft.run(config, tmp_path)
  assert not list(tmp_path.iterdir())
