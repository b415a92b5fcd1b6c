"""The only place that imports OpenVINO: without the statistics that its package sends of being imported.

The package ``openvino`` imports ``openvino_telemetry`` where that is installed, which writes a number for the user into the home
folder and sends it to Google Analytics, for Intel, with each import. Where it is not installed OpenVINO uses a stub of its own,
and so it does here.
"""

import sys
import threading
from types import ModuleType

TELEMETRY = "openvino_telemetry"
LOCK = threading.Lock()


def openvino_module() -> ModuleType:
    """Return the package ``openvino``, imported as if its statistics were not installed.

    A program that imported OpenVINO before has chosen for itself; nothing is changed for it.

    Raises:
        ImportError: It is not installed.
    """
    with LOCK:
        if sys.modules.get("openvino") is not None:
            return sys.modules["openvino"]
        before = sys.modules.get(TELEMETRY)
        sys.modules[TELEMETRY] = None  # type: ignore[assignment]  (Python's own way to say that there is no such module)
        try:
            import openvino
        finally:
            del sys.modules[TELEMETRY]
            if before is not None:
                sys.modules[TELEMETRY] = before
        return openvino
