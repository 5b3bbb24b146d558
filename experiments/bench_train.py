"""A train step of a small decoder on the CPU, beside PyTorch.

    8 rows x 512 tokens: forward, backward, clip by global norm, AdamW

The other is transformers' Qwen2ForCausalLM of the same sizes under torch's
own AdamW, fused, eager and by torch.compile; a goal is on the faster of the
two.  What both compute is counted by its matrix products, two operations to
each parameter of a map and token, and thrice that with the backward pass.
"""

import functools
import os
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments import bench_core as core
from mgrd_jax import types
from mgrd_jax.losses import logprobs
from mgrd_jax.models import decoder
from mgrd_jax.train import fit, optim, scores, steps

RATE = 1e-4
CHUNKS = 4
FULL = dict(width=512, layers=6, heads=8, ffn=2048, vocab=32_000)
QUICK = dict(width=64, layers=2, heads=2, ffn=128, vocab=512)


def _ours(config: decoder.DecoderConfig, batch: types.Batch) -> Callable:
  """One step after the other, each on the state that the last one left."""
  module = decoder.Decoder(config)
  pos_BT = jnp.broadcast_to(
    jnp.arange(batch.tokens_BT.shape[1]), batch.tokens_BT.shape
  )

  def states(params, batch):
    hidden_BTD, head, _ = module.apply(
      {"params": params["decoder"]}, batch.tokens_BT, lambda x: x, pos_BT
    )
    return hidden_BTD, head

  tx = optim.named("adamw", lr=RATE, steps=1000, final=1.0)
  params = module.init(
    jax.random.key(0), batch.tokens_BT[:1, :8], lambda x: x, pos_BT[:1, :8]
  )["params"]
  held = [steps.init_state({"decoder": params}, tx)]
  step = jax.jit(
    functools.partial(
      steps.sft_step,
      scores=functools.partial(
        scores.of_rows,
        states=states,
        score=functools.partial(logprobs.head_logprobs, chunks=CHUNKS),
        dtype=jnp.float32,
      ),
      tx=tx,
    ),
    donate_argnums=0,
  )

  def run():
    held[0], metrics = step(held[0], (batch,))
    return held[0].step, metrics

  return run


def _theirs(config: decoder.DecoderConfig, tokens_BT) -> dict[str, Callable]:
  """{"eager", "compiled"}: the same step in torch."""
  torch, transformers = core.on_all_cores()
  model = transformers.Qwen2ForCausalLM(
    transformers.Qwen2Config(
      hidden_size=config.width,
      intermediate_size=config.ffn,
      num_hidden_layers=config.layers,
      num_attention_heads=config.heads,
      num_key_value_heads=config.kv_heads,
      vocab_size=config.vocab,
      tie_word_embeddings=False,
      attn_implementation="sdpa",
      use_cache=False,
    )
  ).train()
  ids = torch.from_numpy(tokens_BT).long()
  tx = torch.optim.AdamW(
    model.parameters(), lr=RATE, weight_decay=0.0, fused=True
  )

  def stepping(forward) -> Callable:
    def run():
      tx.zero_grad()
      forward(input_ids=ids, labels=ids).loss.backward()
      torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
      tx.step()

    return run

  return {"eager": stepping(model), "compiled": stepping(torch.compile(model))}


def _peak(size: int, repeats: int = 5) -> float:
  """Operations a second of a float32 product on all cores, at best."""
  a, b = jnp.ones((2 * size, size)), jnp.ones((size, 2 * size))
  run = core.clocked(functools.partial(jax.jit(jnp.matmul), a, b))
  run()
  return 8 * size**3 / min(run() for _ in range(repeats))


def train(quick: bool) -> Iterator[dict]:
  """a train step of 6 layers of 512, against PyTorch"""
  core.installed("torch", "transformers")
  sizes, rows, time = (QUICK, 2, 32) if quick else (FULL, 8, 512)
  config = decoder.DecoderConfig(
    **sizes,
    kv_heads=sizes["heads"],
    head_dim=sizes["width"] // sizes["heads"],
  )
  rng = np.random.default_rng(0)
  tokens_BT = rng.integers(0, config.vocab, (rows, time), np.int32)
  keep_BT = jnp.ones(tokens_BT.shape, bool)
  batch = types.Batch(
    tokens_BT=jnp.asarray(tokens_BT),
    valid_BT=keep_BT,
    loss_mask_BT=keep_BT,
    audio_index_BT=jnp.full(tokens_BT.shape, -1, jnp.int32),
    enc_BAE=jnp.zeros((0, 4, 8)),
  )
  ours = core.clocked(_ours(config, batch))
  repeats = 1 if quick else 5
  found = {
    name: core.alternate(ours, core.clocked(other), repeats)
    for name, other in _theirs(config, tokens_BT).items()
  }
  best = min(found, key=lambda name: found[name].medians[1])
  for name, turns in found.items():
    yield core.rate(
      f"train step, {rows} x {time} tokens",
      turns,
      rows * time,
      f"PyTorch, {name}",
      "tokens/s",
      goal=(">=", 1) if name == best else None,
    )
  pairs = rows * time * (time + 1) / 2
  flops = 3 * fit.decoder_flops(config, rows * time, pairs)
  yield core.row(
    "train step, of the bound",
    flops / found[best].medians[0] / 1e9,
    _peak(64 if quick else 2048) / 1e9,
    f"a product on {os.cpu_count()} cores",
    "GFLOP/s",
  )
