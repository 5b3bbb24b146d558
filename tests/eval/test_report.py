"""Pages that hold every number once, and blanks where there is none."""

import subprocess
import sys

from mgrd_jax.eval import report
from tests.eval.reports import STAGES, fake


def cells(table):
  """{row name: {heading: cell}} of a markdown table."""
  head, rule, *body = (
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in table.splitlines()
  )
  assert len(rule) == len(head) and all(len(r) == len(head) for r in body)
  return {r[0]: dict(zip(head, r, strict=True)) for r in body}


def test_the_table_holds_each_stage_then_the_controls():
  table = cells(report.table(fake()))
  assert list(table)[:4] == list(STAGES) and len(table) == 6
  first = table["cold_start"]
  assert first["think"] == "40.0 [37.0, 43.0]" and first["direct"] == "60.0"
  tested = "[-5.0, +10.0], p 0.03"
  assert first["gap"] == f"-20.0 {tested}"
  assert table["mgrd_1_ppo"]["gap"] == f"+26.0 {tested}"
  assert first["held-out think / direct"] == "20.0 / 40.0"
  assert first["conflict think / direct"] == "30.0 / 50.0"
  assert (first["silence"], first["swap"]) == ("27.0", "21.0")
  assert first["swap follow"] == "88.0" and first["surrogate"] == "90.0"
  assert first["claim precision"] == "" and first["claim lift"] == "0.34"
  hint, unfiltered = list(table.values())[4:]
  assert hint["think"].startswith("71.0") and hint["direct"] == ""
  assert unfiltered["think"].startswith("66.0") and unfiltered["gap"] == ""


def test_what_is_missing_null_or_nan_is_blank_and_breaks_nothing(tmp_path):
  full = fake()
  full["stages"][0]["think"] |= {"acc": None, "ci95": None}
  full["stages"][1]["think"] |= {"acc": float("nan"), "ci95": [None, None]}
  full["stages"][2] = {"name": "mgrd_1_sft"}
  full["stages"][3]["direct"] = None
  table = cells(report.table(full))
  for name in STAGES[:2]:
    assert table[name]["think"] == "" and table[name]["gap"] == ""
  assert set(table["mgrd_1_sft"].values()) == {"mgrd_1_sft", ""}
  assert table["mgrd_1_ppo"]["gap"] == ""
  del full["controls"], full["wall_s"], full["funnel"], full["chance"]
  page = report.render(full, [], {}, tmp_path).read_text()
  assert "nan" not in page.lower() and "None" not in page
  bare = report.render({"stages": []}, [], {"a": []}, tmp_path / "bare")
  assert not list(bare.parent.glob("*.png"))


def test_a_gap_without_its_test_stands_alone_and_a_tiny_p_is_a_bound():
  full = fake()
  full["stages"][0]["paired"] |= {"p": 0.0}
  full["stages"][1]["paired"] = {"diff": None, "ci95": None, "p": None}
  del full["stages"][2]["paired"]
  table = cells(report.table(full))
  assert table["cold_start"]["gap"] == "-20.0 [-5.0, +10.0], p <1e-4"
  assert table["text_rlvr"]["gap"] == "-18.0"
  assert table["mgrd_1_sft"]["gap"] == "+25.0"


def test_several_seeds_show_their_mean_and_range():
  table = cells(report.merged_table([fake(0), fake(1, 0.03), fake(2, -0.06)]))
  assert table["cold_start"]["think"] == "39.0 (34.0…43.0)"
  assert table["cold_start"]["direct"] == "60.0"
  short = fake(1)
  short["stages"] = short["stages"][:1]
  names = list(cells(report.merged_table([short, fake(0)])))
  assert names[:4] == list(STAGES) and names[4].startswith("*")


def sample(**fields):
  return {
    "stage": "cold_start",
    "id": "test-label-000001",
    "question": "how does the speaker feel?",
    "options": ["happy", "sad"],
    "gold": "sad",
    "think": "the words say i won. so happy",
    "reply": "happy",
    "right": False,
    "claims": [],
    "surrogate": True,
  } | fields


def test_the_page_shows_chains_with_the_verdict_of_every_claim(tmp_path):
  claims = [
    {"text": text, "attribute": "pitch", "value": value, "verdict": verdict}
    for text, value, verdict in (
      ("high pitch", "high", "supported"),
      ("low pitch", "low", "contradicted"),
      ("a | <b>", "?", "unverifiable"),
    )
  ]
  heard = sample(stage="mgrd_1_sft", claims=claims, right=True, surrogate=False)
  page = report.render(fake(), [sample(), heard], {}, tmp_path).read_text()
  first, second = page.split("### cold\\_start")[1].split("### mgrd")
  assert "**wrong**, gold sad" in first and "words in place of sound" in first
  assert "the words say i won. so happy" in first and "claims: " in first
  assert "right, gold sad" in second and "words in place" not in second
  assert "✓ high pitch (pitch: supported)" in second
  assert "✗ low pitch (pitch: contradicted)" in second
  assert "? a \\| \\<b\\> (pitch: unverifiable)" in second


def test_the_page_holds_header_funnel_reasons_and_pictures(tmp_path):
  metrics = {
    "encoder": [{"step": s, "encoder/ctc": 3 / (s + 1)} for s in range(9)],
    "cold_start": [{"step": 0, "train/loss": 2.0}, {"step": 10}],
    "empty": [],
  }
  path = report.render(fake(), [], metrics, tmp_path / "new")
  page = path.read_text()
  for text in (
    "seed 0", "abc123", "0123456789abcdef", "2.0 min", "2048 MB", "1,234,567",
    "| 1 | 8000 | 4000 | 3000 | 2900 | 1500 | 5.5 % |",
    "| wrong answer | 4000 |", "| a\\|b | 100 |", "spoken\\|sums",
    report.table(fake()),
  ):  # fmt: skip
    assert text in page, text
  for name in ("accuracy.png", "grounding.png", "training.png"):
    assert f"({name})" in page
    assert (path.parent / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
  assert not list(path.parent.glob(".*"))


def header(tmp_path, last):
  page = report.render(fake() | {"last": last}, [], {}, tmp_path).read_text()
  return page.split("## Stages")[0]


def test_the_header_says_how_the_last_stage_was_rewarded(tmp_path):
  paper = header(tmp_path, {"format_reward": 0.2, "gamma": 1.0})
  assert "- last PPO stage: format reward 0.2, γ 1\n" in paper
  bare = header(tmp_path, {"format_reward": 0.0, "gamma": 1.0})
  assert "- last PPO stage: format reward 0, γ 1\n" in bare
  short = header(tmp_path, {"format_reward": 0.2, "gamma": 0.995})
  line = "- last PPO stage: format reward 0.2, γ 0.995 (γ < 1: a pressure on"
  assert f"{line} length)\n" in short
  assert "last PPO" not in header(tmp_path, None)


def test_rendering_twice_gives_the_same_bytes(tmp_path):
  metrics = {"cold_start": [{"step": 0, "train/loss": 2.0}]}
  for folder in ("a", "b"):
    report.render(fake(), [sample()], metrics, tmp_path / folder)
  for one in (tmp_path / "a").iterdir():
    assert one.read_bytes() == (tmp_path / "b" / one.name).read_bytes()


def test_importing_the_report_loads_no_matplotlib():
  code = (
    "import sys, mgrd_jax.eval.report; "
    "assert not any(m.startswith('matplotlib') for m in sys.modules)"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True)
  assert not done.returncode, done.stderr.decode()[-500:]
