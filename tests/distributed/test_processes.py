import os

import pytest
import torch
from torch import nn

from fitorch import KerasModel, RankError
from fitorch.data.rank_split import ALONE, PassLength, RankShard, in_step, padded
from fitorch.distributed.processes import Processes, together


def test_alone_everything_is_ones_own():
    processes = Processes()
    assert (processes.rank, processes.world_size, processes.is_main, processes.is_distributed) == (
        0,
        1,
        True,
        False,
    )
    assert processes.gather(3) == [3]
    assert processes.gather_to_main(3) == [3]
    assert processes.broadcast(3) == 3
    processes.require_equal({"epochs": 3})
    net = nn.BatchNorm1d(2)
    processes.broadcast_module(net)
    with pytest.raises(ZeroDivisionError), together(processes, "fit"):
        raise ZeroDivisionError


def test_megatron_which_is_not_there_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_MEGATRON_LM", "true")
    with pytest.raises(RankError, match="ACCELERATE_USE_MEGATRON_LM=true"):
        KerasModel(nn.Linear(1, 1), "mse").fit((torch.zeros(2, 1), torch.zeros(2, 1)), verbose=0)


def test_one_process_alone_has_nothing_to_spread(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    model = KerasModel(nn.Linear(1, 1), "mse", deepspeed=True)
    model.fit((torch.zeros(2, 1), torch.zeros(2, 1)), epochs=1, verbose=0)
    assert model.placement.zero is None
    assert os.environ["ACCELERATE_USE_DEEPSPEED"] == "true"


def test_a_launch_of_several_that_starts_one_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(RankError, match="torchrun --nproc_per_node 2"):
        KerasModel(nn.Linear(1, 1), "mse").fit((torch.zeros(2, 1), torch.zeros(2, 1)), verbose=0)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("batches", [0, 1, 4, 7])
def test_the_parts_of_all_make_up_the_whole(world, batches):
    given = [list(range(10 * n, 10 * n + 4)) for n in range(batches)]
    ranks = [list(RankShard(rank, world).of_indices(iter(given))) for rank in range(world)]
    assert sorted(n for rank in ranks for part in rank for n in part) == sorted(
        n for batch in given for n in batch
    )
    tensors = [list(RankShard(r, world).of_indices(map(torch.tensor, given))) for r in range(world)]
    assert [[part.tolist() for part in rank] for rank in tensors] == ranks
    rounds = RankShard(0, world).rounds(batches)
    sizes = {len(rank[-1]) for rank in ranks if rank and len(rank) == rounds}
    assert not sizes or max(sizes) - min(sizes) <= 1


def test_whole_batches_go_round_and_a_last_round_tells_who_lacks_one():
    ranks = []
    for rank in range(3):
        lacking = []
        ranks.append((list(RankShard(rank, 3).of_batches(iter("abcde"), lacking)), lacking))
    assert ranks == [(["a", "d"], []), (["b", "e"], []), (["c"], [None])]
    assert list(ALONE.of_batches(iter("abc"), [])) == ["a", "b", "c"]


def test_what_is_missing_is_padded():
    assert list(padded(iter("ab"), 4)) == ["a", "b", None, None]
    assert list(padded(iter("ab"), 2)) == ["a", "b"]


@pytest.mark.parametrize(("units", "behind", "rounds"), [(10, 0, 3), (10, 4, 2), (12, 12, 0)])
def test_an_extent_tells_what_is_left(units, behind, rounds):
    assert PassLength(units, 4).rounds(behind) == rounds
    assert PassLength(None, 4).rounds(behind) is None


def test_what_is_drawn_in_step_depends_on_the_seed_alone():
    def drawn(disturb):
        found = []
        for value in in_step((torch.rand(1).item() for _ in range(4)), seed=7):
            found.append(value)
            torch.rand(disturb)
        return found

    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert drawn(0) == drawn(3)
    torch.manual_seed(1)
    list(in_step((torch.rand(1).item() for _ in range(4)), seed=7))
    assert torch.equal(torch.get_rng_state(), state)
