import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killed_saves.py")


def killed(folder, kills, megabytes, mode):
    seed = random.SystemRandom().randrange(2**31)
    sys.stdout.write(f"seed {seed}\n")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), str(kills), str(megabytes), str(seed), mode],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    sys.stdout.write(f"{result} {done.stderr}\n")
    return result


def assert_nothing_is_lost(result, kills):
    assert result["kills"] == kills
    assert {name: result[name] for name in ("unreadable", "torn", "lost", "too many", "left")} == {
        "unreadable": 0, "torn": 0, "lost": 0, "too many": 0, "left": 0,
    }  # fmt: skip
    assert result["interrupted"] > 0  # or the kills came at no interesting moment


@pytest.mark.parametrize(
    ("kills", "megabytes"), [(20, 2), pytest.param(200, 50, marks=pytest.mark.slow)]
)
def test_no_kill_while_saving_loses_or_tears_a_checkpoint(tmp_path, kills, megabytes):
    assert_nothing_is_lost(killed(tmp_path, kills, megabytes, "save"), kills)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [10, 50])
def test_no_kill_while_old_ones_are_removed_loses_a_checkpoint(tmp_path, kills):
    assert_nothing_is_lost(killed(tmp_path, kills, 1, "prune"), kills)
