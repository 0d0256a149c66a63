"""docs/errors.md has every message that the package raises, and no other."""

from collections import Counter

from messages import INTERNAL, in_code, not_followed, on_page

# What is raised with a text that the source does not show where it is raised.
NOT_FOLLOWED = {
    "callbacks/logs.py: name": "a KeyError of a mapping",
    "trainer/engine/output_buffer.py: name": "likewise",
    "trainer/checkpoint/store.py: errno.ENOSPC": "the system's own words",
    "trainer/files.py: message": "what `write_error` is given, which is followed",
    "trainer/engine/signals.py: what": "Ctrl-C and SIGTERM: the training state",
    "trainer/engine/steps/compiled_region.py: _first_lines(error)": "torch's reason, in a warning",
    "trainer/engine/steps/compiled_region.py: reason": "likewise",
    "trainer/history/report.py: error.errno": "the system's number, before the message",
    "trainer/resume/checkpoint_saver.py: str(error)": "an error raised before, as a warning",
}


def test_every_message_of_the_code_is_on_the_page():
    page = set(on_page())
    missing = {
        text: where for text, where in in_code().items() if text not in page | INTERNAL.keys()
    }
    listed = "\n".join(f"{where}\n    {text}" for text, where in missing.items())
    assert not missing, f"put these into a ```text block of docs/errors.md:\n{listed}"


def test_every_message_of_the_page_is_raised_somewhere():
    code = in_code()
    gone = "\n".join(line for line in on_page() if line not in code)
    assert not gone, f"nothing raises these any more; take them off docs/errors.md:\n{gone}"


def test_no_message_stands_on_the_page_twice():
    assert [line for line, count in Counter(on_page()).items() if count > 1] == []


def test_what_is_internal_is_raised():
    assert INTERNAL.keys() <= in_code().keys()


def test_every_message_can_be_followed_to_its_text():
    assert not_followed() == NOT_FOLLOWED.keys()
