"""The notebooks run, are short, and only call what the project offers."""

import ast
import json
import pathlib
import shutil

import nbclient
import nbformat
import pytest

from mgrd_jax.eval import measures

COLABS = pathlib.Path(__file__).parent.parent / "colabs"
NOTEBOOKS = sorted(COLABS.glob("*.ipynb"))


def read(path):
  return nbformat.read(path, as_version=4)


def code(notebook):
  return "\n".join(c.source for c in notebook.cells if c.cell_type == "code")


def test_there_is_a_notebook():
  assert COLABS / "quickstart.ipynb" in NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_short_has_no_logic_and_no_outputs(path):
  notebook = read(path)
  source = code(notebook)
  assert len([line for line in source.splitlines() if line.strip()]) <= 90
  assert max(map(len, source.splitlines())) <= 80
  own = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
  assert not [n for n in ast.walk(ast.parse(source)) if isinstance(n, own)]
  for cell, following in zip(notebook.cells, notebook.cells[1:], strict=False):
    if following.cell_type == "code":
      assert cell.cell_type == "markdown", "each step is explained"
  assert not any(c.get("outputs") for c in notebook.cells)


def test_the_quickstart_trains_plots_plays_and_judges(
  recipe, monkeypatch, tmp_path
):
  # The recipe's own run, stopped before its last stage: the notebook goes on.
  workdir = tmp_path / "run"
  ahead = shutil.ignore_patterns("cache", "04_*", "controls", "report.*")
  shutil.copytree(recipe.workdir, workdir, ignore=ahead)
  for name, value in recipe.environment.items():
    monkeypatch.setenv(name, value)
  monkeypatch.setenv("MGRD_COLAB_SIZE", "smoke")
  monkeypatch.setenv("MGRD_COLAB_WORKDIR", str(workdir))
  monkeypatch.setenv("MGRD_COLAB_FIELDS", json.dumps(recipe.overrides))
  notebook = read(COLABS / "quickstart.ipynb")
  nbclient.NotebookClient(
    notebook,
    timeout=300,
    resources={"metadata": {"path": str(COLABS)}},
  ).execute()
  made = measures.load(workdir / "report.json")
  for part in ("stages", "funnel", "controls"):
    assert made[part] == json.loads(json.dumps(recipe.report[part]))
  shown = [
    output.data
    for cell in notebook.cells
    for output in cell.get("outputs", ())
    if output.output_type == "display_data"
  ]
  assert sum("image/png" in data for data in shown) == 2
  assert any("<audio" in data.get("text/html", "") for data in shown)
  prose = "\n".join(data.get("text/markdown", "") for data in shown)
  assert "| cold_start |" in prose
  stages = ("01_cold_start", "02_text_rlvr", "03_mgrd_1_sft", "04_mgrd_1_ppo")
  for stage in stages:
    assert f"**{stage}**" in prose
  assert prose.count("verdicts: ") == len(stages)
