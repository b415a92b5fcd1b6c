"""What POSIX alone has is not needed to import viscera: Windows and macOS can."""

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_every_module_can_be_imported_without_what_only_posix_has():
    code = """
import builtins, importlib, pkgutil
there = builtins.__import__

def without_posix(name, globals=None, locals=None, fromlist=(), level=0):
    if name in ("fcntl", "resource", "pwd", "grp", "termios") and (globals or {}).get("__name__", "").startswith("viscera"):
        raise ModuleNotFoundError(f"{globals['__name__']} imports {name}")
    return there(name, globals, locals, fromlist, level)

builtins.__import__ = without_posix
import viscera
names = [found.name for found in pkgutil.walk_packages(viscera.__path__, "viscera.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 150
