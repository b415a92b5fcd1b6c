"""A view saved as a file, served beyond its headers, and the ends of a port."""

import socket
import urllib.request

import numpy as np
import pytest
from test_notebook import patient, view

from viscera.errors import FileError, SettingError
from viscera.io import nifti
from viscera.reports.run import _case_table
from viscera.reports.store import _problems, _splits
from viscera.reports.viewer import serve
from viscera.volume import Volume


@pytest.fixture
def viewer():
    ct, truth, found = patient()
    return view(ct, found, truth=truth, names={1: "liver", 2: "spleen"})


def test_a_view_is_saved_as_the_page_that_it_shows_and_replaced_only_when_that_is_wished(viewer, tmp_path):
    file = viewer.save(tmp_path / "page.html")
    assert file.read_text(encoding="utf-8") == viewer.page
    file.write_text("mine")
    with pytest.raises(FileError, match="page.html exists already. Choose another name or set overwrite"):
        viewer.save(file)
    assert file.read_text() == "mine"
    assert viewer.save(file, overwrite=True).read_text(encoding="utf-8") == viewer.page


def test_a_view_is_neither_a_table_nor_a_film(viewer, tmp_path):
    with pytest.raises(
        SettingError, match="page.gif: a view is saved as a page or a picture. End the name in .html or .png"
    ):
        viewer.save(tmp_path / "page.gif")
    assert not list(tmp_path.iterdir())


def test_labels_in_memory_that_nothing_names_are_refused_and_a_file_s_own_names_are_taken(tmp_path):
    ct, _, found = patient()
    for name, volume in (("ct", ct), ("found", found)):
        nifti.write(tmp_path / f"{name}.nii.gz", volume)
    rounded = Volume(found.voxels.astype(np.float32) + np.float32(1e-4), found.affine)
    shown = view(ct, rounded, names={1: "liver", 2: "spleen"})
    assert "rounded" in shown.page or "whole numbers" in shown.page


def test_a_head_request_is_answered_with_the_page_s_length_and_nothing_more():
    with serve.site("page", {}) as running:
        request = urllib.request.Request(running.url, method="HEAD")
        with urllib.request.urlopen(request, timeout=5) as found:
            assert (found.status, found.headers["Content-Length"], found.read()) == (200, "4", b"")
    running.wait()  # the server has ended
    assert not running.thread.is_alive()


def test_a_port_that_is_taken_is_named():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        taken = pytest.raises(SettingError, match=f"port {port} cannot be used .*Choose another, or 0 for a free one")
        with taken, serve.site("page", {}, port=port):
            pytest.fail("it is served")


def test_pages_of_runs_and_stores_do_without_splits_and_say_that_problems_are_damaged(tmp_path):
    assert _case_table({}) is None
    assert _splits({}, {}) is None
    (tmp_path / "problems.json").write_text('[{"case": "a", "file": "b", "what": 5, "remedy": "c"}]')
    with pytest.raises(Exception, match="problems.json"):
        _problems(tmp_path)
