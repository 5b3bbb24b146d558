"""What is selected to learn from is counted by example."""

import numpy as np

from experiments import files, responses, rlvr
from tests import world

TANGO = f"{world.CHAIN}\n</think>\nanswer: tango<|EOT|>"


def test_selection_counts_the_hits_of_each_clip(tmp_path, monkeypatch):
  """Dances are asked alike; whoever says "tango" is right about one of them."""
  context = world.context()
  config = world.stage("audio_rlvr", band=(3, 6), select_samples=4)
  token_T = np.array(context.tokenizer.encode(TANGO), np.int32)

  def generator(*_, samples, **__):
    def generate(batch, request_B):
      rows = len(request_B) * samples
      stopped_B = np.arange(rows) % samples > 0  # three of four
      length_B = np.full(rows, len(token_T))
      token_BT = np.tile(token_T, (rows, 1))
      return token_BT, np.zeros(token_BT.shape), length_B, stopped_B

    return generate

  monkeypatch.setattr(responses, "generator", generator)
  asked = rlvr.questions(context, config)
  chosen = rlvr.selected(
    context, {}, asked, config=config, workdir=tmp_path
  )
  hits = files.read_json(tmp_path / "hits.json")
  assert hits == {e.id: 3 * (e.answer == "tango") for e in asked}
  assert chosen == [e for e in asked if e.answer == "tango"]
  dances = [e for e in asked if e.question == "which dance is this?"]
  assert sorted(hits[e.id] for e in dances) == [0, 0, 0, 3]
