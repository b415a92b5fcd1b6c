"""The interactive page in headless Chromium: what is drawn, and that nothing is fetched. Skipped where no browser is.

Software rendering stands in for a graphics card, so scans are small here.
"""

import io
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from viscera.colours import colour
from viscera.evaluation.pairing import Pair
from viscera.labels import LabelSpace
from viscera.reports.notebook import view
from viscera.reports.viewer.page import pack, render, write_page
from viscera.reports.viewer.scene import compare_scene, label_scene
from viscera.reports.viewer.serve import site
from viscera.volume import Turn, Volume, turn_volume

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = Path("/usr/bin/chromium")
SOFTWARE_GL = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
NAMES = ("liver", "spleen", "kidney_left")
AXIAL = np.array([[0, 0, -4.0, 78], [0, -4.0, 0, 60], [5.0, 0, 0, -100], [0, 0, 0, 1]])
SHAPE = (16, 32, 40)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium at /usr/bin/chromium"),
]


def ball(centre, radii):
    return sum(((g - c) / r) ** 2 for g, c, r in zip(np.indices(SHAPE), centre, radii, strict=True)) <= 1


def patient():
    """A body in axial order, the liver on the patient's right, the spleen on the left; a prediction that is shifted."""
    ct = np.full(SHAPE, -1000, np.int16)
    ct[ball((8, 16, 20), (1000, 13, 18))] = 0
    truth = np.zeros(SHAPE, np.uint8)
    truth[ball((9, 14, 11), (5, 7, 7))] = 1
    truth[ball((9, 18, 30), (4, 4, 4))] = 2
    truth[ball((5, 22, 27), (3, 3, 3))] = 3
    ct[truth > 0] = 120
    prediction = np.roll(truth, (1, 1), axis=(0, 2))
    return Volume(ct, AXIAL), Volume(prediction, AXIAL), Volume(truth, AXIAL)


def compared(ct, prediction, truth):
    return compare_scene(ct, Pair("c", "c", truth, prediction, LabelSpace("s", NAMES), NAMES), title="c")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as machinery:
        chromium = machinery.chromium.launch(executable_path=CHROMIUM, args=SOFTWARE_GL)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, tmp_path) -> Iterator[Callable]:
    """Open a scene from a file, without network, wait until it is drawn; fail if anything was fetched or went wrong."""
    context = browser.new_context(viewport={"width": 1000, "height": 640}, offline=True)
    wrong = []
    context.on(
        "request", lambda request: request.url.startswith(("file:", "data:", "blob:")) or wrong.append(request.url)
    )

    def open_scene(scene):
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: message.type in ("error", "warning") and wrong.append(message.text))
        file = tmp_path / f"{len(context.pages)}.html"
        page.goto(write_page(file, scene).as_uri())
        page.wait_for_selector("#stage[data-ready=yes]", timeout=60_000)
        return page

    yield open_scene
    context.close()
    # The driver reports stalls of reading pixels back, which only screenshots do.
    assert [text for text in wrong if "GPU stall" not in text] == []


def picture(page, element="#stage"):
    page.wait_for_timeout(250)
    return np.asarray(Image.open(io.BytesIO(page.locator(element).screenshot())).convert("RGB")).astype(int)


def changed(a, b):
    """Tell which share of the pixels differs visibly."""
    return float((np.abs(a - b).max(axis=2) > 12).mean())


def near(picture, rgb, *, tolerance):
    return np.abs(picture - np.array(rgb)).max(axis=2) <= tolerance


def axial(page):
    """Return the axial view alone, without cross or text: the labels opaque."""
    page.evaluate("() => { viscera.setView('axial'); viscera.views.slices.setCrosshairWidth(0); }")
    page.locator("#opacity").fill("100")
    return picture(page)


def test_the_page_draws_without_network_and_scrolls(opened):
    page = opened(compared(*patient()))
    first = picture(page)
    assert (first.max(axis=2) > 60).mean() > 0.1
    place = page.evaluate("() => viscera.slice()")
    page.locator("#stage").press("ArrowUp")
    assert page.evaluate("() => viscera.slice()") == place + 1
    assert f"axial {place + 2}/16" in page.locator("#caption-axial").inner_text()
    assert changed(picture(page), first) > 0.01
    page.mouse.move(200, 150)
    page.mouse.wheel(0, 200)
    page.wait_for_timeout(200)
    assert page.evaluate("() => viscera.slice()") != place + 1
    page.evaluate("() => viscera.scroll(1000)")
    assert page.evaluate("() => viscera.slice()") == 15


def test_right_is_on_the_left_and_front_on_top(opened):
    page = opened(compared(*patient()))
    page.evaluate("() => viscera.setLayer('truth')")
    shot = axial(page)
    height, width, _ = shot.shape
    liver = np.argwhere(near(shot, colour("liver"), tolerance=12)).mean(axis=0)
    spleen = np.argwhere(near(shot, colour("spleen"), tolerance=12)).mean(axis=0)
    assert liver[1] < width / 2 < spleen[1]
    assert liver[0] < spleen[0]  # more to the front
    # The letters are bright marks on black, at the left and right edge of the middle: R has a leg more than L.
    left = round(width / 2 - SHAPE[2] / 2 * min(height / SHAPE[1], width / SHAPE[2]))
    bright = shot[height // 2 - 12 : height // 2 + 12].min(axis=2) > 120
    marks = [bright[:, left : left + 20].sum(), bright[:, width - left - 20 : width - left].sum()]
    assert marks[0] > marks[1] > 10


def test_the_axial_slice_lies_where_the_voxels_say(opened):
    _, _, truth = patient()
    page = opened(compared(*patient()))
    page.evaluate("() => { viscera.setLayer('truth'); viscera.goTo([9, 0, 0]); }")
    shot = axial(page)
    height, width, _ = shot.shape
    pixels_per_voxel = min(height / SHAPE[1], width / SHAPE[2])
    for value, organ in enumerate(NAMES[:2], start=1):
        rows, columns = np.argwhere(truth.voxels[9] == value).mean(axis=0)
        found = np.argwhere(near(shot, colour(organ), tolerance=12)).mean(axis=0)
        expected = (
            height / 2 + (rows - (SHAPE[1] - 1) / 2) * pixels_per_voxel,
            width / 2 + (columns - (SHAPE[2] - 1) / 2) * pixels_per_voxel,
        )
        assert found == pytest.approx(expected, abs=pixels_per_voxel / 3)


def test_an_organ_that_is_switched_off_vanishes_and_comes_back(opened):
    page = opened(compared(*patient()))
    before = axial(page)
    assert near(before, colour("liver"), tolerance=12).sum() > 1000
    page.locator("#organ-1").uncheck()
    without = picture(page)
    assert near(without, colour("liver"), tolerance=12).sum() == 0
    assert near(without, colour("spleen"), tolerance=12).sum() == near(before, colour("spleen"), tolerance=12).sum()
    page.locator("#organ-1").check()
    assert changed(picture(page), before) == 0
    page.locator("#none").click()
    assert near(picture(page), colour("spleen"), tolerance=12).sum() == 0
    page.locator("#every").click()
    assert changed(picture(page), before) == 0


def test_windows_opacity_outline_and_the_3d_view_change_the_picture(opened):
    page = opened(compared(*patient()))
    page.evaluate("() => viscera.setView('axial')")
    shots = [picture(page)]
    for press in (
        lambda: page.locator("#stage").press("2"),
        lambda: page.locator("#windows button").nth(2).click(),
        lambda: page.locator("#opacity").fill("10"),
        lambda: page.locator("#outline").check(),
        lambda: page.locator("#views button[data-view='3d']").click(),
    ):
        press()
        shots.append(picture(page))
    assert [changed(a, b) > 0.005 for a, b in pairwise(shots)] == [True] * 5
    assert (page.locator("#low").input_value(), page.locator("#high").input_value()) == ("-450", "1050")
    liver = near(shots[-1], colour("liver"), tolerance=70).sum()
    page.locator("#organ-1").uncheck()
    assert near(picture(page), colour("liver"), tolerance=70).sum() < liver / 2


def test_agreement_has_its_colours(opened):
    page = opened(compared(*patient()))
    page.evaluate("() => viscera.setLayer('agreement')")
    shot = axial(page)
    for rgb in ((255, 214, 10), (48, 209, 88), (255, 59, 48)):
        assert near(shot, rgb, tolerance=12).sum() > 50
    assert "missed (truth only)" in page.locator("#kinds").inner_text()
    page.locator("#none").click()
    assert near(picture(page), (255, 214, 10), tolerance=12).sum() == 0


def test_dice_and_iou_of_each_slice_are_those_of_numpy(opened):
    scene = compared(*patient())
    page = opened(scene)
    prediction, truth = (scene.layers[name] for name in ("prediction", "truth"))
    for z in range(SHAPE[0]):
        page.evaluate("z => viscera.goTo([z, 0, 0])", z)
        for value in (1, 2, 3):
            a, b = truth[z] == value, prediction[z] == value
            both, either = (a & b).sum(), (a | b).sum()
            expected = ("–", "–") if not either else (f"{2 * both / (a.sum() + b.sum()):.2f}", f"{both / either:.2f}")
            shown = tuple(page.locator(f"#slice-{kind}-{value}").inner_text() for kind in ("dice", "iou"))
            assert shown == expected
            exact = page.evaluate("([z, value]) => viscera.sliceScores(z)[value].dice", [z, value])
            assert np.isnan(exact) if not either else exact == pytest.approx(2 * both / (a.sum() + b.sum()))


def test_a_notebook_s_frame_draws_and_scores_slices_as_numpy_does(browser, tmp_path):
    ct, prediction, truth = patient()
    names = dict(enumerate(NAMES, start=1))
    viewer = view(ct, prediction, truth=truth, names=names, plane="axial", window_hu=(-50.0, 150.0))
    context = browser.new_context(viewport={"width": 1000, "height": 760}, offline=True)
    page = context.new_page()
    (tmp_path / "cell.html").write_text(f"<!doctype html><body>{viewer._repr_html_()}", encoding="utf-8")
    page.goto((tmp_path / "cell.html").as_uri())
    frame = page.frames[1]
    frame.wait_for_selector("#stage[data-ready=yes]", timeout=60_000)
    assert frame.locator("#stage").get_attribute("data-view") == "axial"
    assert (frame.locator("#low").input_value(), frame.locator("#high").input_value()) == ("-50", "150")
    assert (picture(page, "iframe").max(axis=2) > 60).mean() > 0.1
    for z in range(SHAPE[0]):
        for value in names:
            a, b = truth.voxels[z] == value, prediction.voxels[z] == value
            if not (a | b).any():
                continue
            shown = frame.evaluate("([z, value]) => viscera.sliceScores(z)[value].dice", [z, value])
            assert shown == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    context.close()


def test_flipped_transposed_and_oblique_copies_look_the_same(opened):
    volumes = patient()
    tilt = np.eye(4)
    tilt[:2, :2] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    copies = [
        [turn_volume(volume, Turn((0, 1, 2), (True, True, False))) for volume in volumes],
        [turn_volume(volume, Turn((2, 0, 1), (False, True, True))) for volume in volumes],
        [Volume(volume.voxels, tilt @ volume.affine) for volume in volumes],
    ]
    expected = picture(opened(compared(*volumes)), "#view-2d canvas")
    for copy in copies:
        assert changed(picture(opened(compared(*copy)), "#view-2d canvas"), expected) < 0.01


def test_an_empty_prediction_and_many_labels_are_drawn(opened):
    ct, prediction, _ = patient()
    empty = Volume(np.zeros_like(prediction.voxels), AXIAL)
    page = opened(label_scene(ct, empty, names={}, title="c"))
    assert "No organ found" in page.locator("aside").inner_text()
    assert (picture(page).max(axis=2) > 60).mean() > 0.1
    many = Volume(np.zeros_like(prediction.voxels), AXIAL)
    many.voxels[prediction.voxels > 0] = np.arange((prediction.voxels > 0).sum()) % 250 + 1
    page = opened(label_scene(ct, many, names={}, title="c"))
    assert page.locator("#organs tbody tr").count() == 250  # more than NiiVue's plain shader tells apart
    height, width, _ = (shot := axial(page)).shape
    top = round(height / 2 - SHAPE[1] / 2 * width / SHAPE[2])
    assert shot[top + 30, 5 : width // 3].max() < 30  # air in front of the patient, where no label is


def test_a_served_page_fetches_its_volumes_and_nothing_else(browser):
    scene = compared(*patient())
    with site(render(scene), pack(scene)) as running:
        page = browser.new_page()
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(running.url)
        page.wait_for_selector("#stage[data-ready=yes]", timeout=60_000)
        names = ("ct", "prediction", "truth", "agreement")
        own = {url for url in asked if not url.startswith(("data:", "blob:"))}
        assert own == {running.url, *(f"{running.url}{name}.nii.gz" for name in names)}
        page.close()


def test_the_hook_of_the_tests_shows_the_arrays_that_were_packed(opened):
    scene = compared(*patient())
    page = opened(scene)
    sums = page.evaluate(
        "() => ['ct', 'prediction', 'truth'].map(name => viscera.arrays[name].reduce((a, b) => a + b, 0))"
    )
    assert sums == [int(a.sum()) for a in (scene.ct, scene.layers["prediction"], scene.layers["truth"])]
