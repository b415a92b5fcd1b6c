"""The command `viscera`: one verb per file. Nothing heavy is imported before the verb is known.

Exit code 0: done. 2: something that the user can put right (one message on stderr). 1: a fault of ours (faults.py: what to report,
and no traceback unless VISCERA_DEBUG=1). 130, 143: ended by Ctrl-C or SIGTERM.
"""

import atexit
import errno
import gc
import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from viscera.cli.interrupts import Interrupted, farewell, interruptible
from viscera.errors import SettingError, VisceraError, did_you_mean

VERBS = {
    "demo": "the whole way on synthetic patients, in minutes",
    "synth": "write a synthetic data set, with any organs annotated",
    "prepare": "turn data sets into one store to train from",
    "plan": "a recipe for your data and this machine, every choice explained",
    "train": "train a recipe on a store",
    "study": "train a grid of settings, compare them in one table",
    "pseudolabel": "teachers fill in what a case does not annotate",
    "choose": "compare cross-validated runs: which, and what post-processing",
    "predict": "segment a scan or a folder of scans",
    "collect": "results of many scans -> one table, and a page to look at it",
    "evaluate": "measure predictions against the truth",
    "report": "one HTML page of a run, an evaluation or a store",
    "bench": "how fast it is on this machine, and what limits it",
    "export": "write a network for ONNX Runtime or OpenVINO",
    "serve": "let 3D Slicer segment: MONAI Label's protocol",
    "listen": "a DICOM node: series come in, segmentations go back",
    "view": "a page to look at a scan with its labels, or a picture",
    "info": "what there is: recipes, layouts, organs, system",
}


TRAINED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("demo", "plan", "train", "study"), ("torch", "lightning_fabric")),
    **dict.fromkeys(("pseudolabel", "choose", "bench", "export"), ("torch",)),
}
"""What the verbs need that are of no use without the extra ``train``; their --help needs nothing."""

SYSTEM = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EACCES", "EPERM", "EROFS", "EMFILE", "ENFILE", "ESTALE", "ENODEV")
    if hasattr(errno, name)
)
"""What the system refuses through no fault of ours; any other OSError that no room expected is one."""


def overview() -> str:
    """Return the help of the command itself."""
    rows = "\n".join(f"  {verb:<11} {what}" for verb, what in VERBS.items())
    return f"""viscera: abdominal organ segmentation in CT, from data sets that annotate different organs

usage: viscera VERB ...        viscera VERB --help tells all of a verb

{rows}

the usual way:
  viscera prepare STORE --data abdomenct1k=DIR radiotherapy=DIR
  viscera train viscera2d STORE RUN        (on a CPU: viscera2d-16)
  viscera predict SCAN.nii.gz LABELS.nii.gz --weights RUN --statistics
  viscera evaluate abdomenct1k=DIR PREDICTIONS --json scores.json
  viscera report scores.json
"""


def entry() -> NoReturn:
    """Be the command: leave with its exit code, and after predicting at once.

    To take down what a runtime and arrays of a scan hold takes 0.3 s, for a process that is about to end. What is registered to
    be done at the end is done.
    """
    code = main()
    if sys.argv[1:2] == ["predict"]:
        with suppress(OSError):  # a closed pipe or a full disk: then the usual way, which has an exit code for that
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    sys.exit(code)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    own_process = arguments is None
    arguments = sys.argv[1:] if arguments is None else arguments
    warnings.showwarning = _show_warning
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview())
        return 0
    if arguments[0] == "--version":
        sys.stdout.write(f"viscera {version('viscera')}\n")
        return 0
    try:
        with interruptible(arguments[0]) if own_process else nullcontext():
            return run_verb(*arguments)
    except VisceraError as error:
        sys.stderr.write(f"viscera: {type(error).__name__}: {error}\n")
        return 2
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        sys.stderr.write(farewell(arguments[0], number))
        return 128 + number
    except BrokenPipeError:
        return 0
    except Exception as error:
        if isinstance(error, OSError) and error.errno in SYSTEM:
            sys.stderr.write(f"viscera: FileError: {refused(error)}\n")
            return 2
        # The one place that takes any: a traceback would show names and paths of patients, and tell the user nothing.
        from viscera.cli.faults import report_fault

        return report_fault(error, arguments)
    finally:
        if own_process:
            gc.freeze()  # the interpreter's last collections would look at all of torch, twice: 0.25 s
        else:
            gc.unfreeze()  # what a verb froze to start quickly (startup.py)


def refused(error: OSError) -> str:
    """Return what the system refused that no room has named better, with the file, the cause and what to do."""
    from viscera.io.atomic import cannot_use

    file = error.filename2 or error.filename
    return str(cannot_use(Path(str(file)) if file else None, error))


def run_verb(verb: str, *arguments: str) -> int:
    """Run a verb, unless it needs what is not installed; return the exit code.

    Raises:
        SettingError: There is no such verb, it needs the extra ``train``, or torchrun began it more than once.
    """
    run = find_verb(verb)
    began = os.environ.get("WORLD_SIZE", "1") if "TORCHELASTIC_RUN_ID" in os.environ else "1"
    if verb != "train" and began != "1":
        raise SettingError(
            f"torchrun began {began} processes, which would all do the same: only viscera train shares its work among them",
            "Say the command without torchrun.",
        )
    if verb in TRAINED and not {"-h", "--help"} & {*arguments}:
        from viscera.io.extras import require_train

        require_train(f"viscera {verb}", *TRAINED[verb])
    return run(list(arguments))


def find_verb(verb: str) -> Callable[[list[str]], int]:
    """Return what runs a verb: it takes the arguments after the verb, and returns the exit code.

    Raises:
        SettingError: There is no such verb.
    """
    if verb not in VERBS:
        raise SettingError(
            f"there is no verb '{verb}'", f"{did_you_mean(verb, VERBS)} Choose one of {', '.join(VERBS)}."
        )
    return import_module(f"viscera.cli.{verb}").main


def _show_warning(message: Warning | str, category: type[Warning], *place: object, **more: object) -> None:
    """Show a warning as one line; those of other libraries' own affairs are not the user's."""
    if category.__module__.startswith("viscera") or category is UserWarning:
        sys.stderr.write(f"viscera: note: {message}\n")
