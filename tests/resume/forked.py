"""A process of its own without a second import of torch."""

import os
import traceback
import warnings


def in_a_fork(action, *args):
    """Run `action` in a child, wait for it, and return what it returned, as text."""
    child, pipe = start(action, *args)
    with os.fdopen(pipe) as file:
        text = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, text
    return text


def start(action, *args):
    """Begin `action` in a child; return its pid and the pipe on which it tells its result."""
    here, there = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: other threads run
        child = os.fork()
    if child:
        os.close(there)
        return child, here
    code, text = 1, ""
    try:
        os.close(here)
        text = str(action(*args))
        code = 0
    except BaseException:
        text = traceback.format_exc()
    finally:
        os.write(there, text.encode())
        os._exit(code)
    raise AssertionError
