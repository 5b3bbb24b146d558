"""Processes that share a piece of work, and do not outlive who gave it."""

import concurrent.futures
import multiprocessing
import os
import threading


def pool(count: int) -> concurrent.futures.ProcessPoolExecutor:
  """`count` processes of their own memory; they end when this one is killed."""
  return concurrent.futures.ProcessPoolExecutor(
    count,
    multiprocessing.get_context("spawn"),
    initializer=_watch,
  )


def _watch() -> None:
  """A process that is killed tells nobody: left alone, they would wait on."""
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  multiprocessing.parent_process().join()
  os._exit(1)
