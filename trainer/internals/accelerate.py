"""Private names of accelerate: its settings, which it keeps for the whole process."""

from __future__ import annotations

import warnings


def forget_settings() -> None:
    """Let the next Accelerator have other settings than the last one.

    accelerate shares the state of all Accelerators of a process and refuses other settings: a
    notebook could not fit once in float32 and once in bf16. If a release keeps its state elsewhere,
    that refusal is what a user sees.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm's, in notebooks
        from accelerate.state import AcceleratorState, GradientState

    if getattr(AcceleratorState, "_shared_state", None) and not missing():
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def missing() -> list[str]:
    """Return the private names above that the installed accelerate does not have."""
    from accelerate.state import AcceleratorState, GradientState

    names: list[tuple[type, str]] = [
        (AcceleratorState, "_shared_state"),
        (AcceleratorState, "_reset_state"),
    ]
    names.append((GradientState, "_reset_state"))
    return [f"{owner.__name__}.{name}" for owner, name in names if not hasattr(owner, name)]
