"""How tests of commands see what is refused."""

import pytest
from scripting import Refusal, refused

from sdescore.cli import main


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Refusal:
    """Runs a command, named with its arguments, that it refuses; returns the last line that it says."""
    return lambda *arguments: refused(main, list(arguments), capsys)
