"""One of the processes that `launching` starts: `python -m fitorch.launched FOLDER`."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import traceback
from pathlib import Path

import cloudpickle

from .launcher import PAYLOAD, RESULT


def main(folder: Path) -> int:
    """Do what the folder says; leave there what came of it, and return an exit code."""
    rank = int(os.environ["RANK"])
    end_with_parent()
    try:
        function, arguments, paths = pickle.loads(folder.joinpath(PAYLOAD).read_bytes())
        sys.path[:] = paths
        result = function(**arguments)
        if rank == 0:
            folder.joinpath(RESULT).write_bytes(cloudpickle.dumps(result))
    except BaseException as error:
        told = (error, "".join(traceback.format_exception(error)).rstrip())
        try:
            packed = cloudpickle.dumps(told)
            pickle.loads(packed)
        except Exception:
            packed = cloudpickle.dumps((RuntimeError(f"{type(error).__name__}: {error}"), told[1]))
        folder.joinpath(f"error-{rank}").write_bytes(packed)
        return 1
    return 0


def end_with_parent() -> None:
    """End by SIGTERM once the process is gone that holds the other end of the standard input."""
    pipe, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)

    def watch() -> None:
        while os.read(pipe, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="fitorch-parent", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
