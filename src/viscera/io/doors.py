"""Libraries that load others which viscera does without.

nibabel loads pydicom wherever that is installed (0.3 s), and pydicom loads requests, whose urllib3 opens a socket on loopback to
see whether there is IPv6. Neither is needed here: nibabel's own modules for DICOM load pydicom when they are used, and pydicom
fetches only its test files by requests.

Importing this module loads nibabel, which loads scipy's root: what predicting loads at its start imports it where it is used.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

LOCK = threading.RLock()


@contextmanager
def without(name: str) -> Iterator[None]:
    """Let imports in the block find no such module; where it is loaded already, nothing is changed."""
    with LOCK:
        hidden = name not in sys.modules
        if hidden:
            sys.modules[name] = None  # type: ignore[assignment]  (Python's own way to say that there is no such module)
        try:
            yield
        finally:
            if hidden:
                del sys.modules[name]


def pydicom_module() -> ModuleType:
    """Return the package ``pydicom``.

    Raises:
        ImportError: It is not installed.
    """
    with without("requests"):
        import pydicom
    return pydicom


with without("pydicom"):
    import nibabel as nibabel
    from nibabel.filebasedimages import ImageFileError as ImageFileError
    from nibabel.spatialimages import HeaderDataError as HeaderDataError
