"""In a log, progress is a line now and then, with what is left."""

import re

from experiments import progress


def test_a_log_gets_lines_with_an_eta(capsys):
  with progress.bar("shards", every=1e-9) as update:
    update(1, 4, "7 clips")
    update(4, 4)
  out, err = capsys.readouterr()
  assert not out
  first, last = err.splitlines()
  assert re.fullmatch(r"shards: 1 of 4, eta 0:00:0\d, 7 clips", first)
  assert last == "shards: 4 of 4, eta 0:00:00"


def test_a_log_gets_nothing_before_its_time_or_unasked(capsys):
  for every in (None, 3600):
    with progress.bar("shards", every=every) as update:
      for done in range(5):
        update(done, 4)
  assert capsys.readouterr() == ("", "")
