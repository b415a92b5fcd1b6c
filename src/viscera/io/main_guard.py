"""A script that starts processes outside of ``if __name__ == "__main__":`` would run again in each of them; it is told before.

Fresh processes import the script that started them. What stands at its top level runs again there, starts processes again, and all
end with a page of tracebacks, in which lack of memory is as likely a cause as any.
"""

import ast
import sys
from pathlib import Path
from types import FrameType

from viscera.errors import RunError


def require_main_guard() -> None:
    """Raise RunError where the running script, not under any ``if``, leads here; a notebook or ``python -c`` is no script."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_back is not None:
        frame = frame.f_back
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if frame is None or script is None or frame.f_code.co_name != "<module>" or frame.f_code.co_filename != script:
        return
    try:
        guarded = under_an_if(ast.parse(Path(script).read_bytes()), frame.f_lineno)
    except (OSError, SyntaxError, ValueError):
        return
    if not guarded:
        raise RunError(
            f"{script}, line {frame.f_lineno}: the processes that this starts would run the script again, and end",
            'Call it under if __name__ == "__main__":, as Python asks of scripts that start processes',
        )


def under_an_if(script: ast.Module, line: int) -> bool:
    """Return whether an ``if`` at any depth holds a line; functions do not count, since whoever calls them leads there."""
    return any(isinstance(one, ast.If) and one.lineno <= line <= (one.end_lineno or line) for one in ast.walk(script))
