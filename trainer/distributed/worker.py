"""A process that the launcher starts: `python -m fitorch.distributed.worker FOLDER`."""

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
    """Call the pickled function in the folder, write its result there, and return an exit code."""
    rank = int(os.environ["RANK"])
    # This comes before the import of the user's code, which may take long.
    end_with_parent()
    try:
        function, arguments, paths = pickle.loads(folder.joinpath(PAYLOAD).read_bytes())
        # Unpickled classes import their modules by the paths of the parent.
        sys.path[:] = paths
        result = function(**arguments)
        if rank == 0:
            folder.joinpath(RESULT).write_bytes(cloudpickle.dumps(result))
    except BaseException as error:
        # Tracebacks cannot be pickled, so they travel as text.
        text = "".join(traceback.format_exception(error)).rstrip()
        try:
            pickled = cloudpickle.dumps((error, text))
            pickle.loads(pickled)  # some errors can be pickled, but not restored
        except Exception:
            substitute = RuntimeError(f"{type(error).__name__}: {error}")
            pickled = cloudpickle.dumps((substitute, text))
        folder.joinpath(f"error-{rank}").write_bytes(pickled)
        return 1
    return 0


def end_with_parent() -> None:
    """Send SIGTERM to this process once its parent, which holds the other end of stdin, is gone."""
    # The user's code must not read from this pipe, so stdin becomes the null device.
    pipe, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)

    def watch() -> None:
        # The read returns nothing once the parent has closed its end, also if it was killed.
        while os.read(pipe, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="fitorch-parent", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
