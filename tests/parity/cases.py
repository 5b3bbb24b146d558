"""Small random checkpoints with prompts, the same for us and for others.

    Case -> config.json, weights by name, mels or waves, ids of the prompts

Everything is drawn from the raw bits of a generator, which NumPy keeps the
same for ever: stored results need neither weights nor inputs beside them.
Needs no torch.
"""

import dataclasses
import json
import math
import pathlib
import zlib

import numpy as np
from safetensors.numpy import save_file

VOCAB, PATCH = 96, 95
NEW = 64  # greedy tokens behind each prompt
MEL_SAMPLES = (16_000, 20_077, 333)
DATA = pathlib.Path(__file__).parent.parent / "data" / "parity"


@dataclasses.dataclass(frozen=True)
class Clip:
  """A clip in a row; `length` in mel frames, or in samples of a wave."""

  length: int


@dataclasses.dataclass(frozen=True)
class Case:
  """A checkpoint and its prompts.

  Attributes:
    config: the checkpoint's config.json.
    rows: one tuple a prompt; a number is so many ids of text.
    waves: the clips are sound rather than made-up mels.
    seed: one with which greedy ids vary and are no near ties.
    gain: how loud the matrices are; 1 keeps what they multiply as it is.
  """

  name: str
  config: dict
  rows: tuple[tuple[int | Clip, ...], ...]
  waves: bool = False
  seed: int = 0
  gain: float = 2

  def draw(self, shape, *keys) -> np.ndarray:
    """`draw` of this case alone."""
    return draw(shape, self.name, self.seed, *keys)

  @property
  def lengths(self) -> list[int]:
    """Of all clips, row by row."""
    return [p.length for row in self.rows for p in row if isinstance(p, Clip)]

  @property
  def is_step_audio(self) -> bool:
    return self.config["model_type"] == "step_audio_2"


def _text_config(heads, kv_heads, *, theta, eps, tied=False) -> dict:
  return {
    "model_type": "qwen2",
    "hidden_size": 8 * heads,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": heads,
    "num_key_value_heads": kv_heads,
    "max_position_embeddings": 512,
    "rms_norm_eps": eps,
    "rope_theta": theta,
    "tie_word_embeddings": tied,
    "use_sliding_window": False,
    "vocab_size": VOCAB,
  }


def step_audio(
  heads, kv_heads, *, mels=16, positions=40, theta=1e6, eps=1e-6, tied=False
) -> dict:
  """A config.json of Step-Audio's kind."""
  text = _text_config(heads, kv_heads, theta=theta, eps=eps, tied=tied)
  return {
    "model_type": "step_audio_2",
    "architectures": ["StepAudio2ForCausalLM"],
    "torch_dtype": "float32",
    "audio_token_id": PATCH,
    "text_config": text | {"num_attention_groups": kv_heads},
    "audio_encoder_config": {
      "n_mels": mels,
      "n_audio_ctx": positions,
      "n_audio_state": 32,
      "n_audio_head": 4,
      "n_audio_layer": 2,
      "kernel_size": 3,
      "adapter_stride": 2,
      "adapter_hidden": 24,
      "llm_dim": text["hidden_size"],
    },
  }


def qwen2_audio(
  heads, kv_heads, *, mels=16, positions=40, theta=1e4, eps=1e-5
) -> dict:
  """A config.json of Qwen2-Audio's kind."""
  return {
    "model_type": "qwen2_audio",
    "architectures": ["Qwen2AudioForConditionalGeneration"],
    "torch_dtype": "float32",
    "audio_token_index": PATCH,
    "tie_word_embeddings": False,
    "text_config": _text_config(heads, kv_heads, theta=theta, eps=eps),
    "audio_config": {
      "model_type": "qwen2_audio_encoder",
      "num_mel_bins": mels,
      "encoder_layers": 2,
      "encoder_attention_heads": 4,
      "encoder_ffn_dim": 48,
      "d_model": 32,
      "activation_function": "gelu",
      "scale_embedding": False,
      "max_source_positions": positions,
    },
  }


# Ratios of heads 1, 2, 4 and 7; odd and even frames; two clips in a row, also
# side by side; rows of text alone; rows of unequal length.
CASES = {
  case.name: case
  for case in (
    Case(
      "step-audio-1",
      step_audio(4, 4),
      ((5, Clip(23), 2, Clip(30), 4), (3, Clip(17), 2)),
    ),
    Case(
      "step-audio-2",
      step_audio(4, 2, theta=1e4, eps=1e-5),
      ((2, Clip(12), 3), (13,), (1, Clip(31), Clip(18), 3)),
      seed=5,
    ),
    Case(
      "step-audio-4",
      step_audio(8, 2, positions=41),
      ((4, Clip(81), 6), (9, Clip(82), 1)),
      seed=6,
    ),
    Case(
      "step-audio-7",
      step_audio(14, 2, tied=True),
      ((7, Clip(80), 5), (2, Clip(13), 2, Clip(14), 2)),
      seed=5,
    ),
    Case(
      "step-audio-waves",
      step_audio(4, 2, mels=128, positions=150),
      ((4, Clip(16_000), 3), (2, Clip(20_077), 1, Clip(7_999), 5)),
      waves=True,
      seed=1,
    ),
    Case(
      "qwen2-audio-1",
      qwen2_audio(4, 4),
      ((5, Clip(80), 2, Clip(33), 4), (3, Clip(21), 2), (6,)),
      seed=7,
      gain=1.5,
    ),
    Case(
      "qwen2-audio-2",
      qwen2_audio(4, 2, positions=41, theta=1e6, eps=1e-6),
      ((2, Clip(82), 3), (1, Clip(30), Clip(47), 3)),
      seed=4,
    ),
    Case(
      "qwen2-audio-4",
      qwen2_audio(8, 2),
      ((9, Clip(79), 1), (2, Clip(14), 2, Clip(12), 2)),
      seed=7,
      gain=1.5,
    ),
    Case(
      "qwen2-audio-7",
      qwen2_audio(7, 1, theta=1e6),
      ((4, Clip(40), 6), (1, Clip(41), 7)),
      seed=4,
    ),
    Case(
      "qwen2-audio-waves",
      qwen2_audio(4, 2, mels=128, positions=1500),
      ((4, Clip(16_000), 3), (2, Clip(20_077), 1, Clip(7_999), 5)),
      waves=True,
      seed=3,
    ),
  )
}


def draw(shape, *keys) -> np.ndarray:
  """float32 numbers of mean 0 and variance 1, uniform; one stream a key."""
  seed = [zlib.crc32(str(key).encode()) for key in keys]
  raw = np.random.PCG64(seed).random_raw(math.prod(shape))
  # 24 bits: float32 holds them exactly.
  unit = (raw >> np.uint64(40)).astype(np.float32) / 2**23 - 1
  return (unit * np.float32(3**0.5)).reshape(shape)


def weight(case: Case, name: str, shape: tuple[int, ...]) -> np.ndarray:
  """A checkpoint's tensor by its name there; nothing in it is idle."""
  x = case.draw(shape, name)
  if len(shape) == 1:
    is_scale = name.endswith(".weight")
    return np.float32(is_scale) + np.float32(0.1) * x
  if "position" in name:
    return np.float32(0.5) * x
  # Loud: ids depend on what was heard, and no two are nearly equally likely.
  # Where that makes too much of rounding in float32, less so.
  gain = 3 if "lm_head" in name else case.gain
  return np.float32(gain * math.prod(shape[1:]) ** -0.5) * x


def write(folder, case: Case, shapes: dict[str, tuple[int, ...]]) -> None:
  """The case's checkpoint, as a folder that one would download."""
  tensors = {name: weight(case, name, tuple(s)) for name, s in shapes.items()}
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  path = str(folder / "model.safetensors")
  save_file(tensors, path, metadata={"format": "pt"})
  (folder / "config.json").write_text(json.dumps(case.config))


def mels(case: Case) -> list[np.ndarray]:
  """A log-mel [R, M] a clip; Qwen2-Audio's are heard whole, noise and all."""
  if case.is_step_audio:
    bins, fixed = case.config["audio_encoder_config"]["n_mels"], None
  else:
    audio = case.config["audio_config"]
    bins, fixed = audio["num_mel_bins"], 2 * audio["max_source_positions"]
  return [
    case.draw((fixed or length, bins), "mel", k)
    for k, length in enumerate(case.lengths)
  ]


def wave(samples: int, *keys, noise: float = 0.003) -> np.ndarray:
  """A tone that rises over a little noise: loud frames beside quiet ones."""
  t = np.arange(samples) / 16_000
  tone = 0.4 * np.sin(2 * np.pi * (200 + 900 * t) * t) * np.exp(-3 * t)
  return (tone + noise * draw((samples,), *keys)).astype(np.float32)


def waves(case: Case) -> list[np.ndarray]:
  """A wave [W] a clip, its noise loud.

  In bands far below the loudest of their frame two float32 STFTs differ in
  the fifth digit, and random weights make much of that.
  """
  return [
    wave(samples, case.name, case.seed, k, noise=0.1)
    for k, samples in enumerate(case.lengths)
  ]


def prompts(case: Case, counts) -> tuple[np.ndarray, ...]:
  """Rows padded right.

  Args:
    case: whose prompts.
    counts: placeholders of each clip.

  Returns:
    tokens_BT, valid_BT, and for each position which clip is heard there,
    clip_BT (-1 where none is), and which of its embeddings, frame_BT.
  """
  rows, clip = [], 0
  for b, parts in enumerate(case.rows):
    row = []
    for part in parts:
      if isinstance(part, Clip):
        row += [(PATCH, clip, frame) for frame in range(counts[clip])]
        clip += 1
      else:
        unit = case.draw((part,), "text", b, len(row)) / 3**0.5
        ids = 1 + ((unit + 1) / 2 * (PATCH - 1)).astype(int)
        row += [(int(token), -1, 0) for token in ids]
    rows.append(np.array(row, np.int32))
  shape = (len(rows), max(map(len, rows)))
  tokens_BT = np.zeros(shape, np.int32)
  clip_BT, frame_BT = np.full(shape, -1), np.zeros(shape, int)
  valid_BT = np.zeros(shape, bool)
  for b, row in enumerate(rows):
    n = len(row)
    tokens_BT[b, :n], clip_BT[b, :n], frame_BT[b, :n] = row.T
    valid_BT[b, :n] = True
  return tokens_BT, valid_BT, clip_BT, frame_BT


def mel_frames(frames: int, total: int = 0) -> np.ndarray:
  """Frames of a clip of which the values are kept, both ends among them."""
  last = max(frames, total) - 1
  ends = [0, 1, frames - 3, frames - 2, frames - 1, frames, frames + 1, last]
  at_R = np.unique([*range(0, frames, 11), *ends])
  return at_R[(at_R >= 0) & (at_R <= last)]


def stored(name: str) -> dict:
  """What the other classes gave for a case, kept in tests/data/parity."""
  with np.load(DATA / f"{name}.npz") as arrays:
    return dict(arrays)


def stored_shapes(name: str) -> dict[str, tuple[int, ...]]:
  """Names and shapes of the case's checkpoint."""
  shapes = json.loads(str(stored(name)["shapes"]))
  return {tensor: tuple(shape) for tensor, shape in shapes.items()}
