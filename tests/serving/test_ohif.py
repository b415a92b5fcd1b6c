"""OHIF, unmodified, in a real browser: its MONAI Label panel segments, and our SEG lies where it belongs.

OHIF's page comes from MONAI Label's wheel, which is no part of this repository; Orthanc is Debian's, started on loopback by a tool
that lies beside this repository where its developers work. To run this (about three minutes: the browser draws without a GPU):
pip download --no-deps monailabel -d FOLDER, VISCERA_MONAILABEL=FOLDER, pytest -m slow tests/serving/test_ohif.py; with
VISCERA_SHOTS=FOLDER the browser's pictures are kept.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from dicom_series import write_series
from ports import free_port
from viscera.cli.command import main
from viscera.io import nifti
from viscera.synthesis.patient import synthesize
from viscera.volume import to_axial

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = Path("/usr/bin/chromium")
WHEELS = Path(os.environ.get("VISCERA_MONAILABEL", Path(tempfile.gettempdir(), "monailabel")))
START = Path(__file__).parents[3] / "shared" / "tools" / "orthanc" / "start"
SHOTS = os.environ.get("VISCERA_SHOTS")
STUDY, SERIES, FRAME = (f"1.2.826.0.1.3680043.8.498.77{number}" for number in (1, 2, 3))
SHAPE = (48, 96, 96)
GL = [
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
]
LABELMAPS = """() => cornerstoneTools.segmentation.state.getSegmentations().map(one => {
    const map = one.representationData.Labelmap, cache = cornerstone.cache;
    const volume = cache.getVolume(map.volumeId ?? one.segmentationId);
    const images = (map.imageIds ?? []).map(id => cache.getImage(id));
    let slices;
    if (volume) {
        const [x, y, z] = volume.dimensions, voxels = volume.voxelManager.getCompleteScalarDataArray();
        slices = Array.from({length: z}, (_, k) => voxels.slice(k * x * y, (k + 1) * x * y));
    } else if (images.length && images.every(Boolean)) {
        const height = id => cornerstone.metaData.get("imagePlaneModule", id).imagePositionPatient[2];
        const placed = images.map((image, k) => [height(map.referencedImageIds[k]), image.voxelManager.getScalarData()]);
        slices = placed.sort((a, b) => a[0] - b[0]).map(pair => pair[1]);
    } else {
        return null;
    }
    const runs = [];
    for (const slice of slices) {
        for (const value of slice) {
            if (runs.length && runs[runs.length - 2] === value) { runs[runs.length - 1]++; } else { runs.push(value, 1); }
        }
    }
    const labels = Object.fromEntries(Object.values(one.segments).map(each => [each.label, each.segmentIndex]));
    return {runs, labels};
}).filter(one => one && one.runs.length > 2)"""
"""What the viewer holds, run-length coded from the feet upwards: {runs (value, count, ...), labels}."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium at /usr/bin/chromium"),
    pytest.mark.skipif(not Path("/usr/sbin/Orthanc").exists() or not START.exists(), reason="no Orthanc to start"),
    pytest.mark.skipif(not any(WHEELS.glob("monailabel-*.whl")), reason=f"no wheel of monailabel in {WHEELS}"),
]


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> Path:
    """A synthetic patient as a DICOM series."""
    patient = synthesize(np.random.default_rng(5), shape=SHAPE, orientation="axial", scan="upper")
    z, y, x = patient.ct.spacing_mm
    folder = tmp_path_factory.mktemp("ohif") / "series"
    write_series(
        folder,
        patient.ct.voxels,
        origin=(0, 0, 0),
        spacing=(round(z, 4), round(y, 4), round(x, 4)),
        uids=(STUDY, SERIES, FRAME),
    )
    return folder


@pytest.fixture(scope="module")
def result(series) -> Path:
    """Its results as files: OUT/series.seg.dcm and .nii.gz."""
    out = series.parent / "out"
    assert main(["predict", str(series), str(out), "--write", "seg", "nifti"]) == 0
    return out


@pytest.fixture(scope="module")
def orthanc(series, result, tmp_path_factory) -> Iterator[str]:
    """Orthanc with the series and the SEG; its DICOMweb address."""
    folder, port = tmp_path_factory.mktemp("orthanc"), free_port()
    subprocess.run(["bash", str(START), str(folder), str(port), str(free_port())], check=True, capture_output=True)
    for file in (*series.iterdir(), result / "series.seg.dcm"):
        httpx.post(f"http://127.0.0.1:{port}/instances", content=file.read_bytes()).raise_for_status()
    yield f"http://127.0.0.1:{port}/dicom-web"
    os.kill(int((folder / "pid").read_text()), signal.SIGTERM)


@pytest.fixture(scope="module")
def page_address(orthanc, tmp_path_factory) -> Iterator[str]:
    """OHIF's page and, behind the same address as its own settings want it, Orthanc's DICOMweb."""
    folder = tmp_path_factory.mktemp("page")
    with zipfile.ZipFile(sorted(WHEELS.glob("monailabel-*.whl"))[-1]) as wheel:
        wheel.extractall(folder, [name for name in wheel.namelist() if "/static/ohif/" in name])
    root = next(folder.glob("**/static/ohif"))

    async def file(request: Request) -> Response:
        wanted = root / request.path_params["path"]
        return FileResponse(wanted if wanted.is_file() else root / "index.html")

    async def forward(request: Request) -> Response:
        async with httpx.AsyncClient(timeout=60) as client:
            answer = await client.get(
                f"{orthanc}/{request.path_params['path']}?{request.url.query}",
                headers={"accept": request.headers.get("accept", "*/*")},
            )
        return Response(answer.content, answer.status_code, {"content-type": answer.headers["content-type"]})

    routes = [Route("/ohif/{path:path}", file)]
    routes += [Route(f"/proxy/dicom/{part}/{{path:path}}", forward) for part in ("qido", "wado")]
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)


@pytest.fixture
def viscera_address(series, page_address, tmp_path) -> Iterator[str]:
    """`viscera serve` that lets OHIF's page ask."""
    kept = tmp_path / "studies" / "dicom" / SERIES
    kept.parent.mkdir(parents=True)
    kept.symlink_to(series)
    port = free_port()
    words = ["serve", str(tmp_path / "studies"), "--port", str(port), "--origin", page_address]
    running = subprocess.Popen([sys.executable, "-m", "viscera.cli", *words], stderr=subprocess.DEVNULL)
    for _ in range(300):
        try:
            httpx.get(f"http://127.0.0.1:{port}/info/").raise_for_status()
            break
        except httpx.HTTPError:
            threading.Event().wait(0.2)
    yield f"http://127.0.0.1:{port}/"
    running.send_signal(signal.SIGINT)
    running.wait(60)


@pytest.fixture
def viewer(page_address):
    """The browser's page, with a function that opens the study in one of OHIF's modes."""
    with playwright.sync_playwright() as machinery:
        chromium = machinery.chromium.launch(executable_path=CHROMIUM, args=GL)
        page = chromium.new_context(viewport={"width": 1500, "height": 620}).new_page()
        page.set_default_timeout(240_000)

        def _open(mode: str):
            page.goto(f"{page_address}/ohif/{mode}?StudyInstanceUIDs={STUDY}")
            page.get_by_text("Confirm and Hide").first.click()
            page.wait_for_function("() => window.cornerstone && cornerstone.cache.getCacheSize() > 0")
            return page

        yield _open
        chromium.close()


def _shown(page, name: str, shape: tuple[int, int, int]) -> tuple[np.ndarray, dict[str, int]]:
    """Wait until a label map is held; return it (z, y, x) and its {label: value}."""
    page.wait_for_function(f"() => ({LABELMAPS})().length")
    if SHOTS:
        page.evaluate("() => cornerstone.getEnabledElements().forEach(one => one.viewport.setImageIdIndex?.(24))")
        page.wait_for_timeout(8000)
        page.screenshot(path=Path(SHOTS) / f"{name}.png", timeout=240_000)
    (one,) = page.evaluate(LABELMAPS)
    return np.repeat(np.array(one["runs"][0::2], np.uint8), one["runs"][1::2]).reshape(shape), one["labels"]


def _expected(series: Path, result: Path) -> dict[str, np.ndarray]:
    """{organ: its voxels in the series' order}."""
    voxels = to_axial(nifti.read(result / "series.nii.gz"))[0].voxels
    names = json.loads((result / "series.json").read_text())["labels"]
    assert voxels.shape == SHAPE
    return {name: voxels == int(value) for value, name in names.items() if (voxels == int(value)).any()}


def test_the_monai_label_panel_segments(viewer, viscera_address, series, result):
    page = viewer("monai-label")
    box = page.locator("input.actionInput").first
    box.fill(viscera_address)
    box.locator("xpath=../..").locator("button").first.click()
    run = page.get_by_title("Run Segmentation", exact=True).first
    run.wait_for(state="attached")
    run.evaluate("button => button.click()")
    shown, labels = _shown(page, "panel", SHAPE)
    expected = _expected(series, result)
    assert {"liver", "aorta"} <= set(expected)
    for organ, mask in expected.items():
        assert np.array_equal(shown == labels[organ], mask), organ


def test_our_seg_is_drawn_where_it_belongs(viewer, series, result):
    page = viewer("viewer")
    page.get_by_text("viscera RESEARCH ONLY").first.dblclick()
    page.get_by_role("button", name="Yes").first.click()
    shown, labels = _shown(page, "seg", SHAPE)
    for organ, mask in _expected(series, result).items():
        named = next(value for label, value in labels.items() if label.lower().replace(" ", "_") == organ)
        assert np.array_equal(shown == named, mask), organ
