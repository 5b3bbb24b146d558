"""Supervised fine-tuning: cold start, and the SFT half of an MGRD round.

    L = E[-log p(r, a | q)] over text chains
      + E[-log p(a | x, q)] over audio, empty think block   (paper, eq. 1)

COMMAND: python -m experiments.sft --config=configs/sft.py:tiny \\
           --workdir=out/sft --config.init=out/tiny/stages/00_encoder
"""

import dataclasses
import functools
import pathlib

import numpy as np

from experiments import assembly, flags
from mgrd_jax.data import loader, transforms
from mgrd_jax.models import audio_lm
from mgrd_jax.train import checkpoint, loop, optim, steps

WINDOW = 8  # windows are multiples of this, as columns are


def streams(context, config, extra=(), asked=()):
  """(step -> tuple of batches, window): one batch a bucket of lengths.

  Clips and texts have rows of their own; within either, an example is drawn
  as often as its source's weight says, in whichever bucket it lies.  `extra`
  are Examples beside the context's own: the chains kept of answers to `asked`.
  Where that is given, shapes follow from what was asked, with answers of the
  usual length, and not from what was kept: another round needs no other
  program.  The window holds the longest response.
  """
  weights = config.weights.to_dict()
  examples = [*context.split("train"), *extra]
  examples = [e for e in examples if weights.get(e.source, 0) > 0]
  items = [assembly.supervised_item(context, e) for e in examples]
  longest = max(int(i.row.loss.sum()) for i in items)
  stand_ins = []
  if asked:
    longest = max(longest, config.max_new)
    thought = [
      int(i.row.loss.sum())
      for i, e in zip(items, examples, strict=True)
      if e.reasoning and e.source != "chain"
    ]
    usual = int(np.median(thought)) if thought else config.max_new
    stand_ins = [_stand_in(context, e, usual) for e in asked]
  window = -(-longest // WINDOW) * WINDOW
  kinds = (
    (lambda i: len(i.enc) == 1, config.audio_rows, 3),
    (lambda i: len(i.enc) > 1, config.pair_rows, 1),
    (lambda i: not i.enc, config.text_rows, 2),
  )
  found = []
  for kind, (holds, rows, count) in enumerate(kinds):
    own = [
      (i, e.source) for i, e in zip(items, examples, strict=True) if holds(i)
    ]
    planned = [(i, "chain") for i in stand_ins if holds(i)]
    planned += [(i, n) for i, n in own if n != "chain" or not asked]
    if not own:
      continue
    shapes = _shapes(
      planned, own, weights, count=count, width=context.model.encoder.width
    )
    some, names = zip(*own, strict=True)
    share_N = loader.element_weights(names, weights)
    place_N = np.array([_place(i, shapes) for i in some])
    for at, (shape, share) in enumerate(shapes):
      if not (place_N == at).any():
        continue
      found.append(
        loader.mixture(
          *loader.grouped(some, names, share_N, np.flatnonzero(place_N == at)),
          batch_size=max(1, round(rows * share)),
          collate=functools.partial(transforms.collate, shape=shape),
          seed=(config.seed * 10 + config.stage) * 1000
          + 100 * kind
          + shape.time,
        )
      )
  return lambda step: tuple(stream[step] for stream in found), window


def _stand_in(context, example, answer: int) -> transforms.Item:
  """A prompt, as long as it is with an answer of so many tokens."""
  item = assembly.prompt_item(context, example)
  tokens = np.pad(item.row.tokens, (0, answer))
  return dataclasses.replace(
    item, row=dataclasses.replace(item.row, tokens=tokens)
  )


def _shapes(planned, own, weights, *, count: int, width: int):
  """[(Shape, share of the rows)], shortest first; the last holds all of `own`.

  `planned` and `own` are (Item, source).
  """
  items, names = zip(*planned, strict=True)
  share_N = loader.element_weights(names, weights)
  lengths = [len(i.row.tokens) for i in items]
  shape_of = functools.partial(transforms.shape_of, width=width)
  found = [
    (shape_of([items[i] for i in at]), share_N[at].sum())
    for _, at in loader.buckets(lengths, share_N, count=count)
  ]
  last, share = found[-1]
  widest = shape_of([i for i, _ in own])
  last = dataclasses.replace(
    last,
    time=max(last.time, widest.time),
    clips=max(last.clips, widest.clips),
    frames=max(s.frames for s in (widest, *(s for s, _ in found))),
  )
  return [*found[:-1], (last, share)]


def _place(item: transforms.Item, shapes) -> int:
  """The first shape that holds an item."""
  frames = max((len(e) for e in item.enc), default=0)
  return next(
    at
    for at, (shape, _) in enumerate(shapes)
    if len(item.row.tokens) <= shape.time and frames <= shape.frames
  )


def run(config, workdir, context=None, extra=(), asked=()) -> dict:
  """Fine-tunes config.init; writes `workdir/params`."""
  workdir = pathlib.Path(workdir)
  # Mesh, model: adapter and decoder are trained, the encoder is frozen.
  context = context or assembly.load(config, workdir)
  params = assembly.restore(config.init)
  if not context.enc:
    assembly.encode_clips(context, params["encoder"])
  encoder = params.pop("encoder")
  # Data.
  data, window = streams(context, config, extra, asked)
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
