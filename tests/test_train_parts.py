"""Order, rates, layers, heads and averages: the parts of a run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from maskrcnn.data import Samples
from maskrcnn.data.augment import Recipe
from maskrcnn.errors import ConfigError
from maskrcnn.model import MaskRCNN
from maskrcnn.model.layers import BatchNorm
from maskrcnn.records import Image
from maskrcnn.train import Training, origins, with_names
from maskrcnn.train.feed import Order, feed, order, repeat_factors
from maskrcnn.train.optimize import Average, choose_layers, optimizer, rate
from maskrcnn.train.plan import Plan, out_of_memory
from maskrcnn.train.together import together, with_absent
from training_script import TINY, drawn, tiny


def rare() -> Samples:
    """Four pictures; the second class is in one of them."""
    data = drawn(4)
    common = replace(data[0].instances[0], label=0)
    samples = [replace(data[i], instances=(common,)) for i in range(3)]
    return replace(data, samples=(*samples, replace(data[3], instances=(common, replace(common, label=1)))))


# Order


def test_a_class_in_a_quarter_of_the_pictures_is_shown_twice_as_often_at_threshold_1() -> None:
    assert repeat_factors(rare(), 1.0).tolist() == [1, 1, 1, 2]
    assert repeat_factors(rare(), 0.0).tolist() == [1, 1, 1, 1]
    assert repeat_factors(replace(rare(), samples=(replace(rare()[0], instances=()),)), 0.5).tolist() == [1]


def test_an_epoch_shows_every_picture_as_often_as_it_is_due() -> None:
    every = Order(np.array([1.0, 2.0, 1.5, 1.5]), np.zeros(4, int), 3, seed=1)
    assert every.batches == 2
    for epoch in range(4):
        shown = [draw.index for place in range(2) for draw in every[2 * epoch + place]]
        counts = [shown.count(i) for i in range(4)]
        assert counts[0] == 1 and counts[1] == 2 and sorted(counts[2:]) == [1, 2]


def test_a_batch_hangs_on_the_seed_and_its_number_alone() -> None:
    one, again, other = (Order(np.ones(50), np.zeros(50, int), 5, seed) for seed in (3, 3, 4))
    for _ in range(3):
        one[0], one[99]
    assert one[17] == again[17] and one[17] != other[17]
    assert len({draw.seed for number in range(40) for draw in one[number]}) == 200


def test_wide_and_tall_pictures_share_at_most_one_batch() -> None:
    data = Samples(TINY.names, drawn(10, (64, 96)).samples + drawn(10, (96, 64)).samples)
    every = order(data, TINY, Training(batch=4))
    mixed = [len({draw.index < 10 for draw in every[number]}) == 2 for number in range(every.batches)]
    assert len(mixed) == 5 and sum(mixed) == 1


def test_fewer_pictures_than_a_batch_are_shown_again() -> None:
    assert sorted(draw.index for draw in order(drawn(2), TINY, Training(batch=4))[0]) == [0, 0, 1, 1]
    with pytest.raises(ConfigError, match="at least one picture"):
        order(replace(drawn(1), samples=()), TINY, Training())


def test_workers_give_the_batches_that_one_process_gives() -> None:
    settings = Training(
        batch=2, accumulate=2, augment=Recipe(size=(64, 64), scale=(0.5, 2.0), copy_paste=1.0)
    )
    data = drawn(6)
    rows = [
        list(
            feed(data, order(data, TINY, settings), 3, replace(settings, workers=workers), 0, 1, range(1, 4))
        )
        for workers in (0, 2)
    ]
    assert [len(batches) for batches in rows[0]] == [2, 2, 2]
    for alone, shared in zip(*rows, strict=True):
        for a, b in zip(alone, shared, strict=True):
            assert a.names == b.names
            assert all(np.array_equal(x.pixels, y.pixels) for x, y in zip(a.images, b.images, strict=True))
            assert all(x.masks.equal(y.masks) for x, y in zip(a.targets, b.targets, strict=True))


def test_data_sets_of_different_classes_train_together_and_do_not_label_each_others() -> None:
    first = replace(drawn(2), names=("box", "dark"))
    second = replace(drawn(2), names=("owl", "box"))
    both = together([first, second])
    assert both.names == ("box", "dark", "owl") and len(both) == 4
    assert [both[i].labelled for i in range(4)] == [{0, 1}, {0, 1}, {0, 2}, {0, 2}]
    assert [both[i].instances[0].label for i in range(4)] == [0, 1, 2, 0]
    assert len({both[i].image_id for i in range(4)}) == 4
    target = both[3].target()
    assert target.labelled is not None and target.labelled.tolist() == [True, False, True]
    assert together([first]) is first


def test_a_class_said_to_be_absent_is_labelled_everywhere() -> None:
    both = together([replace(drawn(1), names=("box", "dark")), replace(drawn(1), names=("owl", "ant"))])
    rare = with_absent(both, ["dark"])
    assert [rare[i].labelled for i in range(2)] == [{0, 1}, {1, 2, 3}]
    assert with_absent(both, []) is both
    with pytest.raises(ConfigError, match="elk"):
        with_absent(both, ["dark", "elk"])


# Rates and layers


def test_the_rate_rises_then_falls() -> None:
    cosine = Training(lr=1.0, warmup=10, final=0.1)
    assert [rate(s, 1000, cosine) for s in (0, 4)] == pytest.approx([0.1, 0.5], rel=1e-3)
    assert rate(500, 1000, cosine) == pytest.approx(0.1 + 0.9 / 2)
    assert rate(1000, 1000, cosine) == pytest.approx(0.1)
    assert rate(0, 40, cosine) == pytest.approx(0.25, rel=1e-3)  # not longer than a tenth of the run
    steps = Training(lr=1.0, warmup=0, schedule="multistep", milestones=(0.5, 0.75))
    assert [rate(s, 100, steps) for s in (0, 49, 50, 75)] == pytest.approx([1, 1, 0.1, 0.01])


def test_layers_from_a_stage_on_learn() -> None:
    def learning(**settings: str) -> set[str]:
        return set(choose_layers(tiny(), Training(**settings)))  # type: ignore[arg-type]

    heads, four, everything = (learning(layers=layers) for layers in ("heads", "4+", "all"))
    assert {name.split(".")[0] for name in heads} == {"fpn", "rpn", "box", "mask"}
    assert {name.split(".")[1] for name in four - heads} == {"s4", "s5"}
    assert {name.split(".")[1] for name in everything - four} == {"stem", "s2", "s3"}
    assert not any(".norm." in name for name in everything)
    assert any(".norm." in name for name in learning(norm="adapt"))
    assert learning(layers=r"^mask\.logits") == {"mask.logits.weight", "mask.logits.bias"}
    with pytest.raises(ConfigError, match=r"layers: want heads, 5\+, 4\+, 3\+, all"):
        learning(layers="nothing")


def test_norms_adapt_where_their_layer_learns() -> None:
    model = tiny()
    choose_layers(model, Training(layers="5+", norm="adapt", norm_momentum=0.03))
    adapting = {
        name.split(".")[1] for name, m in model.named_modules() if isinstance(m, BatchNorm) and m.adapt
    }
    assert adapting == {"s5"}


def test_norms_and_biases_are_not_decayed() -> None:
    model = tiny()
    choose_layers(model, Training(norm="adapt"))
    for kind in ("sgd", "adamw"):
        kernels, others = optimizer(model, Training(optimizer=kind, weight_decay=0.1)).param_groups  # type: ignore[arg-type]
        assert kernels["weight_decay"] == 0.1 and all(p.ndim > 1 for p in kernels["params"])
        assert others["weight_decay"] == 0 and all(p.ndim == 1 for p in others["params"])


def test_the_average_forgets_by_its_decay_once_it_is_old() -> None:
    model = tiny()
    average = Average(model, 0.9)
    start = model.mask.logits.bias.detach().clone()
    with torch.no_grad():
        model.mask.logits.bias += 1.0
    average.update(model, 10_000)
    assert torch.allclose(average.model.mask.logits.bias, start + 0.1)
    average.update(model, 0)  # decay 1 / 10
    assert torch.allclose(average.model.mask.logits.bias, start + 0.1 + 0.9 * 0.9)


# Heads


def test_heads_go_by_class_name_and_what_is_new_is_not_predicted() -> None:
    model = tiny()
    other = with_names(model, ("new", "Dark"))
    old, new = model.state_dict(), other.state_dict()
    for name, rows in (("box.class_logits", 1), ("box.deltas", 4), ("mask.logits", 1)):
        for part in ("weight", "bias"):
            assert new[f"{name}.{part}"][rows : 2 * rows].equal(old[f"{name}.{part}"][rows : 2 * rows])
    assert new["box.class_logits.weight"][2].equal(old["box.class_logits.weight"][2])  # background
    assert not new["box.class_logits.weight"][0].equal(old["box.class_logits.weight"][0])
    assert all(
        new[k].equal(v)
        for k, v in old.items()
        if not k.startswith(("box.class", "box.deltas", "mask.logits"))
    )
    assert origins(model, ("new", "Dark")) == [("new", "random"), ("Dark", "kept from dark")]
    picture = Image(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(ConfigError, match="random weights for the classes new; train it"):
        other.predict_images([picture])
    other.untrained = ()
    other.predict_images([picture])


def test_a_model_with_the_same_classes_is_left_as_it_is() -> None:
    model = tiny()
    assert with_names(model, TINY.names) is model
    fewer = with_names(model, ("dark",))
    assert fewer.untrained == () and fewer.state_dict()["mask.logits.bias"].shape == (1,)


# Settings


def test_settings_come_back_from_their_file(tmp_path: Path) -> None:
    settings = Training(epochs=3, augment=Recipe(size=(64, 96), copy_paste=0.5)).with_options(
        lr=0.1, sampling={"rois": 64}
    )
    settings.save(tmp_path / "training.json")
    assert Training.load(tmp_path / "training.json") == settings
    assert Training.load(tmp_path / "training.json", epochs=5).epochs == 5
    assert settings.sampling.rois == 64 and settings.sampling.anchors == 256
    turned = settings.with_options(**{"augment.rotate": 10, "augment.hue": 5, "lr": 0.2})
    assert turned.augment == replace(settings.augment, rotate=10, hue=5) and turned.lr == 0.2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lr": 0}, "lr: want a positive number, got 0"),
        ({"augment": {"size": [60, 64]}}, r"augment.size: want multiples of 32, or None, got \(60, 64\)"),
        ({"sampling": {"roi": 3}}, "unknown setting roi; there are: anchors"),
    ],
)
def test_settings_that_cannot_work_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Training().with_options(**options)


def test_the_shipped_recipe_is_valid() -> None:
    recipe = Path(__file__).parent.parent / "recipes/everyday.json"
    assert Training.load(recipe).sampling.exclusive


def test_a_plan_of_one_of_each_counts_in_the_singular() -> None:
    model = MaskRCNN(replace(TINY, names=("nut",), channels=1, mean=(0.0,)))
    plan = Plan(
        model.extra_repr(), "cpu", 1, 1, 1, 1, 1, {}, 1, (), 0, 1, 1, 1, 1, Training(batch=1), Path("run")
    )
    said = "\n".join(plan.lines())
    assert "ResNet-18-FPN, 1 class, 1 channel, from" in said
    assert "1 picture with 1 object of 1 class; 1 step of 1 picture; an epoch has 1" in said
    assert "validation on 1 picture every 1 step" in said


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            "--batch 2 --set accumulate=2, or",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "--gradient-checkpointing"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "--set workers=0"),
    ],
)
def test_where_memory_ends_the_error_says_what_to_try(error: Exception, advice: str) -> None:
    found = out_of_memory(error, Training(batch=4), "cuda:0")
    assert (
        isinstance(found, ConfigError) and "want a step of 4 pictures" in str(found) and advice in str(found)
    )


def test_other_errors_are_not_called_a_lack_of_memory() -> None:
    assert out_of_memory(RuntimeError("shape mismatch"), Training(), "cpu") is None
