"""How tests run commands and scripts."""

from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
Refusal = Callable[..., str]  # the fixture of that name: the arguments of a command to the last line that it says
NEEDS_SCRIPTS = pytest.mark.skipif(not SCRIPTS.exists(), reason="no scripts beside these tests")


def refused(main: Callable[[list[str]], None], arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The last line that a command or script says before it ends with an error."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code not in (0, None)
    said = caught.value.code if isinstance(caught.value.code, str) else capsys.readouterr().err
    lines: list[str] = said.strip().splitlines()
    return lines[-1]
