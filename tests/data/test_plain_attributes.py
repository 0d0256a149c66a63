"""Plain attributes: which changes are seen, stored and restored."""

from collections import deque

import numpy as np
import pytest
import torch
from torch import nn

from fitorch.checkpoint.encoding import Encoder, decode
from fitorch.data.plain_attributes import ChangedAttributes, content_digest


class Holder:
    def __init__(self, **attributes):
        vars(self).update(attributes)


def part():
    return Holder(order=np.arange(5))


CHANGES = {
    "a number": (lambda: Holder(n=1), lambda h: setattr(h, "n", 2)),
    "a text": (lambda: Holder(n="a"), lambda h: setattr(h, "n", "b")),
    "an array in place": (lambda: Holder(n=np.arange(5)), lambda h: h.n.sort() or h.n.fill(3)),
    "a scalar of NumPy": (lambda: Holder(n=np.int64(1)), lambda h: setattr(h, "n", np.int64(2))),
    "a tensor in place": (lambda: Holder(n=torch.arange(5)), lambda h: h.n.add_(1)),
    "a tensor without dimensions": (lambda: Holder(n=torch.tensor(1)), lambda h: h.n.add_(1)),
    "a list in place": (lambda: Holder(n=[1, 2, 3]), lambda h: h.n.reverse()),
    "a list of lists": (lambda: Holder(n=[[1, 2], [3]]), lambda h: h.n[0].reverse()),
    "a dict": (lambda: Holder(n={"a": 1}), lambda h: h.n.update(a=2)),
    "a set": (lambda: Holder(n={1, 2}), lambda h: h.n.add(3)),
    "a deque": (lambda: Holder(n=deque([1], 4)), lambda h: h.n.append(2)),
    "an object's array": (lambda: Holder(n=part()), lambda h: h.n.order.fill(3)),
    "an array of an object in a list": (lambda: Holder(n=[part()]), lambda h: h.n[0].order.fill(3)),
}


@pytest.mark.parametrize(("make", "change"), CHANGES.values(), ids=CHANGES)
def test_a_change_is_seen_stored_and_restored(make, change):
    first, untouched = make(), content_digest(make())
    changes = ChangedAttributes(first)
    assert changes.state_dict() == {"values": [], "lost": []}
    change(first)
    assert content_digest(first) != untouched
    encoder = Encoder()
    plain = encoder.encode(changes.state_dict(), "changes")
    second = make()
    restored = ChangedAttributes(second)
    restored.load_state_dict(decode(plain, encoder.tensors))
    assert content_digest(second) == content_digest(first)
    assert content_digest(make()) == untouched
    # It stays part of the state, also if nothing changes it any more.
    assert len(restored.state_dict()["values"]) == 1


def test_an_array_that_the_user_holds_is_left_as_it_is():
    theirs = np.arange(5)
    state = {"values": [[["order"], ["value", np.zeros(5)]]], "lost": []}
    data = Holder(order=theirs)
    ChangedAttributes(data).load_state_dict(state)
    assert data.order.tolist() == [0] * 5
    assert theirs.tolist() == [0, 1, 2, 3, 4]


def test_a_net_in_a_dataset_is_no_part_of_its_state():
    data = Holder(net=nn.Linear(2, 1))
    changes = ChangedAttributes(data)
    data.net.eval().weight.data.fill_(0)
    assert changes.state_dict() == {"values": [], "lost": []}


def test_equal_contents_have_equal_digests_whatever_their_identity():
    texts = ["a" + str(i) for i in range(3)]
    again = [f"a{i}" for i in range(3)]
    assert content_digest(Holder(n=texts)) == content_digest(Holder(n=again))
    assert content_digest(Holder(n=(1, 2))) != content_digest(Holder(n=[1, 2]))


def test_a_large_array_and_a_large_list_that_are_shuffled_are_noticed():
    data = Holder(x=np.arange(2**24), y=list(range(1_100_000)))
    before = content_digest(data)
    np.random.default_rng(0).shuffle(data.x)
    shuffled = content_digest(data)
    data.y.reverse()
    assert len({before, shuffled, content_digest(data)}) == 3
