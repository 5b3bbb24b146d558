"""The command that fills the README: goals, markers, refusals."""

import json
import pathlib
import re

import pytest

from experiments import report as cli
from tests.eval.reports import fake

README = f"# x\n\nbefore\n\n{cli.BEGIN}\nold\n{cli.END}\n\nafter\n"


@pytest.fixture
def seeds(tmp_path):
  """Paths of the reports of seeds 1 and 0, in this order."""
  paths = []
  for seed, shift in ((1, 0.14), (0, 0.0)):
    paths.append(tmp_path / f"seed{seed}.json")
    paths[-1].write_text(json.dumps(fake(seed, shift)))
  return [str(p) for p in paths]


def rows(text):
  """{goal: [asked, measured..., met]} of the printed goals."""
  lines = text[text.index("| goal |") :].splitlines()
  split = ([c.strip() for c in line.strip("|").split("|")] for line in lines)
  return {name: rest for name, *rest in split}


def test_goals_stand_beside_what_each_seed_measured(seeds, capsys):
  assert cli.main(seeds) == 0
  out = capsys.readouterr().out
  goals = rows(out)
  assert goals["goal"] == ["asked", "seed 0", "seed 1", "met"]
  gap = goals["inverted first: direct − think after cold start"]
  assert gap == ["≥ 8 points", "20.0", "6.0", "1 of 2"]
  assert goals["mended by MGRD: claim precision"][-1] == "yes"
  follow = goals["it hears: answers that follow the swapped clip"]
  assert follow == ["≥ 80 %", "88.0", "88.0", "yes"]
  assert goals["it hears: silence − chance"] == [
    "≤ 5 points", "2.0", "2.0", "yes",
  ]  # fmt: skip
  hint = goals["controls: hint alone, before MGRD: think"]
  assert hint == ["shown", "71.0", "71.0", ""]
  assert goals["cost: wall"] == ["≤ 12 min", "2.0", "2.0", "yes"]
  assert "cold_start | 47.0 (40.0…54.0)" in out


def test_every_goal_reads_a_number_of_a_complete_report():
  run = fake()
  missing = [g.what for g in cli.GOALS if g.measure(run) is None]
  assert missing == []


def test_a_last_stage_without_a_step_keeps_nothing():
  run = fake()
  (kept,) = [g for g in cli.GOALS if g.effect == cli.PPO and "lost" in g.what]
  assert kept.measure(run) is not None
  run["stages"][-1]["ppo"] = {
    "questions": {"audio": 9, "text": 0},
    "selected": {"audio": 1, "text": 0},
    "steps": 0,
  }
  assert kept.measure(run) is None


def test_what_was_not_measured_is_blank_and_not_met(tmp_path, capsys):
  run = fake()
  run["stages"] = run["stages"][:1]
  run["controls"], run["wall_s"] = None, None
  path = tmp_path / "report.json"
  path.write_text(json.dumps(run))
  assert cli.main([str(path)]) == 0
  goals = rows(capsys.readouterr().out)
  assert goals["mended by MGRD: claim lift"] == ["≥ 0.3", "", ""]
  assert goals["cost: wall"] == ["≤ 12 min", "", ""]


def test_a_bound_is_met_from_its_own_side():
  least = cli.Goal("", "", lambda run: 0, "≥", 8)
  most = cli.Goal("", "", lambda run: 0, "≤", 8)
  assert [least.met(v) for v in (7.9, 8, 8.1)] == [False, True, True]
  assert [most.met(v) for v in (7.9, 8, 8.1)] == [True, True, False]


def test_the_readme_is_rewritten_between_its_markers_once(tmp_path, seeds):
  readme = tmp_path / "README.md"
  readme.write_text(README)
  assert cli.main([*seeds, f"--readme={readme}"]) == 0
  once = readme.read_text()
  assert once.startswith(f"# x\n\nbefore\n\n{cli.BEGIN}\n")
  assert once.endswith(f"{cli.END}\n\nafter\n")
  assert "\nold\n" not in once and "| goal |" in once and "mgrd_1_ppo" in once
  assert cli.main([*seeds, f"--readme={readme}"]) == 0
  assert readme.read_text() == once
  assert cli.main([seeds[0], f"--readme={readme}"]) == 0
  assert "seed 0" in once and "seed 0" not in readme.read_text()
  assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize(
  "text",
  [
    "no markers\n",
    f"{cli.BEGIN}\nno end\n",
    f"{cli.END}\n{cli.BEGIN}\n",
    README + README,
  ],
)
def test_a_readme_without_its_markers_is_left_alone_in_one_line(
  tmp_path, seeds, capsys, text
):
  readme = tmp_path / "README.md"
  readme.write_text(text)
  assert cli.main([*seeds, f"--readme={readme}"]) == 1
  error = capsys.readouterr().err
  assert error.count("\n") == 1 and "results:" in error and str(readme) in error
  assert readme.read_text() == text


def test_a_bad_report_is_one_line_and_a_failure(tmp_path, seeds, capsys):
  broken = tmp_path / "broken.json"
  broken.write_text("{")
  cases = ([str(broken)], [str(tmp_path / "gone.json")], [seeds[0]] * 2)
  for paths in cases:
    assert cli.main(paths) == 1
    out, error = capsys.readouterr()
    assert not out and error.count("\n") == 1 and paths[-1] in error


def test_the_projects_own_readme_has_the_markers_and_is_short():
  path = pathlib.Path(__file__).parent.parent / "README.md"
  text = path.read_text(encoding="utf-8")
  assert cli.replace_results(text, "new").count("new\n" + cli.END) == 1
  # What commands write there is not counted.
  blocks = r"<!-- (\w+):begin -->.*?<!-- \1:end -->"
  lines = re.sub(blocks, "", text, flags=re.DOTALL).count("\n")
  assert lines < text.count("\n") - 30 and lines < 250


def test_the_readmes_tree_names_every_module_and_no_other():
  root = pathlib.Path(__file__).parent.parent
  text = (root / "README.md").read_text(encoding="utf-8")
  tree = re.search(r"<!-- tree -->\n```\nmgrd_jax/\n(.*?)```", text, re.DOTALL)
  folder, named = root / "mgrd_jax", set()
  for line in tree[1].splitlines():
    # A package, two or more spaces, its modules, and what they are of.
    cells = re.split(r"\s{2,}", line.strip())
    if line.startswith("  ") and cells[0].endswith("/"):
      folder = root / "mgrd_jax" / cells.pop(0)
    elif not line.startswith("  "):
      assert (root / cells[0]).is_dir(), cells[0]
      continue
    for name in cells[0].split():
      named.add(folder / (name if name.endswith(".py") else f"{name}.py"))
  there = (root / "mgrd_jax").rglob("*.py")
  assert named == {path for path in there if path.name != "__init__.py"}


def test_modules_that_the_readme_runs_exist():
  root = pathlib.Path(__file__).parent.parent
  for page in ("README.md", "experiments/README.md"):
    text = (root / page).read_text(encoding="utf-8")
    found = re.findall(r"-m experiments\.(\w+|\{[\w,]+\})", text)
    names = {n for f in found for n in f.strip("{}").split(",")}
    assert len(names) >= 8
    for name in names:
      assert (root / "experiments" / f"{name}.py").exists(), name
