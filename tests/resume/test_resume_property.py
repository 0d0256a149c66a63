"""Whatever is chosen, a fit that was cut anywhere goes on with the bits of one that was not."""

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from resume.resume_worker import LOADERS, SAMPLERS, SOAK, goes_on_exactly

EXAMPLES = 200 if SOAK else 6
DATA = [
    *({"data": "loader", "loader": kind} for kind in (*SAMPLERS, *LOADERS)),
    {"data": "memory"},
    {"data": "dataset"},
    {"data": "dataset", "own_stream": "numpy"},
    {"data": "weighted memory"},
    {"data": "iterable dataset"},
    {"data": "loader", "loader": "iterable"},
    {"data": "batches"},
]
STATELESS = ("iterable", "torch tensors")
SETS = st.lists(
    st.sampled_from(["ema", "norm", "early", "own state", "checkpoint", "freeze", "csv"]),
    unique=True,
    max_size=3,
)


@st.composite
def cuts(draw):
    """Places that are certain to be reached: epochs have 4 batches at least, there are three."""
    place = draw(st.sampled_from(["batch_begin", "batch_end", "test_begin", "test_end", "epoch"]))
    epoch = draw(st.integers(0, 2))
    if place == "batch_begin":
        return {"place": place, "epoch": epoch, "batch": draw(st.integers(0, 2))}
    if place == "batch_end":
        return {"place": place, "step": draw(st.integers(1, 3))}
    if place == "epoch":
        return {"place": draw(st.sampled_from(["epoch_begin", "epoch_end"])), "epoch": epoch}
    return {"place": place, "epoch": epoch}


@st.composite
def fits(draw):
    data = draw(st.sampled_from(DATA))
    window = draw(st.sampled_from([1, 2, 3]))
    plain = data.get("loader") not in STATELESS and data["data"] in ("loader", "dataset")
    options = {
        **data,
        "workers": draw(st.sampled_from([0, 2])) if plain and "own_stream" not in data else 0,
        "schedule": draw(st.sampled_from(["none", "update", "epoch", "plateau", "lambda"])),
        "callbacks": draw(SETS),
        "optimizer": draw(st.sampled_from(["adam", "sgd", "adamw"])),
        "validation": draw(st.sampled_from(["memory", "noisy", "two"])),
        "loss": draw(st.sampled_from(["plain", "parameters", "scheduled"])),
        "metrics": draw(st.sampled_from([["acc"], ["auc", "f1"], ["collection", "whole"]])),
    }
    arguments = {
        "gradient_accumulation_steps": window,
        "mixed_precision": draw(st.sampled_from(["no", "bf16"])),
        "steps_per_epoch": draw(st.sampled_from([None, None, 4, 9])),
        "save_every_n_steps": draw(st.sampled_from([None, 1, 2])),
        "async_save": draw(st.booleans()),
        "patience": draw(st.sampled_from([None, 8])),
        "monitor": "val_clean_loss" if options["validation"] == "two" else "val_loss",
    }
    if options["validation"] == "two":  # these watch val_loss
        options["callbacks"] = [c for c in options["callbacks"] if c not in ("early", "checkpoint")]
    return {**options, "fit": arguments}


@settings(
    max_examples=EXAMPLES,
    derandomize=not SOAK,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(options=fits(), cut=cuts())
def test_a_fit_that_was_cut_anywhere_ends_as_one_that_was_not(options, cut):
    event(cut["place"])
    if cut["place"] == "batch_end" and options["fit"]["gradient_accumulation_steps"] > 1:
        cut = {"place": "batch_begin", "epoch": 1, "batch": 1}  # few updates in an epoch
    with tempfile.TemporaryDirectory(prefix="fitorch-cut-") as folder:
        # Before the first checkpoint there is nothing to go on with but the same seed.
        goes_on_exactly(Path(folder), cut, then={"seed": 1}, **options)
