"""Supervised fine-tuning: cold start, and the SFT half of an MGRD round.

    L = E[-log p(r, a | q)] over text chains
      + E[-log p(a | x, q)] over audio, empty think block   (paper, eq. 1)

COMMAND: python -m experiments.sft --config=configs/sft.py:tiny \\
           --workdir=out/sft --config.init=out/tiny/stages/00_encoder
"""

import functools
import pathlib

import jax
import numpy as np

from experiments import assembly, flags
from mgrd_jax.data import loader, transforms
from mgrd_jax.models import audio_lm
from mgrd_jax.train import checkpoint, loop, optim, steps


def streams(context, config, extra=()):
  """step -> tuple of batches: audio rows in two lengths, and text rows.

  `extra` are Examples beside the context's own (kept chains).
  """
  examples = [*context.split("train"), *extra]
  heard = [e for e in examples if e.audio]
  told = [e for e in examples if not e.audio]
  groups = []
  if heard:
    items = [assembly.supervised_item(context, e) for e in heard]
    length = np.array([len(i.row.tokens) for i in items])
    cut = np.quantile(length, 0.7)
    groups += [
      (
        [(e, i) for e, i, n in zip(heard, items, length, strict=True) if k(n)],
        round(share * config.audio_rows),
      )
      for k, share in ((lambda n: n <= cut, 0.7), (lambda n: n > cut, 0.3))
    ]
  items = [assembly.supervised_item(context, e) for e in told]
  groups.append((list(zip(told, items, strict=True)), config.text_rows))
  found = []
  for number, (pairs, rows) in enumerate(groups):
    if not pairs or not rows:
      continue
    parts: dict[str, list] = {}
    for example, item in pairs:
      parts.setdefault(example.source, []).append(item)
    shape = transforms.shape_of(
      [i for _, i in pairs], width=context.model.encoder.width
    )
    found.append(
      loader.mixture(
        parts,
        config.weights.to_dict(),
        batch_size=rows,
        collate=functools.partial(transforms.collate, shape=shape),
        seed=config.seed * 1000 + number * 100 + config.stage,
      )
    )
  return lambda step: tuple(stream[step] for stream in found)


def run(config, workdir, context=None, extra=()) -> dict:
  """Fine-tunes config.init; writes `workdir/params`."""
  workdir = pathlib.Path(workdir)
  # Mesh, model: adapter and decoder are trained, the encoder is frozen.
  context = context or assembly.load(config, workdir)
  params = assembly.restore(config.init)
  if not context.enc:
    assembly.encode_clips(context, params["encoder"])
  encoder = params.pop("encoder")
  # Data.
  data = streams(context, config, extra)
  # Step.
  tx = optim.adamw(**config.optim, steps=config.steps)
  step_fn = functools.partial(
    steps.sft_step,
    apply=functools.partial(audio_lm.apply, config=context.model),
    tx=tx,
  )
  step_fn = jax.jit(step_fn, donate_argnums=0)
  # Loop.
  with assembly.bar(workdir.name) as update:
    state = loop.run(
      step_fn,
      steps.init_state(params, tx),
      data,
      steps=config.steps,
      folder=workdir,
      save_every=config.save_every,
      log_every=10,
      progress=lambda done, total, m: update(
        done, total, f"loss {m['train/loss']:.3f}"
      ),
    )
  checkpoint.save(workdir / "params", {**state.params, "encoder": encoder})
  return {}


if __name__ == "__main__":
  flags.main(run)
