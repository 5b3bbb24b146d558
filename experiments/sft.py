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


def buckets(examples, items, config) -> list[tuple[list, int]]:
  """Rows grouped by length, with the rows a step of each: [(pairs, rows)].

  One clip short, one clip long, several clips, text only.
  """
  pairs = list(zip(examples, items, strict=True))
  one = [p for p in pairs if len(p[1].enc) == 1]
  many = [p for p in pairs if len(p[1].enc) > 1]
  text = [p for p in pairs if not p[1].enc]
  cut = np.quantile([len(i.row.tokens) for _, i in one], 0.7) if one else 0
  short = [p for p in one if len(p[1].row.tokens) <= cut]
  long = [p for p in one if len(p[1].row.tokens) > cut]
  return [
    (short, round(0.65 * config.audio_rows)),
    (long, round(0.3 * config.audio_rows)),
    (many, max(1, round(0.05 * config.audio_rows))),
    (text, config.text_rows),
  ]


def streams(context, config, extra=()):
  """step -> tuple of batches, one a bucket.

  `extra` are Examples beside the context's own (kept chains).
  """
  examples = [*context.split("train"), *extra]
  items = [assembly.supervised_item(context, e) for e in examples]
  found = []
  for number, (pairs, rows) in enumerate(buckets(examples, items, config)):
    parts: dict[str, list] = {}
    for example, item in pairs:
      if config.weights.get(example.source, 0) > 0:
        parts.setdefault(example.source, []).append(item)
    if not parts:
      continue
    shape = transforms.shape_of(
      [i for part in parts.values() for i in part],
      width=context.model.encoder.width,
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
