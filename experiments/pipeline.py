"""The whole recipe, from nothing to a model that listens.

    encoder -> cold_start -> text_rlvr -> rounds of {mgrd_t_sft, mgrd_t_ppo}
    after each: thinking, direct, silence, swap;  then report.md, report.json

Killed at any point, the same command goes on.

COMMAND: python -m experiments.pipeline --config=configs/pipeline.py:tiny \\
           --workdir=out/tiny
"""

import math

import jax
from etils import epath
from ml_collections import ConfigDict

from experiments import (
  assembly,
  clock,
  encoder,
  evaluate,
  files,
  flags,
  mgrd,
  placement,
  provenance,
  rlvr,
  sft,
)
from experiments.clock import Clock
from mgrd_jax import processes
from mgrd_jax.eval import measures, report
from mgrd_jax.train import checkpoint, metrics

SHARED = ("seed", "model", "mesh", "data", "log")
# What of the data decides on the examples, and so on the vocabulary.
DATA = tuple(
  f"data.{name}" for name in ("manifest", "max_seconds", "labelled", "sizes")
)


def plan(config) -> list[tuple[str, object, object]]:
  """(name, script, config block) of each stage, in order."""
  stages = [
    ("encoder", encoder, config.encoder),
    ("cold_start", sft, config.cold_start),
    ("text_rlvr", rlvr, config.text_rlvr),
  ]
  if config.rounds < 1:
    raise ValueError(f"config.rounds={config.rounds}: at least one is needed")
  for t in range(1, config.rounds + 1):
    stages.append((f"mgrd_{t}_sft", mgrd, config.mgrd))
    stages.append((f"mgrd_{t}_ppo", rlvr, config.audio_rlvr))
  return stages


def stage_config(config, block, *, number: int, init: str, last: bool):
  """A stage's own config: its block, the shared fields and its place."""
  out = ConfigDict(block.to_dict())
  for name in SHARED:
    out[name] = config[name]
  out.init, out.stage = init, number
  if last and "ppo" in out:
    out.format_reward = config.last.format_reward
    out.ppo.gamma = config.last.gamma
  return out


def _done(folder) -> dict | None:
  path = folder / "result.json"
  return files.read_json(path) if files.exists(path) else None


def _stage(context, config, name, script, block, *, number, folder, init, last):
  """Runs one stage and its evaluation, or finds them done."""
  found = _done(folder)
  if found:
    return found
  own = stage_config(config, block, number=number, init=str(init), last=last)
  with Clock(folder / "train_clock.json") as train:
    facts = script.run(own, folder, context)
  evaluation = {}
  with Clock(folder / "evaluate_clock.json") as evaluating:
    if name != "encoder":
      params = placement.restore(context.mesh, folder)
      own = stage_config(
        config, config.evaluate, number=number, init="", last=False
      )
      evaluation = evaluate.run(own, folder, context, params)
  found = {
    "name": name,
    "facts": facts,
    "evaluation": evaluation,
    "wall_s": train(),
    "evaluate_s": evaluating(),
    **clock.total([train.cost(), evaluating.cost()]),
  }
  files.write_json(folder / "result.json", found)
  return found


def _line(found: dict) -> str:
  e = found["evaluation"]
  seconds = f"{found['wall_s']:.0f} + {found['evaluate_s']:.0f} s"
  if not e:
    return f"{found['name']:<12} {seconds}"

  def shown(mode, key="acc"):
    value = e[mode][key]
    return "–" if value is None else f"{value:.3f}"

  held = f"{shown('think', 'acc_heldout')}/{shown('direct', 'acc_heldout')}"
  return (
    f"{found['name']:<12} think {shown('think')}  direct {shown('direct')}  "
    f"held-out {held}  silence {shown('silence')}  swap {shown('swap')}  "
    f"({seconds})"
  )


def _controls(context, config, folders, workdir) -> dict[str, dict]:
  """Elicited accuracy before MGRD, and a round without the grounding filter.

  Each as {"think": M, "wall_s", "peak_rss_mb", "commits"}.
  """
  before = folders["text_rlvr"]
  own = stage_config(
    config, config.evaluate, number=2, init=str(before), last=False
  )
  path = workdir / "controls" / "elicited.json"
  if not files.exists(path):
    with Clock(path.with_name("elicited_clock.json")) as took:
      params = placement.restore(context.mesh, before)
      elicited, _ = evaluate.measure(
        context, params, config=own, mode="think", hint=True
      )
    found = {"think": elicited, "wall_s": took()} | took.cost()
    files.write_json(path, found)
    processes.wait()
  elicited = files.read_json(path)
  block = ConfigDict(config.mgrd.to_dict())
  block.grounding = False
  block.sampled = str(folders["mgrd_1_sft"] / "sampled.jsonl")
  folder = workdir / "controls" / "mgrd_without_grounding_filter"
  unfiltered = _done(folder)
  if not unfiltered:
    with Clock(folder / "clock.json") as took:
      own = stage_config(config, block, number=3, init=str(before), last=False)
      facts = mgrd.run(own, folder, context)
      own = stage_config(
        config, config.evaluate, number=3, init="", last=False
      )
      think, _ = evaluate.measure(
        context,
        placement.restore(context.mesh, folder),
        config=own,
        mode="think",
      )
    unfiltered = {"facts": facts, "think": think, "wall_s": took()}
    unfiltered |= took.cost()
    files.write_json(folder / "result.json", unfiltered)
  for name, found in (("hint alone", elicited), ("no filter", unfiltered)):
    print(
      f"{name:<12} think {found['think']['acc']:.3f}  ({found['wall_s']:.0f} s)"
    )
  return {
    "elicited_before_mgrd": elicited,
    "mgrd_without_grounding_filter": unfiltered,
  }


def _folder(home, number: int, name: str) -> epath.Path:
  return home / "stages" / f"{number:02d}_{name}"


def _base(config, stages) -> epath.Path | None:
  """The run whose stages but the last are taken over; None without one."""
  if not config.base:
    return None
  base = epath.Path(config.base)
  blocks = [name for name in config if hasattr(config[name], "items")]
  same = {"seed", "model", "rounds", *DATA, *blocks}
  same -= {"data", "last", "log", "mesh"}
  assembly.same_run("base", base, config, sorted(same))
  for number, (name, _, _) in enumerate(stages[:-1]):
    if not _done(_folder(base, number, name)):
      raise ValueError(f"config.base={base}: {name} is not finished there")
  return base


def _samples(workdir, folders, limit: int = 6) -> list[dict]:
  """Chains of each stage, for the report: the same questions throughout."""
  out = []
  for name, folder in folders.items():
    path = folder / "items.jsonl"
    if not path.exists():
      continue
    fix = f"remove it and {path.with_name('result.json')}, and run again"
    rows = [r for r in files.read_lines(path, fix) if r["mode"] == "think"]
    for row in rows[:: max(1, len(rows) // limit)][:limit]:
      out.append(
        {
          "stage": name,
          "id": row["id"],
          "question": row["question"],
          "options": row["options"],
          "gold": row["gold"],
          "think": row["think"],
          "reply": row["reply"],
          "right": bool(row["acc"]),
          "claims": row["claims"],
          "surrogate": bool(row["surrogate"]),
        }
      )
  return out


def _devices(mesh) -> str:
  """How many are used, and as what."""
  there = jax.device_count()
  if mesh is None:
    return f"1 of {there}"
  axes = (f"{n} {name}" for name, n in mesh.shape.items() if n > 1)
  return f"{there} ({' x '.join(axes)})"


def _ppo(facts: dict) -> dict:
  """How many questions a PPO stage chose, and how many steps it took."""
  names = ("questions", "selected", "steps")
  return {"ppo": {n: facts[n] for n in names}} if "selected" in facts else {}


def summarise(config, results, controls, loading: Clock, context) -> dict:
  """The report, as report.json holds it.

  All of it is of when the work was done: a second look changes nothing.
  """
  cost = clock.total([loading.cost(), *results, *controls.values()])
  test = context.split("test")
  params = checkpoint.shapes(results[-1]["folder"] / "params")
  funnel = [
    {"round": number} | r["facts"]
    for number, r in enumerate(
      (r for r in results if r["name"].endswith("_sft")), start=1
    )
  ]
  wall = {"load": loading()}
  for r in results:
    wall[r["name"]] = r["wall_s"]
  wall["evaluate"] = sum(r["evaluate_s"] for r in results)
  wall["controls"] = sum(c["wall_s"] for c in controls.values())
  return {
    "seed": config.seed,
    "config_sha": assembly.fingerprint(config),
    "commit": "+".join(cost["commits"]),
    "last": config.last.to_dict(),
    "wall_s": wall,
    "peak_rss_mb": cost["peak_rss_mb"],
    "params": sum(math.prod(x.shape) for x in jax.tree.leaves(params)),
    "stages": [
      {"name": r["name"]} | _ppo(r["facts"]) | r["evaluation"]
      for r in results
      if r["evaluation"]
    ],
    "funnel": funnel,
    "controls": {name: c["think"] for name, c in controls.items()},
    "chance": evaluate.chance(test),
    "skipped": context.skipped,
  }


def run(config, workdir) -> dict:
  """All stages; writes report.md, report.json and the last checkpoint.

  Raises:
    ValueError: config.base is not a whole run of the same seed, model,
      rounds and data, `workdir` holds a run of another config or from other
      data, or there is not one round.
  """
  workdir = epath.Path(workdir)
  flags.save_config(config, workdir)
  stages = plan(config)
  base = _base(config, stages)
  # Looking again at a finished run is no part of what it took.
  told = workdir / "load_clock.json"
  again = told.exists() and (workdir / "report.json").exists()
  loading = Clock(told, runs=not again)
  # Mesh, data.
  with loading:
    context = assembly.load(config, workdir)
  if base:
    # The same fields may name a manifest that has changed since.
    data = files.read_json(workdir / provenance.DATA)
    provenance.same_data(base, data, "run the base again")
  print(
    f"data: {len(context.examples)} examples, {len(context.clips)} clips "
    f"({loading():.0f} s); devices: {_devices(context.mesh)}"
  )
  for *_, block in stages:
    placement.check_rows(context.mesh, block)
  placement.check_rows(context.mesh, config.evaluate)
  # Model, step, loop: one stage after another.
  results, folders, init = [], {}, ""
  for number, (name, script, block) in enumerate(stages):
    last = number + 1 == len(stages)
    home = base if base and not last else workdir
    folder = _folder(home, number, name)
    if number and not context.enc:
      with loading:
        params = placement.restore(context.mesh, init)
        assembly.encode_clips(context, params["encoder"])
    found = _stage(
      context,
      config,
      name,
      script,
      block,
      number=number,
      folder=folder,
      init=init,
      last=last,
    )
    print(_line(found), flush=True)
    results.append(found | {"folder": folder})
    folders[name], init = folder, folder
  controls = _controls(context, config, folders, base or workdir)
  # Report.
  summary = summarise(config, results, controls, loading, context)
  if not processes.writes():
    return summary
  measures.save(summary, workdir / "report.json")
  curves = {n: metrics.read(f / "metrics.jsonl") for n, f in folders.items()}
  page = report.render(summary, _samples(workdir, folders), curves, workdir)
  print(report.table(summary))
  print(f"report: {page}\nnumbers: {workdir / 'report.json'}")
  print(f"checkpoint: {init}")
  return summary


if __name__ == "__main__":
  flags.main(run, finish=lambda _: None)
