"""What callbacks of scripts are told, and what they can change, while `mrcnn` trains."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mrcnn import model as modellib
from mrcnn.callbacks import Callbacks
from mrcnn.training import _ahead
from test_mrcnn_model import Narrow
from test_mrcnn_shapes import Squares

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Watch:
    """Remembers what it is told, and lowers the rate after the first epoch, as a schedule of Keras's does."""

    def __init__(self) -> None:
        self.told: list = []

    def set_model(self, model):
        self.model = model

    def on_train_begin(self, logs):
        self.told.append("train")

    def on_batch_end(self, batch, logs):
        self.told.append((batch, logs["size"]))

    def on_epoch_end(self, epoch, logs):
        self.told.append((epoch, self.model.optimizer.lr, Path(self.path.format(epoch=epoch + 1)).exists()))
        self.model.optimizer.lr = 0.0
        self.after = self.model.get_weights()
        self.model.stop_training = epoch == 1


def test_callbacks_are_told_in_keras_order_and_steer_the_run(tmp_path: Path, monkeypatch) -> None:
    written: list = []
    writer = SimpleNamespace(
        add_scalar=lambda *row: written.append(row),
        flush=lambda: None,
        close=lambda: written.append("closed"),
    )
    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=lambda folder: writer)
    )
    model = modellib.MaskRCNN("training", Narrow(), str(tmp_path))
    watch = Watch()
    watch.path = model.checkpoint_path
    model.train(Squares(3), Squares(3), 0.01, 5, "heads", custom_callbacks=[watch])
    # The checkpoint is written before an epoch's end is told; the second epoch asked to stop.
    assert watch.told == ["train", (0, 2), (0, 0.01, True), (0, 2), (1, 0.0, True)]
    history = model.keras_model.history
    assert history.epoch == [0, 1]
    assert set(history.history) >= {"loss", "val_loss", "mrcnn_mask_loss", "val_mrcnn_mask_loss"}
    assert ("val_loss", history.history["val_loss"][1], 1) in written
    assert written[-1] == "closed"


def test_without_tensorboard_no_log_is_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    model = modellib.MaskRCNN("training", Narrow(), str(tmp_path))
    model.train(Squares(3), Squares(3), 0.01, 1, "heads")
    assert [p.name for p in Path(model.log_dir).iterdir()] == ["mask_rcnn_narrow_0001.h5"]


def test_a_callback_with_both_names_of_a_method_is_told_once() -> None:
    told = []
    both = SimpleNamespace(
        on_train_batch_end=lambda *a: told.append("new"), on_batch_end=lambda *a: told.append("old")
    )
    Callbacks([both, object()])("on_batch_end", 0, {})
    assert told == ["new"]


def test_batches_are_drawn_ahead_in_order_and_no_more_than_asked() -> None:
    feed = iter([([i], []) for i in range(5)])
    assert list(_ahead(feed, 3)) == [[0], [1], [2]]
    assert next(feed) == ([3], [])


def test_an_error_of_the_data_set_reaches_the_script() -> None:
    def feed():
        yield [0], []
        raise OSError("unreadable")

    drawn = _ahead(feed(), 3)
    assert next(drawn) == [0]
    with pytest.raises(OSError, match="unreadable"):
        next(drawn)
