"""What is public: the names of each package, and what importing them costs."""

import importlib
import subprocess
import sys

import pytest

PACKAGES = ["fitorch", "fitorch.callbacks", "fitorch.losses", "fitorch.metrics"]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_is_there_and_listed_in_order(name):
    package = importlib.import_module(name)
    assert package.__all__ == sorted(package.__all__)
    assert all(hasattr(package, public) for public in package.__all__)


@pytest.mark.parametrize("name", PACKAGES)
def test_every_public_name_is_documented(name):
    package = importlib.import_module(name)
    assert package.__doc__
    for public in package.__all__:
        value = getattr(package, public)
        if callable(value):
            assert value.__doc__, public


@pytest.mark.parametrize("name", PACKAGES)
def test_a_name_that_is_not_there_is_an_attribute_error(name):
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        _ = importlib.import_module(name).nothing_of_ours


def test_importing_fitorch_leaves_heavy_libraries_alone():
    heavy = ["accelerate", "matplotlib", "pandas", "torchmetrics", "sklearn", "transformers"]
    code = (
        f"import sys, fitorch, fitorch.callbacks; print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_nobody_imports_the_folders_by_their_own_names():
    code = "import sys, fitorch, fitorch.callbacks, fitorch.losses, fitorch.metrics; " + (
        "print([m for m in ('trainer', 'callbacks', 'losses', 'metrics') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
