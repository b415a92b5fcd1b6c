"""What goes into the interactive page, and how it is packed and served. What it looks like: test_viewer_browser.py."""

import base64
import gzip
import json
import re
import threading
import urllib.error
import urllib.request

import nibabel
import numpy as np
import pytest

from viscera.cli.command import main
from viscera.colours import colour
from viscera.errors import FileError, GeometryError, LabelError
from viscera.evaluation.pairing import Pair
from viscera.figures.pictures import AGREE, FALSE, MISSED, UNJUDGED
from viscera.io import nifti
from viscera.labels import LabelSpace
from viscera.reports.viewer.page import pack, render, write_page
from viscera.reports.viewer.scene import compare_scene, label_scene
from viscera.reports.viewer.serve import site
from viscera.volume import Turn, Volume, turn_volume

SHAPE = (4, 5, 6)
AXIAL = np.array([[0, 0, -2.0, 30], [0, -3.0, 0, 40], [5.0, 0, 0, -100], [0, 0, 0, 1]])
"""Feet to head, front to back, right to left: R+ falls along x, A+ falls along y. A voxel has 5 x 3 x 2 mm = 0.03 ml."""


def scan():
    return Volume(np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE) - 50, AXIAL)


def labels():
    voxels = np.zeros(SHAPE, np.uint8)
    voxels[1, 1:3, 1:4], voxels[2, 3, 4] = 1, 3
    return Volume(voxels, AXIAL)


def pair(*, annotated=("liver", "spleen"), known=None):
    truth, prediction = np.zeros((2, *SHAPE), np.uint8)
    truth[1, 1, 1:5], prediction[1, 1, 3:6] = 1, 1  # 4 and 3 voxels, 2 in both
    prediction[2, 2, 2] = 2
    prediction[3, 3, 3] = 3
    space = LabelSpace("s", ("liver", "spleen", "pancreas"))
    return Pair("c", "c", Volume(truth, AXIAL), Volume(prediction, AXIAL), space, annotated, known)


def content(html):
    return json.loads(re.search(r'id="scene">(.*?)</script>', html).group(1))


def test_a_scene_runs_from_feet_to_head_back_to_front_and_left_to_right():
    scene = label_scene(scan(), labels(), names={1: "liver", 3: "spleen"}, title="t")
    assert np.array_equal(scene.ct, scan().voxels[:, ::-1, ::-1])
    corner = scene.upright_affine @ [0, 0, 0, 1]
    # The first voxel is the last along y and x of the file: x = 30 - 2 * 5, y = 40 - 3 * 4.
    assert corner.tolist() == [20, 28, -100, 1]
    assert scene.steps_mm == (5, 3, 2)


@pytest.mark.parametrize("turn", [Turn((0, 1, 2), (True, False, True)), Turn((2, 0, 1), (False, True, True))])
def test_flipped_and_transposed_copies_give_the_same_page(turn):
    names = {1: "liver", 3: "spleen"}
    plain = label_scene(scan(), labels(), names=names, title="t")
    turned = label_scene(turn_volume(scan(), turn), turn_volume(labels(), turn), names=names, title="t")
    assert render(plain, embedded=pack(plain)) == render(turned, embedded=pack(turned))


def test_an_oblique_copy_shows_the_same_slices_and_says_that_it_is_tilted():
    angle = np.radians(10)
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    ct, organs = (Volume(volume.voxels, tilt @ volume.affine) for volume in (scan(), labels()))
    scene = label_scene(ct, organs, names={1: "liver", 3: "spleen"}, title="t")
    plain = label_scene(scan(), labels(), names={1: "liver", 3: "spleen"}, title="t")
    assert np.array_equal(scene.ct, plain.ct)
    assert np.array_equal(scene.layers["prediction"], plain.layers["prediction"])
    assert scene.spacing_mm == pytest.approx(plain.spacing_mm)
    assert "tilted by 10 degrees" in scene.notes[0]
    assert plain.notes == ()


def test_organs_have_volumes_colours_and_consecutive_labels():
    scene = label_scene(scan(), labels(), names={1: "liver", 2: "colon", 3: "spleen"}, title="t", colours="slicer")
    assert [(row.value, row.name) for row in scene.organs] == [(1, "liver"), (2, "colon"), (3, "spleen")]
    assert [row.prediction_ml for row in scene.organs] == pytest.approx([6 * 0.03, 0, 0.03])
    assert scene.organs[0].colour == colour("liver", "slicer")
    assert scene.organs[0].dice is None
    assert scene.start[0] == 1  # the slice that shows most


def test_labels_beyond_a_byte_are_renumbered_and_those_without_names_are_numbered():
    volume = labels()
    wide = Volume(np.where(volume.voxels == 3, 700, volume.voxels.astype(np.int32)), AXIAL)
    scene = label_scene(scan(), wide, names={1: "liver"}, title="t")
    assert [row.name for row in scene.organs] == ["liver", "label_700"]
    assert scene.layers["prediction"].dtype == np.uint8
    assert np.array_equal(scene.layers["prediction"] == 2, volume.voxels[:, ::-1, ::-1] == 3)
    assert "1 label without a name" in scene.notes[0]


def test_an_empty_prediction_gives_a_page_that_says_so():
    empty = Volume(np.zeros(SHAPE, np.uint8), AXIAL)
    scene = label_scene(scan(), empty, names={}, title="t")
    assert scene.organs == ()
    assert scene.start == (2, 2, 3)
    assert "No organ found" in render(scene)
    assert "No organ found" in render(label_scene(scan(), empty, names={1: "liver"}, title="t"))


def test_what_is_no_label_map_is_refused():
    with pytest.raises(LabelError, match=r"t holds values from -50 to 69, which are not labels"):
        label_scene(scan(), scan(), names={}, title="t")
    with pytest.raises(LabelError, match="holds 0.5, but labels are whole numbers"):
        label_scene(scan(), Volume(labels().voxels + np.float32(0.5), AXIAL), names={}, title="t")
    shifted = Volume(labels().voxels, AXIAL + np.eye(4)[:, [3, 0, 1, 2]])
    with pytest.raises(GeometryError, match="another grid"):
        label_scene(scan(), shifted, names={}, title="t")
    many = Volume(np.arange(300, dtype=np.uint16).reshape(3, 10, 10), AXIAL)
    with pytest.raises(LabelError, match=r"299 labels, but a page holds at most 255"):
        label_scene(Volume(np.zeros((3, 10, 10), np.int16), AXIAL), many, names={}, title="t")


def test_hounsfield_units_are_rounded_cut_off_and_nan_is_air():
    voxels = np.zeros(SHAPE, np.float32)
    voxels[0, 0, :4] = [np.nan, 1.6, 1e6, -1e6]
    scene = label_scene(Volume(voxels, AXIAL), labels(), names={1: "liver", 3: "spleen"}, title="t")
    assert scene.ct[0, -1, ::-1][:4].tolist() == [-1024, 2, 32767, -32768]


def test_dice_iou_and_agreement_against_the_truth():
    scene = compare_scene(scan(), pair(), title="t")
    liver, spleen, pancreas = scene.organs
    assert (liver.dice, liver.iou) == pytest.approx((2 * 2 / 7, 2 / 5))
    assert (liver.prediction_ml, liver.truth_ml) == pytest.approx((3 * 0.03, 4 * 0.03))
    assert (spleen.dice, spleen.truth_ml) == (0, 0)
    assert not pancreas.annotated
    assert (pancreas.dice, pancreas.truth_ml) == (None, None)
    codes = scene.layers["agreement"][:, ::-1, ::-1]
    assert codes[1, 1].tolist() == [0, MISSED, MISSED, AGREE, AGREE, FALSE]
    assert (codes[2, 2, 2], codes[3, 3, 3]) == (FALSE, UNJUDGED)
    assert set(scene.kinds) == {AGREE, FALSE, MISSED, UNJUDGED}
    assert "not judged: pancreas" in scene.notes[0]


def test_voxels_of_which_the_truth_says_nothing_do_not_count():
    known = np.ones(SHAPE, bool)
    known[1, 1, 5] = False  # the false positive
    scene = compare_scene(scan(), pair(known=known), title="t")
    assert scene.organs[0].dice == pytest.approx(2 * 2 / 6)
    assert scene.layers["agreement"][1, ::-1, ::-1][1, 5] == UNJUDGED


def test_an_organ_in_neither_map_has_no_score():
    scene = compare_scene(scan(), pair(annotated=("liver", "spleen", "pancreas")), title="t")
    assert scene.organs[2].dice == 0  # predicted, but absent
    bare = pair()
    bare.prediction.voxels[bare.prediction.voxels == 2] = 0
    assert compare_scene(scan(), bare, title="t").organs[1].dice is None


def test_the_page_holds_its_volumes_and_asks_for_nothing():
    scene = compare_scene(scan(), pair(), title="t")
    html = render(scene, embedded=pack(scene))
    for name, voxels in {"ct": scene.ct, **scene.layers}.items():
        packed = re.search(rf'id="volume-{name}">(.*?)</script>', html).group(1)
        image = nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(packed)))
        assert np.array_equal(np.asanyarray(image.dataobj).T, voxels)
        assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    assert "default-src 'none'" in html
    assert re.search(r"""(src|href)=["'](?!data:)""", html.replace(niivue(), "")) is None
    assert "not for diagnosis" in html.lower()


def niivue():
    from viscera.reports.viewer import page

    return (page.files("viscera.reports.viewer") / "static" / "niivue.umd.js").read_text(encoding="utf-8")


def test_niivue_is_the_file_that_its_readme_names():
    import hashlib

    from viscera.reports.viewer import page

    readme = (page.files("viscera.reports.viewer") / "static" / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(niivue().encode()).hexdigest() in readme
    assert "</script" not in niivue()  # would end the element that it lies in


@pytest.mark.parametrize(
    "name", ["a</script><script>alert(1)</script>", "<b>bold</b>", '"quoted" & more', "{{ title }}"]
)
def test_names_are_text_not_markup(name):
    scene = label_scene(scan(), labels(), names={1: name, 3: "spleen"}, title=name, notes=(name,))
    html = render(scene)
    assert name not in html.replace("{{ title }}", "") or name == "{{ title }}"
    assert html.count("</script>") == render(label_scene(scan(), labels(), names={}, title="t")).count("</script>")
    assert content(html)["organs"][0]["name"] == name


def test_nothing_of_the_header_but_the_grid_gets_into_the_page(tmp_path):
    header = nibabel.Nifti1Header()
    header["descrip"], header["intent_name"], header["db_name"] = b"Miller^Anna 1950", b"Miller", b"Miller"
    nibabel.save(nibabel.Nifti1Image(scan().voxels.T.copy(), AXIAL[:, [2, 1, 0, 3]], header), tmp_path / "ct.nii.gz")
    ct = nifti.read(tmp_path / "ct.nii.gz")
    assert ct.header["descrip"].item().startswith(b"Miller")
    scene = label_scene(ct, labels(), names={1: "liver", 3: "spleen"}, title="t")
    assert b"Miller" not in b"".join(gzip.decompress(packed) for packed in pack(scene).values())
    assert "Miller" not in render(scene)


def test_a_scan_too_large_to_embed_is_refused_with_the_way_out(tmp_path):
    noise = np.random.default_rng(0).integers(-1000, 1000, (8, 64, 64)).astype(np.int16)
    scene = label_scene(Volume(noise, AXIAL), Volume(np.zeros(noise.shape, np.uint8), AXIAL), names={}, title="t")
    with pytest.raises(FileError, match=r"x.html would hold 0 MB of compressed .* 0.01 MB well. Pass --serve .*--png"):
        write_page(tmp_path / "x.html", scene, most_embedded_mb=0.01)
    assert not (tmp_path / "x.html").exists()
    assert write_page(tmp_path / "x.html", scene).stat().st_size > 1e6
    with pytest.raises(FileError, match="exists already"):
        write_page(tmp_path / "x.html", scene)


def answer(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as reply:
        return reply.read()


def test_the_server_has_its_files_and_nothing_else_and_ends():
    scene = label_scene(scan(), labels(), names={1: "liver", 3: "spleen"}, title="t")
    packed = pack(scene)
    with site(render(scene), packed) as running:
        assert running.url.startswith("http://127.0.0.1:")
        page = answer(running.url)
        assert b"connect-src 'self'" in page
        assert b'id="volume-ct"' not in page
        assert {name: answer(f"{running.url}{name}.nii.gz") for name in packed} == packed
        root = running.url[: running.url.index("/", len("http://")) + 1]
        for wrong in (root, running.url[:-1], f"{running.url}../", f"{root}ct.nii.gz", f"{running.url}page.py"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                answer(wrong)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            answer(running.url, Host="evil.example")
    assert not running.thread.is_alive()
    with pytest.raises(OSError, match=r".+"):
        answer(running.url)
    running.wait()


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    both = pair()
    for name, volume in {"ct": scan(), "found": both.prediction, "truth": both.truth}.items():
        nifti.write(tmp_path / f"{name}.nii.gz", volume)
    return tmp_path


def name_labels(folder, *names):
    for name in names:
        text = json.dumps({"labels": {"1": "liver", "2": "spleen", "3": "pancreas"}})
        (folder / f"{name}.json").write_text(text)


def test_the_command_writes_a_page_named_after_the_labels(files, capsys):
    name_labels(files, "found", "truth")
    assert main(["view", "ct.nii.gz", "found.nii.gz", "truth.nii.gz"]) == 0
    assert content((files / "found.html").read_text())["layers"] == ["prediction", "truth", "agreement"]
    assert main(["view", "ct.nii.gz", "found.nii.gz"]) == 2
    assert "found.html exists already" in capsys.readouterr().err
    assert main(["view", "ct.nii.gz", "found.nii.gz", "--html", "other.html", "--colours", "slicer"]) == 0
    organs = content((files / "other.html").read_text())["organs"]
    assert tuple(organs[0]["colour"]) == colour("liver", "slicer")


def test_the_command_makes_a_montage_and_nothing_else_where_png_is_asked_for(files):
    name_labels(files, "found")
    assert main(["view", "ct.nii.gz", "found.nii.gz", "--png", "look.png"]) == 0
    assert (files / "look.png").read_bytes()[:4] == b"\x89PNG"
    assert list(files.glob("*.html")) == []


def test_labels_without_names_are_numbered_with_a_note(files, capsys):
    assert main(["view", "ct.nii.gz", "found.nii.gz"]) == 0
    assert "3 labels without a name" in capsys.readouterr().err
    assert [organ["name"] for organ in content((files / "found.html").read_text())["organs"]] == [
        "label_1",
        "label_2",
        "label_3",
    ]
    assert main(["view", "ct.nii.gz", "found.nii.gz", "truth.nii.gz", "--html", "both.html"]) == 0
    organs = content((files / "both.html").read_text())["organs"]
    assert (organs[0]["name"], organs[0]["dice"]) == ("label_1", pytest.approx(4 / 7))
    name_labels(files, "found")
    assert main(["view", "ct.nii.gz", "found.nii.gz", "truth.nii.gz", "--html", "third.html"]) == 2
    assert "truth.nii.gz: nothing names its labels" in capsys.readouterr().err
    (files / "found.json").write_text("{broken")
    assert main(["view", "ct.nii.gz", "found.nii.gz", "--html", "third.html"]) == 2
    assert "is not a JSON file" in capsys.readouterr().err


def test_the_command_refuses_what_it_cannot_show(files, capsys):
    four = nibabel.Nifti1Image(np.zeros((6, 5, 4, 2), np.int16), AXIAL[:, [2, 1, 0, 3]])
    nibabel.save(four, files / "four.nii.gz")
    nifti.write(files / "cropped.nii.gz", Volume(labels().voxels[1:], AXIAL))
    for words, message in (
        (["four.nii.gz", "found.nii.gz"], "holds a 4D image"),
        (["ct.nii.gz", "cropped.nii.gz"], "cropped.nii.gz: labels lie on another grid"),
        (["found.nii.gz", "ct.nii.gz"], "ct.nii.gz holds values from -50 to 69, which are not labels"),
        (["ct.nii.gz", "found.nii.gz", "--serve", "--png", "x.png"], "exclude each other"),
        (["ct.nii.gz", "found.nii.gz", "--html", "x.nii.gz"], "must end in .html"),
    ):
        assert main(["view", *words]) == 2
        assert message in capsys.readouterr().err


def test_the_command_serves_until_it_is_interrupted(files, capsys, monkeypatch):
    name_labels(files, "found")
    seen = []

    def interrupted(running):
        seen.append(answer(running.url)[:15])
        raise KeyboardInterrupt

    from viscera.reports.viewer.serve import Site

    before = threading.active_count()
    monkeypatch.setattr(Site, "wait", interrupted)
    assert main(["view", "ct.nii.gz", "found.nii.gz", "--serve"]) == 0
    assert seen == [b"<!doctype html>"]
    assert "open http://127.0.0.1:" in capsys.readouterr().err
    assert threading.active_count() == before
    assert list(files.glob("*.html")) == []
