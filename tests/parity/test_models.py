"""Whole models: the same checkpoint and prompts through theirs and ours."""

import json
import shutil

import jax
import numpy as np
import pytest
import torch
import transformers

from mgrd_jax.models import convert, released
from tests.parity import cases, ours, theirs

pytestmark = pytest.mark.parity
NAMES = list(cases.CASES)
# float32 sums of another order, over two blocks of each part.
ATOL = 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_arrays_are_what_the_classes_give(name, golden_of):
  golden, kept = golden_of(name), cases.stored(name)
  shapes = theirs.shapes(cases.CASES[name])
  assert cases.stored_shapes(name) == shapes
  # Another processor, another order of sums; norms are float32 in any case.
  ours.assert_equal(kept, golden, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_64_greedy_ids_are_theirs(name, found_of, golden_of):
  ours.assert_equal(found_of(name), golden_of(name), atol=ATOL)


@pytest.mark.parametrize("name", NAMES)
def test_in_float32_they_are_theirs_in_float32(name, found_of, folder_of):
  case = cases.CASES[name]
  golden = theirs.run(case, folder_of(name), torch.float32)
  assert golden["logits"].dtype == golden["enc"].dtype == np.float32
  ours.assert_equal(found_of(name), golden, atol=ATOL)


def test_the_greedy_ids_are_sure_and_varied(golden_of):
  for name in NAMES:
    golden = golden_of(name)
    assert golden["margin"] > 10 * ATOL, name
    for ids in golden["greedy"]:
      assert len(set(ids.tolist())) >= 8, name


def test_the_references_are_the_classes_of_transformers(folder_of):
  model = theirs.qwen2_audio(folder_of("qwen2-audio-1"))
  kinds = {type(module) for module in model.modules()}
  assert transformers.Qwen2AudioEncoder in kinds
  assert type(model) is transformers.Qwen2AudioForConditionalGeneration
  step = theirs.StepAudio(cases.CASES["step-audio-1"].config)
  assert type(step.decoder) is transformers.Qwen2ForCausalLM


def test_what_a_file_leaves_out_is_what_the_classes_default_to():
  classes = {
    "text_config": transformers.Qwen2Config(),
    "audio_config": transformers.Qwen2AudioEncoderConfig(),
  }
  for part, fields in released.QWEN2_DEFAULTS.items():
    found = classes[part].to_dict()
    found |= found.get("rope_parameters") or {}
    assert fields == {name: found[name] for name in fields}


def test_a_checkpoint_that_transformers_saved_in_shards_is_read(
  folder_of, golden_of, tmp_path
):
  name = "qwen2-audio-4"
  model = theirs.qwen2_audio(folder_of(name))
  model.save_pretrained(tmp_path, max_shard_size="40KB")
  assert len(list(tmp_path.glob("*.safetensors"))) > 2
  # Its config.json is written by transformers, in its own new form.
  written = json.loads((tmp_path / "config.json").read_text())
  assert written["transformers_version"] == transformers.__version__
  found = ours.run(cases.CASES[name], tmp_path)
  ours.assert_equal(found, golden_of(name), atol=ATOL)


@pytest.mark.parametrize("name", ["qwen2-audio-2", "step-audio-7"])
def test_an_export_is_the_checkpoint_that_was_imported(
  name, folder_of, golden_of, tmp_path
):
  folder = folder_of(name)
  config = released.read(folder)
  params = convert.load(folder, config)
  convert.save(params, config, tmp_path / "like", like=folder)
  for path in folder.iterdir():
    copy = tmp_path / "like" / path.name
    assert copy.read_bytes() == path.read_bytes(), path.name
  # The names and files that we give a model without a source.
  convert.save(params, config, tmp_path / "anew")
  shutil.copy(folder / "config.json", tmp_path / "anew")
  for out in ("like", "anew"):
    found = theirs.run(cases.CASES[name], tmp_path / out)
    np.testing.assert_array_equal(found["logits"], golden_of(name)["logits"])


@pytest.mark.parametrize("name", ["qwen2-audio-1", "step-audio-2"])
def test_a_model_that_we_changed_is_the_same_there(name, folder_of, tmp_path):
  case, folder = cases.CASES[name], folder_of(name)
  config = released.read(folder)
  params = convert.load(folder, config)
  params = jax.tree.map(lambda x: 0.9 * x, params)
  convert.save(params, config, tmp_path / "out", like=folder)
  golden = theirs.run(case, tmp_path / "out")["logits"]
  found = ours.result(case, config, params)["logits"]
  np.testing.assert_allclose(found, golden, rtol=0, atol=ATOL)
