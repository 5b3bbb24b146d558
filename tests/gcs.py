"""gs:// for tensorstore too, which has a client of its own: Bucket over HTTP.

The few calls of the JSON API of Google Cloud Storage that it makes.
"""

import http.server
import json
import os
import pathlib
import re
import threading
from urllib import parse

import pytest

from tests.bucket import Bucket, bucket  # noqa: F401

OBJECTS = re.compile(r"(?:/upload)?/storage/v1/b/([^/]+)/o(?:/([^/]+))?")


class Handler(http.server.BaseHTTPRequestHandler):
  """Reads, writes, lists and removes what `Bucket` has on this machine."""

  protocol_version = "HTTP/1.1"
  wbufsize = -1  # head and body as one packet

  def log_message(self, *_):
    pass

  def answer(self):
    body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
    url = parse.urlsplit(self.path)
    asked = dict(parse.parse_qsl(url.query))
    name, key = map(parse.unquote, OBJECTS.fullmatch(url.path).groups(""))
    root = pathlib.Path(Bucket.root, name)
    path = root / (key or asked.get("name", ""))
    if self.command == "GET" and not key:
      return self.reply(200, listed(root, asked))
    if self.command == "POST":
      path.parent.mkdir(parents=True, exist_ok=True)
      # Readers see the old object or the new one.
      part = root.parent / f".{threading.get_ident()}"
      part.write_bytes(body)
      part.replace(path)
      return self.reply(200, described(root, path))
    if not path.is_file():
      return self.reply(404, {})
    if self.command == "DELETE":
      path.unlink()
      return self.reply(204, b"")
    return self.send(path, asked.get("alt") == "media")

  do_GET = do_POST = do_DELETE = answer

  def send(self, path, is_media: bool):
    if not is_media:
      return self.reply(200, described(path.parent, path))
    data = path.read_bytes()
    span = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
    if not span:
      return self.reply(200, data)
    first, last = int(span[1]), int(span[2] or len(data))
    some = data[first : last + 1]
    end = first + len(some) - 1
    return self.reply(206, some, f"bytes {first}-{end}/{len(data)}")

  def reply(self, status: int, content, span: str = ""):
    body = content
    if not isinstance(body, bytes):
      body = json.dumps(content).encode()
    self.send_response(status)
    self.send_header("Content-Length", str(len(body)))
    self.send_header("x-goog-generation", "1")
    if span:
      self.send_header("Content-Range", span)
    self.end_headers()
    self.wfile.write(body)


def described(root, path) -> dict:
  return {
    "name": path.relative_to(root).as_posix(),
    "size": str(path.stat().st_size),
    "generation": "1",
  }


def listed(root, asked) -> dict:
  """Objects of a bucket whose names lie in the range that is asked for."""
  names = (described(root, p) for p in root.rglob("*") if p.is_file())
  first, last = asked.get("startOffset", ""), asked.get("endOffset", "\uffff")
  items = [one for one in names if first <= one["name"] < last]
  return {"items": sorted(items, key=lambda one: one["name"])}


@pytest.fixture(scope="session")
def server():
  """tensorstore asks it, in this process, for what is on gs://."""
  http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
  http_server.daemon_threads = True
  threading.Thread(target=http_server.serve_forever, daemon=True).start()
  host, port = http_server.server_address
  os.environ["TENSORSTORE_GCS_HTTP_URL"] = f"http://{host}:{port}"
  # It would look for credentials, and in the end on the network.
  os.environ["GOOGLE_AUTH_TOKEN_FOR_TESTING"] = "any"
  yield http_server
  http_server.shutdown()


@pytest.fixture
def gcs(bucket, server):  # noqa: F811
  """(gs://NAME, the folder that it is), for checkpoints too."""
  return bucket
