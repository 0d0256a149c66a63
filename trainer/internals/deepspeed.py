"""Private names of DeepSpeed: where ZeRO keeps the parts of parameters, and the gradients' norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Fragment:
    """Where the part of a parameter lies that this process updates.

    Args:
        start: The first number in the vector of its group.
        offset: The first number in the parameter.
        size: How many numbers.
    """

    start: int
    offset: int
    size: int


def fragment_of(parameter: Any) -> Fragment | None:
    """Return the part of a parameter that this process updates, None if it updates none of it.

    `torch.Tensor.get_full_hp_param` of DeepSpeed's public interface gathers the whole tensor in
    every process; a checkpoint needs it in one.
    """
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    # "hp" is high precision, the vector that is updated; "lp" is low precision, the parameter.
    vector, own = mapping.hp_fragment_address, mapping.lp_fragment_address
    return Fragment(vector.start, own.start, own.numel)


def gradient_norm(zero: object) -> float:
    """Return the norm of all gradients, NaN if a release does not keep it."""
    return float(getattr(zero, "_global_grad_norm", float("nan")))


def missing() -> list[str]:
    """Return the private names above that the installed DeepSpeed's sources do not mention."""
    import inspect

    from deepspeed.runtime.zero import stage_1_and_2
    from deepspeed.utils import mixed_precision_linkage

    places = [(mixed_precision_linkage, "_hp_mapping"), (stage_1_and_2, "_global_grad_norm")]
    return [
        f"{module.__name__}: {name}"
        for module, name in places
        if name not in inspect.getsource(module)
    ]
