"""Two machines train together: two network namespaces of this one, joined by a wire."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest
from distributed.forks import outcomes
from distributed.torchrun import SCRIPT

PATIENCE = 120
ADDRESSES = ("10.97.13.1", "10.97.13.2")


def ip(*arguments):
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@dataclass
class Machine:
    """A network namespace."""

    name: str
    device: str

    def start(self, arguments, printed, disk=None):
        """Begin a Python in it, with a disk of its own in the place of a folder, if any."""
        mounted = ["sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(disk)] if disk else []
        told = {"GLOO_SOCKET_IFNAME": self.device, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, *mounted, sys.executable, *arguments],
            env={**os.environ, **told},
            stdout=printed, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


@pytest.fixture(scope="module")
def machines():
    """Two machines that reach each other, and nothing else."""
    if shutil.which("ip") is None:
        pytest.skip("there is no ip command, which makes network namespaces")
    number = os.getpid() % 100_000
    made = [Machine(f"fitorch-{number}-{n}", f"fi{number}-{n}") for n in range(2)]
    with contextlib.ExitStack() as stack:
        try:
            for machine in made:
                ip("netns", "add", machine.name)
                stack.callback(ip, "netns", "del", machine.name)
            ip("link", "add", made[0].device, "type", "veth", "peer", "name", made[1].device)
            for machine, address in zip(made, ADDRESSES, strict=True):
                ip("link", "set", machine.device, "netns", machine.name)
                inside = ("-n", machine.name)
                ip(*inside, "addr", "add", f"{address}/24", "dev", machine.device)
                ip(*inside, "link", "set", machine.device, "up")
                ip(*inside, "link", "set", "lo", "up")
        except (subprocess.CalledProcessError, OSError) as error:
            told = getattr(error, "stderr", None) or error
            pytest.skip(f"network namespaces can't be made here: {told}")
        yield made


def train(machines, folder, *, disk=None, **options):
    """Train on both machines with torchrun; return exit codes, outcomes and what was printed.

    The second one has a `disk` of its own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    told = folder / "options.json"
    told.write_text(json.dumps({**options, "folder": str(folder)}))
    common = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    common += ["--master_addr", ADDRESSES[0], "--master_port", "29517"]
    with contextlib.ExitStack() as stack:
        started = []
        for rank, machine in enumerate(machines):
            printed = stack.enter_context((folder / f"printed-{rank}").open("w"))
            command = [*common, "--node_rank", str(rank), str(SCRIPT), str(told)]
            started.append(machine.start(command, printed, disk if rank else None))
        end = time.monotonic() + PATIENCE
        while any(each.poll() is None for each in started) and time.monotonic() < end:
            time.sleep(0.05)
        for each in started:
            if each.poll() is None:
                os.killpg(each.pid, signal.SIGKILL)
        codes = [each.wait() for each in started]
    printed = [(folder / f"printed-{rank}").read_text() for rank in range(2)]
    assert time.monotonic() < end, printed
    return codes, outcomes(folder, 2), printed


@pytest.mark.slow
def test_two_machines_train_what_two_processes_do(machines, forks, tmp_path):
    expected = forks.run(tmp_path / "one")
    codes, found, printed = train(machines, tmp_path / "two")
    assert codes == [0, 0], printed
    for own, other in zip(found, expected, strict=True):
        assert own["world"] == 2
        assert (own["digest"], own["history"]) == (other["digest"], other["history"])


@pytest.mark.slow
def test_a_machine_without_the_folder_is_named_when_the_fit_goes_on(machines, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    fit = {"ckpt_path": str(disk / "run")}
    codes, _, printed = train(machines, tmp_path, disk=disk, fit=fit)
    assert codes == [0, 0], printed  # the first one alone writes
    again = {**fit, "resume": True, "epochs": 4}
    codes, found, _ = train(machines, tmp_path, disk=disk, fit=again)
    assert 0 not in codes
    for each in found:
        assert each["error"] == "RankError"
        assert "process 1 does not see that folder; copy it to all machines" in each["message"]
    codes, found, printed = train(machines, tmp_path, fit=again)
    assert codes == [0, 0], printed
    assert [each["epochs"] for each in found] == [4, 4]


@pytest.mark.slow
def test_a_machine_that_loses_its_process_is_named_by_the_other(machines, tmp_path):
    event = {"act": "SIGKILL", "place": "batch", "rank": 1, "update": 4}
    codes, found, printed = train(machines, tmp_path, event=event)
    assert 0 not in codes
    assert found[0]["error"] == "RankError"
    assert "process 1 of 2 vanished" in found[0]["message"]
    assert "process 1 of 2 vanished" in printed[0]
