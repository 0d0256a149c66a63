import psutil
import pytest

from fitorch.data import workers

STAY = ("resource_tracker", "compile_worker")  # torch.compile starts the latter, older ones at once


@pytest.fixture
def children():
    """List the processes that run since the test began, but for those that torch keeps.

    Other tests may have left processes running, as joblib leaves its workers.
    """
    earlier = set(psutil.Process().children())

    def running():
        begun = [p for p in psutil.Process().children() if p not in earlier]
        alive = [p for p in begun if p.status() != psutil.STATUS_ZOMBIE]
        return [p.pid for p in alive if not any(name in str(p.cmdline()) for name in STAY)]

    return running


@pytest.fixture
def started(monkeypatch):
    """List how many workers are started, each time that some are."""
    counts = []
    begin = workers.WorkerPool._start

    def watched(pool):
        counts.append(pool.count)
        return begin(pool)

    monkeypatch.setattr(workers.WorkerPool, "_start", watched)
    return counts


@pytest.fixture(scope="module")
def keras(tmp_path_factory):
    """Keras on torch; importing it leaves no file and no variable behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        return pytest.importorskip("keras", reason="Keras is not installed")
