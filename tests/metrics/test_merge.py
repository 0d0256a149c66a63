"""Metrics of several processes: as if one had counted all samples, whoever got how many."""

import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    f1_score,
    log_loss,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
)
from torch import distributed, multiprocessing, nn
from torchmetrics import MetricCollection, PearsonCorrCoef
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryAUROC,
    BinaryPrecision,
    BinaryRecall,
    ConfusionMatrix,
)

from fitorch.metrics import AUC, KS, MetricError, MetricSet, whole_epoch

CPU = torch.device("cpu")
GENERATOR = torch.Generator().manual_seed(3)
LOGITS = torch.randn(101, generator=GENERATOR)
BITS = (torch.sigmoid(LOGITS) > torch.rand(101, generator=GENERATOR)).long()
WEIGHTS = torch.rand(101, generator=GENERATOR)
SPLITS = [[50, 51], [34, 34, 33], [1, 100, 0], [0, 0, 101], [7, 0, 94], [101]]


def gap(y_pred, y_true):
    return (torch.sigmoid(y_pred) - y_true).abs().mean()


class Count(nn.Module):
    """A torchkeras-style metric that can be merged."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, y_pred, y_true):
        self.seen += len(y_true)

    def compute(self):
        return float(self.seen)

    def reset(self):
        self.seen = 0

    def merge_state(self, other):
        self.seen += other.seen


class Loner(Count):
    merge_state = None


def metrics():
    return {
        "acc": "acc",
        "auc": AUC(),
        "binned": AUC(thresholds=50),
        "ks": KS(),
        "f1": "f1",
        "gap": gap,
        "gap_of_a_lambda": lambda y_pred, y_true: gap(y_pred, y_true),
        "ap": whole_epoch(average_precision_score),
        "auroc": BinaryAUROC(),
        "confusion": ConfusionMatrix(task="binary"),
        "set": MetricCollection([BinaryPrecision(), BinaryRecall(), BinaryAccuracy()]),
        "seen": Count(),
    }


def fed(columns, size=7, scale="logits", chosen=None):
    stage = MetricSet(chosen or metrics(), CPU, lambda output: scale)
    for batch in zip(*(column.split(size) for column in columns), strict=True):
        if len(batch[0]):
            stage.update(*batch)
    return stage


def together(stages):
    """Return each stage's figures after a gathering, without processes."""
    payloads = []

    def keep(part):
        payloads.append(part)
        return [None]

    for stage in stages:
        stage.gathered(keep)
    return [stage.gathered(lambda part: payloads).compute() for stage in stages]


@pytest.mark.parametrize("scale", ["logits", None])
@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_every_process_gets_the_figures_of_all_samples(split, scale):
    columns = [LOGITS.split(split), BITS.split(split), WEIGHTS.split(split)]
    stages = [fed(part, scale=scale) for part in zip(*columns, strict=True)]
    alone = fed([LOGITS, BITS, WEIGHTS], scale=scale).compute()
    for figures in together(stages):
        assert figures == pytest.approx(alone, rel=1e-6)


def test_the_figures_are_scikit_learns():
    split = [20, 0, 81]
    stages = [
        fed(part, chosen={"auc": AUC(), "ap": "ap", "f1": "f1", "acc": "acc"})
        for part in zip(LOGITS.split(split), BITS.split(split), strict=True)
    ]
    positive = LOGITS > 0
    for figures in together(stages):
        assert figures == pytest.approx(
            {
                "auc": roc_auc_score(BITS, LOGITS),
                "ap": average_precision_score(BITS, LOGITS),
                "f1": f1_score(BITS, positive),
                "acc": accuracy_score(BITS, positive),
            },
            abs=1e-6,
        )


def test_regression_and_states_that_are_not_sums():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(50, generator=generator)
    guess = target + torch.randn(50, generator=generator)
    chosen = {"mae": "mae", "r2": "r2", "pearson": PearsonCorrCoef()}
    split = [13, 30, 7]
    stages = [
        fed(part, chosen=chosen, scale=None)
        for part in zip(guess.split(split), target.split(split), strict=True)
    ]
    for figures in together(stages):
        assert figures["mae"] == pytest.approx(mean_absolute_error(target, guess))
        assert figures["r2"] == pytest.approx(r2_score(target, guess), rel=1e-5)
        pearson = torch.corrcoef(torch.stack((guess, target)))[0, 1].item()
        assert figures["pearson"] == pytest.approx(pearson, rel=1e-5)


def test_gathering_leaves_what_was_counted_and_can_be_done_again():
    stages = [fed(part) for part in zip(LOGITS.split([40, 61]), BITS.split([40, 61]), strict=True)]
    before = [stage.compute() for stage in stages]
    once = together(stages)
    assert [stage.compute() for stage in stages] == before
    assert together(stages) == once
    for stage, (logits, bits) in zip(
        stages, [(LOGITS[:5], BITS[:5]), (LOGITS[5:9], BITS[5:9])], strict=True
    ):
        stage.update(logits, bits)
    alone = fed([torch.cat((LOGITS, LOGITS[:9])), torch.cat((BITS, BITS[:9]))]).compute()
    for figures in together(stages):
        assert figures == pytest.approx(alone, rel=1e-6)


def test_where_no_process_counted_anything_figures_are_nan():
    stages = [MetricSet({"acc": "acc", "gap": gap}, CPU) for _ in range(2)]
    for figures in together(stages):
        assert set(figures) == {"acc", "gap"}
        assert all(value != value for value in figures.values())


def test_a_metric_that_does_not_tell_how_it_is_merged():
    stages = [fed([LOGITS, BITS], chosen={"seen": Loner()}) for _ in range(2)]
    with pytest.raises(MetricError, match=r"'seen' cannot be merged: Loner .* merge_state"):
        together(stages)


def test_first_batches_that_show_different_tasks():
    stages = [
        fed([torch.randn(9, classes), torch.arange(9) % 3], chosen={"acc": "f1"})
        for classes in (3, 4)
    ]
    with pytest.raises(MetricError, match=r"'acc' cannot be merged: .*first batches .* different"):
        together(stages)


def test_whole_epochs_keep_the_order_of_processes():
    kept = []

    def order(y_pred, y_true):
        kept.append(y_true.tolist())
        return log_loss(y_true, torch.sigmoid(y_pred))

    numbers = torch.arange(101) % 2
    stages = [
        fed(part, chosen={"order": whole_epoch(order)})
        for part in zip(LOGITS.split([40, 61]), numbers.split([40, 61]), strict=True)
    ]
    together(stages)
    assert kept == [numbers.tolist()] * 2


def _process(rank, world, split, address, found):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=world)

    def gather(part):
        parts = [None] * world
        distributed.all_gather_object(parts, part)
        return parts

    columns = [column.split(split)[rank] for column in (LOGITS, BITS, WEIGHTS)]
    stage = fed(columns)
    if rank == 0:
        stage.compute()  # a glance of the process that draws: nobody else has to take part
    found.put((rank, stage.gathered(gather).compute()))
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.slow  # tests/distributed has processes that stay
@pytest.mark.parametrize("split", [[50, 51], [60, 0, 41]], ids=str)
def test_real_processes(split, tmp_path):
    context = multiprocessing.get_context("spawn")
    found = context.SimpleQueue()
    address = f"file://{tmp_path}/meeting"
    world = len(split)
    processes = [
        context.Process(target=_process, args=(rank, world, split, address, found))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * world
    alone = fed([LOGITS, BITS, WEIGHTS]).compute()
    for _ in range(world):
        _, figures = found.get()
        assert figures == pytest.approx(alone, rel=1e-6)
