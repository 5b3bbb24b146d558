"""Our models against what torch's and transformers' classes once gave.

Checkpoints and prompts are drawn anew, the results are in tests/data/parity;
`make parity` holds those to the classes themselves.
"""

import json

import pytest

from tests.parity import cases, ours


@pytest.mark.parametrize("name", list(cases.CASES))
def test_logits_and_greedy_ids_are_those_of_the_reference(name, tmp_path):
  case = cases.CASES[name]
  cases.write(tmp_path, case, cases.stored_shapes(name))
  # float32 sums of another order, over two blocks of each part.
  ours.assert_equal(ours.run(case, tmp_path), cases.stored(name), atol=1e-4)


def test_every_case_is_stored_with_the_versions_that_made_it():
  for name in (*cases.CASES, "mel"):
    versions = json.loads(str(cases.stored(name)["versions"]))
    assert versions.keys() == {"numpy", "torch", "transformers"}, name
  sizes = [path.stat().st_size for path in cases.DATA.iterdir()]
  assert sum(sizes) < 2**20
