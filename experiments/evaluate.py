"""Evaluation of a checkpoint: thinking, direct, and without the sound.

    test questions x {think, direct, silence, swap} --greedy--> items, M

COMMAND: python -m experiments.evaluate --config=configs/evaluate.py:tiny \\
           --workdir=out/eval --config.init=out/tiny/stages/06_mgrd_2_ppo
"""

import functools

import jax
import numpy as np
from etils import epath

from experiments import assembly, files, flags, placement, responses
from mgrd_jax.eval import harness
from mgrd_jax.grounding import controls

MODES = ("think", "direct", "silence", "swap")


def _records(context, examples, drawn, refs, other=None):
  for at, (example, ((sample, text),)) in enumerate(
    zip(examples, drawn, strict=True)
  ):
    facts = [context.facts[r] for r in refs[at] if r in context.facts]
    yield harness.Record(
      example,
      text,
      sample.stopped,
      len(sample.tokens),
      facts,
      None if other is None else other[at],
    )


def measure(
  context, params, *, config, mode: str, hint=False
) -> tuple[dict, list[dict]]:
  """(M, items) of one mode."""
  examples = context.split("test")
  refs = [e.audio for e in examples]
  other = None
  if mode == "silence":
    refs = [tuple(f"silent/{r}" for r in clips) for clips in refs]
  if mode == "swap":
    rng = np.random.default_rng(config.seed)
    partners = controls.swap_partners(examples, rng)
    paired = [
      (e, examples[p])
      for e, p in zip(examples, partners, strict=True)
      if p is not None
    ]
    examples = [e for e, _ in paired]
    refs = [p.audio for _, p in paired]
    other = [p.answer for _, p in paired]
  drawn = responses.draw(
    context,
    params,
    examples,
    jax.random.key(0),
    config=config,
    samples=1,
    temperature=0.0,
    refs=refs,
    hint=hint,
    direct=mode == "direct",
    multiple=16,  # coarse, so that all modes share a program
  )
  records = list(_records(context, examples, drawn, refs, other))
  items = [
    harness.grade(
      r,
      think_tokens=len(context.tokenizer.encode(harness.think(r.text))),
    )
    for r in records
  ]
  return harness.summary(items, records, seed=config.seed), items


def chance(examples) -> float:
  """Accuracy of a uniform guess over the test questions."""
  return float(np.mean([harness.chance(e) for e in examples]))


def run(config, workdir, context=None, params=None) -> dict:
  """All modes of one checkpoint; writes items.jsonl and metrics.json."""
  workdir = epath.Path(workdir)
  # Mesh, data, model.
  context = context or assembly.load(config, workdir)
  placement.check_rows(context.mesh, config)
  if params is None:
    params = placement.restore(context.mesh, config.init)
  if not context.enc:
    assembly.encode_clips(context, params["encoder"])
  # Loop over modes.
  found, items = {}, {}
  for mode in MODES:
    found[mode], items[mode] = measure(
      context, params, config=config, mode=mode
    )
  # Of the questions answered right, does the answer follow the clip?
  right = {i["id"] for i in items["think"] if i["acc"]}
  swapped = items["swap"]
  follow = [i["follow"] for i in swapped if i["id"] in right]
  found["swap"]["follow"] = float(np.mean(follow)) if follow else None
  own = [i["chance"] for i in swapped]
  found["swap"]["chance"] = float(np.mean(own)) if own else None
  found["paired"] = harness.paired(
    items["think"], items["direct"], seed=config.seed
  )
  lines = [{"mode": mode} | i for mode in MODES for i in items[mode]]
  files.write_lines(workdir / "items.jsonl", lines)
  files.write_json(workdir / "metrics.json", found)
  return found


if __name__ == "__main__":
  flags.main(run, functools.partial(print, sep="\n"))
