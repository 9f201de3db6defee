"""The page that explains one picture."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from maskrcnn.config import MATTERPORT, NATIVE, TORCHVISION, Config, Dialect
from maskrcnn.errors import ConfigError
from maskrcnn.explain import write_page
from maskrcnn.explain.page import page
from maskrcnn.explain.pool import rounding
from maskrcnn.explain.sampling import level_of, readings
from maskrcnn.explain.study import Followed, Study, default_instance, rivals, study
from maskrcnn.model import MaskRCNN
from maskrcnn.model.pooling import SCALES
from maskrcnn.ops.roi_align import roi_align
from maskrcnn.records import Image, Result

VOID = {"meta", "img", "br", "input", "hr", "link"}
HOSTILE = '<script>alert("1")</script>&$name'


def model(dialect: Dialect = NATIVE, **options: object) -> MaskRCNN:
    torch.manual_seed(0)
    settings = {
        "names": ("cat", HOSTILE), "depth": 18, "width": 8, "fpn_channels": 16, "rpn_channels": 16,
        "box_features": 32, "mask_channels": 16, "min_size": 128, "max_size": 192, "pre_nms": 60,
        "proposals": 40, "score": 0.0, "max_detections": 8, "rpn_std": (0.1, 0.1, 0.2, 0.2),
        "anchor_sizes": ((16,), (32,), (64,), (96,), (128,)),
    }  # fmt: skip
    return MaskRCNN(Config(**{**settings, **options}, dialect=dialect))  # type: ignore[arg-type]


def picture(h: int = 96, w: int = 130, c: int = 3) -> Image:
    return Image(np.random.default_rng(3).integers(0, 256, (h, w, c), dtype=np.uint8))


class Checker(HTMLParser):
    """Collects what a page loads, and fails on a tag that is not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.headings: list[str] = []
        self.silent: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.loads += [str(values[k]) for k in ("src", "href", "srcset", "xlink:href") if k in values]
        self.ids += [str(values["id"])] if "id" in values else []
        self.headings += [tag] if tag in ("h1", "h2") else []
        if (tag == "img" and not values.get("alt")) or (
            tag == "svg" and not ({"aria-label", "aria-hidden"} & set(values))
        ):
            self.silent.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()


def checked(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return checker


def check_page(html: str) -> None:
    """Well-formed, loads nothing, every link leads somewhere, every picture is described."""
    found = checked(html)
    assert all(load.startswith(("data:image/", "#")) for load in found.loads)
    assert {load[1:] for load in found.loads if load.startswith("#")} <= set(found.ids)
    assert len(found.ids) == len(set(found.ids))
    assert found.silent == []
    assert found.headings[0] == "h1"
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttp", html)
    assert HOSTILE not in html


def follow(network: MaskRCNN, image: Image, instance: int | None = None) -> tuple[Study, Followed]:
    seen = study(network, image, instance)
    assert seen.followed is not None
    return seen, seen.followed


def test_page_is_one_sound_file_of_seven_steps(tmp_path: Path) -> None:
    path = write_page(model(), picture(), tmp_path / "page.html")
    html = path.read_text("utf-8")
    check_page(html)
    assert checked(html).headings == ["h1"] + ["h2"] * 7
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]


def test_names_of_files_and_classes_are_escaped(tmp_path: Path) -> None:
    source = Path("<img src=x onerror=alert(1)>\udcff.png")
    image = dataclasses.replace(picture(), source=source)
    seen = study(model(), Image(image.pixels), None)
    html = page(dataclasses.replace(seen, image=image, source='"><script>'))
    assert "<img src=x" not in html and '"><script>' not in html and HOSTILE not in html
    assert "&lt;script&gt;alert" in html
    assert html.encode("utf-8", "replace")


def test_a_picture_without_instances_is_explained_with_the_best_proposal(tmp_path: Path) -> None:
    network = model(score=1.0)
    html = write_page(network, picture(), tmp_path / "none.html").read_text("utf-8")
    check_page(html)
    assert "No instances" in html and "not detected" in html
    seen, followed = follow(network, picture())
    assert followed.instance is None
    best = seen.trace.box_scores.class_logits.softmax(1)[:, :-1].max()
    assert followed.score == pytest.approx(float(best))


def test_a_picture_without_proposals_still_has_a_page() -> None:
    html = page(dataclasses.replace(study(model(), picture(), None), followed=None))
    check_page(html)
    assert "not one proposal" in html


@pytest.mark.parametrize("op", ["align", "align_legacy", "pool"])
@pytest.mark.parametrize("ratio", [0, 2])
def test_pages_of_all_poolings_are_sound(op: str, ratio: int) -> None:
    network = model(dataclasses.replace(NATIVE, roi_op=op, sampling_ratio=ratio))
    check_page(page(study(network, picture(), None)))


@pytest.mark.parametrize("size", [(40, 200), (200, 40)])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_pages_of_grey_and_many_channels_wide_and_tall_are_sound(
    size: tuple[int, int], channels: int
) -> None:
    network = model(channels=channels, mean=(100.0,) * channels, rpn_stride=2, mask_size=56)
    check_page(page(study(network, picture(*size, channels), None)))


def test_matterport_page_shows_its_own_points_between_roipool_and_roialign() -> None:
    seen, followed = follow(model(MATTERPORT), picture())
    html = page(seen)
    check_page(html)
    pool, own, align = readings(
        seen, followed, level_of(followed.proposal, seen.padded, seen.config, seen.scales).k
    )
    assert (pool.name, own.name, align.name) == ("RoIPool", "crop_and_resize", "RoIAlign")
    assert (len(pool.points), len(own.points), len(align.points)) == (0, 49, 196)
    assert [r.own for r in (pool, own, align)] == [False, True, False]


def sampled(features: np.ndarray, points: np.ndarray, border: bool) -> np.ndarray:
    """Bilinear values (k, c) of a map (c, h, w) at points in cells; outside, the border's or 0."""
    out = np.zeros((len(points), len(features)))
    h, w = features.shape[1:]
    for i, (x, y) in enumerate(points - 0.5):
        if not border and not (0 <= x <= w - 1 and 0 <= y <= h - 1):
            continue
        x, y = min(max(x, 0), w - 1), min(max(y, 0), h - 1)
        x0, y0 = int(x), int(y)
        x1, y1 = min(x0 + 1, w - 1), min(y0 + 1, h - 1)
        top = features[:, y0, x0] * (1 - x + x0) + features[:, y0, x1] * (x - x0)
        bottom = features[:, y1, x0] * (1 - x + x0) + features[:, y1, x1] * (x - x0)
        out[i] = top * (1 - y + y0) + bottom * (y - y0)
    return out


@pytest.mark.parametrize(
    "dialect", [NATIVE, MATTERPORT, dataclasses.replace(NATIVE, roi_op="align_legacy", sampling_ratio=0)]
)
def test_the_points_drawn_give_what_the_model_pooled(dialect: Dialect) -> None:
    seen, followed = follow(model(dialect), picture())
    k = level_of(followed.proposal, seen.padded, seen.config, seen.scales).k
    features = seen.trace.pyramid[k - 2][0].numpy()
    for reading in readings(seen, followed, k)[1:]:
        values = sampled(features, reading.points, border=reading.name != "crop_and_resize")
        ys, xs = (len(np.unique(reading.points[:, i])) // 7 for i in (1, 0))
        mean = values.reshape(7, ys, 7, xs, -1).mean((1, 3)).transpose(2, 0, 1)
        np.testing.assert_allclose(
            mean, reading.output.numpy(), rtol=1e-3, atol=1e-4 * np.abs(features).max()
        )
        if reading.own:
            assert torch.equal(reading.output, seen.trace.roi_features[followed.roi])


def test_the_bins_drawn_give_what_roipool_pooled() -> None:
    seen, followed = follow(model(), picture(), 1)
    k = level_of(followed.proposal, seen.padded, seen.config, seen.scales).k
    pool, features = readings(seen, followed, k)[0], seen.trace.pyramid[k - 2][0]
    for i, (top, bottom) in enumerate(pool.bins_y):
        for j, (left, right) in enumerate(pool.bins_x):
            cells = features[:, int(top) : int(bottom), int(left) : int(right)].flatten(1)
            want = cells.amax(1) if cells.shape[1] else torch.zeros(len(features))
            assert torch.equal(pool.output[:, i, j], want)


def test_rounding_is_told_in_pixels_of_the_photo() -> None:
    """10.4 / 4 = 2.6 rounds to cell 3: 1.6 input pixels to the right, 0.8 of a photo enlarged twice."""
    seen, followed = follow(model(min_size=192, max_size=256), picture(96, 128))
    assert seen.scale == (2.0, 2.0)
    followed = dataclasses.replace(followed, proposal=torch.tensor([10.4, 8.0, 33.2, 40.0]))
    pool = readings(seen, followed, 2)[0]
    assert pool.box == (3, 2, 9, 11)  # 33.2 / 4 = 8.3 and 40 / 4 = 10 are the last cells, 8 and 10
    assert rounding(seen, followed, pool, 2) == pytest.approx((0.8, 0.0, 1.4, 2.0), abs=1e-5)


def test_level_of_a_224_box_is_4_in_both_rules() -> None:
    box = torch.tensor([0.0, 0.0, 224.0, 224.0])
    level = level_of(box, (512, 512), model().config, SCALES)
    assert (level.side, level.value, level.k) == (224.0, 4.0, 4)
    assert level_of(box, (1024, 1024), model(MATTERPORT).config, SCALES).k == 4


def test_the_page_says_the_numbers_of_the_trace() -> None:
    seen, followed = follow(model(), picture(), 3)
    html, trace = page(seen), seen.trace
    assert followed.instance == 3 and followed.score == pytest.approx(float(seen.result.scores[3]))
    assert f"<b>{trace.anchor_scores.anchors.shape[0]:,}</b>" in html
    assert f"<b>{len(trace.candidates.scores):,}</b> boxes became <b>{len(trace.proposals):,}</b>" in html
    assert f"<em>{followed.score:.3f}</em>" in html
    drawn = re.findall(r'data-w="28" data-h="28" data-v="([^"]*)"', html)
    mask = trace.mask_logits[int(torch.nonzero(trace.detections.roi_index == followed.roi)[0])].sigmoid()
    assert [float(v) for v in drawn[0].split()] == pytest.approx(mask.flatten().tolist(), rel=6e-3)
    pooled = re.findall(r'data-w="7" data-h="7" data-v="([^"]*)"', html)
    assert len(pooled) == 3
    channel = int(re.search(r"output in channel (\d+)", html)[1])  # type: ignore[index]
    own = trace.roi_features[followed.roi, channel].flatten().tolist()
    assert [float(v) for v in pooled[1].split()] == pytest.approx(own, rel=6e-3, abs=1e-6)


def test_an_instance_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="instance: want 0 to 7, got 8"):
        study(model(), picture(), 8)
    with pytest.raises(ConfigError, match="nothing was detected"):
        study(model(score=1.0), picture(), 0)


def test_rivals_overlap_the_instance_and_were_not_kept() -> None:
    seen, followed = follow(model(nms=0.3, max_detections=2), picture(), 0)
    boxes, scores = rivals(seen, followed)
    assert len(boxes) == len(scores)
    for box in boxes:
        low, high = torch.maximum(box[:2], followed.box[:2]), torch.minimum(box[2:], followed.box[2:])
        both = float((high - low).clamp(min=0).prod())
        areas = [float((b[2:] - b[:2]).prod()) for b in (box, followed.box)]
        assert both / (sum(areas) - both) > 0.3


def test_the_default_instance_is_neither_tiny_nor_everything() -> None:
    boxes = torch.tensor([[0.0, 0, 100, 100], [0, 0, 5, 5], [10, 10, 40, 40]])
    labels, scores, masks = torch.zeros(3).long(), torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, 28, 28)
    result = Result(boxes, labels, scores, masks, ("a",), (100, 100))
    assert default_instance(result) == 2
    assert default_instance(result[:2]) == 0


def test_the_page_of_a_12_megapixel_photo_is_below_3_megabytes(tmp_path: Path) -> None:
    path = write_page(model(), picture(3000, 4000), tmp_path / "large.html")
    assert path.stat().st_size < 3_000_000


def test_the_maps_of_a_flat_picture_are_taken_as_torchvision_takes_them() -> None:
    """17 rows are padded to 32, so P2 has 8: 8 / 17 is next to a half, and every level moves by one."""
    seen = study(model(TORCHVISION, min_size=17, max_size=300), picture(17, 200), None)
    assert seen.scales == (1 / 2, 1 / 4, 1 / 8, 1 / 16)
    assert (seen.stride(2), seen.stride(5)) == (2, 16)
    assert seen.followed is not None
    at = level_of(seen.followed.proposal, seen.padded, seen.config, seen.scales)
    assert at.k == int(np.clip(np.floor(at.value + 1e-6) + 1, 2, 5))
    box, image = seen.followed.proposal[None], torch.zeros(1, dtype=torch.int64)
    wanted = roi_align(seen.trace.pyramid[at.k - 2], box, image, 7, 1 / seen.stride(at.k), 2, aligned=False)
    assert torch.allclose(seen.trace.roi_features[seen.followed.roi], wanted[0], atol=1e-6)
    own = next(reading for reading in readings(seen, seen.followed, at.k) if reading.own)
    assert np.allclose(np.array(own.box[:2]) - 0.5, seen.followed.proposal[:2] / seen.stride(at.k))
    assert "measures the maps against the picture without padding" in page(seen)
