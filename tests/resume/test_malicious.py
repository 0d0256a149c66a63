import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from resume import malicious

pytestmark = pytest.mark.xdist_group("malicious")  # they share what one process reports
SCRIPT = Path(malicious.__file__)
TRAINER = Path(__file__).parents[2] / "trainer"
# weights.py reads users' own .pt files too, by torch.load with weights_only=True.
MODULES = ["files.py"] + [
    f"checkpoint/{file.name}" for file in TRAINER.glob("checkpoint/*.py") if file.stem != "weights"
]


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evil")
    here = tmp_path_factory.mktemp("here")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(here.iterdir()) == []  # no payload ran
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {report["name"]: report for report in found}


def test_each_pickled_payload_would_run_if_it_were_unpickled(tmp_path, monkeypatch):
    import pickle

    monkeypatch.chdir(tmp_path)
    pickle.loads(malicious.pickled(2))["w"].close()
    assert (tmp_path / malicious.MARK).exists()


@pytest.mark.parametrize("name", list(malicious.cases()))
def test_a_malicious_checkpoint_is_refused_fast_small_and_without_side_effects(reports, name):
    report = reports[name]
    assert report["told"].startswith("CheckpointError: "), report
    assert report["events"] == [], report
    assert report["seconds"] <= 1, report
    assert report["memory"] <= 2 * report["size"] + 2**26, report


@pytest.mark.parametrize(
    "name",
    [
        "tensors: pickle 2",
        "tensors: pickle 4",
        "tensors: pickle 5",
        "tensors: zip",
        "tensors: tar",
        "json: pickle 2",
        "json: pickle 5",
        "json: zip",
        "json: tar",
        "folder: pickled manifest",
        "folder: zipped manifest",
        "folder: pickled file for a folder",
        "folder: up",
        "folder: absolute",
        "folder: linked file",
        "folder: linked folder",
        "folder: linked manifest",
        "folder: pipe",
        "folder: piped manifest",
        "folder: device",
        *(name for name in malicious.cases() if name.startswith("shards: linked")),
    ],
)
def test_what_means_harm_is_called_unsafe(reports, name):
    assert "UnsafeCheckpointError" in reports[name]["told"]


@pytest.mark.parametrize("module", MODULES)
def test_no_module_that_reads_checkpoints_can_run_what_it_reads(module):
    tree = ast.parse((TRAINER / module).read_text())
    forbidden = {
        "pickle",
        "marshal",
        "shelve",
        "dill",
        "cloudpickle",
        "joblib",
        "importlib",
        "runpy",
    }
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            imported = {alias.name.split(".")[0] for alias in node.names} | {
                (getattr(node, "module", None) or "").split(".")[0]
            }
            assert not imported & forbidden, ast.unparse(node)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {
                "eval",
                "exec",
                "compile",
                "__import__",
                "getattr",
            }, called
            if called == "torch.load":  # for weights alone, which torch reads as tensors
                assert "weights_only=True" in ast.unparse(node)
            assert not called.startswith(("np.load", "numpy.load", "os.system", "subprocess.")), (
                called
            )
