"""Import of a random checkpoint, beside reading its files with safetensors.

What the goals are on is `convert.load`: files -> parameters on the device.
Config and tokenizer, the device's own start and Python's imports are not in
it, and neither is the save of `convert import`, whose time has no goal.
Each run is a process of its own, whose peak memory is its alone.
"""

import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from experiments import bench_core as core
from mgrd_jax.models import names, released

GIB = 2**30
ROOT = pathlib.Path(__file__).parent.parent

_OURS = """
import jax, json, resource, sys, time
import jax.numpy as jnp
from mgrd_jax.models import convert, released
jax.devices()
config = released.read(sys.argv[1])
start = time.perf_counter()
params = convert.load(sys.argv[1], config, dtype=jnp.bfloat16)
jax.block_until_ready(params)
seconds = time.perf_counter() - start
"""
_COMMAND = """
import jax, json, resource, sys, tempfile, time
from experiments import convert
jax.devices()
with tempfile.TemporaryDirectory() as out:
  argv = ["import", "--checkpoint=" + sys.argv[1], "--out=" + out + "/ours"]
  start = time.perf_counter()
  assert not convert.main(argv)
  seconds = time.perf_counter() - start
"""
_SAFETENSORS = """
import json, ml_dtypes, numpy as np, pathlib, resource, sys, time
from safetensors import safe_open
tensors = {}
start = time.perf_counter()
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.safetensors")):
  with safe_open(path, "np") as file:
    for name in file.keys():
      tensors[name] = file.get_tensor(name)
      tensors[name].reshape(-1).view(np.uint8)[::4096].max()
seconds = time.perf_counter() - start
"""
_TELL = """
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
peak *= 1 if sys.platform == "darwin" else 1024
print(json.dumps([seconds, peak]))
"""


def step_audio(text: dict, *, width: int, heads: int, layers: int) -> dict:
  """A config.json of Step-Audio's kind: these text sizes, this encoder."""
  return {
    # An id of the placeholder that small vocabularies have too.
    "audio_token_id": min(151_690, text["vocab_size"] - 1),
    "model_type": "step_audio_2",
    "text_config": {
      "max_position_embeddings": 4096,
      "rms_norm_eps": 1e-6,
      "rope_theta": 1e6,
      "tie_word_embeddings": False,
      **text,
    },
    "audio_encoder_config": {
      "n_mels": 128,
      "n_audio_ctx": 1500,
      "n_audio_state": width,
      "n_audio_head": heads,
      "n_audio_layer": layers,
      "kernel_size": 3,
      "adapter_stride": 2,
      "llm_dim": text["hidden_size"],
    },
  }


def _draw(rng, name: str, shape, dtype) -> np.ndarray:
  """N(0, 4 / fan-in), scales of 1; in bfloat16 bits of numbers below 2.

  So loud that greedy ids vary; at 1 / fan-in a model says one for ever.
  """
  if dtype == jnp.bfloat16:
    bits = np.frombuffer(rng.bytes(2 * math.prod(shape)), np.uint16)
    return ((bits & 0x83FF) | 0x3C00).view(dtype).reshape(shape)
  if "norm" in name or "_ln." in name:
    return np.full(shape, name.endswith("weight"), dtype)
  scale = np.float32(2 * math.prod(shape[1:]) ** -0.5 if shape[1:] else 0.1)
  return scale * rng.standard_normal(shape, np.float32)


def write_random(folder, config: dict, dtype, shard: int = GIB) -> int:
  """Writes a checkpoint in shards of about `shard` bytes; returns all bytes."""
  from safetensors.numpy import save_file

  folder, dtype = pathlib.Path(folder), np.dtype(dtype)
  shapes = names.expected(released.from_json(config))
  shards: list[list[str]] = [[]]
  size = total = 0
  for name, shape in shapes.items():
    if size >= shard:
      shards.append([])
      size = 0
    shards[-1].append(name)
    size += math.prod(shape) * dtype.itemsize
    total += math.prod(shape) * dtype.itemsize
  rng, index = np.random.default_rng(0), {}
  for k, held in enumerate(shards):
    file = f"model-{k + 1:05d}-of-{len(shards):05d}.safetensors"
    tensors = {name: _draw(rng, name, shapes[name], dtype) for name in held}
    save_file(tensors, str(folder / file), metadata={"format": "pt"})
    index |= dict.fromkeys(held, file)
  text = json.dumps({"metadata": {"total_size": total}, "weight_map": index})
  (folder / "model.safetensors.index.json").write_text(text)
  (folder / "config.json").write_text(json.dumps(config))
  return total


def _fresh(code: str, folder) -> tuple[float, int]:
  """(seconds, peak resident bytes) that a process tells of itself."""
  done = subprocess.run(
    [sys.executable, "-c", code + _TELL, str(folder)],
    cwd=ROOT,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
  )
  if done.returncode:
    raise ValueError((done.stderr.strip() or "no output").splitlines()[-1])
  seconds, peak = json.loads(done.stdout.splitlines()[-1])
  return seconds, peak


def load(quick: bool) -> Iterator[dict]:
  """import of a random 2B checkpoint, against reading it with safetensors"""
  text = {
    "hidden_size": 64 if quick else 2048,
    "intermediate_size": 96 if quick else 8192,
    "num_hidden_layers": 2 if quick else 17,
    "num_attention_heads": 4 if quick else 16,
    "num_key_value_heads": 2 if quick else 4,
    "vocab_size": 512 if quick else 81_920,
  }
  encoder = dict(width=1280, heads=20, layers=32)
  if quick:
    encoder = dict(width=64, heads=2, layers=2)
  with tempfile.TemporaryDirectory() as folder:
    total = write_random(folder, step_audio(text, **encoder), jnp.bfloat16)
    peaks = []

    def ours() -> float:
      seconds, peak = _fresh(_OURS, folder)
      peaks.append(peak)
      return seconds

    def other() -> float:
      return _fresh(_SAFETENSORS, folder)[0]

    turns = core.alternate(ours, other, 1 if quick else 5, warm=not quick)
    command_s, command_peak = _fresh(_COMMAND, folder)
  ours_s, other_s = turns.medians
  speed, (slowest, fastest) = turns.speedup
  yield core.row(
    f"load, {total / 2e9:.2g}B in bfloat16",
    ours_s,
    other_s,
    "safetensors alone",
    "s",
    goal=("<=", 2),
    ratio=1 / speed,
    spread=(1 / fastest, 1 / slowest),
  )
  room = total / GIB + 1, "checkpoint + 1 GiB", "GiB"
  peak = max(peaks) / GIB
  yield core.row("peak resident memory", peak, *room, goal=("<=", 1))
  whole, alone = "convert import, saved", "safetensors alone"
  yield core.row(whole, command_s, other_s, alone, "s")
  yield core.row(f"{whole}: peak", command_peak / GIB, *room, goal=("<=", 1))
