"""Muon for hidden matrices with AdamW for all other parameters."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn, optim

_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


def muon_with_adamw(net: nn.Module, extra: Iterable[nn.Parameter] = ()) -> list[optim.Optimizer]:
    """Return Muon for a net's hidden matrices, and AdamW for its other parameters.

    Hidden matrices are the weights of two dimensions, without those of embeddings and that of the
    last linear layer, in the order of `net.modules()`, which is taken for the output layer. Kernels
    of convolutions are left to AdamW, since Muon of torch takes only matrices.

    Source: Jordan et al., 2024, Muon: An optimizer for hidden layers in neural networks; the
    settings are those of the authors' example.

    Args:
        net: The net.
        extra: Further parameters, which AdamW trains.

    Raises:
        ValueError: This torch does not have Muon, or the net has no hidden matrix.
    """
    kind = getattr(optim, "Muon", None)
    if kind is None:
        message = f"optimizer='muon' needs torch 2.9 or newer; this is torch {torch.__version__}"
        raise ValueError(message)
    hidden = _hidden_matrices(net)
    if not hidden:
        message = (
            f"{type(net).__name__} has no hidden matrix for Muon: weights with two dimensions that "
            "belong neither to an embedding nor to the last linear layer; use optimizer='adamw'"
        )
        raise ValueError(message)
    ids = {id(parameter) for parameter in hidden}
    others = [p for p in (*net.parameters(), *extra) if id(p) not in ids]
    # The settings of the authors' example for all nets.
    muon: optim.Optimizer = kind(hidden, lr=0.02, weight_decay=0.01)
    if not others:
        return [muon]
    return [muon, optim.AdamW(others, lr=3e-4, betas=(0.9, 0.95), weight_decay=0.01)]


def _hidden_matrices(net: nn.Module) -> list[nn.Parameter]:
    linear = [module for module in net.modules() if isinstance(module, nn.Linear)]
    excluded = {id(p) for layer in linear[-1:] for p in layer.parameters()}
    for module in net.modules():
        if isinstance(module, _EMBEDDINGS):
            excluded.update(id(parameter) for parameter in module.parameters())
    return [p for p in net.parameters() if p.dim() == 2 and id(p) not in excluded]
