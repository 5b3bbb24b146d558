"""What a released or an imported folder is read as."""

import json

import jax
import pytest

from experiments import convert, listener
from mgrd_jax.train import checkpoint
from tests.models import checkpoints
from tests.test_ask_released import config_of
from tests.text import byte_pairs


def folder_of(home, **changes):
  checkpoints.write(home, config_of("step-audio") | changes)
  return byte_pairs.write(home, byte_pairs.SPECIAL["step-audio"])


def dtypes(heard):
  return {leaf.dtype.name for leaf in jax.tree.leaves(heard.params)}


@pytest.mark.parametrize(
  "said, asked, found",
  [
    (None, None, "bfloat16"),
    ("float32", None, "float32"),
    ("float32", "bfloat16", "bfloat16"),
  ],
)
def test_the_config_says_the_dtype_unless_one_is_asked_for(
  tmp_path, said, asked, found
):
  changes = {"torch_dtype": said} if said else {}
  folder = folder_of(tmp_path / "in", **changes)
  heard = listener.read_released(folder, dtype=asked).loaded()
  assert dtypes(heard) == {found}


@pytest.fixture
def imported(tmp_path):
  folder = folder_of(tmp_path / "in")
  out = tmp_path / "out"
  flags = [f"--checkpoint={folder}", f"--out={out}", "--dtype=float32"]
  assert convert.main(["import", *flags]) == 0
  return out


def test_an_imported_folder_keeps_its_dtype(imported):
  assert dtypes(listener.read_released(imported).loaded()) == {"float32"}
  heard = listener.read_released(imported, dtype="bfloat16").loaded()
  assert dtypes(heard) == {"bfloat16"}


@pytest.mark.parametrize(
  "field, value", [("num_hidden_layers", 1), ("intermediate_size", 48)]
)
def test_parameters_of_another_model_are_refused(imported, field, value):
  path = imported / "config.json"
  config = json.loads(path.read_text())
  config["text_config"][field] = value
  path.write_text(json.dumps(config))
  heard = listener.read_released(imported)
  with pytest.raises(checkpoint.MismatchError, match="holds another model"):
    heard.loaded()
