"""Files decoded by TensorFlow-IO, in another process and environment.

  path ─→ .venv-tfio/bin/python tfio_worker.py ─→ samples, rate

For AAC, and for gs:// through TensorFlow's own file system.  WAV and FLAC come
out as libsndfile decodes them, sample for sample.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import tempfile
import threading
from collections.abc import Iterator

import numpy as np

from mgrd_jax.audio import io

WORKER = pathlib.Path(__file__).with_name("tfio_worker.py")

# Where `make tfio` links the FFmpeg that TensorFlow-IO decodes AAC with.
_FFMPEG = "lib/ffmpeg"


class EnvironmentMissing(OSError):
  """No environment that holds TensorFlow-IO, or one that does not work."""


class Decoder:
  """An `io.Decode` by TensorFlow-IO; starts its process when first called.

  Of one thread.  A context manager: its end is the process's.

  Args:
    home: the environment that `make tfio` makes.
    patience: seconds that a clip may take.  TensorFlow-IO never returns from a
      FLAC that is cut short.
    start: seconds that TensorFlow may take to load.

  Raises:
    EnvironmentMissing: there is none, or TensorFlow-IO does not load in it.
  """

  def __init__(
    self,
    home: str | os.PathLike,
    *,
    patience: float = 60.0,
    start: float = 180.0,
  ):
    self.home = pathlib.Path(home)
    self.patience, self.start = patience, start
    self._process = None
    self._python = self.home / "bin" / "python"
    if not self._python.exists():
      raise EnvironmentMissing(
        f"{self.home}: TensorFlow-IO has no environment here; run make tfio"
      )

  def __call__(
    self, path: str, *, name: str, max_seconds: int | float | None
  ) -> tuple[np.ndarray, io.Info]:
    """Decodes a file.

    Raises:
      io.AudioError: as `io.read` does.
    """
    if self._process is None:
      self._begin()
    told, frames = self._ask({"path": path, "max_seconds": max_seconds})
    if told is None:
      raise io.AudioError(
        name, "corrupt or cut short", "copy or download it again"
      )
    if "reason" in told:
      raise io.AudioError(name, told["reason"], told["fix"])
    info = io.Info(
      seconds=told["frames"] / told["rate"],
      rate=told["rate"],
      channels=told["channels"],
      format=told["format"],
    )
    return frames, info

  def close(self) -> None:
    """Ends the process; the next call starts another."""
    if self._process is not None:
      self._process.kill()
      self._process.wait()
      self._process.stdin.close()
      self._process.stdout.close()
      self._errors.close()
      self._process = None

  def __enter__(self) -> "Decoder":
    return self

  def __exit__(self, *_) -> None:
    self.close()

  def _begin(self) -> None:
    self._errors = tempfile.TemporaryFile()
    self._process = subprocess.Popen(
      [
        "env",
        f"LD_LIBRARY_PATH={self.home.absolute() / _FFMPEG}",
        "TF_CPP_MIN_LOG_LEVEL=3",
        self._python,
        # Isolated: the folder of the worker has an io.py of its own.
        "-I",
        "-W",
        "ignore",
        WORKER,
      ],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=self._errors,
    )
    with self._killed_after(self.start):
      ready = self._process.stdout.readline()
    if not ready:
      said = self._last_words()
      self.close()
      raise EnvironmentMissing(
        f"{self.home}: TensorFlow-IO does not load ({said}); run make tfio"
      )

  def _ask(self, request: dict) -> tuple[dict | None, np.ndarray | None]:
    """(its answer, samples); (None, None) if it died or was too slow."""
    process = self._process
    with self._killed_after(self.patience):
      try:
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        told = json.loads(process.stdout.readline())
        shape = told.get("frames", 0), told.get("channels", 0)
        frames = np.empty(shape, "<f4")
        if process.stdout.readinto(frames) == frames.nbytes:
          return told, frames
      except (OSError, ValueError):
        # Its pipes are closed: it was killed, or killed itself.
        pass
    self.close()
    return None, None

  @contextlib.contextmanager
  def _killed_after(self, seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, self._process.kill)
    timer.start()
    try:
      yield
    finally:
      timer.cancel()

  def _last_words(self) -> str:
    self._errors.seek(0)
    lines = self._errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
