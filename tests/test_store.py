"""A run whose folder is on gs://: what it leaves there, and what it refuses.

Nothing is trained; tests/test_tones.py kills what is.
"""

import json

import jax
import ml_collections
import numpy as np
import pytest
from etils import epath

from experiments import (
  assembly,
  evaluate,
  files,
  flags,
  listener,
  placement,
  provenance,
  rlvr,
)
from experiments.clock import Clock
from mgrd_jax.eval import measures, report
from tests import toys, world
from tests.eval.reports import fake
from tests.gcs import bucket, gcs, server  # noqa: F401


def names(folder) -> set[str]:
  return {p.relative_to(folder).as_posix() for p in folder.rglob("*.*")}


def test_config_data_and_clock_are_kept_and_changed_ones_refused(gcs):  # noqa: F811
  run, folder = gcs
  config = ml_collections.ConfigDict({"steps": 3, "log": {"wandb": False}})
  data = {"rows": {"count": 1, "sha256": "a"}}
  for _ in range(2):
    flags.save_config(config, run)
    provenance.keep_data(run, data)
  with pytest.raises(ValueError, match=f"{run}: holds a run of another config"):
    flags.save_config(ml_collections.ConfigDict({"steps": 4}), run)
  with pytest.raises(ValueError, match=f"{run}: holds a run from other data"):
    provenance.keep_data(run, {"rows": {"count": 2, "sha256": "b"}})
  with Clock(f"{run}/clock.json") as clock:
    assert clock.tick == 30
  assert files.read_json(f"{run}/clock.json")["seconds"] == clock()
  assert names(folder) == {"config.json", "data.json", "clock.json"}


def test_a_checkpoint_on_gs_names_the_run_it_is_from(gcs):  # noqa: F811
  run, _ = gcs
  init = f"{run}/stages/01_cold_start"
  made = ml_collections.ConfigDict({"seed": 1})
  assembly.same_run("init", init, made, ("seed",))
  flags.save_config(made, run)
  assembly.same_run("init", init, made, ("seed",))
  with pytest.raises(ValueError, match=f"{init}: made with seed 1, not 2"):
    assembly.same_run(
      "init", init, ml_collections.ConfigDict({"seed": 2}), ("seed",)
    )


def test_a_stage_and_its_evaluation_are_on_gs(gcs):  # noqa: F811
  """Selection by the hits of an earlier call, no step, and an evaluation."""
  run, folder = epath.Path(gcs[0]), gcs[1] / "stages" / "06_mgrd_2_ppo"
  stage, context = run / "stages" / folder.name, world.context()
  heard = [e.id for e in world.of_split("pool") if e.audio]
  asked = [*heard, "train-own", "train-told"]
  files.write_json(stage / "hits.json", dict.fromkeys(asked, 8))
  init = world.finished(run / "init", context)
  rlvr.run(world.stage("audio_rlvr", init), stage, context)
  params = placement.restore(None, stage)
  for one, other in zip(
    jax.tree.leaves(params),
    jax.tree.leaves(toys.params(config=context.model)),
    strict=True,
  ):
    np.testing.assert_array_equal(one, other)
  found = evaluate.run(world.stage("evaluate"), stage, context, params)
  assert json.loads((folder / "metrics.json").read_text()) == found
  lines = (folder / "items.jsonl").read_text().splitlines()
  assert {json.loads(line)["mode"] for line in lines} == set(evaluate.MODES)
  # What `ask` looks for.
  assert not listener.is_own(stage / "params")
  with pytest.raises(ValueError, match=f"{run}: no finished stage here"):
    listener.stage_folder(run)
  files.write_json(stage / "result.json", found)
  assert listener.is_own(run) and listener.stage_folder(run) == stage


def test_a_report_on_gs_has_its_pictures_beside_it(gcs):  # noqa: F811
  run, folder = gcs
  measures.save(fake(), f"{run}/report.json")
  page = report.render(fake(), [], {}, run)
  assert str(page) == f"{run}/report.md"
  assert "(accuracy.png)" in (folder / "report.md").read_text()
  picture = (folder / "accuracy.png").read_bytes()
  assert picture.startswith(b"\x89PNG")
  assert measures.load(f"{run}/report.json") == json.loads(json.dumps(fake()))
  with pytest.raises(measures.ReportError, match=f"{run}/none: No such file"):
    measures.load(f"{run}/none")
