"""report.json: written whole, read without surprises."""

import copy

import numpy as np
import pytest

from mgrd_jax.eval import measures
from tests.eval.reports import fake


def test_a_gap_on_the_bound_is_not_lost_to_rounding():
  assert measures.points(0.58, 0.50) == 8 and measures.points(None, 0.5) is None


def test_a_saved_report_reads_back_with_null_for_what_is_not_finite(tmp_path):
  full = copy.deepcopy(fake())
  full["stages"][0]["think"]["acc"] = np.float32("nan")
  full["stages"][0]["think"]["n"] = np.int64(7)
  full["chance"] = float("inf")
  path = tmp_path / "report.json"
  measures.save(full, path)
  back = measures.load(path)
  assert back["stages"][0]["think"]["acc"] is None and back["chance"] is None
  assert back["stages"][0]["think"]["n"] == 7
  assert back["stages"][1:] == fake()["stages"][1:]


@pytest.mark.parametrize(
  "text", ["", "[1]", "{}", '{"stages": 3}', '{"stages": [{"think": {}}]}']
)
def test_a_file_that_is_no_report_is_refused_in_one_line(tmp_path, text):
  path = tmp_path / "report.json"
  path.write_text(text)
  with pytest.raises(measures.ReportError, match="report.json: no") as error:
    measures.load(path)
  assert "\n" not in str(error.value)


def test_a_report_that_is_not_there_is_named(tmp_path):
  with pytest.raises(measures.ReportError, match="gone.json"):
    measures.load(tmp_path / "gone.json")
