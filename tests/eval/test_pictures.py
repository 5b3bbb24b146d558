"""Pictures of a report, drawn without the caller's matplotlib."""

import json
import subprocess
import sys

from tests.eval.reports import fake


def test_pictures_leave_the_callers_matplotlib_alone(tmp_path):
  code = (
    "import sys, json; from mgrd_jax.eval import report\n"
    f"report.curves(json.loads({json.dumps(json.dumps(fake()))}), "
    f"{str(tmp_path)!r})\n"
    "assert 'matplotlib.figure' in sys.modules\n"
    "assert 'matplotlib.pyplot' not in sys.modules"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True)
  assert not done.returncode, done.stderr.decode()[-500:]
