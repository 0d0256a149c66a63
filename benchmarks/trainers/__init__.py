"""The contenders of peers.py: who they are, how to load them, and what they do otherwise.

Each `with_*` module holds one trainer, written as its users write it: `build(workload)` returns
`run(epochs)`, which trains on from where it stands, validates after every epoch and returns the
figures that the trainer itself reports for the last one. Nothing here imports a peer.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """A contender.

    Args:
        label: What the table and the chart call it.
        module: The module of this folder that imports it.
        build: The function of that module that makes a `run(epochs)` of a workload.
        distribution: The installed package whose version is told, "" for loops by hand.
        display: What it showed while it was measured.
        differs: What it computes otherwise than the loop by hand.
    """

    label: str
    module: str
    build: str
    distribution: str
    display: str
    differs: str = ""

    @property
    def ours(self) -> bool:
        """Whether it is fitorch."""
        return self.distribution == "fitorch"


_LIGHTNING = "figures logged with `self.log` and torchmetrics"

PEERS: dict[str, Peer] = {
    "loader": Peer(
        "usual loop by hand", "by_hand", "loader", "", "none",
        "Adam as it comes, not fused; reads loss and accuracy of every batch",
    ),
    "loader-fused": Peer(
        "usual loop by hand, fused Adam", "by_hand", "loader_fused", "", "none",
        "the usual loop with the optimizer that all below have",
    ),
    "ceiling": Peer(
        "best loop by hand", "by_hand", "ceiling", "", "none",
        "tensors indexed by a permutation, fused Adam, figures read once an epoch",
    ),
    "fitorch": Peer(
        "fitorch", "with_fitorch", "fitorch_tensors", "fitorch",
        "live line and table on a terminal", "given the tensors",
    ),
    "fitorch-loader": Peer(
        "fitorch, given DataLoaders", "with_fitorch", "fitorch_loader", "fitorch",
        "live line and table on a terminal", "given the DataLoaders of the usual loop",
    ),
    "fitorch-compiled": Peer(
        "fitorch, jit_compile", "with_fitorch", "fitorch_compiled", "fitorch",
        "live line and table on a terminal",
        "given the tensors; compiled in the warm-up epoch, which is not timed",
    ),
    "keras": Peer(
        "Keras (torch backend)", "with_keras", "build", "keras", "off (`verbose=0`)",
        "the same layers as Keras' own, the same weights copied in; Keras' Adam, in torch "
        "operations; NumPy arrays, batched by Keras",
    ),
    "torchkeras": Peer(
        "torchkeras", "with_torchkeras", "build", "torchkeras",
        "tqdm on a terminal (`plot=False`; silent only in a notebook)",
        "loss averaged over batches, not samples; clips gradients to norm 1, always; writes a "
        "checkpoint at each best epoch and ends with the best",
    ),
    "lightning": Peer(
        "Lightning, as it comes", "with_lightning", "as_it_comes", "lightning",
        "progress bar on a terminal, log and checkpoints on disk", _LIGHTNING,
    ),
    "lightning-quiet": Peer(
        "Lightning, all extras off", "with_lightning", "quiet", "lightning",
        "off, no logger, no checkpoints, no summary", _LIGHTNING,
    ),
    "lightning-barebones": Peer(
        "Lightning, barebones", "with_lightning", "barebones", "lightning",
        "off (`barebones=True`)",
        "reports nothing: `self.log` is ignored; the metric is still updated in each step",
    ),
    "poutyne": Peer(
        "Poutyne", "with_poutyne", "build", "Poutyne", "off (`verbose=False`)",
    ),
    "skorch": Peer(
        "skorch", "with_skorch", "build", "skorch", "off (`verbose=0`)",
        "given tensors; makes the DataLoader itself; accuracy by scikit-learn, once an epoch on "
        "the predictions of its steps",
    ),
    "fastai": Peer(
        "fastai", "with_fastai", "build", "fastai",
        "off (`fastai.basics` has no bar; `no_logging`)",
        "training loss is a moving average; no accuracy on training samples (its default)",
    ),
    "ignite": Peer(
        "Ignite", "with_ignite", "build", "pytorch-ignite", "none attached",
        "training figures attached to the trainer; the loss averaged over batches, not samples",
    ),
    "accelerated": Peer(
        "pytorch-accelerated", "with_accelerated", "build", "pytorch-accelerated",
        "off (its two callbacks left out)",
        "accuracy by torchmetrics in a callback, as its documents show; `num_workers=0` instead of "
        "its worker per core",
    ),
    "transformers": Peer(
        "Transformers Trainer", "with_transformers", "build", "transformers",
        "off (`disable_tqdm`, no reports, no checkpoints)",
        "constant rate and no clipping instead of its defaults; no accuracy on training samples",
    ),
}  # fmt: skip
