import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Compute small tensors on one thread: beside other work, several would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
