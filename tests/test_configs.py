"""Every config: parses, locks, refuses what it does not know; data only."""

import importlib
import pathlib

import pytest
from ml_collections import ConfigDict

from configs import common

ROOT = pathlib.Path(__file__).parent.parent
NAMES = sorted(
  p.stem
  for p in (ROOT / "configs").glob("*.py")
  if p.stem not in ("common", "slices", "__init__")
)
CHOICES = {
  "pipeline": ("format_reward", "gamma", "rounds"),
  "rlvr": ("modality", "format_reward", "gamma", "model", "tpu"),
  "sft": ("model", "tpu"),
  "mgrd": ("model", "tpu"),
}


def module(name):
  return importlib.import_module(f"configs.{name}")


def leaves(value, path=""):
  if isinstance(value, (ConfigDict, dict)):
    for name, inner in value.items():
      yield from leaves(inner, f"{path}.{name}")
  elif isinstance(value, tuple):
    for at, inner in enumerate(value):
      yield from leaves(inner, f"{path}[{at}]")
  else:
    yield path, value


def test_every_script_that_takes_a_config_has_one():
  scripts = [
    p.stem
    for p in (ROOT / "experiments").glob("*.py")
    if "flags.main(" in p.read_text() and p.stem != "flags"
  ]
  assert sorted(scripts) == NAMES


@pytest.mark.parametrize("size", common.STAGES)
@pytest.mark.parametrize("name", NAMES)
def test_values_are_data_and_lock(name, size):
  config = module(name).get_config(size)
  for path, value in leaves(config):
    assert isinstance(value, (bool, int, float, str)), (path, value)
  config.lock()
  with pytest.raises((AttributeError, KeyError)):
    config.sead = 1
  config.seed = 1


@pytest.mark.parametrize("field", ["top_p", "top_k", "min_p"])
@pytest.mark.parametrize(
  "name, path",
  [
    ("rlvr", ""),
    ("rlvr", "ppo."),
    ("mgrd", ""),
    ("pipeline", "text_rlvr."),
    ("pipeline", "mgrd."),
    ("pipeline", "audio_rlvr."),
    ("pipeline", "last."),
  ],
)
def test_a_filter_that_the_trainer_would_not_see_is_refused(name, path, field):
  """Trap 23: sampling from part of the distribution needs its own scores."""
  config = module(name).get_config("smoke").lock()
  with pytest.raises(KeyError, match=f'"{field}" does not exist'):
    config.update_from_flattened_dict({f"{path}{field}": 0.9})
  for part in filter(None, path.split(".")):
    config = config[part]
  with pytest.raises(AttributeError, match=f'"{field}" does not exist'):
    setattr(config, field, 0.9)


@pytest.mark.parametrize("name", NAMES)
def test_tiny_is_the_default_and_smoke_is_smaller(name):
  get_config = module(name).get_config
  assert get_config().to_dict() == get_config("tiny").to_dict()
  tiny, smoke = get_config("tiny"), get_config("smoke")
  assert dict(leaves(tiny)).keys() == dict(leaves(smoke)).keys()
  assert smoke.data.sizes.text < tiny.data.sizes.text


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("arg", ["huge", "tiny,speed=3", "gama=0.9", "gamma="])
def test_an_unknown_argument_is_an_error_that_names_the_choices(name, arg):
  with pytest.raises(ValueError) as error:
    module(name).get_config(arg)
  text = str(error.value)
  assert arg.split(",")[-1] in text and "smoke" in text
  assert all(choice in text for choice in CHOICES.get(name, ()))


def test_an_argument_moves_the_fields_that_it_names():
  pipeline = module("pipeline").get_config
  assert pipeline("tiny,gamma=0.995").last.gamma == 0.995
  assert pipeline("tiny,format_reward=0").last.format_reward == 0.0
  assert pipeline("smoke,rounds=1").rounds == 1
  told = module("rlvr").get_config("tiny,modality=text")
  assert told.prompts.to_dict() == {"audio": 0, "text": 8}
  mixed = module("rlvr").get_config("tiny").prompts
  assert 2 * mixed.audio == 3 * mixed.text > 0
  assert module("rlvr").get_config("gamma=0.9").ppo.gamma == 0.9


@pytest.mark.parametrize("size", common.STAGES)
@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_is_a_list_of_overrides_that_apply(name, size):
  sweep = module(name).get_sweep()
  assert sweep
  for overrides in sweep:
    config = module(name).get_config(size).lock()
    config.update_from_flattened_dict(overrides)
    for path, value in overrides.items():
      for part in path.split("."):
        config = config[part]
      assert config == value, path


def test_the_recipe_shares_seed_and_data_between_its_stages():
  config = module("pipeline").get_config("smoke")
  for name in (
    "encoder", "cold_start", "text_rlvr", "mgrd", "audio_rlvr", "evaluate",
  ):  # fmt: skip
    assert not {"seed", "data", "model", "init"} & set(config[name]), name


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_gives_the_command(name):
  text = module(name).__doc__
  assert "COMMAND: python -m experiments." in text
  assert f"--config=configs/{name}.py" in text and "--workdir=" in text
