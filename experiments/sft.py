"""Supervised fine-tuning: cold start, and the SFT half of an MGRD round.

    L = E[-log p(r, a | q)] over text chains
      + E[-log p(a | x, q)] over audio, empty think block   (paper, eq. 1)

COMMAND: python -m experiments.sft --config=configs/sft.py:tiny \\
           --workdir=out/sft --config.init=out/tiny/stages/00_encoder
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from experiments import assembly, flags, placement, responses
from mgrd_jax.data import loader, packing, transforms
from mgrd_jax.losses import logprobs
from mgrd_jax.models import audio_lm
from mgrd_jax.train import checkpoint, fit, loop, optim, scores, steps

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
  examples, items = _supervised(context, weights, extra)
  longest = max(int(i.row.loss.sum()) for i in items)
  prompts = [assembly.prompt_item(context, e) for e in asked]
  usual = 0
  if asked:
    most = responses.max_new(context, config)
    longest = max(longest, most)
    thought = [
      int(i.row.loss.sum())
      for i, e in zip(items, examples, strict=True)
      if e.reasoning and e.source != "chain"
    ]
    usual = int(np.median(thought)) if thought else most
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
    if not own:
      continue
    some, names = zip(*own, strict=True)
    alike = [i for i in prompts if holds(i)]
    planned = [(_answered(i, usual), "chain") for i in alike]
    planned += [(i, n) for i, n in own if n != "chain" or not asked]
    shapes = _shapes(
      planned,
      [*some, *(_answered(i, window) for i in alike)],
      weights,
      count=count,
      width=context.model.encoder.width,
    )
    share_N = loader.element_weights(names, weights)
    place_N = np.array([_place(i, shapes) for i in some])
    for at, (shape, share) in enumerate(shapes):
      # Rows of a length that no chain has go to shorter ones.
      inside = np.flatnonzero(place_N == at)
      if not len(inside):
        inside = np.flatnonzero(place_N < at)
      if not len(inside):
        continue
      seed = (config.seed * 10 + config.stage) * 1000 + 100 * kind + shape.time
      drawn = loader.grouped(some, names, share_N, inside)
      count = max(1, round(rows * share))
      found.append(_stream(context.mesh, *drawn, shape, rows=count, seed=seed))
  return lambda step: tuple(batch(step) for batch in found), window


def _supervised(context, weights, extra) -> tuple[list, list]:
  """What is trained on: Examples, and each as an Item."""
  examples = [*context.split("train"), *extra]
  examples = [e for e in examples if weights.get(e.source, 0) > 0]
  return examples, [assembly.supervised_item(context, e) for e in examples]


def packed(context, config, extra=()):
  """step -> a tuple of one batch, whose rows hold several examples.

  An example is drawn as often as its source's weight says.

  Raises:
    ValueError: an example is longer than a row.
  """
  weights = config.weights.to_dict()
  examples, items = _supervised(context, weights, extra)
  parts: dict[str, list] = {}
  for example, item in zip(examples, items, strict=True):
    parts.setdefault(example.source, []).append(item)
  draws = loader.mixture(
    parts,
    weights,
    batch_size=1,
    collate=lambda drawn: drawn[0],
    seed=(config.seed * 10 + config.stage) * 1000,
  )
  fits = transforms.shape_of(items, width=context.model.encoder.width)
  shape = dataclasses.replace(
    fits, time=config.pack.time, clips=config.pack.clips if fits.clips else 0
  )
  rows = packing.Packed(draws, rows=config.pack.rows, shape=shape)
  return lambda step: (placement.place(context.mesh, rows[step]),)


def _scores(model, config, window: int):
  """Log-probabilities of whole packed rows, or of a window of a row's."""
  if not config.pack.rows:
    apply = functools.partial(audio_lm.apply, config=model)
    return functools.partial(scores.of_window, apply=apply, window=window)
  return functools.partial(
    scores.of_rows,
    states=functools.partial(audio_lm.states, config=model),
    score=functools.partial(
      logprobs.head_logprobs,
      chunks=config.pack.chunks,
      tied=model.decoder.tied,
    ),
    dtype=jnp.float32,
  )


def _rate(model, measured: dict, seconds: float) -> dict:
  """MFU of useful tokens, on a chip whose speed is known."""
  device, count = jax.devices()[0], jax.device_count()
  found = fit.utilisation(
    model.decoder, measured["train/held"], seconds, device.device_kind, count
  )
  return {} if found is None else {"train/mfu": found}


def _stream(mesh, parts, weights, shape, *, rows: int, seed: int):
  """step -> batch, on the mesh; of several processes each reads its rows."""
  part = placement.share(mesh, rows)
  stream = loader.mixture(
    parts,
    weights,
    batch_size=rows,
    collate=functools.partial(
      transforms.collate,
      shape=shape,
      rows=placement.filled(mesh, rows) // part[1],
    ),
    seed=seed,
    part=part,
  )
  return lambda step: placement.place(mesh, stream[step], part=part)


def _answered(prompt: transforms.Item, count: int) -> transforms.Item:
  """As long as a prompt with an answer of `count` tokens."""
  tokens = np.pad(prompt.row.tokens, (0, count))
  row = dataclasses.replace(prompt.row, tokens=tokens)
  return dataclasses.replace(prompt, row=row)


def _shapes(planned, held, weights, *, count: int, width: int):
  """[(Shape, share of the rows)], shortest first.

  Args:
    planned: (Item, source) that the shapes are to fit best.
    held: items that the last one has to hold.
  """
  items, names = zip(*planned, strict=True)
  share_N = loader.element_weights(names, weights)
  lengths = [len(i.row.tokens) for i in items]
  shape_of = functools.partial(transforms.shape_of, width=width)
  found = [
    (shape_of([items[i] for i in at]), share_N[at].sum())
    for _, at in loader.buckets(lengths, share_N, count=count)
  ]
  return [*found[:-1], (shape_of([*items, *held]), found[-1][1])]


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
  workdir = epath.Path(workdir)
  # Mesh, model: adapter and decoder are trained, the encoder is frozen.
  context = context or assembly.load(config, workdir)
  mesh = context.mesh
  placement.check_rows(mesh, config)
  params = placement.restore(mesh, config.init)
  if not context.enc:
    assembly.encode_clips(context, params["encoder"])
  encoder = params.pop("encoder")
  # Data.
  window = 0
  if config.pack.rows:
    data = packed(context, config, extra)
  else:
    data, window = streams(context, config, extra, asked)
  # Step.
  tx = optim.named(**config.optim, steps=config.steps)
  step_fn = functools.partial(
    steps.sft_step,
    scores=_scores(context.model, config, window),
    tx=tx,
  )
  state = placement.initial(mesh, params, tx)
  step_fn = placement.training_step(mesh, step_fn, state)
  # Loop.
  with assembly.bar(workdir.name) as update:
    state = loop.run(
      step_fn,
      state,
      data,
      steps=config.steps,
      folder=workdir,
      save_every=config.save_every,
      log_every=10,
      log=flags.log(config),
      rate=functools.partial(_rate, context.model),
      progress=lambda done, total, m: update(
        done,
        total,
        f"loss {m['train/loss']:.3f}, rows {m['train/fill']:.0%} full",
      ),
    )
  checkpoint.save(workdir / "params", {**state.params, "encoder": encoder})
  return {}


if __name__ == "__main__":
  flags.main(run)
