"""What results rest on: the commit of the code."""

import functools
import pathlib
import subprocess


# Once a process: what has been imported stays as it is, whatever git does.
@functools.cache
def commit() -> str:
  """The commit of this very code, "-dirty" where files differ from it.

  "unknown" without git, or outside of a repository.
  """
  try:
    done = subprocess.run(
      ["git", "describe", "--always", "--dirty", "--exclude=*"],
      cwd=pathlib.Path(__file__).parent,
      capture_output=True,
      text=True,
    )
  except OSError:
    return "unknown"
  return done.stdout.strip() or "unknown"
