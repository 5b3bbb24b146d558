"""Supervised fine-tuning: cold start, and the SFT half of an MGRD round.

    L = E[-log p(r, a | q)] over text chains
      + E[-log p(a | x, q)] over audio, empty think block   (paper, eq. 1)

COMMAND: python -m experiments.sft --config=configs/sft.py:tiny \\
           --workdir=out/sft --config.init=out/tiny/stages/00_encoder
"""

import collections
import dataclasses
import functools
import pathlib

from experiments import assembly, flags
from mgrd_jax.data import loader, transforms
from mgrd_jax.models import audio_lm
from mgrd_jax.train import checkpoint, loop, optim, steps


def streams(context, config, extra=()):
  """(step -> tuple of batches, window): one batch a bucket of lengths.

  Clips and texts have rows of their own; within either, an example is drawn
  as often as its source's weight says, in whichever bucket it lies.  `extra`
  are Examples beside the context's own (kept chains).  The window is the
  longest response.
  """
  examples = [*context.split("train"), *extra]
  examples = [e for e in examples if config.weights.get(e.source, 0) > 0]
  kinds = (
    ([e for e in examples if len(e.audio) == 1], config.audio_rows, 3),
    ([e for e in examples if len(e.audio) > 1], config.pair_rows, 1),
    ([e for e in examples if not e.audio], config.text_rows, 2),
  )
  found, window = [], 0
  for kind, (some, rows, count) in enumerate(kinds):
    if not some:
      continue
    items = [assembly.supervised_item(context, e) for e in some]
    window = max(window, *(int(i.row.loss.sum()) for i in items))
    share_N = loader.element_weights(
      [e.source for e in some], config.weights.to_dict()
    )
    lengths = [len(i.row.tokens) for i in items]
    for top, at in loader.buckets(lengths, share_N, count=count):
      found.append(
        _stream(
          [(some[i].source, items[i], share_N[i]) for i in at],
          rows=max(1, round(rows * share_N[at].sum())),
          time=top,
          width=context.model.encoder.width,
          seed=(config.seed * 10 + config.stage) * 1000 + 100 * kind + top,
        )
      )
  return lambda step: tuple(stream[step] for stream in found), window


def _stream(drawn, *, rows: int, time: int, width: int, seed: int):
  """Batches of one bucket; `drawn` holds (source, item, share)."""
  parts: dict[str, list] = {}
  weights: collections.Counter = collections.Counter()
  for source, item, share in drawn:
    parts.setdefault(source, []).append(item)
    weights[source] += share
  shape = transforms.shape_of([item for _, item, _ in drawn], width=width)
  return loader.mixture(
    parts,
    weights,
    batch_size=rows,
    collate=functools.partial(
      transforms.collate, shape=dataclasses.replace(shape, time=time)
    ),
    seed=seed,
  )


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
  data, window = streams(context, config, extra)
  # Step.
  tx = optim.adamw(**config.optim, steps=config.steps)
  step_fn = functools.partial(
    steps.sft_step,
    apply=functools.partial(audio_lm.apply, config=context.model),
    tx=tx,
    window=window,
  )
  step_fn = assembly.training_step(step_fn)
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
