"""Greedy decoding behind an audio prompt, beside transformers.

    400 tokens, 375 of them audio -prefill-> first id -decode-> 127 more

Both have the same weights in float32 and the same embedded clip: the encoder
is in neither.  What decodes is a whole call less the median prefill.
"""

import concurrent.futures
import functools
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import bench_core as core
from experiments import bench_load
from mgrd_jax import types
from mgrd_jax.models import adapter, audio_lm, convert, released
from mgrd_jax.rollout import engine

TEXT, HEARD = 25, 375  # tokens of the prompt
OTHER = "transformers"


class Size(NamedTuple):
  """What is run; see `decode`."""

  text: dict
  turns: dict[int, int]  # by rows of a batch
  new: int
  read: int  # bytes of the array that measures the memory


FULL = Size(
  {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
  },
  {1: 3, 8: 2},
  128,
  2**30,
)
QUICK = Size(
  FULL.text
  | {
    "hidden_size": 112,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "vocab_size": 512,
  },
  {1: 1, 2: 1},
  8,
  2**24,
)


def read_bandwidth(size: int, repeats: int = 7) -> float:
  """Bytes a second that all cores together read from memory, at best."""
  cores = os.cpu_count()
  parts = np.ones((cores, size // (8 * cores)))
  best = np.inf
  with concurrent.futures.ThreadPoolExecutor(cores) as pool:
    for _ in range(repeats):
      start = time.perf_counter()
      list(pool.map(np.max, parts))
      best = min(best, time.perf_counter() - start)
  return parts.nbytes / best


def _prompts(config, rows: int) -> types.Batch:
  """Rows of text around 30 s of audio, each with a clip of its own."""
  rng = np.random.default_rng(1)
  index_BT = np.full((rows, TEXT + HEARD), -1, np.int32)
  index_BT[:, 20 : 20 + HEARD] = np.arange(HEARD)
  enc_BAE = rng.standard_normal((rows, 2 * HEARD, config.encoder.width))
  tokens_BT = rng.integers(1, config.decoder.vocab, index_BT.shape)
  return types.Batch(
    tokens_BT=jnp.asarray(tokens_BT, jnp.int32),
    valid_BT=jnp.ones(index_BT.shape, bool),
    loss_mask_BT=jnp.zeros(index_BT.shape, bool),
    audio_index_BT=jnp.asarray(index_BT),
    enc_BAE=jnp.asarray(enc_BAE, jnp.float32),
  )


def _embedded(params, batch: types.Batch, *, config):
  """The prompts as embeddings, audio in its place."""
  module = adapter.Adapter(config.adapter)
  audio_BAD = module.apply({"params": params["adapter"]}, batch.enc_BAE)
  embed_BTD = params["decoder"]["embed_VD"][batch.tokens_BT]
  is_audio = (batch.audio_index_BT >= 0)[..., None]
  row_B1 = jnp.arange(len(audio_BAD))[:, None]  # a clip each
  audio_BTD = audio_BAD[row_B1, batch.audio_index_BT]
  return jnp.where(is_audio, audio_BTD, embed_BTD)


def _transformers(folder, text: dict, new: int) -> tuple[Callable, Callable]:
  """(prefill, generate) of Qwen2ForCausalLM, from embeddings to ids."""
  torch, transformers = core.on_all_cores()
  from safetensors.torch import load_file

  state = {}
  for path in pathlib.Path(folder).glob("*.safetensors"):
    state |= load_file(path)
  # Copies: what safetensors gives torch are pages of the files.
  state = {n: x.clone() for n, x in state.items() if n.startswith("model.")}
  state["lm_head.weight"] = state["model.embed_tokens.weight"]
  config = transformers.Qwen2Config(**text)
  with torch.device("meta"):
    model = transformers.Qwen2ForCausalLM(config).eval()
  model.load_state_dict(state, assign=True)
  # Its rotary table is no weight: it is made once more, off "meta".
  model.model.rotary_emb = type(model.model.rotary_emb)(config=config)
  greedy = transformers.GenerationConfig(
    do_sample=False, max_new_tokens=new, pad_token_id=0
  )

  @torch.inference_mode()
  def prefill(embed_BTD):
    embed = torch.from_numpy(embed_BTD)
    out = model(inputs_embeds=embed, use_cache=True, logits_to_keep=1)
    return out.logits.argmax(-1).numpy()

  @torch.inference_mode()
  def generate(embed_BTD):
    return model.generate(
      inputs_embeds=torch.from_numpy(embed_BTD),
      attention_mask=torch.ones(embed_BTD.shape[:2], dtype=torch.long),
      generation_config=greedy,
    ).numpy()

  return prefill, generate


def _programs(config, new: int) -> tuple[Callable, Callable]:
  """Ours: (prefill, generate), (params, batch) -> ids, compiled."""
  prefill = functools.partial(audio_lm.prefill, config=config)
  decode = functools.partial(audio_lm.decode, config=config)

  def first(params, batch):
    logits_BV, cache = prefill(params, batch, slots=TEXT + HEARD + new)
    return jnp.argmax(logits_BV, axis=-1), cache

  def whole(params, batch):
    request_B = jnp.arange(len(batch.tokens_BT))
    token_BT, *_ = engine.generate(
      params,
      batch,
      request_B,
      jax.random.key(0),
      prefill=prefill,
      decode=decode,
      samples=1,
      max_new=new,
      stop_id=-1,
      temperature=0.0,
    )
    return token_BT

  return jax.jit(first), jax.jit(whole)


def _rows(params, config, theirs, size: Size, batch_size, bandwidth):
  """Prefill, decode, and decode beside what the memory allows."""
  batch = _prompts(config, batch_size)
  embed_BTD = np.array(_embedded(params, batch, config=config))
  first, whole = _programs(config, size.new)
  their_first, their_whole = theirs
  prefills = core.alternate(
    core.clocked(lambda: first(params, batch)),
    core.clocked(lambda: their_first(embed_BTD)),
    size.turns[batch_size],
  )
  # These runs warm up those that count.
  ours_BT, theirs_BT = np.asarray(whole(params, batch)), their_whole(embed_BTD)
  wholes = core.alternate(
    core.clocked(lambda: whole(params, batch)),
    core.clocked(lambda: their_whole(embed_BTD)),
    size.turns[batch_size],
    warm=False,
  )
  at, unit = f"batch {batch_size}", "tokens/s"
  prompt = batch_size * (TEXT + HEARD)
  yield core.rate(
    f"prefill, {at}", prefills, prompt, OTHER, unit, goal=(">=", 1)
  )
  decodes, done = wholes.after(prefills), batch_size * (size.new - 1)
  yield core.rate(
    f"decode, {at}",
    decodes,
    done,
    OTHER,
    unit,
    goal=(">=", 1 if batch_size == 1 else 1.2),
    same_ids=float((ours_BT == theirs_BT).mean()),
    different_ids=min(len(set(ids.tolist())) for ids in ours_BT),
  )
  c = config.decoder
  read = sum(leaf.nbytes for leaf in jax.tree.leaves(params["decoder"]))
  slots = batch_size * (TEXT + HEARD + size.new / 2)
  read += slots * 2 * c.layers * c.kv_heads * c.head_dim * 4
  yield core.row(
    f"decode, {at}, of the bound",
    done / decodes.medians[0],
    batch_size * bandwidth / read,
    f"reading {bandwidth / 1e9:.1f} GB/s",
    unit,
  )


def decode(quick: bool) -> Iterator[dict]:
  """greedy decoding of a 0.5B model, against transformers.generate"""
  core.installed("torch", "transformers")
  size = QUICK if quick else FULL
  model = bench_load.step_audio(size.text, width=64, heads=2, layers=1)
  config = released.from_json(model)
  with tempfile.TemporaryDirectory() as folder:
    bench_load.write_random(folder, model, np.float32)
    params = convert.load(folder, config, dtype=jnp.float32, unstacked=True)
    theirs = _transformers(folder, model["text_config"], size.new)
    bandwidth = read_bandwidth(size.read)
    for batch_size in size.turns:
      yield from _rows(params, config, theirs, size, batch_size, bandwidth)
