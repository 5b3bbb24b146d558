"""Sizes come from config.json; a field that is amiss is named."""

import copy
import json
import math

import pytest

from mgrd_jax.models import audio_lm, released
from tests.models import checkpoints


@pytest.mark.parametrize("name", sorted(released.PUBLISHED))
def test_the_published_sizes_are_read(name):
  config = audio_lm.VARIANTS[name]()
  d = config.decoder
  want = {
    "step-audio-r1": (5120, 64, 40, 8, 27648, 158720, 1e6, 65536, 151690),
    "step-audio-2-mini": (3584, 28, 28, 4, 18944, 158720, 1e6, 16384, 151690),
    "qwen2-audio-7b": (4096, 32, 32, 32, 11008, 156032, 1e4, 8192, 151646),
  }[name]
  assert want == (
    d.width, d.layers, d.heads, d.kv_heads, d.ffn, d.vocab, d.rope_theta,
    d.context, config.patch_id,
  )  # fmt: skip
  assert d.head_dim == 128 and not d.tied
  e = config.encoder
  assert (e.mels, e.width, e.heads, e.layers, e.ffn, e.positions) == (
    128, 1280, 20, 32, 5120, 1500,
  )  # fmt: skip
  assert e.fixed == (config.family == released.QWEN2_AUDIO)


# The file, the field, a value that cannot be, and what is said of it.
BAD = [
  ("", "model_type", "llama", "model_type: 'llama'"),
  ("", "model_type", ["step_audio_2"], "model_type"),
  ("", "text_config", None, "text_config: missing"),
  ("", "audio_token_id", "a", "audio_token_id: 'a'"),
  ("", "audio_token_id", 10**6, "audio_token_id: 1000000 is no id"),
  ("text_config", "hidden_size", None, "text_config.hidden_size: missing"),
  ("text_config", "hidden_size", "40", "text_config.hidden_size: '40'"),
  ("text_config", "hidden_size", True, "text_config.hidden_size: True"),
  ("text_config", "num_hidden_layers", -1, "num_hidden_layers: -1"),
  ("text_config", "num_hidden_layers", 10**9, "num_hidden_layers: 1000000000"),
  ("text_config", "num_key_value_heads", 3, "num_attention_groups"),
  ("text_config", "rms_norm_eps", math.inf, "rms_norm_eps: inf"),
  ("text_config", "head_dim", "a", "text_config.head_dim: 'a'"),
  ("text_config", "head_dim", 7, "text_config.head_dim: 7 is odd"),
  ("text_config", "rope_theta", "1e6", "text_config.rope_theta: '1e6'"),
  ("text_config", "rope_scaling", "x", "text_config.rope_scaling: 'x'"),
  ("text_config", "rope_scaling", {"type": "yarn"}, "rope_scaling: 'yarn'"),
  ("text_config", "rope_parameters", {"rope_theta": "a"}, "rope_theta: 'a'"),
  ("text_config", "hidden_act", "gelu", "text_config.hidden_act: 'gelu'"),
  ("audio_encoder_config", "llm_dim", 41, "audio_encoder_config.llm_dim: 41"),
  ("audio_encoder_config", "n_audio_head", 5, "n_audio_head: 5 does not"),
  ("audio_encoder_config", "adapter_stride", 4, "adapter_stride: 4"),
]


@pytest.mark.parametrize("part, field, value, message", BAD)
def test_a_field_that_cannot_be_is_named(
  part, field, value, message, tmp_path
):
  config = copy.deepcopy(checkpoints.STEP)
  (config[part] if part else config)[field] = value
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.raises(ValueError) as error:
    released.read(tmp_path)
  text = str(error.value)
  assert message in text and "\n" not in text
  assert text.startswith(str(tmp_path / "config.json"))


def test_step_audio_has_no_defaults_and_qwen2_audio_those_of_its_format():
  for field in ("hidden_size", "num_hidden_layers", "num_attention_heads"):
    config = copy.deepcopy(checkpoints.STEP)
    del config["text_config"][field]
    with pytest.raises(ValueError, match=f"{field}: missing"):
      released.from_json(config)
  config = copy.deepcopy(checkpoints.QWEN2)
  del config["text_config"]["hidden_size"]
  config["text_config"]["head_dim"] = 8
  assert released.from_json(config).decoder.width == 4096


def test_theta_is_read_where_transformers_5_writes_it():
  config = copy.deepcopy(checkpoints.STEP)
  del config["text_config"]["rope_theta"]
  config["text_config"]["rope_parameters"] = {
    "rope_theta": 5e5, "rope_type": "default",
  }  # fmt: skip
  assert released.from_json(config).decoder.rope_theta == 5e5


@pytest.mark.parametrize(
  "config, found",
  [
    ({"torch_dtype": "bfloat16"}, "bfloat16"),
    ({"dtype": "float16"}, "float16"),
    ({"text_config": {"torch_dtype": "float32"}}, "float32"),
    ({"dtype": "float16", "text_config": {"dtype": "float32"}}, "float16"),
    ({"torch_dtype": None}, None),
    ([], None),
  ],
)
def test_the_config_says_what_to_compute_in(tmp_path, config, found):
  (tmp_path / "config.json").write_text(json.dumps(config))
  assert released.dtype(tmp_path) == found


def test_a_dtype_of_no_released_model_is_named(tmp_path):
  (tmp_path / "config.json").write_text('{"torch_dtype": "int8"}')
  with pytest.raises(ValueError) as refused:
    released.dtype(tmp_path)
  where = f"{tmp_path / 'config.json'}: torch_dtype: 'int8' is none of "
  assert str(refused.value).startswith(where)
