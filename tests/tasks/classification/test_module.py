import contextlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import Save, data_module, fit_eager_and_compiled, same, trainer
from lightning.pytorch.callbacks import LambdaCallback
from PIL import Image
from sklearn.metrics import recall_score

from backbone import InputError, normalize
from data import imagenet
from data.classification import ClassificationDataModule
from data.records import Records
from tasks.classification.head import ClassificationHead
from tasks.classification.metrics import fit_temperature
from tasks.classification.module import ClassificationModule
from tasks.runs import read_checkpoint

SMALL = {"width_mult": 0.25, "warmup_steps": 2, "lr": 0.01}
OF_DATA = ("num_workers", "batch_size", "image_size", "augment", "random_erasing", "views", "balanced")


def build(root, **settings):
    data = {"image_size": 32, "batch_size": 4, "num_workers": 0, "random_erasing": 0.5}
    data |= {name: settings.pop(name) for name in OF_DATA if name in settings}
    datamodule = ClassificationDataModule(root=str(root), **data)
    torch.manual_seed(0)
    module = ClassificationModule(datamodule.categories, datamodule.input_size, **{**SMALL, **settings})
    return module, datamodule


def saved(path, module, datamodule, **settings):
    """The path of a checkpoint after a fit with these settings of the trainer."""
    running = trainer(path.parent, **settings)
    running.fit(module, datamodule)
    running.save_checkpoint(path)
    return str(path)


# dropout and mixing draw numbers too: a resumed run must draw the same ones
DRAWING = {"dropout": 0.3, "mixup_alpha": 0.2, "cutmix_alpha": 1.0, "head_steps": 1}


@pytest.fixture(scope="module")
def four_epochs(classes_root, tmp_path_factory):
    """Weights after four epochs without a stop, no workers."""
    module, datamodule = build(classes_root, **DRAWING)
    trainer(tmp_path_factory.mktemp("whole")).fit(module, datamodule)
    return module.state_dict()


@pytest.mark.slow
def test_a_compiled_trunk_takes_the_same_steps_and_leaves_the_same_checkpoint(classes_root, tmp_path, monkeypatch):
    fit_eager_and_compiled(lambda **options: build(classes_root, head_steps=1, **options), tmp_path, monkeypatch)


def test_compiling_needs_a_compiler(classes_root, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    for compile in (False, "auto"):
        module, datamodule = build(classes_root, compile=compile)
        datamodule.setup("fit")
        module.prepare(datamodule)
    module, datamodule = build(classes_root, compile=True)
    with pytest.raises(InputError, match=r"--model\.compile true"):
        module.prepare(datamodule)


def test_two_workers_give_the_weights_of_none_bit_for_bit(classes_root, four_epochs, tmp_path):
    module, datamodule = build(classes_root, num_workers=2, **DRAWING)
    trainer(tmp_path).fit(module, datamodule)
    assert same(module.state_dict(), four_epochs)


@pytest.mark.parametrize(("epoch", "batch"), [(1, None), (2, 2)])  # after two epochs, and within the third
def test_a_resumed_run_ends_with_the_same_weights_bit_for_bit(classes_root, four_epochs, tmp_path, epoch, batch):
    path = tmp_path / "broken_off.ckpt"
    module, datamodule = build(classes_root, **DRAWING)
    with contextlib.nullcontext() if batch is None else pytest.raises(SystemExit):
        trainer(tmp_path, callbacks=[Save(path, epoch=epoch, batch=batch)]).fit(module, datamodule)
    assert not same(module.state_dict(), four_epochs)
    module, datamodule = build(classes_root, **DRAWING)
    torch.rand(7)  # the global generator stands elsewhere
    trainer(tmp_path).fit(module, datamodule, ckpt_path=path, weights_only=True)
    assert same(module.state_dict(), four_epochs)


def weights_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_the_head_warms_up_alone_and_then_the_trunk_joins_in(classes_root, tmp_path):
    trunks, norms_learn = [], []

    def see(trainer, module, *_):
        trunks.append(weights_of(module.trunk))
        norms_learn.append(module.trunk.stem[1].training)

    module, datamodule = build(classes_root, head_steps=2, ema_decay=0.0)  # 12 steps: 2 are at most a fifth
    weight, mean = "blocks.12.3.weight", "stem.1.running_mean"
    before, head = weights_of(module.trunk)[weight], weights_of(module.head)["layers.linear.weight"]
    trainer(tmp_path, callbacks=[LambdaCallback(on_train_batch_end=see)]).fit(module, datamodule)
    assert norms_learn == [False, False] + [True] * 10
    assert all(torch.equal(trunk[weight], before) for trunk in trunks[:2])
    assert torch.equal(trunks[0][mean], trunks[1][mean])
    assert not torch.equal(trunks[3][weight], before)
    assert not torch.equal(trunks[2][mean], trunks[1][mean])
    assert not torch.equal(module.head.layers.linear.weight, head)


def test_a_frozen_trunk_keeps_weights_and_statistics_and_the_head_learns(classes_root, tmp_path):
    module, datamodule = build(classes_root, trunk_lr_mult=0.0)
    before, head = weights_of(module.trunk), weights_of(module.head)["layers.linear.weight"]
    trainer(tmp_path).fit(module, datamodule)
    assert all(torch.equal(value, before[name]) for name, value in module.trunk.state_dict().items())
    assert not torch.equal(module.head.layers.linear.weight, head)


def test_frozen_norms_keep_their_statistics_while_all_weights_learn(classes_root, tmp_path):
    module, datamodule = build(classes_root, freeze_norms=True, ema_decay=0.0)
    before = weights_of(module.trunk)
    trainer(tmp_path, limit_val_batches=1).fit(module, datamodule)
    after = module.trunk.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in after if "running" in name or "tracked" in name)
    # the last block's; from random weights without norms that follow, no more reaches the blocks before it
    assert not any(torch.equal(after[name], before[name]) for name in ("blocks.12.3.weight", "blocks.12.4.weight"))


def test_labels_are_those_of_the_folders_on_every_way_to_the_loss(classes_root, tmp_path):
    module, datamodule = build(classes_root, augment=False)
    datamodule.setup("fit")
    for batch in datamodule.train_dataloader():
        for label, position in zip(batch["labels"].tolist(), batch["positions"].tolist(), strict=True):
            assert Path(datamodule.file("train", position)).parent.name == module.head.names[label]


def outputs(module, loader):
    with torch.no_grad():
        return torch.cat([module.eval()(batch["images"]) for batch in loader])


def test_the_temperature_is_fitted_on_validation_and_travels_with_the_weights(classes_root, tmp_path):
    module, datamodule = build(classes_root)
    path = saved(tmp_path / "end.ckpt", module, datamodule, max_epochs=2, limit_val_batches=1.0)
    labels = np.concatenate([batch["labels"] for batch in datamodule.val_dataloader()])
    expected = fit_temperature(outputs(module, datamodule.val_dataloader()).numpy(), labels)
    assert module.head.temperature == pytest.approx(expected, rel=1e-3)
    assert read_checkpoint(path, "classification")["head"]["temperature"] == module.head.temperature
    fresh, datamodule = build(classes_root)
    assert fresh.head.temperature is None
    trainer(tmp_path).test(fresh, datamodule, ckpt_path=path, weights_only=True, verbose=False)
    assert fresh.head.temperature == module.head.temperature


def test_a_loss_that_is_not_finite_stops_and_names_the_images(classes_root, tmp_path):
    module, datamodule = build(classes_root)
    torch.nn.init.constant_(module.head.layers.linear.bias, float("nan"))
    with pytest.raises(InputError, match=r"the loss is nan at step 0 on images \['train/"):
        trainer(tmp_path).fit(module, datamodule)


def test_accumulated_batches_draw_each_their_own(classes_root, tmp_path, monkeypatch):
    seen = []
    module, datamodule = build(classes_root, dropout=0.5)
    classify = module.head.layers.classify
    monkeypatch.setattr(module.head.layers, "classify", lambda x: seen.append(torch.rand(1).item()) or classify(x))
    trainer(tmp_path, max_epochs=2, accumulate_grad_batches=3).fit(module, datamodule)
    assert len(seen) == len(set(seen)) == 6


@pytest.mark.slow
def test_it_overfits_twelve_images(classes_root, tmp_path):
    module, datamodule = build(
        classes_root, augment=False, random_erasing=0.0, batch_size=12, image_size=64, ema_decay=0.9, lr=0.005
    )
    # enough steps for the norms' averages to forget where they began, 0.97 ** 300
    trainer(tmp_path, max_epochs=300).fit(module, datamodule)
    datamodule.hparams["test_split"] = "train"
    [logged] = trainer(tmp_path).test(module, datamodule, verbose=False)
    assert logged["test/top1"] == 1.0


# --- with a teacher ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(classes_root, tmp_path_factory):
    """A checkpoint of a net that has other logits for each image, in evaluation too."""
    folder = tmp_path_factory.mktemp("teacher")
    module, datamodule = build(classes_root)
    datamodule.setup("fit")
    torch.nn.init.normal_(module.head.layers.linear.weight)
    for norm in (part for part in module.modules() if isinstance(part, torch.nn.BatchNorm2d)):
        norm.momentum = 1.0  # a few steps would leave the averages where they began, and features of nearly 0
    with torch.no_grad():
        module.train()(torch.cat([batch["images"] for batch in datamodule.train_dataloader()]))
        logits = module.eval()(next(iter(datamodule.val_dataloader()))["images"])
    assert logits.std(0).min() > 0.1
    return saved(folder / "teacher.ckpt", module, datamodule, max_epochs=1, limit_train_batches=0)


def distilled(root, folder, **settings):
    losses = []
    watch = LambdaCallback(on_train_batch_end=lambda *args: losses.append(args[2]["loss"].item()))
    module, datamodule = build(root, **settings)
    trainer(folder, callbacks=[watch]).fit(module, datamodule)
    return module.state_dict(), losses


def test_a_student_that_is_its_teacher_has_nothing_to_learn(classes_root, teacher, tmp_path):
    """Its norms and dropout as in evaluation, as its teacher's are."""
    for distance, temperature in (("kl", 2.0), ("mse_logits", 1.0)):
        module, datamodule = build(classes_root, teacher=teacher, distance=distance, temperature=temperature)
        module.load_state_dict(torch.load(teacher, weights_only=True)["state_dict"])
        datamodule.setup("fit")
        module.prepare(datamodule)
        module.trainer = trainer(tmp_path)
        module.trainer.datamodule = datamodule
        batch = next(iter(datamodule.train_dataloader()))
        logits = module.eval()(batch["images"])
        logits.retain_grad()  # the net's own gradients are its rounding times weights of any size
        losses = module.losses(logits, batch)
        assert losses.keys() == {"teacher"}
        losses["teacher"].backward()
        rounding = (1e-6 * logits.detach().abs().max().item()) ** 2  # of logits that may be large
        assert losses["teacher"].item() == pytest.approx(0.0, abs=1e-9 + rounding)
        assert logits.grad.abs().max().item() < 1e-6


class Shuffled(ClassificationDataModule):
    """With the training images' labels exchanged."""

    def setup(self, stage):
        super().setup(stage)
        images = self._splits["train"]
        self._splits["train"] = images.with_columns(labels=np.roll(images["labels"], 2))


@pytest.mark.slow
def test_with_a_teacher_alone_the_labels_of_mixed_images_change_nothing(classes_root, teacher, tmp_path, monkeypatch):
    for weight, alike in ((1.0, True), (0.5, False)):  # the second, or the first would show nothing
        settings = {"teacher": teacher, "teacher_weight": weight, "mixup_alpha": 0.5, "cutmix_alpha": 1.0}
        plain, _ = distilled(classes_root, tmp_path, **settings)
        with monkeypatch.context() as patch:
            patch.setitem(globals(), "ClassificationDataModule", Shuffled)
            shuffled, _ = distilled(classes_root, tmp_path, **settings)
        assert same(plain, shuffled) == alike


@pytest.mark.parametrize("mixing", [{"mixup_alpha": 0.5}, {"cutmix_alpha": 1.0}])
def test_student_and_teacher_see_the_very_same_mixed_image(classes_root, teacher, tmp_path, monkeypatch, mixing):
    module, datamodule = build(classes_root, teacher=teacher, **mixing)
    datamodule.setup("fit")
    module.prepare(datamodule)
    by_student, by_teacher, given = [], [], []
    features, ask, mix = module.trunk.features, module.teacher._outputs, module.mix
    monkeypatch.setattr(module.trunk, "features", lambda x: by_student.append(x) or features(x))
    monkeypatch.setattr(module.teacher, "_outputs", lambda x: by_teacher.append(x) or ask(x))
    monkeypatch.setattr(module, "mix", lambda batch: given.append(batch["images"]) or mix(batch))
    trainer(tmp_path, max_epochs=1).fit(module, datamodule)
    assert len(by_student) == len(by_teacher) == len(given) == 3
    for student, seen, images in zip(by_student, by_teacher, given, strict=True):
        assert seen.dtype == torch.uint8
        assert torch.equal(student, normalize(seen, module.trunk.preprocessing))
        assert not torch.equal(seen, images)
        between = [torch.minimum(images, images.roll(1, 0)), torch.maximum(images, images.roll(1, 0))]
        assert ((seen >= between[0]) & (seen <= between[1])).all()  # each with the one before it


def renamed(teacher, path, names, rows):
    """A copy of a checkpoint whose classes have other names, and the head's rows another order."""
    found = torch.load(teacher, weights_only=True)
    found["head"]["names"] = list(names)
    for name in ("head.layers.linear.weight", "head.layers.linear.bias"):
        found["state_dict"][name] = found["state_dict"][name][rows]
    torch.save(found, path)
    return str(path)


def test_classes_are_found_by_name_and_others_are_refused_without_a_map(classes_root, teacher, tmp_path):
    _, losses = distilled(classes_root, tmp_path, teacher=teacher)
    turned = renamed(teacher, tmp_path / "turned.ckpt", ["Disc", "bar", "CROSS"], [2, 0, 1])
    _, of_turned = distilled(classes_root, tmp_path, teacher=turned)
    assert of_turned == pytest.approx(losses, abs=1e-6)
    foreign = renamed(teacher, tmp_path / "foreign.ckpt", ["balk", "kreuz", "scheibe"], [0, 1, 2])
    with pytest.raises(InputError, match=r"'bar'.*balk, kreuz, scheibe"):
        distilled(classes_root, tmp_path, teacher=foreign)
    _, of_mapped = distilled(classes_root, tmp_path, teacher=[{"source": foreign, "names": ["bar", "cross", "disc"]}])
    assert of_mapped == pytest.approx(losses, abs=1e-6)


def test_an_imagenet_head_learns_all_of_imagenets_classes(write_classes, tmp_path):
    """The student's outputs are ImageNet's 1,000 then, whatever few the data have, and so are the teacher's."""
    root = write_classes(tmp_path / "data", {"train": 4, "val": 2})
    for ours, theirs in (("bar", "beagle"), ("cross", "ox"), ("disc", "hare")):
        for split in ("train", "val"):
            (root / split / ours).rename(root / split / theirs)
    sample, _ = build(root)
    options = {"numerics": sample.trunk.settings["numerics"], "head": "imagenet"}
    path = saved(tmp_path / "thousand.ckpt", *build(root, **options), max_epochs=1)
    module, datamodule = build(root, teacher=path, **options)
    module.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    datamodule.setup("fit")
    module.prepare(datamodule)
    assert module.teacher.names == imagenet.class_names()
    batch = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(module.teacher(batch), module.eval()(batch).detach())
    few, datamodule = build(root, teacher=path)  # and three of them teach a head of three
    datamodule.setup("fit")
    few.prepare(datamodule)
    columns = [imagenet.class_names().index(name) for name in ("beagle", "hare", "ox")]
    torch.testing.assert_close(few.teacher(batch), module(batch)[:, columns].detach())


def test_a_student_is_compared_with_its_teacher_whose_figures_are_its_own(classes_root, teacher, tmp_path):
    of_teacher, datamodule = build(classes_root)
    [own] = trainer(tmp_path).test(of_teacher, datamodule, ckpt_path=teacher, weights_only=True, verbose=False)
    assert "test/teacher_kl" not in own
    module, datamodule = build(classes_root, teacher=teacher)
    module.load_state_dict(of_teacher.state_dict())
    [logged] = trainer(tmp_path).test(module, datamodule, verbose=False)
    assert logged["test/teacher_agreement"] == 1.0
    assert logged["test/teacher_kl"] == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        module.head.layers.linear.weight[0] += 0.5
    [logged] = trainer(tmp_path).test(module, datamodule, verbose=False)
    student, wanted = (outputs(one, datamodule.test_dataloader()) for one in (module, of_teacher))
    assert logged["test/teacher_top1"] == own["test/top1"]
    assert logged["test/teacher_agreement"] == pytest.approx((student.argmax(1) == wanted.argmax(1)).float().mean())
    kl = (wanted.softmax(1) * (wanted.log_softmax(1) - student.log_softmax(1))).sum(1).mean().item()
    assert kl > 0.01
    assert logged["test/teacher_kl"] == pytest.approx(kl, rel=1e-4)


def a_head(weights=None, smoothing=0.0):
    head = ClassificationHead({32: 8}, ("bar", "cross", "disc"), label_smoothing=smoothing)
    head.class_weights = None if weights is None else torch.tensor(weights)
    return head


def test_with_class_weights_every_label_counts_by_its_class_however_it_is_mixed_or_smoothed():
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    labels, weights = torch.tensor([0, 0, 0, 1, 0, 2, 0]), [0.5, 2.0, 30.0]
    of_torch = F.cross_entropy(logits, labels, weight=torch.tensor(weights), reduction="sum") / 7
    assert a_head(weights).loss(logits, {"labels": labels})["labels"].item() == pytest.approx(of_torch.item())

    mixed = torch.tensor([[0.7, 0.3, 0], [1, 0, 0], [0.5, 0, 0.5], [0, 1, 0], [0, 0.1, 0.9], [0, 0, 1], [0.9, 0, 0.1]])
    for targets, smoothing in ((F.one_hot(labels), 0.1), (mixed, 0.0), (mixed, 0.2)):
        expected = 0.0
        for scores, shares in zip(logits.log_softmax(1).tolist(), targets.tolist(), strict=True):
            for label, share in enumerate(shares):
                smoothed = (1 - smoothing) * scores[label] + smoothing * sum(scores) / 3
                expected -= share * weights[label] * smoothed / 7
        batch = {"targets": targets.float()} if targets is mixed else {"labels": labels}
        loss = a_head(weights, smoothing).loss(logits, batch)["labels"]
        assert loss.item() == pytest.approx(expected, rel=1e-5)
        plain = a_head(None, smoothing).loss(logits, batch)["labels"]
        assert a_head([1.0] * 3, smoothing).loss(logits, batch)["labels"].item() == pytest.approx(plain.item())


@pytest.fixture(scope="module")
def uneven_root(write_classes, tmp_path_factory):
    """12 bars, 4 crosses and 1 disc for training."""
    root = write_classes(tmp_path_factory.mktemp("data") / "uneven", {"train": 12, "val": 2})
    for name, kept in (("cross", 4), ("disc", 1)):
        for path in sorted((root / "train" / name).iterdir())[kept:]:
            path.unlink()
    return root


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"class_weights": "balanced"}, {"balanced": True, "views": 3}])
def test_a_resumed_run_is_balanced_as_an_uninterrupted_one(uneven_root, tmp_path, options):
    def start():
        return build(uneven_root, **DRAWING, **options)

    whole, data = start()
    trainer(tmp_path).fit(whole, data)
    path = tmp_path / "broken_off.ckpt"
    with pytest.raises(SystemExit):
        trainer(tmp_path, callbacks=[Save(path, epoch=2, batch=2)]).fit(*start())
    resumed, data = start()
    trainer(tmp_path).fit(resumed, data, ckpt_path=path, weights_only=True)
    assert same(resumed.state_dict(), whole.state_dict())
    plain, data = build(uneven_root, **DRAWING, views=options.get("views", 0))
    trainer(tmp_path).fit(plain, data)
    assert not same(plain.state_dict(), whole.state_dict())
    weights = resumed.head.class_weights
    assert weights is None if "balanced" in options else weights.tolist() == pytest.approx([17 / 36, 17 / 12, 17 / 3])
    assert "class_weights" not in "".join(resumed.state_dict())


@pytest.mark.slow
def test_a_cache_has_the_logits_of_every_image_that_is_drawn_again(uneven_root, teacher, tmp_path):
    options = {"teacher": teacher, "balanced": True, "views": 3, "lr": 1e-7}
    _, losses = distilled(uneven_root, tmp_path, **options)
    _, cached = distilled(uneven_root, tmp_path, cache=str(tmp_path / "cache"), **options)
    assert cached == pytest.approx(losses, rel=1e-2, abs=1e-4)  # float16
    assert len({round(loss, 5) for loss in losses}) > 6  # or the order would not matter


def test_imagenets_outputs_have_the_weights_of_the_classes_that_are_theirs():
    head = ClassificationHead({32: 8}, ("beagle", "tench"), imagenet_classes=True, weighted=True)
    labels = np.repeat([0, 1], [30, 10])
    records = Records(Path(), np.zeros(40, "S1"), {"labels": labels}, classes=("beagle", "tench"))
    head.start(SimpleNamespace(hparams={"balanced": False}, records=lambda split: records))
    weights = head.class_weights.tolist()
    assert (weights[162], weights[0]) == (pytest.approx(40 / 60), 2)
    assert {weight for i, weight in enumerate(weights) if i not in (0, 162)} == {1}


def test_class_weights_are_refused_where_no_labels_are_used_or_sampling_balances_them(uneven_root, tmp_path):
    for settings, message in (
        ({"balanced": True}, "--model.class_weights balanced and --data.balanced true"),
        ({"teacher": "no.ckpt"}, "--model.class_weights is balanced; it must be none"),
    ):
        module, data = build(uneven_root, class_weights="balanced", **settings)
        with pytest.raises(InputError, match=message):
            trainer(tmp_path).fit(module, data)


def recalls(root, seed, *, weighted=False, balanced=False):
    """Of each class, of a linear classifier of the mean colour that is trained as a fit trains."""
    options = {"augment": False, "balanced": balanced, "seed": seed}
    data = data_module(ClassificationDataModule, root, "fit", **options)
    torch.manual_seed(seed)
    head = ClassificationHead({32: 3}, data.categories.values(), weighted=weighted)
    head.start(data)
    loader, optimizer = data.train_dataloader(), torch.optim.Adam(head.parameters(), 0.3)
    samples = [loader.dataset[0, i] for i in range(len(loader.dataset))]  # opened once
    for epoch in range(12):
        loader.sampler.set_epoch(epoch)
        order = [i for _, i in loader.sampler]
        for start in range(0, len(order), 101):
            batch = loader.collate_fn([samples[i] for i in order[start : start + 101]])
            optimizer.zero_grad()
            head.loss(head({32: batch["images"] / 16 - 8}), batch)["labels"].backward()
            optimizer.step()
    with torch.no_grad():
        found = [(head({32: batch["images"] / 16 - 8}).argmax(1), batch["labels"]) for batch in data.val_dataloader()]
    said, true = map(torch.cat, zip(*found, strict=True))
    return recall_score(true, said, average=None)


@pytest.mark.slow
def test_of_100_to_1_the_rare_class_is_found_with_weights_and_with_balanced_sampling(tmp_path):
    figures = {"plain": [], "weighted": [], "balanced": []}
    for seed in range(3):
        generator, root = np.random.default_rng(seed), tmp_path / str(seed)
        for split, counts in (("train", (400, 4)), ("val", (60, 60))):
            for name, count, red in zip(("often", "seldom"), counts, (115, 150), strict=True):
                (root / split / name).mkdir(parents=True)
                for i in range(count):
                    color = tuple(generator.normal((red, 128, 128), 15).astype(int).tolist())
                    Image.new("RGB", (32, 32), color).save(root / split / name / f"{i}.png")
        for way, of_seed in figures.items():
            of_seed.append(recalls(root, seed, **({} if way == "plain" else {way: True})))
    mean = {way: np.mean(of_seeds, axis=0) for way, of_seeds in figures.items()}
    assert mean["plain"][1] < 0.4  # of the rare class
    for way in ("weighted", "balanced"):
        assert mean[way].mean() > mean["plain"].mean() + 0.1  # the balanced accuracy
        assert all(own[1] > plain[1] + 0.2 for own, plain in zip(figures[way], figures["plain"], strict=True))
