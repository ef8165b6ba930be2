import math
from types import SimpleNamespace

import pytest
import torch
from helpers import trainer
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback
from torch import nn

from backbone import MobileNetV1, trunk_from
from data.classification import ClassificationDataModule
from tasks.classification.module import ClassificationModule
from tasks.optim import EMA, build_optimizer, move_average, parameter_groups, set_rates, warmup_cosine


@pytest.fixture
def model():
    trunk = MobileNetV1(0.25)
    return nn.ModuleDict({"trunk": trunk, "head": nn.Conv2d(trunk.channels[32], 6, 1)})


def settings_of(model, *args, **options):
    """Rate and decay of each parameter by its name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, model["trunk"], *args, **options)
    return {names[id(one)]: (group["lr_mult"], group["weight_decay"]) for group in groups for one in group["params"]}


def scheduled(model, trunk_lr_mult, lr, *args, **options):
    optimizer = build_optimizer("sgd", parameter_groups(model, model["trunk"], trunk_lr_mult, 0.0), lr)
    return optimizer, warmup_cosine(optimizer, *args, **options)


def test_norms_biases_and_depthwise_filters_are_not_decayed_and_the_trunk_has_its_rate(model):
    found = settings_of(model, 0.1, 4e-5)
    assert found.keys() == dict(model.named_parameters()).keys()
    assert found["head.weight"] == (1.0, 4e-5)
    assert found["head.bias"] == (1.0, 0.0)
    assert found["trunk.stem.0.weight"] == (0.1, 4e-5)
    assert found["trunk.stem.1.weight"] == (0.1, 0.0)
    assert found["trunk.blocks.3.0.weight"] == (0.1, 0.0)  # depthwise
    assert found["trunk.blocks.3.3.weight"] == (0.1, 4e-5)  # 1x1
    assert sum(decay > 0 for _, decay in found.values()) == 1 + 13 + 1  # stem, thirteen 1x1, head


@pytest.mark.parametrize(
    ("name", "blocks", "first", "last"),
    [
        ("mobilenetv1_100", 13, "conv_stem", "blocks.4.1"),
        ("mobilenetv2_100", 17, "conv_stem", "blocks.6.0"),
        ("repvit_m0_9", 19 + 3, "stem.conv1", "stages_3.blocks.1"),  # and what halves the maps between four stages
        ("mobileone_s1", 2 * (2 + 8 + 10 + 1), "stem", "stages_3.1"),  # a depthwise and a 1x1 one each
    ],
)
def test_the_blocks_of_timms_trunks_have_a_rate_each(name, blocks, first, last):
    trunk = trunk_from({"trunk": f"timm:{name}"})
    rate_of = {
        id(parameter): group["lr_mult"]
        for group in parameter_groups(trunk, trunk, 1.0, 0.0, layer_decay=0.5)
        for parameter in group["params"]
    }
    stem = {"mobileone_s1": 1}.get(name, 2)  # its convolution and its norm, or RepViT's two convolutions
    parts = [
        {rate_of[id(parameter)] for parameter in trunk.network.get_submodule(part).parameters()}
        for part in (first, last)
    ]
    assert parts == [{0.5 ** (blocks + stem)}, {0.5}]
    assert len(set(rate_of.values())) == blocks + stem


def test_frozen_parameters_are_in_no_group(model):
    model["trunk"].requires_grad_(False)
    assert settings_of(model, 0.0, 0.1).keys() == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 1 / 11),
        (4, 5 / 11),
        (9, 10 / 11),
        (10, 1.0),
        (55, 0.5),  # half-way from 10 to 100
        (32, 0.5 + 0.5 * math.cos(math.pi * 22 / 90)),
        (100, 0.0),
        (120, 0.0),
    ],
)
def test_rate_warms_up_and_follows_a_cosine(model, step, factor):
    optimizer, schedule = scheduled(model, 0.1, 2.0, 10, 100)
    for _ in range(step):
        optimizer.step()
        schedule.step()
    rates = {group["lr_mult"]: group["lr"] for group in optimizer.param_groups}
    assert rates[1.0] == pytest.approx(2.0 * factor, abs=1e-12)
    assert rates[0.1] == pytest.approx(0.2 * factor, abs=1e-12)


def test_warm_up_takes_a_fifth_of_a_short_run_at_most(model):
    _, schedule = scheduled(model, 1.0, 1.0, 500, 20)
    assert [schedule.lr_lambdas[0](step) for step in (0, 3, 4)] == pytest.approx([1 / 5, 4 / 5, 1.0])


def test_rates_fall_from_block_to_block_by_the_layer_decay(model):
    """Worked by hand: 0.5 * 0.8 ** k, k from 1 at the last of 13 blocks to 14 at the stem."""
    rates = {name: rate for name, (rate, _) in settings_of(model, 0.5, 0.0, layer_decay=0.8).items()}
    table = {"head.": 1.0, "trunk.blocks.12.": 0.4, "trunk.blocks.11.": 0.32, "trunk.blocks.10.": 0.256}
    table |= {"trunk.blocks.6.": 0.1048576, "trunk.blocks.0.": 0.02748779, "trunk.stem.": 0.02199023}
    for prefix, rate in table.items():
        of_prefix = [value for name, value in rates.items() if name.startswith(prefix)]
        assert of_prefix
        assert of_prefix == pytest.approx([rate] * len(of_prefix), rel=1e-6)
    assert rates.keys() == dict(model.named_parameters()).keys()


def test_the_trunk_waits_while_the_head_warms_up(model):
    """10 steps of the head alone, 10 of warm-up each: half-way of the cosine is (10 + 90) / 2 later for the trunk."""
    optimizer, schedule = scheduled(model, 1.0, 1.0, 10, 100, head_steps=10)
    of_trunk = [group["of_trunk"] for group in optimizer.param_groups]
    factors = dict(zip(of_trunk, schedule.lr_lambdas, strict=True))
    assert [factors[True](step) for step in (0, 9, 10, 19, 20, 60, 100)] == pytest.approx(
        [0.0, 0.0, 1 / 11, 10 / 11, 1.0, 0.5, 0.0]
    )
    assert [factors[False](step) for step in (0, 9, 10, 55, 100)] == pytest.approx([1 / 11, 10 / 11, 1.0, 0.5, 0.0])


def cosine(part):
    return 0.5 + 0.5 * math.cos(math.pi * part)


@pytest.mark.parametrize("total", [100, math.inf])
@pytest.mark.parametrize(
    ("step", "spent", "head", "trunk"),
    [
        (0, 0.0, 1 / 11, 0.0),
        (5, 0.1, 6 / 11, 0.0),  # half of the fifth of the time that a warm-up may take
        (1, 0.15, 0.75, 0.0),
        (1, 0.25, cosine(0.25), 0.25),  # the head's warm-up is over by the time, and the trunk's has begun
        (14, 0.3, cosine(0.3), 0.5),
        (30, 0.6, cosine(0.6), cosine(0.6)),  # the steps alone would say less
        (30, 1.0, 0.0, 0.0),
        (99, 1.2, 0.0, 0.0),
    ],
)
def test_the_rate_ends_with_the_time(model, step, spent, head, trunk, total):
    """With 10 steps of the head alone and 10 of warm-up."""
    optimizer, schedule = scheduled(model, 1.0, 1.0, 10, total, head_steps=10, spent=lambda: spent)
    factors = dict(zip([group["of_trunk"] for group in optimizer.param_groups], schedule.lr_lambdas, strict=True))
    assert factors[False](step) == pytest.approx(head, abs=1e-12)
    assert factors[True](step) == pytest.approx(trunk, abs=1e-12)


def test_of_steps_and_time_the_rate_follows_what_is_ahead(model):
    _, schedule = scheduled(model, 1.0, 1.0, 10, 100, spent=lambda: 0.2)
    assert [schedule.lr_lambdas[0](step) for step in (19, 55, 100)] == pytest.approx([cosine(0.2), 0.5, 0.0])


class Clock(Callback):
    """Seconds that pass with the batches, one each, and the rates and validations at them."""

    def __init__(self, monkeypatch, *, start=0.0, stop_at=None):
        self.now, self.stop_at, self.rates, self.validated_at = start, stop_at, [], []
        timer = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr("lightning.pytorch.callbacks.timer.time", timer)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.stop_at:
            raise KeyboardInterrupt
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.now += 1

    def on_validation_end(self, trainer, pl_module):
        self.validated_at.append(trainer.global_step)

    def on_exception(self, trainer, pl_module, exception):
        trainer.save_checkpoint("stopped.ckpt")


def test_training_for_a_time_ends_with_a_rate_of_0_and_a_validation_and_is_resumed_by_its_clock(
    classes_root, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    seconds, lr = 10, 0.02

    def fit(clock, path=None):
        data = ClassificationDataModule(root=str(classes_root), image_size=32, batch_size=4, num_workers=0)
        module = ClassificationModule(data.categories, data.input_size, width_mult=0.25, warmup_steps=2, lr=lr)
        training = trainer(
            tmp_path,
            max_epochs=-1,
            max_time={"seconds": seconds},
            limit_val_batches=1.0,
            check_val_every_n_epoch=1000,
            callbacks=[clock],
        )
        training.fit(module, data, ckpt_path=path, weights_only=True)
        return training

    clock = Clock(monkeypatch)
    training = fit(clock)
    expected = [lr / 3, lr * 2 / 3] + [lr * cosine(second / seconds) for second in range(2, seconds)]
    assert clock.rates == pytest.approx(expected)
    assert training.global_step == seconds
    assert training.optimizers[0].param_groups[0]["lr"] == 0
    assert clock.validated_at == [seconds]
    with pytest.raises(SystemExit):
        fit(Clock(monkeypatch, stop_at=7))
    resumed = Clock(monkeypatch, start=5000.0)
    fit(resumed, "stopped.ckpt")
    assert resumed.rates == pytest.approx(expected[7:])
    assert resumed.validated_at == [seconds]


def test_a_new_rate_replaces_the_one_that_was_loaded(model):
    optimizer, schedule = scheduled(model, 0.5, 1.0, 0, 100)
    for _ in range(50):
        optimizer.step()
        schedule.step()
    set_rates(optimizer, schedule, 0.01)
    for group in optimizer.param_groups:
        assert group["lr"] == pytest.approx(0.01 * group["lr_mult"] * 0.5)


def test_average_is_the_recurrence_worked_by_hand_and_counters_are_copied():
    """Decay (1 + n) / (10 + n), at most 0.5: 2/11 for the second value, 3/12 for the third, 0.5 from the ninth on."""
    ours, counter = torch.tensor([3.0]), torch.tensor(6)
    move_average([ours, counter], [torch.tensor([10.0]), torch.tensor(7)], 0.5, 0)
    assert (ours.item(), counter.item()) == (10.0, 7)
    move_average([ours, counter], [torch.tensor([0.0]), torch.tensor(8)], 0.5, 1)
    assert ours.item() == pytest.approx(10 * 2 / 11)
    assert counter.item() == 8
    move_average([ours], [torch.tensor([1.0])], 0.5, 2)
    assert ours.item() == pytest.approx(10 * 2 / 11 * 0.25 + 0.75)
    ours = torch.tensor([4.0])
    move_average([ours], [torch.tensor([0.0])], 0.5, 1000)
    assert ours.item() == 2.0


def test_the_average_is_where_the_module_is_and_its_counter_on_the_cpu():
    """Lightning makes the average first, and moves the module after that."""
    module, average = LightningModule(), EMA(0.5)
    module.layer = nn.Linear(2, 2)
    average.setup(None, module, "fit")
    module.to("meta")
    average.on_fit_start(None, module)
    assert {each.device.type for each in average._average_model.module.parameters()} == {"meta"}
    assert average._average_model.n_averaged.device.type == "cpu"


def test_the_average_takes_each_optimizer_step_once():
    """Of two batches that share a step the second changes nothing: the counter says how often it was averaged."""
    module, average = LightningModule(), EMA(0.5)
    module.layer = nn.Linear(1, 1, bias=False)
    average.setup(None, module, "fit")
    average.on_fit_start(None, module)
    for step, value in ((1, 10.0), (1, 20.0), (2, 0.0)):
        nn.init.constant_(module.layer.weight, value)
        average.on_train_batch_end(SimpleNamespace(global_step=step), module, None, None, 0)
    assert average._average_model.n_averaged == 2
    assert average._average_model.module.layer.weight.item() == pytest.approx(10 * 2 / 11)


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adamw"])
def test_a_fused_optimizer_takes_the_same_steps(name):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(5, 3) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    for layer, fused in zip(layers, (False, True), strict=True):
        groups = [{"params": [*layer.parameters()], "lr_mult": 1.0, "weight_decay": 0.01}]
        optimizer = build_optimizer(name, groups, 0.1, fused)
        assert bool(optimizer.param_groups[0].get("fused")) == (fused and name != "rmsprop")
        for _ in range(5):
            optimizer.zero_grad()
            layer(torch.arange(5.0)).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(layers[0].weight, layers[1].weight)


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("rmsprop", torch.optim.RMSprop)])
def test_rmsprop_has_the_papers_settings_and_sgd_its_momentum(model, name, kind):
    optimizer = build_optimizer(name, parameter_groups(model, model["trunk"], 1.0, 0.0), 0.004)
    assert isinstance(optimizer, kind)
    assert optimizer.defaults["momentum"] == 0.9
    if name == "rmsprop":
        assert (optimizer.defaults["alpha"], optimizer.defaults["eps"]) == (0.9, 1.0)
