"""Names and letters, splicing, the cache, the value head."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mgrd_jax import types
from mgrd_jax.models import adapter, audio_lm, decoder, recognition
from tests import toys

PARAMS = toys.trained_parts(noise=0.1)
PREFILL = toys.jit(toys.prefill, static_argnames="slots")
DECODE = toys.jit(toys.decode)
A, B, C = toys.clip(0), toys.clip(1), toys.clip(2, frames=3)


def logits(*items, time=16, clips=1):
  batch = toys.batch(items, time=time, clips=clips)
  return np.asarray(toys.APPLY(PARAMS, batch))


def leaves(tree):
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    yield jax.tree_util.keystr(path), path[-1].key, leaf


@pytest.mark.parametrize("variant", sorted(audio_lm.VARIANTS))
def test_each_parameter_names_its_axes_with_letters_of_the_alphabet(variant):
  config = audio_lm.config_for(variant, vocab=512)
  heads = recognition.RecognitionHeads(words=9, attributes=3, classes=4)
  width = config.encoder.width

  def make(key):
    return audio_lm.init(key, config) | {
      "heads": recognition.init_heads(key, heads, width),
      "value": audio_lm.init_value_head(config.decoder.width),
    }

  found = list(leaves(jax.eval_shape(make, jax.random.key(0))))
  assert len(found) > 40
  for path, name, leaf in found:
    stem, _, axes = name.rpartition("_")
    if leaf.ndim >= 2 or axes.isupper():
      assert stem and len(axes) == leaf.ndim, path
      assert set(axes) <= types.ALPHABET, path
    assert leaf.dtype == jnp.float32, path


def test_a_letter_has_one_size_in_the_decoder():
  c = audio_lm.config_for("tiny", vocab=512).decoder
  sizes = dict(
    L=c.layers, D=c.width, N=c.heads, K=c.kv_heads, H=c.head_dim, F=c.ffn, V=512
  )
  make = functools.partial(
    audio_lm.init, config=audio_lm.config_for("tiny", vocab=512)
  )
  shapes = jax.eval_shape(make, jax.random.key(0))["decoder"]
  for path, name, leaf in leaves(shapes):
    axes = name.rpartition("_")[2]
    assert leaf.shape == tuple(sizes[a] for a in axes), path


def test_an_unknown_variant_is_refused_by_name():
  with pytest.raises(ValueError, match="'none such'; have .*'tiny'"):
    audio_lm.config_for("none such", vocab=8)


def test_audio_stands_in_place_of_its_placeholders_and_nowhere_else():
  item = toys.item([1, 2], A, [3], B, [4])

  @toys.jit
  def by_hand(params, clips_BAE):
    module = adapter.Adapter(toys.CONFIG.adapter)
    audio_BAD = module.apply({"params": params["adapter"]}, clips_BAE)
    word_VD = params["decoder"]["embed_VD"]
    embed_TD = jnp.concatenate(
      [word_VD[1:3], audio_BAD[0], word_VD[3:4], audio_BAD[1], word_VD[4:5]]
    )
    hidden_BTD, head_DV, _ = decoder.Decoder(toys.CONFIG.decoder).apply(
      {"params": params["decoder"]},
      jnp.zeros((1, len(embed_TD)), jnp.int32),
      lambda _: embed_TD[None],
      jnp.arange(len(embed_TD))[None],
    )
    return hidden_BTD[0] @ head_DV

  golden_TV = by_hand(PARAMS, np.stack([A, B]))
  spliced = logits(item, clips=2)[0, : len(golden_TV)]
  assert len(golden_TV) == len(item.row.tokens)
  np.testing.assert_allclose(spliced, golden_TV, atol=1e-5)


def test_two_clips_in_a_row_and_two_rows_keep_their_own_clips():
  first, second = toys.item([1], A, B, [2]), toys.item([1], C, [2], A, [3])
  both = logits(first, second, clips=2)
  # A single clip in a batch with room for two shifts all indices.
  third = toys.item([5, 5], B, [5])
  three = logits(third, first, second, clips=2)
  for b, item in enumerate((first, second)):
    n = len(item.row.tokens)
    alone = logits(item, clips=2)[0, :n]
    np.testing.assert_allclose(both[b, :n], alone, atol=2e-6)
    np.testing.assert_allclose(three[b + 1, :n], alone, atol=2e-6)
  n = len(third.row.tokens)
  alone = logits(third)[0, :n]
  np.testing.assert_allclose(three[0, :n], alone, atol=2e-6)


def test_the_order_of_two_clips_matters():
  ab, ba = logits(toys.item([1], A, B, [2]), toys.item([1], B, A, [2]), clips=2)
  assert np.abs(ab - ba)[7].max() > 1e-3


def test_the_same_text_with_two_clips_has_two_distributions():
  a_BTV, b_BTV = logits(toys.item([1], A, [2, 3]), toys.item([1], B, [2, 3]))
  np.testing.assert_array_equal(a_BTV[0], b_BTV[0])
  assert np.abs(a_BTV - b_BTV)[4:6].max(-1).min() > 1e-3


def test_the_length_of_the_audio_padding_does_not_matter():
  item = toys.item([1], C, [2, 3])
  padded = logits(item)
  n = len(item.row.tokens)
  # A lone clip of 3 frames; in the batch it is padded to 6.
  alone = toys.batch([item])
  alone = dataclasses.replace(alone, enc_BAE=alone.enc_BAE[:, :3])
  close = toys.APPLY(PARAMS, alone)[0, :n]
  np.testing.assert_allclose(padded[0, :n], close, atol=2e-6)


def test_cached_decoding_equals_the_full_forward_token_by_token():
  texts = [7, 8, 9, 10, 11]
  prompts = [
    toys.item([1], A, [2]),
    toys.item([3]),
    toys.item([1, 2, 3, 4], C, [5, 6]),
  ]
  whole = [
    toys.item([1], A, [2] + texts),
    toys.item([3] + texts),
    toys.item([1, 2, 3, 4], C, [5, 6] + texts),
  ]
  full_BTV = logits(*whole)
  len_B = np.array([len(p.row.tokens) for p in prompts])
  rows = np.arange(3)
  step_BV, cache = PREFILL(PARAMS, toys.batch(prompts, time=9), slots=14)
  for step, token in enumerate(texts):
    close = functools.partial(np.testing.assert_allclose, atol=5e-6)
    close(step_BV, full_BTV[rows, len_B + step - 1])
    step_BV, cache = DECODE(PARAMS, jnp.full(3, token), len_B + step, cache)
  close(step_BV, full_BTV[rows, len_B + len(texts) - 1])


def prompts():
  """Rows of three lengths; 20 columns are no multiple of a block."""
  items = [
    toys.item([1] * 9, A, [2] * 6),
    toys.item([3], B, [4]),
    toys.item([1, 2, 3, 4], C, [5, 6], A, [7]),
  ]
  return toys.batch(items, time=20, clips=2)


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_a_prefill_by_blocks_is_that_of_the_whole_prompt(kind):
  part = dataclasses.replace(toys.CONFIG.adapter, kind=kind)
  config = dataclasses.replace(toys.CONFIG, adapter=part)
  params = toys.params(config=config)
  prefill = functools.partial(audio_lm.prefill, config=config, slots=24)
  whole_BV, whole = toys.jit(prefill)(params, prompts())
  for block in (8, 20):
    by_blocks = toys.jit(functools.partial(prefill, block=block))
    logits_BV, cache = by_blocks(params, prompts())
    np.testing.assert_allclose(logits_BV, whole_BV, atol=1e-5)
    assert toys.difference(cache, whole) < 1e-5


def test_no_scores_of_a_prefill_by_blocks_are_as_long_as_the_prompt():
  def scores(time, block):
    batch = toys.batch([toys.item([1] * 9, A, [2])], time=time)
    prefill = functools.partial(toys.prefill, slots=52, block=block)
    text = str(jax.make_jaxpr(prefill)(PARAMS, batch))
    shapes = [
      [*map(int, s.split(","))] for s in re.findall(r"f32\[([\d,]+)\]", text)
    ]
    found = {max(np.prod(s) // 52 for s in shapes if 52 in s)}
    return found, text.count("\n")

  # Four heads.
  assert scores(40, 0)[0] == {4 * 40}
  (few, lines), (many, more) = scores(20, 10), scores(40, 10)
  assert few == many and lines == more


def test_a_cache_holds_what_its_own_weights_and_clip_wrote():
  # The same text over another clip, and other weights over the same row.
  batches = [toys.batch([toys.item([1], c, [2])], time=8) for c in (A, B)]
  a_BV, a_cache = PREFILL(PARAMS, batches[0], slots=12)
  b_BV, b_cache = PREFILL(PARAMS, batches[1], slots=12)
  moved = jax.tree.map(lambda x: x * 1.05, PARAMS)
  c_BV, c_cache = PREFILL(moved, batches[0], slots=12)
  for other_BV, other in ((b_BV, b_cache), (c_BV, c_cache)):
    assert np.abs(a_BV - other_BV).max() > 1e-3
    assert np.abs(a_cache.k_BKHS[1] - other.k_BKHS[1]).max() > 1e-3


def test_the_value_head_starts_at_its_bias():
  batch, token_BT = toys.batch([toys.item([1], A, [2])]), jnp.ones((3, 4), int)
  value_BT = toys.jit(toys.values)(toys.critic(bias=0.625), batch, token_BT)
  assert value_BT.shape == token_BT.shape
  np.testing.assert_array_equal(value_BT, 0.625)


def test_a_new_value_head_has_the_types_of_a_trained_one():
  # A weakly typed bias would compile each step of the critic twice.
  head = audio_lm.init_value_head(4, bias=0.5)
  assert all(not x.weak_type for x in jax.tree.leaves(head))


def test_the_value_head_can_learn_from_the_start():
  batch, token_BT = toys.batch([toys.item([1], A, [2])]), jnp.ones((3, 4), int)
  total = lambda params: toys.values(params, batch, token_BT).sum()
  grads = toys.jit(jax.grad(total))(toys.critic())["value"]
  assert np.abs(grads["value_D"]).max() > 0.1
  assert grads["bias"] == token_BT.size
