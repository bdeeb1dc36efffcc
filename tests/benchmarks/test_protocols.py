"""Query texts, crops and submission files equal those of the benchmarks' authors."""

from __future__ import annotations

import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from mmret.benchmarks.circo import scorer as circo
from mmret.benchmarks.circo.submission import circo_submission
from mmret.benchmarks.cirr import scorer as cirr
from mmret.benchmarks.cirr.submission import cirr_submission
from mmret.benchmarks.common.pictures import crop, crop_rectangle
from mmret.benchmarks.common.protocol import load_protocol
from mmret.benchmarks.common.reports import headline
from mmret.benchmarks.common.submissions import write_submission
from mmret.benchmarks.fashioniq import scorer as fashioniq
from mmret.errors import UserError
from mmret.ingest.decode import Unreadable

from .conftest import load


def sha(texts):
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


@pytest.mark.parametrize("split, template, key", [
    ("test", "megapairs", "megapairs_sha256"), ("test", "magiclens", "magiclens_sha256"),
    ("val", "megapairs", "megapairs_rule_sha256"), ("val", "magiclens", "magiclens_sha256"),
])  # fmt: skip
def test_circo_query_texts_equal_the_authors_files(golden, split, template, key):
    expected = load(golden / "circo" / "expected_query_texts.json")[split]
    queries = circo.load(golden / "circo" / f"{split}.json").queries
    chosen = load_protocol("circo", template).template
    texts = [chosen.texts({"shared_concept": q.shared_concept, "relative_caption": q.relative_caption})[0] for q in queries]
    assert len(texts) == expected["n"] and sha(texts) == expected[key]


@pytest.mark.parametrize("category", fashioniq.CATEGORIES)
@pytest.mark.parametrize("template, key", [("megapairs", "megapairs_sha256"), ("magiclens", "magiclens_sha256"),
                                           ("searle", "searle_cap_sha256")])  # fmt: skip
def test_fashioniq_query_texts_equal_the_authors_files(golden, category, template, key):
    expected = load(golden / "fashioniq" / "expected_query_texts.json")["categories"][category]
    chosen = load_protocol("fashioniq", template).template
    queries = fashioniq.load(golden / "fashioniq")[category].queries
    texts = [chosen.texts({"first": q.captions[0], "second": q.captions[1]}) for q in queries]
    assert sha([t[0] for t in texts]) == expected[key]
    assert len(texts[0]) == (2 if template == "searle" else 1)


def test_genecis_crop_rectangles_equal_the_official_ones(golden):
    data = load(golden / "genecis" / "expected.json")["attribute_crop_rectangles"]
    for case in data["cases"]:
        assert crop_rectangle(tuple(case["bbox"]), *data["assumed_image_size"]) == pytest.approx(case["crop"])


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_a_crop_is_padded_with_black_to_a_centred_square_and_ignores_exif_rotation():
    image = Image.new("RGB", (100, 60), "white")
    square = np.asarray(crop(png(image), (20, 20, 20, 10)))
    assert square.shape == (34, 34, 3)  # 1.7 x 20 wide, 1.7 x 10 high
    rows = np.flatnonzero(square.any(axis=(1, 2)))
    assert (rows[0], rows[-1]) == (8, 24)
    turned = io.BytesIO()
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(turned, "JPEG", exif=exif)
    assert crop(turned.getvalue(), (0, 0, 58, 5)).size == (99, 99)  # the width as stored, not the height


def test_a_crop_outside_the_picture_and_a_damaged_file_are_unreadable():
    with pytest.raises(Unreadable, match="empty_crop"):
        crop(png(Image.new("RGB", (10, 10))), (50, 50, 2, 2))
    with pytest.raises(Unreadable, match="^[a-z_]+: ."):
        crop(b"no picture", (0, 0, 1, 1))


def test_circo_submission_equals_the_released_file(golden, tmp_path):
    truth = circo.load(golden / "circo" / "test.json")
    released = load(golden / "circo" / "mmret_base_circo.json")
    write_submission(tmp_path / "s.json", circo_submission(released, truth))
    assert json.loads((tmp_path / "s.json").read_text()) == released


def test_cirr_submissions_equal_the_authors_examples(golden, tmp_path):
    truth = cirr.load(golden / "cirr" / "cap.rc2.test1.json")
    for metric in cirr.METRICS:
        example = load(golden / "cirr" / f"test1_pred_ranks_{metric}.json.gz")
        size = write_submission(tmp_path / f"{metric}.json", cirr_submission(example, metric, truth))
        assert json.loads((tmp_path / f"{metric}.json").read_text()) == example
        assert size < 4_192_413  # the official example, written less compactly


def test_submissions_refuse_what_the_servers_refuse(golden):
    truth = circo.load(golden / "circo" / "test.json")
    released = load(golden / "circo" / "mmret_base_circo.json")
    first = released["0"]
    for spoiled, message in [
        ({**released, "0": first[:49]}, "exactly 50"),
        ({**released, "0": [*first[:49], first[0]]}, "distinct"),
        ({**released, "0": [*map(str, first)]}, "no image id"),
        ({**released, "0": [*first[:49], 1]}, "no image id"),
        ({k: v for k, v in released.items() if k != "7"}, "1 are missing"),
        ({**released, "800": first}, "1 are unknown"),
    ]:
        with pytest.raises(UserError, match=message):
            circo_submission(spoiled, truth)
    pairs = cirr.load(golden / "cirr" / "cap.rc2.test1.json")
    example = load(golden / "cirr" / "test1_pred_ranks_recall.json.gz")
    reference = pairs.queries[0].reference
    for names, message in [
        (example["12063"][:49], "needs 50"),
        ([*example["12063"][:49], reference], "reference itself"),
        ([*example["12063"][:49], "dev-1-0-img0"], "not in the gallery"),
    ]:
        with pytest.raises(UserError, match=message):
            cirr_submission({**example, "12063": names}, "recall", pairs)
    with pytest.raises(UserError, match="MB"):
        write_submission(golden / "never.json", {"x": "y" * 6_000_000})


def test_published_rows_have_a_value_for_every_headline_metric():
    import yaml

    from mmret.benchmarks.common import reports

    data = yaml.safe_load((reports.Path(reports.__file__).parent / "published.yaml").read_text())
    for benchmark in ("circo", "cirr", "fashioniq", "genecis", "mmeb"):
        assert all(len(row) == len(headline(benchmark)) for row in data[benchmark]["rows"].values())
