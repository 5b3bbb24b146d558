"""Random checkpoints of both families, small, as published ones are laid."""

import json
import math
import pathlib

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from mgrd_jax.models import convert, released, shards

STEP = {
  "model_type": "step_audio_2",
  "architectures": ["StepAudio2ForCausalLM"],
  "audio_token_id": 90,
  "audio_encoder_config": {
    "n_mels": 128,
    "n_audio_ctx": 1500,
    "n_audio_state": 32,
    "n_audio_head": 4,
    "n_audio_layer": 2,
    "kernel_size": 3,
    "adapter_stride": 2,
    "adapter_hidden": 24,
    "llm_dim": 40,
  },
  "text_config": {
    "hidden_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_attention_groups": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 56,
    "vocab_size": 96,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
  },
}
QWEN2 = {
  "model_type": "qwen2_audio",
  "audio_token_index": 90,
  "audio_config": {
    "num_mel_bins": 128,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "d_model": 32,
    "max_source_positions": 1500,
  },
  "text_config": {
    "model_type": "qwen2",
    "hidden_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 56,
    "vocab_size": 96,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000,
    "max_position_embeddings": 512,
  },
}
FAMILIES = {"step-audio": STEP, "qwen2-audio": QWEN2}
REST = {
  "generation_config.json": "{}\n",
  "tokenizer.json": '{"version": "1.0"}\n',
  "modeling_step_audio_2.py": "pass\n",
}


def tensors(config, dtype=ml_dtypes.bfloat16, seed=0) -> dict:
  """Random values at the scale of a trained model."""
  rng = np.random.default_rng(seed)
  found = {}
  for name, shape in convert.expected(config).items():
    scale = math.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.1
    values = scale * rng.standard_normal(shape, np.float32)
    found[name] = (values + name.endswith("norm.weight")).astype(dtype)
  return found


def write(folder, config_json, found=None, *, shards_count=0, index=True):
  """Writes a checkpoint by the format's own library.

  Args:
    folder: to be made.
    config_json: contents of config.json.
    found: its tensors; random ones without it.
    shards_count: files; 0 is model.safetensors.
    index: whether the shards have one.
  """
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True)
  if found is None:
    found = tensors(released.from_json(config_json))
  (folder / "config.json").write_text(json.dumps(config_json))
  for name, text in REST.items():
    (folder / name).write_text(text)
  metadata = {"format": "pt"}
  if not shards_count:
    safetensors_numpy.save_file(found, folder / shards.SINGLE, metadata)
    return folder
  weight_map = {}
  for at in range(shards_count):
    file = f"model-{at + 1:05d}-of-{shards_count:05d}.safetensors"
    part = dict(list(found.items())[at::shards_count])
    safetensors_numpy.save_file(part, folder / file, metadata)
    weight_map |= dict.fromkeys(part, file)
  if index:
    text = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / shards.INDEX).write_text(text)
  return folder


def contents(folder) -> dict[str, bytes]:
  """Every file of a folder."""
  return {p.name: p.read_bytes() for p in pathlib.Path(folder).iterdir()}


def faults(call, *args, **options) -> list[str]:
  """The problems that a call is refused for."""
  with pytest.raises(convert.ConversionError) as caught:
    call(*args, **options)
  return caught.value.problems


def assert_equal(one, other) -> None:
  """Two pytrees have the same names, dtypes and bits."""
  left, right = (jax.tree_util.tree_leaves_with_path(x) for x in (one, other))
  for (path, a), (other_path, b) in zip(left, right, strict=True):
    assert path == other_path
    assert a.dtype == b.dtype, path
    a, b = (np.asarray(x).view(f"u{x.dtype.itemsize}") for x in (a, b))
    np.testing.assert_array_equal(a, b, err_msg=str(path))
