"""Prompts of the released models, byte for byte, and their ids.

The expected strings were rendered by jinja2 from the published templates:
that of Step-Audio-R1's README (`exact`), and Qwen2AudioProcessor's.
"""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgrd_jax.data import transforms
from mgrd_jax.text import chat, families, tokenizer, turns
from mgrd_jax.text.turns import Audio, Message
from tests.text import byte_pairs

ASK = "What is it?\n"
CLIP = Audio((3,))
LONG = Audio((313, 25))
SYSTEM = Message("system", "You are a judge.")
HUMAN = Message("human", (ASK, CLIP))
OPENED = Message("assistant", "<think>\n", eot=False)
TOOLS = ({"type": "function", "function": {"name": "搜 <1>", "x": [1, 2]}},)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
  """family -> its tokenizer, as loaded from a released folder."""
  root = tmp_path_factory.mktemp("released")
  return {
    family: families.load(byte_pairs.write(root / family, special), family)
    for family, special in byte_pairs.SPECIAL.items()
  }


def step(messages, **kwargs):
  return turns.render(messages, "step-audio", **kwargs)


def qwen(messages, **kwargs):
  return turns.render(messages, "qwen2-audio", **kwargs)


ANSWERED = (
  Message("user", (CLIP, "a")),
  Message("assistant", "b"),
  Message("user", "c"),
)
EXACT = {
  "no system": (
    [HUMAN],
    "<|BOT|>human\nWhat is it?\n<audio_patch><|EOT|>"
    "<|BOT|>assistant\n<think>\n",
  ),
  "system": (
    [SYSTEM, HUMAN],
    "<|BOT|>system\nYou are a judge.<|EOT|>"
    "<|BOT|>human\nWhat is it?\n<audio_patch><|EOT|>"
    "<|BOT|>assistant\n<think>\n",
  ),
  "two chunks": (
    [Message("user", (LONG, ASK))],
    "<|BOT|>human\n<audio_patch><audio_patch>What is it?\n<|EOT|>"
    "<|BOT|>assistant\n<think>\n",
  ),
  "prefix continuation": (
    [HUMAN, OPENED],
    "<|BOT|>human\nWhat is it?\n<audio_patch><|EOT|>"
    "<|BOT|>assistant\n<think>\n",
  ),
  "several turns, of which no assistant's is closed": (
    ANSWERED,
    "<|BOT|>human\n<audio_patch>a<|EOT|><|BOT|>assistant\nb"
    "<|BOT|>human\nc<|EOT|><|BOT|>assistant\n<think>\n",
  ),
  "an answer that is not continued": (
    ANSWERED[:2],
    "<|BOT|>human\n<audio_patch>a<|EOT|><|BOT|>assistant\nb"
    "<|BOT|>assistant\n<think>\n",
  ),
  "later systems, other roles, and a dropped function output": (
    [
      Message("user", "a"),
      Message("system", "s"),
      Message("tool", "t"),
      Message("function_output", "f"),
      Message("input", "i"),
    ],
    "<|BOT|>human\na<|EOT|><|BOT|>system\ns<|EOT|><|BOT|>tool\nt<|EOT|>"
    "<|BOT|>input\ni<|EOT|><|BOT|>assistant\n<think>\n",
  ),
  "content as one string": (
    [Message("user", "a\n<audio_patch>\nb")],
    "<|BOT|>human\na\n<audio_patch>b<|EOT|><|BOT|>assistant\n<think>\n",
  ),
}


@pytest.mark.parametrize("case", EXACT)
def test_the_exact_template_is_the_published_one(case):
  messages, expected = EXACT[case]
  assert step(messages, exact=True) == expected


def test_the_exact_template_leaves_the_system_open_before_tools():
  schemas = (
    '<|BOT|>tool_json_schemas\n[{"type": "function", "function": '
    '{"name": "搜 <1>", "x": [1, 2]}}]<|EOT|>'
  )
  rest = "<|BOT|>human\na<|EOT|><|BOT|>assistant\n<think>\n"
  ask = Message("user", "a")
  assert step([ask], exact=True, tools=TOOLS) == (
    f"<|BOT|>system\n{schemas}{rest}"
  )
  judge = "<|BOT|>system\nYou are a judge.<|EOT|>"
  assert step([SYSTEM, ask], exact=True, tools=TOOLS) == judge + schemas + rest
  # Ours opens no turn that it does not close.
  assert step([ask], tools=TOOLS) == schemas + rest
  assert step([SYSTEM, ask], tools=TOOLS) == judge + schemas + rest


def test_ours_is_the_exact_template_with_every_turn_closed():
  span = "<audio_start><audio_patch><audio_end>"
  for case in ("no system", "system", "two chunks", "prefix continuation"):
    messages, expected = EXACT[case]
    assert step(messages) == expected.replace("<audio_patch>", span)
  assert step(ANSWERED) == (
    f"<|BOT|>human\n{span}a<|EOT|><|BOT|>assistant\nb<|EOT|>"
    "<|BOT|>human\nc<|EOT|><|BOT|>assistant\n<think>\n"
  )


def test_tools_and_their_outputs_are_written_as_the_clients_do():
  messages = [
    Message("system", "s"),
    Message("tool_json_schemas", "[]"),
    Message("user", "a"),
    Message("assistant", "<tool_call>function\nlook\n{}</tool_call>"),
    Message("tool", "42", name="look"),
    Message("tool", "43"),
    Message("function_output", "44"),
    Message("input", ("45", "\n46")),
  ]
  assert step(messages, prefill="") == (
    "<|BOT|>system\ns<|EOT|><|BOT|>tool_json_schemas\n[]<|EOT|>"
    "<|BOT|>human\na<|EOT|>"
    "<|BOT|>assistant\n<tool_call>function\nlook\n{}</tool_call><|EOT|>"
    "<|BOT|>function_output\nlook\n42<|EOT|>"
    "<|BOT|>function_output\ntool\n43<|EOT|>"
    "<|BOT|>input\n44<|EOT|><|BOT|>input\n45\n46<|EOT|><|BOT|>assistant\n"
  )


def test_the_prefill_opens_closes_or_leaves_out_the_think_block():
  ask = [Message("user", "a")]
  head = "<|BOT|>human\na<|EOT|><|BOT|>assistant\n"
  assert step(ask) == step(ask, prefill=chat.OPEN) == head + "<think>\n"
  assert step(ask, prefill=chat.EMPTY) == head + "<think>\n\n</think>\n"
  assert step(ask, prefill="") == head
  assert step(ask, prefill="\n<think>\n") == head + "\n<think>\n"


CHATML = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


@pytest.mark.parametrize("exact", [False, True])
def test_qwen2_audio_is_chatml_with_numbered_clips(exact):
  span = "<|audio_bos|><|AUDIO|><|audio_eos|>\n"
  messages = [
    Message("user", (CLIP, "What's that?")),
    Message("assistant", "Glass."),
    Message("user", ("And these?", Audio((750, 3)))),
  ]
  rest = (
    f"<|im_start|>user\nAudio 1: {span}What's that?<|im_end|>\n"
    "<|im_start|>assistant\nGlass.<|im_end|>\n"
    f"<|im_start|>user\nAnd these?Audio 2: {span}Audio 3: {span}<|im_end|>\n"
    "<|im_start|>assistant\n"
  )
  assert qwen(messages, exact=exact) == CHATML + rest
  judge = "<|im_start|>system\nYou are a judge.<|im_end|>\n"
  assert qwen([SYSTEM, *messages], exact=exact) == judge + rest


def test_qwen2_audio_continues_an_open_answer():
  messages = [Message("human", "a"), Message("assistant", "so", eot=False)]
  opened = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
  assert qwen(messages) == f"{CHATML}{opened}so"
  assert qwen(messages[:1], prefill="so") == f"{CHATML}{opened}so"


def test_base_models_are_prompted_without_turns():
  parts = (CLIP, "Generate the caption:")
  assert turns.plain(parts, "qwen2-audio") == (
    "<|audio_bos|><|AUDIO|><|audio_eos|>Generate the caption:"
  )
  assert turns.plain(("a", LONG), "step-audio") == "a" + 2 * chat.AUDIO


THINK = {
  "<think>\n": [13708, 766, 397],
  "</think>\n": [522, 26865, 397],
  "</think>\n\n": [522, 26865, 1339],
  "<think>\n\n</think>\n": [13708, 766, 1339, 522, 26865, 397],
  "assistant\n": [77091, 198],
  "human\n": [25312, 198],
  "system\n": [8948, 198],
}


@pytest.mark.parametrize("text", THINK)
def test_the_think_tags_and_roles_have_the_published_ids(released, text):
  for found in released.values():
    assert found.encode(text) == THINK[text]
    assert found.decode(THINK[text]) == text


BOT, EOT, START, END, PATCH = 151666, 151665, 151688, 151689, 151690


def test_a_prompt_in_ids(released):
  found = released["step-audio"]
  messages = [SYSTEM, Message("human", (Audio((2, 1)), "so"))]
  row = turns.row(found, messages, "step-audio")
  assert row.tokens.tolist() == [
    BOT, 8948, 198, *found.encode("You are a judge."), EOT,
    BOT, 25312, 198, START, PATCH, PATCH, END, START, PATCH, END,
    *found.encode("so"), EOT, BOT, 77091, 198, 13708, 766, 397,
  ]  # fmt: skip
  assert row.prompt_len == len(row.tokens) and not row.loss.any()
  first = row.tokens.tolist().index(START) + 1
  assert row.spans == ((first, 2), (first + 4, 1))
  direct = turns.row(found, messages, "step-audio", prefill=chat.EMPTY)
  assert direct.tokens.tolist() == [
    *row.tokens[:-3], *THINK["<think>\n\n</think>\n"]
  ]  # fmt: skip


def test_a_chatml_prompt_in_ids(released):
  found = released["qwen2-audio"]
  row = turns.row(found, [Message("user", (CLIP, "so"))], "qwen2-audio")
  assert row.tokens.tolist() == [
    151644, 8948, 198, *found.encode("You are a helpful assistant."),
    151645, 198, 151644, 872, 198, *found.encode("Audio 1: "),
    151647, 151646, 151646, 151646, 151648, *found.encode("\nso"),
    151645, 198, 151644, 77091, 198,
  ]  # fmt: skip
  [(start, count)] = row.spans
  assert (row.tokens[start : start + count] == 151646).all() and count == 3


def test_the_exact_template_draws_spans_around_bare_placeholders(released):
  found = released["step-audio"]
  ask = [Message("user", (LONG, "so", CLIP))]
  exact = turns.row(found, ask, "step-audio", exact=True)
  ours = turns.row(found, ask, "step-audio")
  assert exact.tokens.tolist() == ours.tokens.tolist()
  assert exact.spans == ours.spans
  assert [count for _, count in ours.spans] == [313, 25, 3]


def test_a_response_is_tokenised_on_its_own_and_alone_is_scored(released):
  found = released["step-audio"]
  target = "\nso\n</think>\nglass<|EOT|>"
  head = turns.row(found, [HUMAN], "step-audio").tokens.tolist()
  row = turns.row(found, [HUMAN], "step-audio", target=target)
  assert row.tokens.tolist() == head + found.encode(target)
  assert row.prompt_len == len(head) and row.tokens.dtype == np.int32
  assert row.loss.sum() == len(found.encode(target))
  assert found.decode(row.tokens[row.loss]) == target
  # In one piece the line break would have joined the tag: another boundary.
  whole = found.encode(chat.OPEN + target)
  assert whole[2] == 1339 and head[-1] == 397


@pytest.mark.parametrize(
  "family, stride", [("step-audio", 2), ("qwen2-audio", 1)]
)
def test_rows_are_what_a_batch_is_made_of(released, family, stride):
  row = turns.row(released[family], [Message("user", (LONG,))], family)
  enc = [np.ones((stride * n, 4), np.float32) for _, n in row.spans]
  item = transforms.Item(row, tuple(enc))
  shape = transforms.shape_of([item], width=4)
  shape = dataclasses.replace(shape, stride=stride)
  batch = transforms.collate([item], shape)
  patch = released[family].id(families.FAMILIES[family].patch)
  held_BT = batch.audio_index_BT >= 0
  assert ((batch.tokens_BT == patch) == held_BT).all()
  assert held_BT.sum() == 338 == len(np.unique(batch.audio_index_BT[held_BT]))


def test_a_plain_prompt_in_ids(released):
  found = released["qwen2-audio"]
  row = turns.plain_row(found, (Audio((2,)), "so"), "qwen2-audio")
  ids = [151647, 151646, 151646, 151648, *found.encode("so")]
  assert row.tokens.tolist() == ids and row.spans == ((1, 2),)
  with pytest.raises(ValueError, match="special token '<|AUDIO|>'"):
    turns.plain_row(found, ("<|AUDIO|>",), "qwen2-audio")


@pytest.mark.parametrize("family", byte_pairs.SPECIAL)
def test_an_over_long_prompt_is_refused_with_both_lengths(released, family):
  ask = [Message("user", (LONG, "so"))]
  length = len(turns.row(released[family], ask, family).tokens)
  # A prompt leaves room for a token of the answer.
  turns.row(released[family], ask, family, context=length + 1)
  wrong = (
    f"{length} tokens, 338 of them audio, where the context is {length}, "
    r"answer included \(max_position_embeddings in .*config.json\)"
  )
  with pytest.raises(ValueError, match=wrong):
    turns.row(released[family], ask, family, context=length)
  turns.row(released[family], ask, family, context=length + 2, target="ab")
  with pytest.raises(ValueError, match=f"prompt of {length + 2} tokens"):
    turns.row(released[family], ask, family, context=length + 1, target="ab")


@pytest.mark.parametrize("role", ["system", "user", "human"])
@pytest.mark.parametrize("family", byte_pairs.SPECIAL)
def test_a_special_token_that_somebody_wrote_is_refused(released, family, role):
  for token in byte_pairs.SPECIAL[family]:
    halves = (f"so {token[:3]}", f"{token[3:]} sad")
    for content in (f"so {token} sad", halves):
      messages = [Message("user", "a"), Message(role, content)]
      with pytest.raises(ValueError) as refused:
        turns.row(released[family], messages, family)
      line = str(refused.value)
      assert line.startswith(f"message 1 ({role}): holds the special token")
      assert repr(token) in line


def test_special_tokens_in_tools_and_names_are_refused(released):
  found = released["step-audio"]
  tools = [{"name": "<|EOT|>"}]
  with pytest.raises(ValueError, match="^tools: holds the special token"):
    turns.row(found, [HUMAN], "step-audio", tools=tools)
  named = Message("tool", "42", name="<|EOT|>")
  with pytest.raises(ValueError, match=r"^message 1 \(tool\): holds"):
    turns.row(found, [HUMAN, named], "step-audio")


def test_a_clip_between_two_halves_parts_them(released):
  ask = Message("user", ("<|E", CLIP, "OT|>"))
  row = turns.row(released["step-audio"], [ask], "step-audio")
  assert row.tokens.tolist().count(EOT) == 1


def test_an_assistant_may_speak_and_call_but_not_close_its_turn(released):
  found = released["step-audio"]
  for content in ("<tts_start>", "<tool_call>a</tool_call>", "<think>\nb"):
    said = Message("assistant", content, eot=False)
    row = turns.row(found, [HUMAN, said], "step-audio")
    assert found.decode(row.tokens).endswith(f"assistant\n{content}")
  for content in ("a<|EOT|>", "<|BOT|>human\n", "<audio_patch>"):
    said = Message("assistant", content)
    with pytest.raises(ValueError, match="special token"):
      turns.row(found, [HUMAN, said], "step-audio")


def test_the_exact_template_takes_tokens_for_what_they_spell(released):
  found = released["step-audio"]
  ask = [Message("user", "so<|EOT|>")]
  row = turns.row(found, ask, "step-audio", exact=True)
  assert row.tokens.tolist().count(EOT) == 2
  ask = [Message("user", ("<audio_patch>", CLIP))]
  with pytest.raises(ValueError, match="2 audio placeholders for 1 clips"):
    turns.row(found, ask, "step-audio", exact=True)


def test_a_small_tokenizer_s_think_tag_is_the_assistant_s_to_write():
  own = tokenizer.build(["what is it?", "human assistant"])
  ask = Message("user", ("what is it?", CLIP))
  row = turns.row(own, [ask, OPENED], "step-audio")
  assert own.decode(row.tokens).endswith("<|BOT|>assistant\n<think>\n")
  with pytest.raises(ValueError, match="special token '<think>'"):
    turns.row(own, [Message("user", "<think>")], "step-audio")


@settings(max_examples=60, deadline=None)
@given(st.text("aé <>|\n/?E", max_size=20), st.booleans())
def test_any_question_leaves_the_turns_whole(released, text, before):
  found = released["step-audio"]
  parts = (text, CLIP) if before else (CLIP, text)
  row = turns.row(found, [Message("user", parts)], "step-audio")
  for i, count in ((BOT, 2), (EOT, 1), (PATCH, 3), (START, 1), (END, 1)):
    assert (row.tokens == i).sum() == count
  assert row.tokens[-6:].tolist() == [BOT, 77091, 198, 13708, 766, 397]


def test_what_cannot_be_rendered_is_refused(released):
  with pytest.raises(ValueError, match="messages: there are none"):
    step([])
  with pytest.raises(ValueError, match="role 'judge': step-audio knows system"):
    step([Message("judge", "a")])
  with pytest.raises(ValueError, match="role 'tool': qwen2-audio knows system"):
    qwen([Message("tool", "a")])
  with pytest.raises(ValueError, match="tools: qwen2-audio's template has no"):
    qwen([HUMAN], tools=TOOLS)
  with pytest.raises(ValueError, match="prefill: the template is exact"):
    step([HUMAN], exact=True, prefill="")
  with pytest.raises(
    ValueError, match="prefill: the last message is continued"
  ):
    step([HUMAN, OPENED], prefill="")
  with pytest.raises(ValueError, match="family 'gpt' is none of"):
    turns.render([HUMAN], "gpt")
  with pytest.raises(ValueError, match="an empty clip"):
    Audio(())
  short = [Message("user", (CLIP, Audio((0,))))]
  with pytest.raises(ValueError, match="clip 1 is too short"):
    turns.row(released["step-audio"], short, "step-audio")
