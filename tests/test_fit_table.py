"""Reports of slices as a table, and the one that the README shows."""

import json
import pathlib

import pytest

from experiments import fit_table

ROOT = pathlib.Path(__file__).parent.parent
BEGIN, END = "<!-- fit:begin -->", "<!-- fit:end -->"
RESULTS = sorted((ROOT / "experiments" / "results").glob("fit-*.json"))


def report(**program) -> dict:
  return {
    "config": {
      "model": "large", "slice": "v5p-16", "rows": 8, "time": 512, "clips": 4,
      "rollout": {"rows": 32, "prompt": 128, "slots": 256},
    },
    "hbm_bytes": 4 * 2**30,
    "programs": [{"name": "sft", "total_bytes": 3 * 2**30} | program],
  }  # fmt: skip


COSTS = {
  "hlo_flops": 13.0, "model_flops": 10.0, "compute_s": 2.0, "hbm_s": 0.5,
  "ici_s": 0.25, "bound": "compute", "mfu_projected": 0.65,
  "mfu_serial": 0.5778, "compile_cpu_s": 119.6,
}  # fmt: skip


def test_a_program_is_a_row():
  (row,) = fit_table.lines(report(**COSTS))
  assert row == [
    "large", "v5p-16", "sft", "8 x 512", "3.0 of 4.0", "25%", "1.30", "2",
    "0.5", "0.25", "compute", "65%", "58%", "120",
  ]  # fmt: skip


def test_what_does_not_fit_says_by_how_much():
  (row,) = fit_table.lines(report(total_bytes=5 * 2**30))
  assert row[4:7] == ["5.0 of 4.0", "-25%", "does not fit"]
  assert len(row) == len(fit_table.lines(report(**COSTS))[0])


@pytest.mark.parametrize(
  "name, shape",
  [
    ("encoder", "32 clips of 30 s"),
    ("prefill", "32 x 128"),
    ("decode", "32 x 1 of 256"),
  ],
)
def test_rows_of_each_program(name, shape):
  (row,) = fit_table.lines(report(name=name))
  assert row[3] == shape


def test_another_file_is_refused_by_name(tmp_path, capsys):
  path = tmp_path / "other.json"
  path.write_text(json.dumps({"config": {}}))
  assert fit_table.main([str(path)]) == 1
  out, err = capsys.readouterr()
  assert not out and err.startswith(f"fit_table: {path}: no report of fit")


def test_the_table_of_the_readme_is_that_of_the_results():
  text = (ROOT / "README.md").read_text(encoding="utf-8")
  if BEGIN not in text:
    pytest.skip("the README shows no fit")
  shown = text.split(BEGIN)[1].split(END)[0].strip()
  assert shown == fit_table.table(RESULTS)
