"""Each switch of a dialect, with an input that tells its values apart; the outcomes are arithmetic on paper."""

import math

import pytest
import torch

from maskrcnn.config import DIALECTS, Config
from maskrcnn.model.box_head import detect
from maskrcnn.model.image import batches, padded_size, resized_size, to_batch
from maskrcnn.model.pooling import pool_rois, pooled_scales, roi_levels
from maskrcnn.model.resnet import ResNet
from maskrcnn.model.restore import restore_boxes
from maskrcnn.model.rpn import choose, level_anchors, suppress
from maskrcnn.records import AnchorScores, BoxScores, Image, ImageBatch, Proposals

ALL = tuple(DIALECTS)


def config(dialect, **options):
    return Config(names=options.pop("names", ("a", "b"))).with_options(dialect=dialect, **options)


def frame(h=2048, w=2048, padded=None):
    """A batch of one image of h by w, in a frame that may be larger."""
    pixels = torch.zeros(1, 3, *(padded or (h, w)))
    return ImageBatch(pixels, torch.tensor([[0.0, 0, w, h]]), ((h, w),))


def scores(anchors, logits, deltas=None, levels=None):
    n = len(anchors)
    deltas = torch.zeros(1, n, 4) if deltas is None else torch.tensor([deltas], dtype=torch.float32)
    return AnchorScores(
        torch.tensor(anchors, dtype=torch.float32), torch.tensor([logits], dtype=torch.float32), deltas,
        levels or (n, 0, 0, 0, 0),
    )  # fmt: skip


def found(boxes, logits, settings, deltas=None):
    """Detections of RoIs with these class logits, background last; deltas of 0."""
    boxes, logits = torch.tensor(boxes), torch.tensor(logits)
    n, classes = len(boxes), settings.num_classes
    deltas = torch.zeros(n, classes, 4) if deltas is None else deltas
    proposals = Proposals(boxes, torch.ones(n), torch.zeros(n, dtype=torch.int64))
    return detect(BoxScores(logits, deltas), proposals, frame(), settings)


# --- image ---


@pytest.mark.parametrize(
    ("dialect", "size"),
    [
        ("torchvision", (799, 1333)),  # 900 * 1333 / 1500 = 799.8, cut
        ("detectron2", (800, 1333)),
        ("mmdetection", (800, 1333)),
        ("native", (800, 1333)),
        ("maskrcnn_benchmark", (800, 1333)),
        ("detectron", (800, 1333)),
    ],
)
def test_sides_are_rounded_or_cut(dialect, size):
    assert resized_size((900, 1500), config(dialect)) == size


def test_half_a_pixel_goes_up_or_to_the_even_number():
    """8 by 9 to a short side of 20 is 20 by 22.5, 8 by 11 is 20 by 27.5."""
    wanted = {"native": (23, 28), "detectron2": (23, 28), "mmdetection": (23, 28), "torchvision": (22, 27),
              "maskrcnn_benchmark": (22, 27), "detectron": (22, 28)}  # fmt: skip
    for dialect, sides in wanted.items():
        settings = config(dialect, min_size=20, max_size=40)
        assert tuple(resized_size((8, width), settings)[1] for width in (9, 11)) == sides, dialect
    settings = config("matterport", resize="pad64", min_size=20, max_size=64)
    assert tuple(resized_size((8, width), settings)[1] for width in (9, 11)) == (22, 28)


@pytest.mark.parametrize("dialect", ALL)
def test_pictures_are_padded_to_a_square_or_to_32(dialect):
    """480 by 640 come to 800 by 1066 or 1067; with a multiple of 64 the 800 would be 832."""
    square = dialect == "matterport"
    settings = config(dialect, min_size=800, max_size=1024 if square else 1333)
    assert padded_size((480, 640), settings) == ((1024, 1024) if square else (800, 1088))
    assert DIALECTS[dialect].pad_multiple == (64 if square else 32)


@pytest.mark.parametrize("dialect", ALL)
def test_images_share_a_batch_where_the_framework_pads_to_the_largest(dialect):
    images = [Image(torch.zeros(h, w, 3, dtype=torch.uint8).numpy()) for h, w in ((64, 64), (64, 128))]
    settings = config(dialect, min_size=64, max_size=128)
    sizes = [batch.size for _, batch in batches(images, settings)]
    alone = dialect == "native"
    assert sizes == (
        [(128, 128)] if dialect == "matterport" else [(64, 64), (64, 128)] if alone else [(64, 128)]
    )


@pytest.mark.parametrize("dialect", ALL)
def test_padding_is_black_before_or_after_the_mean_is_taken_off(dialect):
    image = Image(torch.full((32, 48, 3), 255, dtype=torch.uint8).numpy())
    settings = config(dialect, min_size=32, max_size=64, mean=(10, 20, 30))
    batch = to_batch([image], settings)
    corner = batch.pixels[0, :, 0, 0].tolist(), batch.pixels[0, :, -1, -1].tolist()
    black = [-10, -20, -30]
    if dialect == "matterport":  # 43 by 64 in the middle of 64 by 64
        assert corner == (black, black)
        assert batch.windows.tolist() == [[0, 10, 64, 53]] or batch.windows[0, 1] > 0
    else:
        assert corner == ([245, 235, 225], [0, 0, 0])


@pytest.mark.parametrize("dialect", ALL)
def test_the_stem_pools_from_the_first_pixel_or_from_before_it(dialect):
    """Four columns at half size, the first of them 1: its window starts at it (SAME), or one before."""
    net = ResNet(config(dialect, depth=18, width=8))
    assert net.same_stem_pool == (dialect == "matterport")


# --- boxes ---


@pytest.mark.parametrize("dialect", ALL)
def test_a_stretch_is_capped_at_a_thousand_over_sixteen(dialect):
    """An anchor of 16 with dlogw = 5: e^5 * 16 = 2375 wide, or 1000."""
    settings = config(dialect, rpn_std=(1.0, 1.0, 1.0, 1.0))
    one = float(settings.dialect.inclusive_ends)
    anchors = scores([[1992.0, 1992, 2008 + one, 2008 + one]], [1.0], [[0, 0, 5, 0]])
    (box,) = choose(anchors, frame(4000, 4000), settings).boxes.tolist()
    width = 1000 if settings.dialect.delta_clamp else 16 * math.exp(5)
    assert box[2] - box[0] == pytest.approx(width + one, rel=1e-5)
    assert (settings.dialect.delta_clamp is None) == (dialect == "matterport")


@pytest.mark.parametrize("dialect", ALL)
def test_anchors_at_the_coarsest_level_of_800_rows(dialect):
    """13 rows and columns: 800 // 13 = 61 in torchvision, 64 elsewhere. 512 at ratio 0.5 is 724.08 wide, or 724, or
    8 times round(sqrt(64 * 64 * 2)) = 91, which is 728."""
    anchors = level_anchors(4, (13, 13), (800, 800), config(dialect))
    step = 61 if dialect == "torchvision" else 64
    assert (anchors[3] - anchors[0]).tolist() == [step, 0, step, 0]
    widths = {"torchvision": 724, "maskrcnn_benchmark": 728, "detectron": 728}
    width = (anchors[0, 2] - anchors[0, 0]).item()
    assert width == widths.get(dialect, pytest.approx(724.0773))
    assert (anchors[0, 2] + anchors[0, 0]).item() / 2 == (32 if widths.get(dialect) == 728 else 0)


def test_an_offset_of_half_a_cell_may_be_given():
    assert level_anchors(0, (2, 2), (8, 8), config("detectron2", anchor_offset=0.5))[1].mean() == 2


# --- proposals ---


@pytest.mark.parametrize("dialect", ALL)
def test_levels_and_what_is_equal_in_float32(dialect):
    """Logits of 30 and 40 are both a probability of 1: ranked by it, the finer level's comes first."""
    settings = config(dialect, pre_nms=1, proposals=2)
    anchors = scores([[0.0, 0, 50, 50], [100, 100, 300, 300]], [30.0, 40.0], levels=(1, 1, 0, 0, 0))
    chosen = choose(anchors, frame(), settings)
    assert len(chosen.boxes) == (1 if dialect == "matterport" else 2)  # one for each level, or over all
    first = suppress(chosen, anchors, frame(), settings).boxes[0, 0].item()
    by_probability = dialect in ("torchvision", "mmdetection", "maskrcnn_benchmark", "detectron")
    assert first == (0 if by_probability else 100)


@pytest.mark.parametrize("dialect", ALL)
def test_levels_suppress_each_other_or_not(dialect):
    settings = config(dialect, proposals=3)
    anchors = scores([[0.0, 0, 50, 50], [0, 0, 50, 51]], [2.0, 1.0], levels=(1, 1, 0, 0, 0))
    kept = suppress(choose(anchors, frame(), settings), anchors, frame(), settings)
    if dialect == "matterport":  # one, and zero boxes up to the number that is asked for
        assert (len(kept), kept.boxes[1:].tolist()) == (3, [[0, 0, 1, 1]] * 2)
    else:
        assert len(kept) == 2


@pytest.mark.parametrize("dialect", ALL)
def test_the_smallest_proposal(dialect):
    """Sides of 0, of 0.0005, and the float32 next to 0.001, which torchvision keeps."""
    settings = config(dialect)
    sides = [0.0, 0.0005, 0.001]
    one = float(settings.dialect.inclusive_ends)
    anchors = scores([[0.0, 0, side + one, 8 + one] for side in sides], [3.0, 2.0, 1.0])
    kept = choose(anchors, frame(), settings).anchor_index.tolist()
    wanted = {"torchvision": [2], "native": [1, 2], "detectron2": [1, 2], "mmdetection": [1, 2]}
    assert kept == wanted.get(dialect, [0, 1, 2])


@pytest.mark.parametrize("dialect", ALL)
def test_proposals_are_clipped_to_the_picture_or_to_its_padding(dialect):
    batch = frame(100, 100, padded=(128, 128))
    anchors = scores([[50.0, 50, 200, 200]], [1.0])
    (box,) = choose(anchors, batch, config(dialect)).boxes.tolist()
    assert box == pytest.approx([50, 50, 128, 128] if dialect == "matterport" else [50, 50, 100, 100])


# --- RoIs ---


@pytest.mark.parametrize("dialect", ALL)
def test_the_level_of_a_box(dialect):
    """Sides of 223.99995, 223.9999, 223.99981 and 200 are short of 224 by 2.2e-7, 4.5e-7, 8.5e-7 and 0.1 of it.

    P4 begins 1e-8, 2.5e-7, 6.9e-7 or 1e-6 before 224: floor(4 + log2(side / 224 + 1e-8)) is Detectron2's rule,
    floor(2 + log2(side / 56 + 1e-6)) MMDetection's, floor(4 + log2(side / 224) + 1e-6) torchvision's,
    floor(4 + log2(side / 224 + 1e-6)) Detectron's. Matterport rounds: 3.84 is 4.
    """
    sides = [223.99995, 223.9999, 223.99981, 200.0]
    boxes = torch.tensor([[0.0, 0, side, side] for side in sides])
    wanted = {"mmdetection": [2, 1, 1, 1], "torchvision": [2, 2, 1, 1], "maskrcnn_benchmark": [2, 2, 2, 1],
              "detectron": [2, 2, 2, 1], "matterport": [2, 2, 2, 2]}  # fmt: skip
    assert roi_levels(boxes, (800, 800), config(dialect)).tolist() == wanted.get(dialect, [1, 1, 1, 1])


@pytest.mark.parametrize("dialect", ALL)
def test_the_scales_of_a_flat_picture(dialect):
    """17 rows padded to 32: P2 has 8, next to half of 17."""
    pyramid = [torch.zeros(1, 1, 8 >> i, 64 >> i) for i in range(4)]
    scales = pooled_scales(pyramid, frame(17, 256, padded=(32, 256)), config(dialect))
    assert scales[0] == (1 / 2 if dialect == "torchvision" else 1 / 4)


@pytest.mark.parametrize("dialect", ALL)
def test_what_a_bin_reads_of_a_ramp(dialect):
    """A box of 5 by 5 cells, 4 to 9, on the ramp x * x, one bin.

    aligned, as many samples as cells : centres 4.5 .. 8.5 lie at x = 4 .. 8: (16 + 25 + 36 + 49 + 64) / 5 = 38
    aligned, 2 samples                : 5.25 and 7.75, at x = 4.75 and 7.25, between squares: 22.75 and 52.75
    half a cell off, 2 samples        : x = 5.25 and 7.75: 27.75 and 60.25, for Detectron's 4 to 8.75: 5.1875, 7.5625
    crop_and_resize                   : one in the middle, of pixels 4 to 8.75 of 32, times 7 / 31
    """
    ramp = (torch.arange(16.0) ** 2).expand(1, 1, 16, 16).contiguous()
    settings = config(dialect)
    boxes = torch.tensor([[16.0, 16, 36, 36]])
    value = pool_rois([ramp] * 4, boxes, torch.tensor([0]), (64, 64), 1, settings).values.item()
    middle = (16 + 35) / 2 / 63 * 15  # of the box without its last pixel, in cells
    low = math.floor(middle)
    cropped = low**2 + (middle - low) * (2 * low + 1)
    wanted = {
        "native": (22.75 + 52.75) / 2, "detectron2": 38.0, "mmdetection": 38.0,
        "torchvision": (27.75 + 60.25) / 2,
        "maskrcnn_benchmark": (25 + 0.1875 * 11 + 49 + 0.5625 * 15) / 2,
        "detectron": (25 + 0.1875 * 11 + 49 + 0.5625 * 15) / 2,
        "matterport": cropped,
    }  # fmt: skip
    assert value == pytest.approx(wanted[dialect], rel=1e-5)


# --- detections ---


@pytest.mark.parametrize("dialect", ALL)
def test_a_region_may_be_one_class_or_several(dialect):
    """Probabilities of 1/3 each, or nearly; the threshold is 0.3."""
    detections = found([[0.0, 0, 50, 50]], [[0.01, 0.0, 0.0]], config(dialect, score=0.3))
    assert detections.labels.tolist() == ([0] if dialect == "matterport" else [0, 1])


@pytest.mark.parametrize("dialect", ALL)
def test_a_score_that_is_the_threshold(dialect):
    """Two equal logits: one half."""
    detections = found([[0.0, 0, 50, 50]], [[0.0, 0.0]], config(dialect, names=("a",), score=0.5))
    assert len(detections) == (1 if dialect == "matterport" else 0)


@pytest.mark.parametrize("dialect", ALL)
def test_an_overlap_of_three_tenths_at_a_limit_of_three_tenths(dialect):
    """In float32 it is 0.30000001: above 0.3, but not above 0.3 in float32."""
    one = float(DIALECTS[dialect].inclusive_ends)
    boxes = [[0.0, 0, 10 + one, 1 + one], [0, 0, 3 + one, 1 + one]]
    settings = config(dialect, names=("a",), nms=0.3, shift_up_to=0)
    kept = len(found(boxes, [[5.0, 0], [4.0, 0]], settings))
    assert kept == (2 if dialect in ("matterport", "mmdetection") else 1)
    anchors = scores(boxes, [2.0, 1.0])
    settings = config(dialect, rpn_nms=0.3, shift_up_to=0, proposals=2, min_proposal=0.0)
    kept = suppress(choose(anchors, frame(), settings), anchors, frame(), settings)
    assert (kept.boxes[:, 2] > 2).sum() == (2 if dialect in ("matterport", "mmdetection") else 1)


@pytest.mark.parametrize("dialect", ALL)
def test_shifted_boxes_lose_digits(dialect):
    """An IoU of 0.500001 is above 0.5. Shifted by the class times 2001, x2 of the second box becomes 1, and it is 0.5.

    In the first class that is so only where classes count from 1.
    """
    box, other = [0.0, 0, 2, 1], [0.0, 0, 1.000004, 1]
    far = [1999.0, 1999, 2000, 2000]
    for label, shifted in (
        (0, ("torchvision",)),
        (1, ("torchvision", "detectron2", "mmdetection")),
    ):
        logits = torch.zeros(3, 3)
        logits[0, label], logits[1, label], logits[2, label] = 9, 8, 7
        settings = config(
            dialect, score=0.5, nms=0.5, inclusive_ends=False, integer_boxes=False, last_pixel_in=False
        )
        detections = found([box, other, far], logits.tolist(), settings)
        assert len(detections) == (3 if dialect in shifted else 2), label


def test_more_boxes_than_the_limit_are_not_shifted():
    """1001 boxes in torchvision and Detectron2; in MMDetection it takes 10,000."""
    many = torch.zeros(1001, 4)
    many[:, 0] = torch.arange(1001) * 2 - 2.0
    many[:, 2] = many[:, 0] + 1
    many[:, 3] = 1
    many[0] = torch.tensor([0.0, 10, 2, 11])
    many[1] = torch.tensor([0.0, 10, 1.000004, 11])
    logits = torch.zeros(1001, 3)
    logits[:, 1] = torch.linspace(20, 10, 1001)
    for dialect, kept in (("torchvision", 1000), ("detectron2", 1000), ("mmdetection", 1001)):
        settings = config(dialect, nms=0.5, score=0.5, max_detections=2000)
        assert len(found(many.tolist(), logits.tolist(), settings)) == kept


@pytest.mark.parametrize("dialect", ALL)
def test_the_smallest_detection(dialect):
    """Sides of 0, of 0.005, and the float32 next to 0.01, which torchvision keeps."""
    one = float(DIALECTS[dialect].inclusive_ends)
    boxes = [[0.0, 0, side + one, 20 + one] for side in (0.0, 0.005, 0.01)]
    detections = found(boxes, [[5.0, 0], [4.0, 0], [3.0, 0]], config(dialect, names=("a",), nms=1.0))
    assert detections.roi_index.tolist() == ([2] if dialect == "torchvision" else [0, 1, 2])


@pytest.mark.parametrize("dialect", ALL)
def test_the_way_back_to_the_picture(dialect):
    """A box from 3 to 10 in 20 by 20 goes to 40 by 40: to 6 and 20; with a last pixel of 9, to 18 and behind it 19;
    normalised by size - 1 it is 3 / 19 and 9 / 19 of 39, that is 6.16 and 18.47, and rounded."""
    boxes = restore_boxes(
        torch.tensor([[3.0, 3, 10, 10]]), torch.tensor([0.0, 0, 20, 20]), (40, 40), config(dialect)
    )
    wanted = {"matterport": [6, 6, 19, 19], "maskrcnn_benchmark": [6, 6, 19, 19], "detectron": [6, 6, 19, 19]}
    assert boxes[0].tolist() == wanted.get(dialect, [6, 6, 20, 20])
    assert DIALECTS[dialect].integer_boxes == (dialect == "matterport")


@pytest.mark.parametrize("dialect", ALL)
def test_the_rule_of_pasting_and_of_resizing_is_the_frameworks_own(dialect):
    """What the rules do is tested with them; here is who has which."""
    rules = {
        "native": ("pil", "aligned"), "matterport": ("skimage", "skimage"), "torchvision": ("torch", "torchvision"),
        "detectron2": ("pil", "aligned"), "mmdetection": ("opencv", "aligned"),
        "maskrcnn_benchmark": ("pil", "last_pixel"), "detectron": ("opencv_float", "last_pixel"),
    }  # fmt: skip
    assert (DIALECTS[dialect].resampler, DIALECTS[dialect].paste) == rules[dialect]
