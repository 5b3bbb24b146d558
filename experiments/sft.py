"""Supervised fine-tuning: cold start, and the SFT half of an MGRD round.

    L = E[-log p(r, a | q)] over text chains
      + E[-log p(a | x, q)] over audio, empty think block   (paper, eq. 1)

COMMAND: python -m experiments.sft --config=configs/sft.py:tiny \\
           --workdir=out/sft --config.init=out/tiny/stages/00_encoder
"""

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
    names = [e.source for e in some]
    share_N = loader.element_weights(names, config.weights.to_dict())
    lengths = [len(i.row.tokens) for i in items]
    for time, at in loader.buckets(lengths, share_N, count=count):
      shape = transforms.shape_of(
        [items[i] for i in at], width=context.model.encoder.width
      )
      found.append(
        loader.mixture(
          *loader.grouped(items, names, share_N, at),
          batch_size=max(1, round(rows * share_N[at].sum())),
          collate=functools.partial(transforms.collate, shape=shape),
          seed=(config.seed * 10 + config.stage) * 1000 + 100 * kind + time,
        )
      )
  return lambda step: tuple(stream[step] for stream in found), window


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
  tx = optim.named(**config.optim, steps=config.steps)
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
