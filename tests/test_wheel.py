"""A wheel is complete: installed into an empty environment, it passes its self-check."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_a_wheel_passes_its_self_check(tmp_path):
    source, wheels, environment = tmp_path / "source", tmp_path / "wheels", tmp_path / "venv"
    source.mkdir()
    for name in ("trainer", "callbacks", "losses", "metrics"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), str(source))
    run(sys.executable, "-m", "venv", "--without-pip", str(environment))
    packages = next((environment / "lib").glob("python*/site-packages"))  # lib64 is a link
    run(*pip, "install", "--no-deps", "--target", str(packages), *map(str, wheels.glob("*.whl")))
    # What fitorch depends on comes from the environment of the tests, behind the wheel's files.
    (packages / "tests.pth").write_text(sysconfig.get_paths()["purelib"])
    python = str(environment / "bin" / "python")
    where = run(python, "-c", "import fitorch; print(fitorch.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(packages)
    assert "all checks passed" in run(python, "-m", "fitorch", cwd=tmp_path)
