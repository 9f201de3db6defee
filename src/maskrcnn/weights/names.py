"""Class names of data sets that checkpoints were trained on, background not among them."""

# The 80 classes of COCO, in the order of their category ids.
COCO = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip

# Where COCO's category ids 1..90 have no class; torchvision's heads have a row there.
COCO_HOLES = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
_NAMES = iter(COCO)
COCO_IDS = tuple("N/A" if i in COCO_HOLES else next(_NAMES) for i in range(1, 91))


def default_names(classes: int) -> tuple[str, ...]:
    """Names for as many classes as a file without names has: COCO's for 80 and 90, else class_1, class_2, ..."""
    known = {len(COCO): COCO, len(COCO_IDS): COCO_IDS}
    return known.get(classes, tuple(f"class_{i}" for i in range(1, classes + 1)))
