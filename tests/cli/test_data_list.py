"""`refseg data list`: what is published, in a row each and on a page."""

from cli.test_data_show import run


def test_a_row_tells_phrases_clips_and_download_and_leaves_unknown_ones_open():
    rows = {line.split()[0]: line for line in run("list").stdout.splitlines() if line}
    assert all(part in rows["refcoco"] for part in ("142,210", "19,994 pictures", "13 GB", "testB"))
    assert rows["refcoco-google"].count("?") == 2  # neither phrases nor pictures in all are published
    assert "95,010" in rows["refcocog-google"]  # 85,474 + 9,536


def test_a_page_tells_licence_counts_and_sources_that_answer():
    page = run("list", "refcoco").stdout
    told = (
        "Apache-2.0",
        "pictures 13 GB",
        "testA: 750 pictures, 1,975 objects, 5,657 phrases",
        "web.archive.org",
    )
    assert all(part in page for part in told)
    assert "down since September 2022" in page
