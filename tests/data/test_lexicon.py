"""The hidden rules: balanced, seeded, and told by no attribute alone."""

import collections

import numpy as np
import pytest

from mgrd_jax.data import lexicon


@pytest.mark.parametrize("seed", range(5))
def test_the_rules_are_balanced_and_each_label_is_seen(seed):
  world = lexicon.draw_world(seed)
  for family in lexicon.FAMILIES.values():
    combos = [c for name, c in world.rules if name == family.name]
    sizes = [len(family.attributes[n][0]) for n in family.rule]
    assert len(set(combos)) == np.prod(sizes)
    counts = collections.Counter(
      label for (name, _), label in world.rules.items() if name == family.name
    )
    assert set(counts) == set(family.labels)
    assert max(counts.values()) - min(counts.values()) <= 1
    held = [c for name, c in world.heldout if name == family.name]
    assert len(held) == round(3 / 8 * len(combos))
    seen = {world.rules[family.name, c] for c in set(combos) - set(held)}
    assert seen == set(family.labels)


def test_the_rules_are_drawn_from_the_seed():
  assert lexicon.draw_world(3) == lexicon.draw_world(3)
  assert lexicon.draw_world(3).rules != lexicon.draw_world(4).rules


def test_no_attribute_alone_gives_the_label_away():
  for family in lexicon.FAMILIES.values():
    for at in range(len(family.rule)):
      labels = collections.defaultdict(set)
      for (name, combo), label in lexicon.draw_world(0).rules.items():
        if name == family.name:
          labels[combo[at]].add(label)
      assert all(len(found) > 1 for found in labels.values())
