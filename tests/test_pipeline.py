"""The whole recipe, end to end: report, resume, refusals, single stages."""

import dataclasses
import json
import shutil
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

from configs import evaluate as evaluate_config
from configs import mgrd as mgrd_config
from configs import rlvr as rlvr_config
from configs import sft as sft_config
from experiments import (
  assembly,
  dry_run,
  encoder,
  evaluate,
  files,
  mgrd,
  placement,
  provenance,
  rlvr,
  sft,
)
from mgrd_jax.eval import measures
from mgrd_jax.train import checkpoint, metrics

STAGES = ["cold_start", "text_rlvr", "mgrd_1_sft", "mgrd_1_ppo"]
FOLDERS = ["00_encoder"] + [f"{n:02d}_{s}" for n, s in enumerate(STAGES, 1)]
MODES = {"think", "direct", "silence", "swap"}
REPORT = {
  "seed", "config_sha", "commit", "last", "wall_s", "peak_rss_mb", "params",
  "stages", "funnel", "controls", "chance", "skipped",
}  # fmt: skip
M = {
  "acc", "ci95", "n", "acc_conflict", "acc_heldout", "think_tokens",
  "frac_empty_think", "frac_coherent", "frac_offered", "claim_precision",
  "claim_lift", "surrogate_rate", "by_source",
}  # fmt: skip
PAIRED = {"diff", "ci95", "only_think", "only_direct", "p"}
FUNNEL = {
  "round", "sampled", "correct", "grounded", "coherent", "kept",
  "swap_keep_rate",
}  # fmt: skip


def stage_config(recipe, module, name, init):
  """A stage script's own smoke config, with what the recipe overrides."""
  config = module.get_config("smoke")
  for path, value in recipe.overrides.items():
    block, _, field = path.partition(".")
    if block == name:
      config.update_from_flattened_dict({field: value})
  config.data.cache = recipe.config.data.cache
  config.init = str(recipe.workdir / "stages" / init)
  return config


@pytest.fixture(autouse=True, scope="module")
def programs(recipe):
  with recipe.programs():
    yield


@pytest.fixture(scope="module")
def context(recipe, programs):
  return assembly.load(recipe.config, recipe.workdir)


def params(folder):
  return checkpoint.restore(folder / "params")


def assert_same(one, other):
  jax.tree.map(np.testing.assert_array_equal, params(one), params(other))


def touched(folder):
  return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_the_report_has_the_fields_that_others_read(recipe):
  report = measures.load(recipe.workdir / "report.json")
  assert set(report) == REPORT
  assert [s["name"] for s in report["stages"]] == STAGES
  for stage in report["stages"]:
    steps = {"ppo"} if stage["name"].endswith(("rlvr", "ppo")) else set()
    assert set(stage) == MODES | {"name", "paired"} | steps
    assert set(stage["paired"]) == PAIRED
    if steps:
      assert set(stage["ppo"]) == {"questions", "selected", "steps"}
    assert set(stage["swap"]) == M | {"follow", "chance"}
    for mode in MODES - {"swap"}:
      assert set(stage[mode]) == M, mode
      assert stage[mode]["ci95"][0] <= stage[mode]["acc"]
  (funnel,) = report["funnel"]
  assert set(funnel) >= FUNNEL
  assert funnel["round"] == 1 and funnel["sampled"] == 24 * 4
  controls = report["controls"]
  assert set(controls["elicited_before_mgrd"]) == M
  assert set(controls["mgrd_without_grounding_filter"]) == M
  assert set(report["wall_s"]) == {
    "load", "encoder", *STAGES, "evaluate", "controls",
  }  # fmt: skip
  assert all(s > 0 for s in report["wall_s"].values())
  assert 0.1 < report["chance"] < 0.5 and report["peak_rss_mb"] > 100
  assert report["commit"] == provenance.commit()
  assert report["last"] == {"format_reward": 0.2, "gamma": 1.0}
  assert report["params"] == sum(
    leaf.size
    for leaf in jax.tree.leaves(params(recipe.workdir / "stages" / FOLDERS[-1]))
  )


def test_what_run_returns_is_what_it_wrote(recipe):
  written = measures.load(recipe.workdir / "report.json")
  assert written == json.loads(json.dumps(recipe.report))


def test_the_page_shows_its_pictures(recipe):
  page = (recipe.workdir / "report.md").read_text()
  for name in ("accuracy", "grounding", "training"):
    assert f"({name}.png)" in page
    picture = (recipe.workdir / f"{name}.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
  assert all(stage in page for stage in STAGES)


def test_every_stage_has_finite_parameters_and_moves_them(recipe):
  last = None
  for folder in FOLDERS:
    found = params(recipe.workdir / "stages" / folder)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found)), folder
    if last is not None:
      # The encoder is frozen after its own stage.
      jax.tree.map(
        np.testing.assert_array_equal, found["encoder"], last["encoder"]
      )
    # RL may move nothing here: for a model of ten steps all rewards of a
    # batch can be equal.
    if last is not None and not folder.endswith(("rlvr", "ppo")):
      same = jax.tree.map(np.array_equal, found["decoder"], last["decoder"])
      assert not all(jax.tree.leaves(same)), folder
    last = found


def test_the_encoder_says_what_its_heads_recognise(recipe):
  folder = recipe.workdir / "stages" / FOLDERS[0]
  facts = json.loads((folder / "result.json").read_text())["facts"]
  rates = facts["recognised"]
  assert len(rates) == facts["attributes"] and "voice.pitch" in rates
  # For a model of a few steps: shares, and not all of them right.
  assert all(0 <= r <= 1 for r in rates.values()) and min(rates.values()) < 0.9


def test_ppo_took_its_steps_and_measured_them(recipe):
  rows = metrics.read(recipe.workdir / "stages/04_mgrd_1_ppo/metrics.jsonl")
  assert [r["step"] for r in rows] == [0, 1]
  assert "train/critic/ev_seq" in rows[0]
  assert "train/policy/entropy" in rows[1]
  for row in rows:
    assert {"rollout/acc/audio", "rollout/acc/text"} <= row.keys()
  assert {r["rollout/length/bimodal"] for r in rows} <= {0.0, 1.0}


def test_the_same_command_again_changes_nothing(recipe):
  """A process of another size, and later: to the byte."""
  before = touched(recipe.workdir / "stages")
  names = ("report.json", "report.md", "load_clock.json", "data.json")
  written = [(recipe.workdir / name).read_bytes() for name in names]
  done = subprocess.run(
    recipe.command(recipe.workdir), env=recipe.environment, capture_output=True
  )
  assert not done.returncode, done.stderr[-2000:]
  assert touched(recipe.workdir / "stages") == before
  assert [(recipe.workdir / name).read_bytes() for name in names] == written


def test_a_changed_config_is_refused_by_the_name_of_its_field(recipe):
  command = recipe.command(recipe.workdir, **{"mgrd.samples": 5})
  done = subprocess.run(
    command, env=recipe.environment, capture_output=True, text=True
  )
  assert done.returncode and "mgrd.samples" in done.stderr
  assert "Traceback" not in done.stderr
  assert "encoder" not in done.stderr.splitlines()[-1]


def test_killed_inside_a_stage_it_goes_on_bitwise(recipe, tmp_path):
  # What is there is a stage boundary; the kill is inside the next stage.
  for name in ("data.json", "tokenizer.json", "stages/00_encoder"):
    source, target = recipe.workdir / name, tmp_path / name
    target.parent.mkdir(exist_ok=True)
    copy = shutil.copytree if source.is_dir() else shutil.copy
    copy(source, target)
  folder = tmp_path / "stages" / "01_cold_start"
  command = recipe.command(tmp_path)
  log = (tmp_path / "log").open("w")
  process = subprocess.Popen(
    command, env=recipe.environment, stdout=log, stderr=log
  )
  while not checkpoint.steps(folder) and process.poll() is None:
    time.sleep(0.002)
  process.send_signal(signal.SIGKILL)
  assert process.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
  assert not (folder / "params").exists()
  # As if other code had been killed after a quarter of an hour and 100 GiB.
  spent = {"seconds": 900.0, "peak_rss_mb": 102_400.0, "commits": ["other"]}
  files.write_json(folder / "train_clock.json", spent)
  done = subprocess.run(
    command, env=recipe.environment, capture_output=True, text=True
  )
  assert not done.returncode, done.stderr[-2000:]
  for name in FOLDERS:
    assert_same(tmp_path / "stages" / name, recipe.workdir / "stages" / name)
  rows = metrics.read(folder / "metrics.jsonl")
  whole = metrics.read(recipe.workdir / "stages/01_cold_start/metrics.jsonl")
  assert rows == whole
  report = measures.load(tmp_path / "report.json")
  wall = report["wall_s"]
  assert wall.keys() == recipe.report["wall_s"].keys()
  assert wall["cold_start"] > 900 and wall["mgrd_1_sft"] < 900
  spent = {
    "wall_s": wall,
    "peak_rss_mb": 102_400.0,
    "commit": f"{provenance.commit()}+other",
  }
  assert report == json.loads(json.dumps(recipe.report | spent))


@pytest.mark.parametrize(
  "script, module, block, start, want",
  [
    (sft, sft_config, "cold_start", "00_encoder", "01_cold_start"),
    (mgrd, mgrd_config, "mgrd", "02_text_rlvr", "03_mgrd_1_sft"),
    (rlvr, rlvr_config, "audio_rlvr", "03_mgrd_1_sft", "04_mgrd_1_ppo"),
  ],
  ids=["sft", "mgrd", "rlvr"],
)
def test_a_stage_alone_is_the_stage_of_the_recipe(
  recipe, context, tmp_path, script, module, block, start, want
):
  config = stage_config(recipe, module, block, start)
  script.run(config, tmp_path / "alone", context)
  assert_same(tmp_path / "alone", recipe.workdir / "stages" / want)


def test_the_dry_run_shows_the_batch_that_training_begins_with(
  recipe, context
):
  planned = dry_run.plan(recipe.config.data, recipe.config.seed)
  assert planned.made
  dry = dry_run.context_of(recipe.config, planned, context.tokenizer)
  stages = dict((n, c) for n, c, _ in dry_run.stages(recipe.config))
  params = placement.restore(None, recipe.workdir / "stages" / FOLDERS[0])
  if not context.enc:
    assembly.encode_clips(context, params["encoder"])
  config = stages["cold_start"]
  pairs = zip(
    sft.streams(dry, config)[0](0), sft.streams(context, config)[0](0),
    strict=True,
  )  # fmt: skip
  for shown, trained in pairs:
    np.testing.assert_array_equal(shown.tokens_BT, trained.tokens_BT)
    np.testing.assert_array_equal(shown.loss_mask_BT, trained.loss_mask_BT)
  config = stages["encoder"]
  shown, trained = (encoder.batches(c, config)[0](0) for c in (dry, context))
  for name in ("len_B", "words_BT", "label_BN"):
    np.testing.assert_array_equal(shown[name], trained[name])
  for name in ("text_rlvr", "mgrd_1_sft", "mgrd_1_ppo", "evaluate"):
    config = stages[name]
    ids = [e.id for e in dry_run.asked(dry, config)]
    assert ids == [e.id for e in dry_run.asked(context, config)]


def test_evaluation_alone_gives_the_numbers_of_the_recipe(
  recipe, context, tmp_path
):
  config = stage_config(
    recipe, evaluate_config, "evaluate", "01_cold_start"
  )
  found = evaluate.run(config, tmp_path, context)
  want = recipe.report["stages"][0]
  assert found == {k: v for k, v in want.items() if k != "name"}
  lines = (tmp_path / "items.jsonl").read_text().splitlines()
  assert {json.loads(line)["mode"] for line in lines} == MODES


def test_questions_without_a_partner_to_swap_with_are_not_swapped(
  recipe, context
):
  """Texts that no other question could have for an answer."""
  odd = [
    dataclasses.replace(
      e, question=e.id, answer=e.id, answer_type="text", options=(),
      source="own", meta={"family": "own"},
    )
    for e in context.split("test")[:2]
  ]  # fmt: skip
  alone = dataclasses.replace(context, examples=odd)
  config = evaluate_config.get_config("smoke")
  params = placement.restore(None, recipe.workdir / "stages" / FOLDERS[1])
  found, items = evaluate.measure(alone, params, config=config, mode="swap")
  assert items == [] and found["acc"] is None and found["n"] == 0


def test_the_trainer_knows_the_temperature_of_the_sampler(
  context, monkeypatch
):
  config = rlvr_config.get_config("smoke")
  config.temperature = 0.7
  seen, ppo = [], rlvr.steps.PPO
  monkeypatch.setattr(
    rlvr.steps, "PPO", lambda **fields: seen.append(fields) or ppo(**fields)
  )
  rlvr._programs(context, config, (None, None))
  assert seen[0]["temperature"] == 0.7


def test_a_stage_without_a_checkpoint_to_start_from_says_so(context, tmp_path):
  config = sft_config.get_config("smoke")
  with pytest.raises(ValueError, match="config.init is empty"):
    sft.run(config, tmp_path, context)
  config.init = str(tmp_path / "nowhere")
  with pytest.raises(ValueError, match="nowhere.*no checkpoint"):
    sft.run(config, tmp_path, context)
