"""A small model that has to listen: what it hears, and that it is resumed.

Every step is the library's own; the encoder is drawn at random and frozen.
"""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
from etils import epath
from ml_collections import ConfigDict

from configs import evaluate as evaluate_config
from configs import mgrd as mgrd_config
from configs import rlvr as rlvr_config
from configs import sft as sft_config
from experiments import evaluate, files, mgrd, placement, rlvr, sft
from mgrd_jax.train import checkpoint, metrics
from tests import tones, toys
from tests.conftest import compile_options, compiling
from tests.gcs import bucket, gcs, server  # noqa: F401


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  """Where the model lies; inside, a program is compiled once."""
  folder = tmp_path_factory.mktemp("tones")
  with compiling(compile_options(folder / "programs")):
    yield folder


@pytest.fixture(scope="module")
def context(home):
  """The tones, and a model that was fine-tuned on them, in home/sft."""
  made = tones.context()
  checkpoint.save(home / "init" / "params", toys.params(config=made.model))
  config = sft_config.get_config("smoke")
  config.update(init=str(home / "init"), steps=200, audio_rows=16)
  config.weights = ConfigDict({"tone": 1.0})
  config.optim = ConfigDict(dict(name="adamw", lr=6e-3, warmup=20))
  sft.run(config, home / "sft", made)
  return made


@pytest.fixture(scope="module")
def found(home, context):
  """What evaluation finds of the fine-tuned model."""
  config = evaluate_config.get_config("smoke")
  config.update(rows=24, max_new=16)
  params = placement.restore(None, home / "sft")
  return evaluate.run(config, home / "evaluation", context, params)


def test_a_trained_model_hears_which_tone_it_is(found):
  assert found["think"]["acc"] > 0.85
  assert found["think"]["n"] == len(tones.MAPS) * len(tones.TONES)
  # It says so, and the waveform bears it out.
  assert found["think"]["claim_precision"] > 0.95
  assert found["think"]["claim_lift"] > 0.3


def test_on_silence_it_is_at_chance(found):
  # Four questions of a map differ in their clips alone: without these one
  # answer serves all, and is right for one.
  assert found["silence"]["acc"] <= found["swap"]["chance"] == 0.25
  assert found["silence"]["frac_coherent"] > 0.85
  assert found["silence"]["claim_lift"] == pytest.approx(0, abs=1e-6)


def test_on_another_clip_it_follows_that_clip(found):
  assert found["swap"]["n"] == found["think"]["n"]
  assert found["swap"]["acc"] <= 0.15
  assert found["swap"]["follow"] > 0.85


@pytest.fixture(scope="module")
def ppo_config(home):
  config = rlvr_config.get_config("smoke")
  config.update(init=str(home / "sft"), steps=4, save_every=2, warmup=1)
  config.prompts = ConfigDict({"audio": 4, "text": 0})
  # Hot enough that some of the answers are wrong.
  config.update(samples=8, max_new=16, temperature=1.4)
  return config


class Killed(BaseException):
  pass


@dataclasses.dataclass
class Dying:
  """A sampler, up to a step that never returns."""

  sampler: rlvr.Sampler
  step: int

  def rollout(self, params, step, key):
    if step == self.step:
      raise Killed
    return self.sampler.rollout(params, step, key)


def bits(tree):
  return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


def test_ppo_killed_and_resumed_on_gs_is_ppo_itself(
  home,
  context,
  ppo_config,
  tmp_path,
  gcs,  # noqa: F811
):
  name, _ = gcs
  config, params = ppo_config, placement.restore(None, home / "sft")
  asked = rlvr.questions(context, config)
  sampler = rlvr.Sampler(context, asked, asked, config)

  def train(folder, sampler):
    return rlvr.train(
      context, params, sampler, config=config, workdir=epath.Path(folder)
    )

  whole, cut = train(tmp_path, sampler), f"{name}/cut"
  # Before the first checkpoint, and two steps after it.
  for step in (1, 3):
    with pytest.raises(Killed):
      train(cut, Dying(sampler, step))
  assert checkpoint.steps(cut) == [2]
  actor, critic = train(cut, sampler)
  assert bits(actor) == bits(whole[0]) and bits(critic) == bits(whole[1])
  rows = metrics.read(f"{cut}/metrics.jsonl")
  assert rows == metrics.read(tmp_path / "metrics.jsonl")
  assert [row["step"] for row in rows] == [0, 1, 2, 3]
  assert all(0 < row["rollout/pass_at_1"] < 1 for row in rows)
  assert all("rollout/pass_at_8" in row for row in rows)
  # There was something to learn, for both of them.
  assert int(actor.step) == 3 and int(critic.step) == 4
  assert toys.difference(actor.params["decoder"], params["decoder"]) > 1e-5
  assert np.abs(critic.params["value"]["value_D"]).max() > 1e-5


SAMPLED = "sampled.jsonl"
FILTERED = ("kept.jsonl", "rejects.jsonl", "funnel.json")


@pytest.fixture(scope="module")
def round_config(home):
  config = mgrd_config.get_config("smoke")
  config.update(init=str(home / "sft"), steps=2, save_every=9, audio_rows=8)
  config.update(samples=8, max_new=16, temperature=1.4)
  config.weights = ConfigDict({"tone": 0.5, "chain": 0.5})
  return config


@pytest.fixture(scope="module")
def whole_round(home, context, round_config):
  mgrd.run(round_config, home / "round", context)
  return home / "round"


def test_a_round_keeps_what_the_waveform_bears_out(whole_round):
  funnel = files.read_json(whole_round / "funnel.json")
  assert funnel["sampled"] == 8 * 24 > funnel["correct"] > funnel["kept"] > 0
  assert funnel["keep_rate"] > 0.9
  # Of the other clips about one in five is of the same tone.
  assert funnel["swap_keep_rate"] < 0.4


@pytest.mark.parametrize("filtered", [(), FILTERED[:2]])
def test_a_round_killed_while_it_filters_goes_on_to_the_same(
  context,
  round_config,
  whole_round,
  tmp_path,
  gcs,  # noqa: F811
  filtered,
):
  # Here, and on gs://.
  run, folder = gcs if filtered else (tmp_path, tmp_path)
  for name in (SAMPLED, *filtered):
    shutil.copy2(whole_round / name, folder)
  before = (folder / SAMPLED).stat().st_mtime_ns
  mgrd.run(round_config, run, context)
  assert (folder / SAMPLED).stat().st_mtime_ns == before
  for name in (*FILTERED, "metrics.jsonl"):
    text = (folder / name).read_bytes()
    assert text == (whole_round / name).read_bytes(), name
  want = checkpoint.restore(whole_round / "params")
  assert bits(placement.restore(None, run)) == bits(want)
