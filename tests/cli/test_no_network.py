"""No verb opens a connection, looks up a name, or writes outside of its output and cache; no runtime sends statistics."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dicom_series import ball, write_series
from viscera.cli.command import VERBS

SOURCE = Path(__file__).parents[2] / "src" / "viscera"
WATCH = """
import os, sys
SOCKETS = {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname",
           "socket.gethostbyaddr", "socket.getnameinfo", "urllib.Request", "http.client.connect"}
RISKY = {"webbrowser.open", "pickle.find_class"}
def watch(event, given):
    try:
        if event in SOCKETS and "AF_UNIX" not in str(getattr(given[0], "family", "")):
            note("socket", event, given[1:] if event.startswith("socket.connect") else given)
        elif event == "open" and given[0] and isinstance(given[0], (str, bytes)) and (
            (isinstance(given[1], str) and set(given[1]) & set("wax+")) or (isinstance(given[2], int) and given[2] & 3)):
            note("write", os.path.abspath(os.fsdecode(given[0])))
        elif event in RISKY and not (event == "pickle.find_class" and multiprocess()):
            note("risky", event, given)
    except ImportError:
        pass
def multiprocess():
    frame = sys._getframe(2)
    while frame:
        if any(name in frame.f_code.co_filename for name in ("multiprocessing", "pebble", "copy.py", "deepcopy")):
            return True
        frame = frame.f_back
    return False
def note(*what):
    with_ = os.open(os.environ["WATCH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0))
    os.write(with_, (repr(what) + "\\n").encode()); os.close(with_)
LOG = os.environ["WATCH_LOG"]
def hook(event, given):
    if event == "open" and given and given[0] == LOG:
        return
    watch(event, given)
sys.addaudithook(hook)
"""
"""A sitecustomize.py: Python runs it first, in this process and in those that it starts."""

COMMANDS = """
synth a --layout abdomenct1k --cases 5 --seed 1 --jobs 1 --shape 16 32 32
synth b --layout radiotherapy --cases 5 --seed 2 --jobs 2 --shape 16 32 32
plan abdomenct1k=a radiotherapy=b --hours 1 --device cpu
prepare store --data abdomenct1k=a radiotherapy=b --recipe tiny.json --jobs 2
train tiny.json store run --training.epochs 1 --machine.accelerator cpu --machine.logs tensorboard
train tiny.json store run2 --training.epochs 1 --machine.accelerator cpu --training.seed 1
pseudolabel run run2 store
train tiny.json store folds --folds 2 --training.epochs 1 --machine.accelerator cpu
choose folds --out choice.json --device cpu
predict SCAN out/choice.nii.gz --weights choice.json
study tiny.json store study --grid training.seed=0 --device cpu
predict SCAN out/torch.nii.gz --weights run --runtime torch --statistics
predict SCAN out/openvino.nii.gz --weights run --runtime openvino
predict SCAN out/onnx.nii.gz --weights run --runtime onnx
predict SCAN out/starter.nii.gz
predict abdomenct1k=a out/a --weights run --split test
predict series out/series --weights run --write seg rtstruct report capture
view series out/series/series.seg.dcm --html series.html
evaluate abdomenct1k=a out/a --split test --run run --json scores.json --html page.html
collect out/a --out cohort.csv --html cohort.html
report scores.json --out scores.html
report run --out run.html
report store --out store.html
export run exported --format onnx
export run exported2 --format openvino --int8 --data store
bench --weights run --shape 16 32 32 --rounds 1 --runtime onnx --json bench.json
view SCAN out/torch.nii.gz --html view.html
view SCAN out/torch.nii.gz --png view.png
serve studies --port 0
listen queue --status
info system
info weights
demo demo --cases 5 --epochs 0
"""
RUN = """
import os, shlex, signal, sys, threading
from viscera.cli.command import main
codes = []
if __name__ == "__main__":
    for line in open("commands").read().splitlines():
        if line.startswith("serve"):  # until Ctrl-C
            threading.Timer(4, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            codes.append((main(shlex.split(line)), line))
        except SystemExit as end:
            codes.append((end.code, line))
    # all that a page or a picture may be served with
    from viscera.reports.viewer.serve import site
    with site("page", {}):
        pass
    codes.append((int(any(name.startswith("openvino_telemetry") for name in sys.modules)), "OpenVINO's statistics"))
    print([code for code in codes if code[0]])
"""


@pytest.fixture(scope="module")
def watched(tmp_path_factory) -> tuple[list[tuple], Path, Path, str]:
    """Run every verb, as on a new machine that is no CI's; return what was noted, the work folder, the home, the failures."""
    folder = tmp_path_factory.mktemp("watched")
    home, work, hooks, temp = (folder / name for name in ("home", "work", "hooks", "temp"))
    for one in (home, work, hooks, temp):
        one.mkdir()
    (hooks / "sitecustomize.py").write_text(WATCH)
    done = subprocess.run(
        [sys.executable, "-m", "viscera.cli", "info", "zhang2d-small"], capture_output=True, text=True, check=True
    )
    recipe = json.loads(done.stdout)
    recipe["name"], recipe["preparation"]["size"], recipe["network"]["widths"] = "tiny", [32, 32], [4, 8, 8]
    recipe["training"]["epochs"] = 1
    recipe["loss"] = {"kind": "partial"}
    (work / "tiny.json").write_text(json.dumps(recipe))
    write_series(work / "series", np.tile(ball(), (3, 4, 4)))
    scan = "a/Image/Case_00001_0000.nii.gz"
    (work / "commands").write_text(COMMANDS.strip().replace("SCAN", scan) + "\n")
    (work / "all.py").write_text(RUN)
    taken = {name: value for name, value in os.environ.items() if name not in _ci_names()}
    places = {"HOME": home, "USERPROFILE": home, "TMPDIR": temp, "TEMP": temp, "WATCH_LOG": folder / "log"}
    paths = {"PYTHONPATH": os.pathsep.join([str(hooks), str(SOURCE.parent)]), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "all.py"],
        cwd=work,
        env=taken | {name: str(value) for name, value in places.items()} | paths,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    log = (folder / "log").read_text().splitlines() if (folder / "log").exists() else []
    return [ast.literal_eval(line) for line in log], work, folder, done.stdout.splitlines()[-1] + done.stderr


def _ci_names() -> set[str]:
    """Name the variables by which packages know that a machine is a CI's, and those that lead elsewhere than home."""
    words = (
        "CI",
        "GITHUB",
        "GITLAB",
        "JENKINS",
        "TRAVIS",
        "TF_BUILD",
        "BUILD_",
        "XDG_",
        "MPLCONFIGDIR",
        "PYTHONPATH",
        "PYTEST",
    )
    return {name for name in os.environ if name.startswith(words)}


def test_every_verb_is_among_the_commands():
    assert {line.split()[0] for line in COMMANDS.strip().splitlines()} == set(VERBS)


@pytest.mark.slow
def test_no_verb_opens_a_connection_or_looks_up_a_name(watched):
    noted, _, _, failed = watched
    assert failed.startswith("[(2, 'demo demo --cases 5 --epochs 0')]"), failed[-3000:]
    assert [one for one in noted if one[0] == "socket"] == []
    assert len([one for one in noted if one[0] == "write"]) > 50  # else nothing was watched


@pytest.mark.slow
def test_no_verb_writes_outside_of_its_output_the_cache_and_the_temporary_folder(watched):
    noted, work, folder, _ = watched
    allowed = (str(work), str(folder / "temp"), "/dev/", str(folder / "home" / ".cache"), "nul")
    outside = {one[1] for one in noted if one[0] == "write" and not one[1].startswith(allowed)}
    assert outside == set()
    left = {file.relative_to(folder / "home").parts[:2] for file in (folder / "home").rglob("*") if file.is_file()}
    assert {parts for parts in left if parts[0] != ".cache"} == set()
    assert {parts[1] for parts in left} <= {"viscera", "matplotlib", "fontconfig"}  # ONNX Runtime would add Microsoft


@pytest.mark.slow
def test_no_verb_unpickles_what_was_read_or_opens_a_browser(watched):
    assert [one for one in watched[0] if one[0] == "risky"] == []


def test_openvino_and_onnx_runtime_are_imported_in_one_place():
    found = set()
    for file in sorted(
        [
            *SOURCE.rglob("*.py"),
            *(SOURCE.parents[1] / "benchmarks").rglob("*.py"),
            *(SOURCE.parents[1] / "tests").rglob("*.py"),
        ]
    ):
        text = file.read_text(encoding="utf-8")
        if "openvino" not in text and "onnxruntime" not in text:
            continue
        tree = ast.parse(text)
        types = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            if id(node) not in types and any(name.partition(".")[0] in ("openvino", "onnxruntime") for name in names):
                found.add(file.name)
    assert found == {"doors.py"}


def test_nifti_is_read_without_pydicom_and_dicom_without_what_would_try_the_network(tmp_path):
    write_series(tmp_path / "series")
    code = """
import sys
import viscera.inference.predict, viscera.preparation.prepare
assert "nibabel" in sys.modules
assert "pydicom" not in sys.modules
from pathlib import Path
from viscera.dicom.finding import find_series
[series] = find_series(Path("series")).series
series.read(), series.headers()
assert "pydicom" in sys.modules
assert not {"requests", "urllib3"} & set(sys.modules)
import nibabel.nicom.dicomwrappers  # loads pydicom for itself, as without viscera
assert nibabel.nicom.dicomwrappers.pydicom.__version__
"""
    paths = os.environ | {"PYTHONPATH": str(SOURCE.parent)}
    subprocess.run([sys.executable, "-c", code], check=True, env=paths, cwd=tmp_path)


def test_the_door_leaves_the_statistics_as_it_found_them():
    pytest.importorskip("onnx")
    code = """
import sys
from viscera.networks.doors import openvino_module
first = openvino_module()
assert first is openvino_module()
assert not {"openvino_telemetry", "openvino.tools.ovc"} & {*sys.modules}
try:
    first.convert_model()  # loads the tools, which refuse it
except Exception as error:
    print(error)
import openvino.tools.ovc.telemetry_utils as used
assert "openvino_telemetry" not in sys.modules
assert used.tm.__name__ == "openvino.tools.ovc.telemetry_stub", used.tm
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": str(SOURCE.parent)})
