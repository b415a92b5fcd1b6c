"""The only place that imports OpenVINO and ONNX Runtime: without the statistics that both send unless they are told not to.

The package ``openvino`` imports ``openvino_telemetry`` where that is installed, which writes a number for the user into the home
folder and reports each import to Google Analytics, for Intel. Where it is not installed OpenVINO uses a stub of its own, and so it
does here. ONNX Runtime from 1.29 on reports sessions, with hashes of the network and names of its file, to Microsoft from its own
threads, and writes a number for the machine into the cache folder; one variable, read as it is loaded, keeps all of it off
(its Privacy.md).
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

TELEMETRY = "openvino_telemetry"
CONVERSION = "openvino.tools.ovc"
"""Takes half of the time of the import, and is not needed."""
SILENT = "ORT_DISABLE_TELEMETRY"
LOCK = threading.Lock()


def openvino_module() -> ModuleType:
    """Return the package ``openvino``, imported as if its statistics were not installed.

    A program that imported OpenVINO before has chosen for itself; nothing is changed for it.

    Raises:
        ImportError: It is not installed.
    """
    with LOCK:
        if (there := sys.modules.get("openvino")) is not None:
            return there
        with _hidden(TELEMETRY, CONVERSION):
            import openvino
        openvino.convert_model = _convert_model
        return openvino


def _convert_model(*arguments: object, **named: object) -> object:
    """Convert a model with OpenVINO's own tools, which are loaded when somebody does, without their statistics."""
    with LOCK, _hidden(TELEMETRY):
        convert = import_module(CONVERSION).convert_model
    return convert(*arguments, **named)


@contextmanager
def _hidden(*names: str) -> Iterator[None]:
    """Let imports find no such modules."""
    before = {name: sys.modules.get(name) for name in names}
    for name in names:
        sys.modules[name] = None  # type: ignore[assignment]  (Python's own way to say that there is no such module)
    try:
        yield
    finally:
        for name, there in before.items():
            del sys.modules[name]
            if there is not None:
                sys.modules[name] = there


def onnxruntime_module() -> ModuleType:
    """Return the package ``onnxruntime`` with its statistics off; in a program that imported it before, those still to come.

    Raises:
        ImportError: It is not installed.
    """
    with LOCK:
        os.environ[SILENT] = "1"  # stays: it is read when the first session is made, and by the processes that we start
        import onnxruntime

        onnxruntime.disable_telemetry_events()
        return onnxruntime
