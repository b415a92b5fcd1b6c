"""The command `viscera`: one verb per file. Nothing heavy is imported before the verb is known.

Exit code 0: done. 2: something that the user can put right (one message on stderr). 1: a fault of ours (a traceback).
"""

import gc
import sys
import warnings

from viscera.errors import SettingError, VisceraError, did_you_mean

VERBS = {
    "demo": "the whole way on synthetic patients, in minutes",
    "synth": "write a synthetic data set, with any organs annotated",
    "prepare": "turn data sets into one store to train from",
    "train": "train a recipe on a store",
    "study": "train a grid of settings, compare them in one table",
    "pseudolabel": "teachers fill in what a case does not annotate",
    "predict": "segment a scan or a folder of scans",
    "evaluate": "measure predictions against the truth",
    "report": "one HTML page of a run, an evaluation or a store",
    "bench": "how fast it is on this machine, and what limits it",
    "export": "write a network for ONNX Runtime or OpenVINO",
    "view": "a page to look at a scan with its labels, or a picture",
    "info": "what there is: recipes, layouts, organs, system",
}


def overview() -> str:
    """Give the help of the command itself."""
    rows = "\n".join(f"  {verb:<11} {what}" for verb, what in VERBS.items())
    return f"""viscera: abdominal organ segmentation in CT, from data sets that annotate different organs

usage: viscera VERB ...        viscera VERB --help tells all of a verb

{rows}

the usual way:
  viscera prepare STORE --data abdomenct1k=DIR radiotherapy=DIR
  viscera train zhang2d STORE RUN
  viscera predict SCAN.nii.gz LABELS.nii.gz --weights RUN --statistics
  viscera evaluate abdomenct1k=DIR PREDICTIONS --json scores.json
  viscera report scores.json
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; give its exit code."""
    own_process = arguments is None
    arguments = sys.argv[1:] if arguments is None else arguments
    warnings.showwarning = _show_warning
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview())
        return 0
    try:
        return run(arguments[0], arguments[1:])
    except VisceraError as error:
        sys.stderr.write(f"viscera: {type(error).__name__}: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(
            "viscera: interrupted. What was finished is kept; say the same again to go on (train: with --resume).\n"
        )
        return 130
    except BrokenPipeError:
        return 0
    finally:
        if own_process:
            gc.freeze()  # the interpreter's last collections would look at all of torch, twice: 0.25 s
        else:
            gc.unfreeze()  # what a verb froze to start quickly (startup.py)


def run(verb: str, arguments: list[str]) -> int:
    """Run one verb.

    Raises:
        SettingError: There is no such verb.
    """
    match verb:
        case "demo":
            from viscera.cli import demo as command
        case "synth":
            from viscera.cli import synth as command
        case "prepare":
            from viscera.cli import prepare as command
        case "train":
            from viscera.cli import train as command
        case "study":
            from viscera.cli import study as command
        case "pseudolabel":
            from viscera.cli import pseudolabel as command
        case "predict":
            from viscera.cli import predict as command
        case "evaluate":
            from viscera.cli import evaluate as command
        case "report":
            from viscera.cli import report as command
        case "bench":
            from viscera.cli import bench as command
        case "export":
            from viscera.cli import export as command
        case "view":
            from viscera.cli import view as command
        case "info":
            from viscera.cli import info as command
        case "--version":
            from importlib.metadata import version

            sys.stdout.write(f"viscera {version('viscera')}\n")
            return 0
        case _:
            raise SettingError(
                f"there is no verb '{verb}'.{did_you_mean(verb, VERBS)} Choose one of {', '.join(VERBS)}."
            )
    return command.main(arguments)


def _show_warning(message: Warning | str, category: type[Warning], *place: object, **more: object) -> None:
    """Show a warning as one line; those of other libraries' own affairs are not the user's."""
    if category.__module__.startswith("viscera") or category is UserWarning:
        sys.stderr.write(f"viscera: note: {message}\n")
