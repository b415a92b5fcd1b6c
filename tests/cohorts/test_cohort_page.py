"""The page of a cohort: it stands alone, is small, says in words what its pictures show, and sorts and filters in a browser."""

import json
import re
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest

from cohort_results import ORGANS, facts_of, sign, write_result, write_results
from makers import call
from viscera.cohorts.collect import Source, collect, find_places
from viscera.cohorts.index import Index
from viscera.figures.thumbnails import WIDTH, thumbnail
from viscera.reports.cohort import cohort_html, worst_first

CHROMIUM = Path("/usr/bin/chromium")


def cohort_of(folder: Path):
    return collect(*find_places([Source("out", folder)]), Index(folder / "index"))


def data_of(html: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="rows">(.*?)</script>', html, re.DOTALL)[1])


@pytest.mark.slow
def test_ten_thousand_rows_make_a_small_page_in_bounded_memory(tmp_path):
    cohort = cohort_of(write_results(tmp_path / "out", 2000))
    tracemalloc.start()
    html = cohort_html(cohort, title="cohort")
    peak_mib = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    assert len(data_of(html)["rows"]["organ"]) == 2000 * len(ORGANS) == 10_000
    assert len(html) < 2**20  # measured: 0.5 MiB
    assert peak_mib < 150
    assert html.count("<tr") < 200  # the browser makes the others, fifty at a time


def test_a_page_loads_nothing_and_takes_no_text_for_markup(tmp_path):
    name = "<script>alert(1)<!--"
    facts = facts_of("x")
    facts["trust"]["organs"]["liver"] = [sign("</script><b>")]
    write_results(tmp_path / "out", 2)
    (tmp_path / "out/x.json").write_text(json.dumps(facts))
    from dataclasses import replace

    cohort = cohort_of(tmp_path / "out")
    cohort = replace(
        cohort, scans=tuple(replace(scan, case=name) if scan.case == "x" else scan for scan in cohort.scans)
    )
    html = cohort_html(cohort, title=name)
    assert "default-src 'none'" in html
    assert "alert(1)" in html
    assert "<script>alert" not in html
    assert not re.search(r"""(src|href)=["'](?!data:)""", html)
    assert html.count("</script>") == html.count("<script") == 3


def test_the_worst_scan_is_the_one_with_most_flags_then_with_the_lowest_dice(tmp_path):
    for name, flags, dice in (("calm", [], 0.9), ("flagged", ["volume", "pieces"], 0.99), ("low", [], 0.3),
                              ("cut", ["border"] * 3, 0.95)):  # fmt: skip
        facts = facts_of(name, seed=len(name))
        facts["trust"]["organs"]["liver"] = [sign(kind) for kind in flags]
        for organ in facts["statistics"].values():
            organ["predicted_dice"] = dice
        write_result(tmp_path / "out", name, facts)
    worst = worst_first(cohort_of(tmp_path / "out"))
    assert [scan.case for scan in worst] == ["flagged", "low", "calm", "cut"]
    assert worst[0].why == ("liver: volume, pieces",)


def test_pictures_have_words_and_a_montage_beside_labels_is_shown(tmp_path):
    out = write_results(tmp_path / "out", 9)
    cv2.imwrite(str(out / "case_00003.png"), np.full((400, 1000, 3), 90, np.uint8))
    html = cohort_html(cohort_of(out), title="cohort")
    assert html.count('src="data:image/jpeg;base64,') == 1
    assert 'alt="Montage of case_00003: ' in html
    assert re.search(r'<svg [^>]*role="img" aria-label="liver: 9 volumes, median \d+ ml, from \d+ to \d+ ml"', html)


def test_a_page_without_statistics_says_so(tmp_path):
    html = cohort_html(cohort_of(write_results(tmp_path / "out", 2, statistics=False)), title="cohort")
    assert "No volumes are at hand" in html
    assert "No scan has a flag or a predicted Dice" in html


def test_a_thumbnail_is_small_and_what_is_no_picture_is_none(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((500, 1000, 3), 90, np.uint8))
    picture = cv2.imdecode(np.frombuffer(thumbnail(tmp_path / "a.png"), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (WIDTH // 2, WIDTH, 3)
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(content[:40])
    (tmp_path / "huge.png").write_bytes(content[:16] + (2**31 - 1).to_bytes(4, "big") * 2 + content[24:])
    (tmp_path / "text.png").write_text("not a picture")
    assert [thumbnail(tmp_path / f"{name}.png") for name in ("cut", "huge", "text", "nowhere")] == [None] * 4


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium at /usr/bin/chromium")
def test_a_browser_pages_sorts_and_filters_ten_thousand_rows(tmp_path, monkeypatch):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    monkeypatch.chdir(tmp_path)
    write_results(Path("out"), 1999)
    facts = facts_of("worst", seed=5)
    facts["trust"]["organs"] = {"liver": [sign("volume"), sign("pieces")]}
    facts["statistics"]["liver"]["volume_ml"] = 9000.0
    write_result(Path("out"), "worst", facts)
    assert call("collect out --html cohort.html")[0] == 0
    with playwright.sync_playwright() as machinery:
        chromium = machinery.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = chromium.new_context(offline=True).new_page()
        wrong: list[str] = []
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or wrong.append(request.url))
        page.goto((tmp_path / "cohort.html").as_uri())
        where, first = page.locator("#where"), page.locator(".paged tbody tr").first
        assert where.inner_text() == "Rows 1 to 50 of 10000"
        assert first.inner_text().split("\t")[0] == "worst"
        page.click("[data-go=last]")
        assert where.inner_text() == "Rows 9951 to 10000 of 10000"
        page.select_option("#organ", label="liver")
        assert where.inner_text() == "Rows 1 to 50 of 2000 (10000 in all)"
        page.click("[data-key=volume]")
        page.click("[data-key=volume]")  # descending
        assert first.inner_text().split("\t")[:4] == ["worst", "out", "liver", "9000.0"]
        page.select_option("#flag", label="pieces")
        assert where.inner_text() == "Rows 1 to 1 of 1 (10000 in all)"
        page.fill("#text", "nobody")
        assert where.inner_text() == "No row of 10000 fits"
        page.click("[data-scan='0']")
        assert where.inner_text() == "Rows 1 to 5 of 5 (10000 in all)"
        chromium.close()
    assert wrong == []
