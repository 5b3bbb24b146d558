"""Sizes of a model, and their reading from a released `config.json`.

    config.json {model_type: step_audio_2 | qwen2_audio | ...} -> Config

Step-Audio writes every size into its file, and one that is missing is an
error.  Qwen2-Audio's leaves out what equals the defaults of the classes of
transformers that read it, so those defaults are part of reading it.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable, Mapping

from mgrd_jax.models.adapter import AdapterConfig
from mgrd_jax.models.audio_encoder import EncoderConfig
from mgrd_jax.models.decoder import DecoderConfig
from mgrd_jax.text import families

STEP_AUDIO, QWEN2_AUDIO = "step-audio", "qwen2-audio"
FAMILY = {
  "step_audio_2": STEP_AUDIO,
  "step_audio_qwen2": STEP_AUDIO,  # the publisher's own file of the 32B model
  "qwen2_audio": QWEN2_AUDIO,
}
ADAPTER_HIDDEN = 2048  # written in Step-Audio's modelling code, not its file
# A file is refused before a damaged size of it is allocated.
MOST = 2**24
LARGEST = dict.fromkeys(
  ("num_hidden_layers", "n_audio_layer", "encoder_layers"), 1000
)


@dataclasses.dataclass(frozen=True)
class Config:
  """Sizes of the three parts.

  Attributes:
    encoder: the audio encoder.
    adapter: what brings 25 Hz states to the decoder's width.
    decoder: the language model.
    family: "step-audio" or "qwen2-audio": turn syntax, count rule, names.
    patch_id: the id that stands where audio is heard; None where the
      tokenizer alone knows it (a model of our own).
  """

  encoder: EncoderConfig
  adapter: AdapterConfig
  decoder: DecoderConfig
  family: str = STEP_AUDIO
  patch_id: int | None = None


DTYPES = ("bfloat16", "float16", "float32")
# What the published files say, as far as it is a size; read for shapes where
# no checkpoint is at hand, never in place of its file.
_ENCODER = dict(
  n_mels=128,
  n_audio_ctx=1500,
  n_audio_state=1280,
  n_audio_head=20,
  n_audio_layer=32,
  kernel_size=3,
  adapter_stride=2,
)
PUBLISHED: dict[str, dict] = {
  "step-audio-2-mini": {
    "model_type": "step_audio_2",
    "audio_encoder_config": _ENCODER | {"llm_dim": 3584},
    "text_config": {
      "hidden_size": 3584,
      "num_hidden_layers": 28,
      "num_attention_heads": 28,
      "num_attention_groups": 4,
      "num_key_value_heads": 4,
      "intermediate_size": 18944,
      "vocab_size": 158720,
      "rms_norm_eps": 1e-6,
      "rope_theta": 1e6,
      "max_position_embeddings": 16384,
      "tie_word_embeddings": False,
    },
  },
  "step-audio-r1": {
    "model_type": "step_audio_2",
    "audio_encoder_config": _ENCODER | {"llm_dim": 5120},
    "text_config": {
      "hidden_size": 5120,
      "num_hidden_layers": 64,
      "num_attention_heads": 40,
      "num_attention_groups": 8,
      "num_key_value_heads": 8,
      "intermediate_size": 27648,
      "vocab_size": 158720,
      "rms_norm_eps": 1e-5,
      "rope_theta": 1e6,
      "max_position_embeddings": 65536,
      "tie_word_embeddings": False,
    },
  },
  "qwen2-audio-7b": {
    "model_type": "qwen2_audio",
    "audio_token_index": 151646,
    "audio_config": {
      "num_mel_bins": 128,
      "encoder_layers": 32,
      "encoder_attention_heads": 20,
      "encoder_ffn_dim": 5120,
      "d_model": 1280,
      "activation_function": "gelu",
      "scale_embedding": False,
      "max_source_positions": 1500,
    },
    "text_config": {
      "model_type": "qwen2",
      "intermediate_size": 11008,
      "max_position_embeddings": 8192,
      "rms_norm_eps": 1e-5,
      "rope_theta": 10000,
      "vocab_size": 156032,
    },
  },
}
# What a Qwen2-Audio file that lacks a field means by it: the defaults of
# transformers' Qwen2Config and Qwen2AudioEncoderConfig.
QWEN2_DEFAULTS = {
  "text_config": {
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 151936,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 32768,
  },
  "audio_config": {
    "num_mel_bins": 128,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "d_model": 1280,
    "activation_function": "gelu",
    "scale_embedding": False,
    "max_source_positions": 1500,
  },
}


class _Fields:
  """One object of a config.json; names the field that is amiss."""

  def __init__(self, values, name: str, defaults: Mapping | None = None):
    if not isinstance(values, Mapping):
      raise ValueError(f"{name}: missing or not an object")
    self._values, self._name = values, name
    self._defaults = defaults or {}

  def name(self, field: str) -> str:
    """How a message names the field."""
    return f"{self._name}.{field}" if self._name else field

  def get(self, field: str, default=None):
    found = self._values.get(field)
    return default if found is None else found

  def spelt(self, *fields: str) -> str:
    """Which of a field's names is there; the first where none is."""
    return next((f for f in fields if self.get(f) is not None), fields[0])

  def number(self, field: str, kind=int, *, default=None):
    """The field as a positive number; `default` where it is absent."""
    found = self.get(field, self._defaults.get(field, default))
    name = self.name(field)
    if found is None:
      raise ValueError(f"{name}: missing; every size comes from this file")
    whole = _numeric(found) and (kind is float or found == int(found))
    if not whole or found <= 0:
      raise ValueError(f"{name}: {found!r} is not a positive {kind.__name__}")
    if kind is int and found > LARGEST.get(field, MOST):
      raise ValueError(
        f"{name}: {found} is over {LARGEST.get(field, MOST):,}, more than any "
        "model of these families has"
      )
    return kind(found)

  def require(self, field: str, allowed: tuple, why: str) -> None:
    """Refuses what is not `allowed`; a field may lack where None is."""
    found = self.get(field, self._defaults.get(field))
    if found is None and None not in allowed:
      raise ValueError(f"{self.name(field)}: missing; give {allowed[0]!r}")
    if found not in allowed:
      raise ValueError(f"{self.name(field)}: {found!r} {why}")


def _numeric(value) -> bool:
  number = isinstance(value, int | float) and not isinstance(value, bool)
  return number and math.isfinite(value)


def _decoder(text: _Fields) -> DecoderConfig:
  width, heads = text.number("hidden_size"), text.number("num_attention_heads")
  kv_heads = text.number(
    text.spelt("num_key_value_heads", "num_attention_groups")
  )
  groups = text.get("num_attention_groups", kv_heads)
  if groups != kv_heads:
    raise ValueError(
      f"{text.name('num_attention_groups')}: {groups}, where "
      f"num_key_value_heads is {kv_heads}; they are one number"
    )
  if heads % kv_heads:
    raise ValueError(
      f"{text.name('num_key_value_heads')}: {kv_heads} does not divide "
      f"num_attention_heads {heads}"
    )
  head_dim = text.number("head_dim", default=max(1, width // heads))
  if text.get("head_dim") is None and width % heads:
    raise ValueError(
      f"{text.name('num_attention_heads')}: {heads} does not divide "
      f"hidden_size {width}"
    )
  if head_dim % 2:
    raise ValueError(
      f"{text.name('head_dim')}: {head_dim} is odd; rotary positions pair its "
      "numbers"
    )
  text.require("hidden_act", ("silu", None), "is not SwiGLU's silu")
  text.require("use_sliding_window", (False, None), "is not full attention")
  text.require("use_mrope", (False, None), "is not 1-D rotary positions")
  return DecoderConfig(
    vocab=text.number("vocab_size"),
    width=width,
    layers=text.number("num_hidden_layers"),
    heads=heads,
    kv_heads=kv_heads,
    head_dim=head_dim,
    ffn=text.number("intermediate_size"),
    rope_theta=_rope_theta(text),
    eps=text.number("rms_norm_eps", float),
    tied=bool(text.get("tie_word_embeddings", False)),
    context=text.number(text.spelt("max_position_embeddings", "max_seq_len")),
  )


def _rope_theta(text: _Fields) -> float:
  """θ, from `rope_theta` or from transformers 5's `rope_parameters`."""
  rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
  if not isinstance(rope, Mapping):
    raise ValueError(f"{text.name('rope_scaling')}: {rope!r} is not an object")
  kind = rope.get("rope_type", rope.get("type", "default"))
  if kind != "default":
    raise ValueError(
      f"{text.name('rope_scaling')}: {kind!r} is not supported; plain rotary "
      "positions alone are"
    )
  if rope.get("rope_theta") is not None:
    return _Fields(rope, text.name("rope_parameters")).number(
      "rope_theta", float
    )
  return text.number("rope_theta", float)


def _step_audio(config: Mapping) -> Config:
  audio = _Fields(config.get("audio_encoder_config"), "audio_encoder_config")
  # The publisher's own file has the text model's fields at its top.
  top = _Fields(config, "")
  flat = top.get("text_config") is None and top.get("hidden_size") is not None
  text = top if flat else _Fields(top.get("text_config"), "text_config")
  decoder = _decoder(text)
  audio.require("kernel_size", (3,), "is not the adapter's kernel of 3")
  audio.require("adapter_stride", (2,), "is not the adapter's stride of 2")
  if audio.number("llm_dim") != decoder.width:
    raise ValueError(
      f"audio_encoder_config.llm_dim: {audio.number('llm_dim')}, where "
      f"{text.name('hidden_size')} is {decoder.width}; they are one number"
    )
  width = audio.number("n_audio_state")
  return Config(
    encoder=EncoderConfig(
      mels=audio.number("n_mels"),
      width=width,
      heads=_heads(audio, "n_audio_head", width),
      layers=audio.number("n_audio_layer"),
      ffn=4 * width,
      positions=audio.number("n_audio_ctx"),
    ),
    adapter=AdapterConfig(
      width,
      audio.number("adapter_hidden", default=ADAPTER_HIDDEN),
      decoder.width,
    ),
    decoder=decoder,
    family=STEP_AUDIO,
    patch_id=_patch_id(top, ("audio_token_id",), STEP_AUDIO, decoder),
  )


def _patch_id(top: _Fields, fields, family: str, decoder) -> int:
  """The placeholder's id: of the first field that is there, or published."""
  field = top.spelt(*fields)
  found = top.number(field, default=families.of(family).patch_id)
  if found >= decoder.vocab:
    raise ValueError(
      f"{field}: {found} is no id, where the vocabulary is {decoder.vocab}"
    )
  return found


def _qwen2_audio(config: Mapping) -> Config:
  audio, text = (
    _Fields(config.get(name), name, QWEN2_DEFAULTS[name])
    for name in ("audio_config", "text_config")
  )
  decoder = _decoder(text)
  audio.require("activation_function", ("gelu",), "is not the exact GELU")
  audio.require("scale_embedding", (False,), "is not supported")
  width = audio.number("d_model")
  fields = "audio_token_index", "audio_token_id"
  return Config(
    encoder=EncoderConfig(
      mels=audio.number("num_mel_bins"),
      width=width,
      heads=_heads(audio, "encoder_attention_heads", width),
      layers=audio.number("encoder_layers"),
      ffn=audio.number("encoder_ffn_dim"),
      positions=audio.number("max_source_positions"),
      fixed=True,
    ),
    adapter=AdapterConfig(width, 0, decoder.width, kind="linear"),
    decoder=decoder,
    family=QWEN2_AUDIO,
    patch_id=_patch_id(_Fields(config, ""), fields, QWEN2_AUDIO, decoder),
  )


def _heads(audio: _Fields, field: str, width: int) -> int:
  heads = audio.number(field)
  if width % heads:
    raise ValueError(
      f"{audio.name(field)}: {heads} does not divide the width {width}"
    )
  return heads


def from_json(config: Mapping) -> Config:
  """The sizes that a released `config.json` names.

  Args:
    config: the parsed file, of a `model_type` in `FAMILY`.

  Raises:
    ValueError: a model of another type, a missing or impossible field, or a
      setting that the released models do not use; names the field.
  """
  kind = config.get("model_type") if isinstance(config, Mapping) else None
  if not isinstance(kind, str) or kind not in FAMILY:
    raise ValueError(
      f"model_type: {kind!r} is none of {', '.join(sorted(FAMILY))}"
    )
  read = _step_audio if FAMILY[kind] == STEP_AUDIO else _qwen2_audio
  return read(config)


def as_served(config: Config) -> Config:
  """Step-Audio as its server counts and masks: its tail's frames are valid.

  The server is the publisher's fork of vLLM; see `features.token_count`.

  Raises:
    ValueError: a model of another family.
  """
  if config.family != STEP_AUDIO:
    raise ValueError(f"{config.family} is counted in one way alone")
  encoder = dataclasses.replace(config.encoder, tail=0)
  return dataclasses.replace(config, encoder=encoder)


def read(folder) -> Config:
  """`from_json` of folder/config.json.

  Raises:
    ValueError: it is absent, not JSON, or not one of these models; names the
      file and the field.
  """
  return _read(folder, from_json)


def dtype(folder) -> str | None:
  """The dtype that folder/config.json says to compute in; None if it is mute.

  Raises:
    ValueError: as `read`, or a dtype that no released model has.
  """
  return _read(folder, _dtype)


def _dtype(config) -> str | None:
  parts = [config]
  if isinstance(config, Mapping):
    parts.append(config.get("text_config"))
  for part in (p for p in parts if isinstance(p, Mapping)):
    for field in ("torch_dtype", "dtype"):
      found = part.get(field)
      if found is not None and found not in DTYPES:
        raise ValueError(f"{field}: {found!r} is none of {', '.join(DTYPES)}")
      if found is not None:
        return found
  return None


def _read(folder, parse: Callable):
  path = pathlib.Path(folder) / "config.json"
  try:
    return parse(json.loads(path.read_text(encoding="utf-8")))
  except FileNotFoundError as error:
    raise ValueError(
      f"{path}: no such file; name the folder of a checkpoint"
    ) from error
  except (UnicodeDecodeError, json.JSONDecodeError) as error:
    raise ValueError(f"{path}: not JSON ({error})") from error
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
