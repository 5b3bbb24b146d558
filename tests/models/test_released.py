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
  (
    "audio_encoder_config",
    "n_audio_head",
    5,
    "audio_encoder_config.n_audio_head: 5 does not",
  ),
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


SIZES = [
  (part, field)
  for part in ("text_config", "audio_encoder_config")
  for field in checkpoints.STEP[part]
  # Derived, written in code, one of two names, or no size.
  if field
  not in (
    "head_dim",
    "adapter_hidden",
    "num_attention_groups",
    "num_key_value_heads",
    "tie_word_embeddings",
  )
]


@pytest.mark.parametrize("part, field", SIZES)
def test_a_size_that_step_audio_leaves_out_is_missed(part, field):
  config = copy.deepcopy(checkpoints.STEP)
  del config[part][field]
  with pytest.raises(ValueError, match=f"{part}.{field}: missing; "):
    released.from_json(config)


@pytest.mark.parametrize("part", ["text_config", "audio_config"])
def test_qwen2_audio_leaves_out_what_its_classes_default_to(part):
  config = copy.deepcopy(checkpoints.QWEN2)
  config["text_config"] = {}
  config["audio_config"] = {}
  config["audio_token_index"] = 151646
  found = released.from_json(config)
  # The sizes of the two classes, which are those of no release together.
  assert (found.decoder.width, found.decoder.ffn) == (4096, 22016)
  assert (found.decoder.layers, found.decoder.eps) == (32, 1e-6)
  assert (found.encoder.width, found.encoder.layers) == (1280, 32)
  for field, value in released.QWEN2_DEFAULTS[part].items():
    config[part][field] = value
  assert released.from_json(config) == found


def flat(config):
  """The same with the text model's fields at the top."""
  rest = {k: v for k, v in config.items() if k != "text_config"}
  return rest | config["text_config"] | {"model_type": "step_audio_qwen2"}


def test_the_publishers_own_file_has_the_text_fields_at_its_top(tmp_path):
  own = flat(checkpoints.STEP) | {"torch_dtype": "bfloat16"}
  want = released.from_json(checkpoints.STEP)
  assert released.from_json(own) == want
  # Its names of the groups and of the context.
  own["max_seq_len"] = own.pop("max_position_embeddings")
  del own["num_key_value_heads"]
  (tmp_path / "config.json").write_text(json.dumps(own))
  assert released.read(tmp_path) == want
  assert released.dtype(tmp_path) == "bfloat16"
  # A field that is amiss has no part's name before it.
  del own["num_attention_heads"]
  with pytest.raises(ValueError, match="^num_attention_heads: missing"):
    released.from_json(own)
  with pytest.raises(ValueError, match="llm_dim: 40, where hidden_size is 41"):
    released.from_json(flat(checkpoints.STEP) | {"hidden_size": 41})
  nested = checkpoints.STEP | {"model_type": "step_audio_qwen2"}
  assert released.from_json(nested) == want


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
