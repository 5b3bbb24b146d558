"""The distillation half of an MGRD round: sample, filter, fine-tune.

    pool x K, with the elicitation hint -> filters -> kept chains, hint removed
      -> SFT on kept chains + replay                (paper, eq. 4 and 5)

COMMAND: python -m experiments.mgrd --config=configs/mgrd.py:tiny \\
           --workdir=out/mgrd --config.init=out/tiny/stages/02_text_rlvr
"""

import dataclasses

import jax
import numpy as np
from etils import epath

from experiments import assembly, files, flags, placement, responses, sft
from mgrd_jax import processes
from mgrd_jax.data import schema
from mgrd_jax.mgrd import filters
from mgrd_jax.mgrd import round as mgrd_round
from mgrd_jax.rewards import combine, format


def score(example, stopped: bool, text: str, **weights: float) -> dict:
  """The parts of a response's reward; `weights` as in `score_response`."""
  return combine.score_response(
    text,
    stopped,
    gold=example.answer,
    answer_type=example.answer_type,
    options=example.options,
    has_audio=bool(example.audio),
    **weights,
  )


def judged(context, examples, groups, rng, others: int = 8):
  """Every (stopped, text) as a Response, other clips' facts beside it."""
  facts = [[context.facts[r] for r in e.audio] for e in examples]
  alike: dict[tuple, list[int]] = {}
  for at, e in enumerate(examples):
    alike.setdefault((e.meta.get("family"), len(e.audio)), []).append(at)
  for at, (example, group) in enumerate(zip(examples, groups, strict=True)):
    peers = alike[example.meta.get("family"), len(example.audio)]
    picked = [facts[p] for p in rng.choice(peers, others) if p != at]
    for stopped, text in group:
      parsed = format.parse(text)
      yield filters.Response(
        example,
        parsed.think,
        parsed.reply,
        parsed.closed,
        score(example, stopped, text)["acc"],
        facts[at],
        picked,
      )


def distil(
  context, params, asked, *, config, workdir
) -> list[filters.Response]:
  """Samples each question K times with the elicitation hint.

  The texts are kept in `workdir/sampled.jsonl`; `config.sampled` names such
  a file of another run to filter instead of sampling anew.

  Raises:
    ValueError: there is no `config.sampled`, or a file holds the samples of
      other questions; names the file.
  """
  path = epath.Path(config.sampled or workdir / "sampled.jsonl")
  if config.sampled and not path.exists():
    raise ValueError(
      f"config.sampled={path}: no such file; name a round's sampled.jsonl, or "
      "leave it empty to sample anew"
    )
  if not files.exists(path):
    key = jax.random.fold_in(jax.random.key(config.seed), config.stage)
    groups = responses.draw(
      context,
      params,
      asked,
      key,
      config=config,
      samples=config.samples,
      temperature=config.temperature,
      hint=True,
    )
    rows = [
      {"id": e.id, "responses": [[one.stopped, text] for one, text in group]}
      for e, group in zip(asked, groups, strict=True)
    ]
    files.write_lines(path, rows)
    processes.wait()
  rows = files.read_lines(path)
  if [r["id"] for r in rows] != [e.id for e in asked]:
    raise ValueError(f"{path}: holds the samples of other questions")
  rng = np.random.default_rng((config.seed, config.stage))
  groups = [row["responses"] for row in rows]
  return list(judged(context, asked, groups, rng))


def filtered(found, *, config, workdir, grounding: bool):
  """Outcome of a round over sampled responses; written to `workdir`."""

  def swapped(response):
    other = response.others[0] if response.others else response.facts
    return dataclasses.replace(response, facts=other, others=())

  outcome = mgrd_round.distil(
    found, swapped, per_question=config.per_question, grounding=grounding
  )
  if processes.writes():
    schema.write_manifest(workdir / "kept.jsonl", outcome.kept)
  files.write_lines(workdir / "rejects.jsonl", outcome.rejects)
  files.write_json(workdir / "funnel.json", outcome.funnel)
  return outcome


def _read_back(workdir) -> tuple[list, dict]:
  """What `filtered` wrote: the kept chains and the funnel.

  Raises:
    ValueError: a line is damaged or missing; names file and line.
  """
  path, funnel_path = workdir / "kept.jsonl", workdir / "funnel.json"
  fix = f"remove {funnel_path}, and the same command filters again"
  kept, refusals = schema.read_manifest(path, check_files=False)
  funnel = files.read_json(funnel_path)
  if refusals:
    bad = len({r.line for r in refusals})
    raise ValueError(f"{path}: damaged rows: {bad}; {refusals[0]}; {fix}")
  if len(kept) != funnel["kept"]:
    raise ValueError(
      f"{path}: {len(kept)} rows where {funnel['kept']} were kept; {fix}"
    )
  return kept, funnel


def own_questions(context) -> list:
  """The user's own audio questions, but those of the test."""
  heard = (e for e in context.split("train", "pool") if e.audio)
  return [e for e in heard if e.meta.get("own")]


def pool(context, seed: int, counts) -> list:
  """The user's own audio questions, and built-in ones that are set aside.

  At most `counts.own` and `counts.audio` of them, drawn from the seed.
  """
  own = own_questions(context)
  drawn = np.random.default_rng(seed).permutation(len(own))[: counts.own]
  built_in = [
    e for e in context.split("pool") if e.audio and not e.meta.get("own")
  ]
  order = np.random.default_rng(seed).permutation(len(built_in))
  return [
    *(own[i] for i in sorted(drawn)),
    *(built_in[i] for i in order[: counts.audio]),
  ]


def tell_left_out(name: str, context, asked) -> None:
  """Says how many of the user's audio questions a stage does not ask."""
  own = len(own_questions(context))
  left = own - sum(bool(e.audio and e.meta.get("own")) for e in asked)
  if left and any(e.audio for e in asked):
    print(
      f"{name}: {left} of the manifest's {own} questions on clips are left "
      "out; config.questions.own says how many are asked"
    )


def questions(context, config) -> list:
  """What the round samples chains for, in order."""
  return pool(context, config.seed, config.questions)


def run(config, workdir, context=None) -> dict:
  """One round's distillation and SFT; writes `workdir/params`."""
  workdir = epath.Path(workdir)
  # Mesh, data, model.
  context = context or assembly.load(config, workdir)
  placement.check_rows(context.mesh, config)
  params = placement.restore(context.mesh, config.init)
  if not context.enc:
    assembly.encode_clips(context, params["encoder"])
  asked = questions(context, config)
  tell_left_out(workdir.name, context, asked)
  # Distil and filter, unless an interrupted run has done so.
  if files.exists(workdir / "funnel.json"):
    kept, funnel = _read_back(workdir)
  else:
    found = distil(context, params, asked, config=config, workdir=workdir)
    outcome = filtered(
      found, config=config, workdir=workdir, grounding=config.grounding
    )
    kept, funnel = outcome.kept, outcome.funnel
  if not kept:
    print(f"{workdir.name}: no chain passed the filters; SFT on replay only")
  # Fine-tune on what was kept, with replay.
  sft.run(config, workdir, context, extra=kept, asked=asked)
  return funnel


if __name__ == "__main__":
  flags.main(run)
