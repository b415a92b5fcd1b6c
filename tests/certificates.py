"""Certificates for servers of tests."""

import shutil
import subprocess
from pathlib import Path

import pytest

OPENSSL = shutil.which("openssl")


def own_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate of 127.0.0.1 that is its own authority, and its key; skip where nothing can make one."""
    if OPENSSL is None:
        pytest.skip("no openssl to make a certificate with")
    pem, key = folder / "own.pem", folder / "own.key"
    words = [OPENSSL, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(pem)]
    subprocess.run(words, check=True, capture_output=True)
    return pem, key
