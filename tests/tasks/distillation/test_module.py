import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import Save, fitted, same, trainer

from backbone.errors import InputError
from data.attributes import AttributesDataModule
from tasks.distillation.losses import cosine, masked_bce
from tasks.distillation.module import DistilledLogitsModule, DistilledModule, check_distillation
from tasks.head import Head
from tasks.pooled import PooledLinear

NONE = {"teacher": None, "teacher_weight": None, "distance": "kl", "cache": None, "cache_only": False}


class TinyHead(Head):
    """Of conftest's faces whether there is a disc, a bar and, which nobody said, a cross."""

    monitor, names = "teacher", ("disc", "bar", "cross")

    def __init__(self, channels):
        super().__init__()
        self.layers = PooledLinear(channels, len(self.names))

    @property
    def state(self) -> dict[str, Any]:
        return {"names": list(self.names)}

    @state.setter
    def state(self, state):
        pass

    def forward(self, maps):
        return self.layers(maps)

    def loss(self, outputs, batch):
        return {"labels": masked_bce(outputs[:, :2], batch["attributes"])}

    def update(self, outputs, batch):
        teacher = batch.get("teacher", torch.full_like(outputs, math.nan))
        self.predictions.add(batch["positions"], teacher.cpu().numpy())

    def compute(self, records, split):
        positions, [rows], _ = self.predictions.take()
        self.compared = dict(zip(positions.tolist(), torch.from_numpy(rows), strict=True))
        return {"teacher": float(rows.mean())}


class Student(DistilledLogitsModule):
    task, kind = "tiny", "sigmoid"

    def __init__(self, input_size: tuple[int, int], **options: Any) -> None:
        super().__init__(**options)
        self.attach(TinyHead(self.trunk.channels))


class OfClasses(Student):
    kind = "softmax"


class Embedder(DistilledModule):
    task, kind, compared_in_fit = "tiny", "embeddings", True

    def __init__(self, input_size: tuple[int, int], distance: str = "cosine", **options: Any) -> None:
        super().__init__(**options)
        self.attach(TinyHead(self.trunk.channels))

    def distance(self, outputs, targets):
        return cosine(outputs, targets)


def build(root, student=Student, views=0, workers=0, **options):
    small = {"image_size": 32, "batch_size": 4, "num_workers": workers, "min_crop_area": 0.6}
    data = AttributesDataModule(root=str(root), views=views, **small)
    torch.manual_seed(0)
    options = {"width_mult": 0.25, "warmup_steps": 2, "lr": 0.01, **options}
    return student(data.input_size, **options), data


def fit(root, folder, epochs=2, limit_val_batches=0, **options):
    student, data = build(root, **options)
    _, losses = fitted(folder, student, data, max_epochs=epochs, limit_val_batches=limit_val_batches)
    return student, losses


@pytest.fixture(scope="module")
def teacher(faces_root, tmp_path_factory):
    """A checkpoint of a net trained on labels for an epoch."""
    folder = tmp_path_factory.mktemp("teacher")
    training, _ = fitted(folder, *build(faces_root), max_epochs=1)
    training.save_checkpoint(folder / "teacher.ckpt")
    return str(folder / "teacher.ckpt")


# --- in fits ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_cached_logits_give_the_losses_of_the_running_teacher(faces_root, teacher, tmp_path, workers):
    """At a rate so small that float16's rounding does not grow from step to step."""
    options = {"teacher_weight": 0.7, "temperature": 2.0, "views": 2, "workers": workers, "lr": 1e-7, "epochs": 4}
    options["teacher"] = teacher
    _, online = fit(faces_root, tmp_path, **options)
    options["cache"] = str(tmp_path / "cache")
    cached, losses = fit(faces_root, tmp_path, **options)
    assert losses == pytest.approx(online, rel=1e-2, abs=1e-4)  # float16
    assert len({round(loss, 5) for loss in online}) > 6  # or the order would not matter
    alone, again = fit(faces_root, tmp_path, **{**options, "teacher": None, "cache_only": True})
    assert again == losses
    assert same(cached.state_dict(), alone.state_dict())


@pytest.mark.slow
def test_a_resumed_run_with_a_cache_and_no_labels_ends_with_the_same_weights(faces_root, teacher, tmp_path):
    options = {"teacher": teacher, "views": 2, "cache": str(tmp_path / "cache")}
    whole, _ = fit(faces_root, tmp_path, **options)
    student, data = build(faces_root, **options)
    trainer(tmp_path, callbacks=[Save(tmp_path / "half.ckpt", epoch=0)], max_epochs=2).fit(student, data)
    student, data = build(faces_root, **options)
    student.head.loss = None  # all weight is the teacher's
    training, _ = fitted(tmp_path, student, data, ckpt_path=tmp_path / "half.ckpt", max_epochs=2)
    assert same(student.state_dict(), whole.state_dict())
    training.save_checkpoint(tmp_path / "student.ckpt")
    alone, _ = build(faces_root)  # in the checkpoint and the optimiser is no teacher
    state = torch.load(tmp_path / "student.ckpt", weights_only=True)["state_dict"]
    assert state.keys() == alone.state_dict().keys()
    optimised = sum(p.numel() for group in training.optimizers[0].param_groups for p in group["params"])
    assert optimised == sum(p.numel() for p in alone.parameters())
    for change, field in ({"views": 3}, "views"), ({"teacher": str(tmp_path / "student.ckpt")}, "teacher"):
        with pytest.raises(InputError, match=f"something else: its {field} is"):
            fit(faces_root, tmp_path, **{**options, **change})


def test_the_teacher_is_compared_with_after_a_fit_and_the_teacher_of_embeddings_within_it(
    faces_root, teacher, tmp_path, capsys
):
    student, _ = fit(faces_root, tmp_path, teacher=teacher, limit_val_batches=1.0)
    assert all(row.isnan().all() for row in student.head.compared.values())  # it would cost time in every epoch
    data = build(faces_root)[1]
    for command, split in (("validate", "val"), ("test", "test")):
        getattr(trainer(tmp_path, limit_val_batches=1.0), command)(student, data, verbose=False)
        for position, logits in student.head.compared.items():
            torch.testing.assert_close(logits, student.teacher(data.pixels(split, position))[0])
    student.teacher, student.hparams["teacher"] = None, "gone.ckpt"
    trainer(tmp_path).test(student, data, verbose=False)
    assert all(row.isnan().all() for row in student.head.compared.values())
    assert "gone.ckpt does not exist" in capsys.readouterr().out

    embedder, data = build(faces_root, Embedder, teacher=teacher, ema_decay=0.0)
    asked = []
    data.setup("fit")
    embedder.prepare(data)
    assert embedder.teacher_size == 1024 // 4
    embedder.distance = lambda outputs, targets: cosine(outputs, targets[:, :3])
    embedder.teacher.network.register_forward_pre_hook(lambda module, given: asked.append(len(given[0])))
    trainer(tmp_path, max_epochs=3, limit_val_batches=1.0).fit(embedder, data)
    assert sum(asked) == 3 * 8 + 6  # the training images in each epoch, the validation images once
    for position, embedding in embedder.head.compared.items():
        torch.testing.assert_close(embedding, embedder.teacher(data.pixels("val", position))[0])


# --- step by step -----------------------------------------------------------------------------------------------------


@pytest.fixture
def functions(tmp_path, monkeypatch):
    """The name of a module with teachers: `f` says ln 1, ln 2, ln 5 of every image, `g` the same backwards."""
    (tmp_path / "teaching.py").write_text(
        "import torch\n\n"
        "def f(x):\n    return torch.tensor([1.0, 2, 5]).log().expand(len(x), 3)\n\n"
        "def g(x):\n    return f(x).flip(1)\n\n"
        "asked = []\n\n"
        "def listens(x):\n    asked.extend(x)\n    return f(x)\n\n"
        "def of_four(x):\n    return f(x)[:, [0, 0, 1, 2]]\n\n"
        "def mean(x):\n    return x.float().mean((2, 3)) - 300\n\n"
        "def white_is_nan(x):\n    return torch.where(x[:, :1, 0, 0] == 255, torch.nan, f(x))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "teaching", raising=False)
    return "teaching"


def start(root, student=Student, fn="fit", **options):
    """A module as at the start of a fit, or of a test, with its trainer's data."""
    module, data = build(root, student, **options)
    data.setup(fn)
    module._trainer = SimpleNamespace(datamodule=data, state=SimpleNamespace(fn=fn), testing=fn == "test")
    if fn == "fit":
        module.prepare(data)
        module.on_fit_start()
    else:
        module.on_test_start()
    return module


def batch_of(grey=0, count=2):
    images = torch.full((count, 3, 32, 32), grey, dtype=torch.uint8)
    labels = torch.ones(count, 2, dtype=torch.int8)
    return {"images": images, "positions": torch.arange(count), "attributes": labels}


def losses(module, batch=None):
    return {name: loss.item() for name, loss in module.losses(torch.zeros(2, 3), batch or batch_of()).items()}


KL = sum(p * math.log(3 * p) for p in (1 / 8, 2 / 8, 5 / 8))  # of the teacher's classes from a third each
# yes or no, each by itself: 1/2, 2/3 and 5/6 beside 1/2
YES_NO = sum(p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)) for p in (1 / 2, 2 / 3, 5 / 6)) / 3


@pytest.mark.parametrize(
    ("student", "options", "expected"),
    [
        (OfClasses, {}, {"teacher": KL}),
        (Student, {}, {"teacher": YES_NO}),
        (Student, {"teacher_weight": 0.75}, {"teacher": 0.75 * YES_NO, "labels": 0.25 * math.log(2)}),
        (Student, {"distance": "mse_logits"}, {"teacher": (math.log(2) ** 2 + math.log(5) ** 2) / 3}),
        # at T = 1/2 the probabilities are (1, 4, 25) / 30
        (OfClasses, {"temperature": 0.5}, {"teacher": sum(p * math.log(3 * p) for p in (1 / 30, 4 / 30, 25 / 30)) / 4}),
    ],
)
def test_the_parts_of_the_loss_worked_by_hand(faces_root, functions, student, options, expected):
    """The teacher's classes are (1/8, 2/8, 5/8); the student's logits are 0."""
    module = start(faces_root, student, teacher=f"{functions}:f", **options)
    assert losses(module) == pytest.approx(expected, rel=1e-5)


def test_a_teacher_without_weight_is_not_asked_and_none_is_labels_alone(faces_root, functions, tmp_path):
    unused = {"teacher": f"{functions}:listens", "teacher_weight": 0.0, "views": 2, "cache": str(tmp_path / "cache")}
    for options in (unused, {}):
        assert losses(start(faces_root, **options)) == {"labels": pytest.approx(math.log(2))}
    asked = __import__(functions).asked
    assert asked  # about noise, before the fit
    assert all(image.any() for image in asked)  # and never about an image, which are all black
    assert not (tmp_path / "cache").exists()


def test_student_and_teacher_see_the_same_mixed_images(faces_root, functions):
    module = start(faces_root, teacher=f"{functions}:mean", distance="mse_logits", mixup_alpha=0.5)
    black, white = batch_of(0, 1), batch_of(255, 1)
    batch = {name: torch.cat([black[name], white[name]]) for name in black}
    torch.manual_seed(0)
    mixed = module.mix(batch)
    means = mixed["images"].float().mean((2, 3))
    assert ((means > 1) & (means < 254)).all()
    assert losses(module, mixed)["teacher"] == pytest.approx((means - 300).square().mean().item(), rel=1e-5)


def test_a_teacher_that_cannot_be_used_is_found_before_the_fit(faces_root, functions):
    for teacher, message in ((f"{functions}:of_four", "4 numbers for 3 names"), ("math:sqrt", "32 x 32 px")):
        with pytest.raises(InputError, match=message):
            start(faces_root, teacher=teacher)


def test_an_output_that_is_not_finite_names_its_file_wherever_it_is_asked_for(faces_root, functions):
    with pytest.raises(InputError, match=r"image .*000001\.jpg"):
        losses(start(faces_root, teacher=f"{functions}:white_is_nan"), batch_of(255))
    module = start(faces_root, fn="test", teacher=f"{functions}:white_is_nan")
    with pytest.raises(InputError, match=r"image .*000015\.jpg"):  # the test images begin there
        module.evaluated(batch_of(255))


def test_a_cache_alone_serves_its_own_outputs_and_its_own_teacher(faces_root, functions, tmp_path, capsys, monkeypatch):
    options = {"cache": str(tmp_path / "cache"), "views": 2}
    start(faces_root, teacher=f"{functions}:f", **options)
    options["cache_only"] = True
    batch = {**batch_of(), "view": torch.tensor([0, 1])}
    for teacher in (None, f"{functions}:f"):
        alone = start(faces_root, teacher=teacher, **options)
        assert alone.teacher is None  # nothing of it is kept in memory
        assert losses(alone, batch) == {"teacher": pytest.approx(YES_NO, rel=1e-3)}
    assert "without being compared" not in capsys.readouterr().out
    start(faces_root, teacher="gone.ckpt", **options)  # where the teacher cannot be loaded any more, that is said
    assert "gone.ckpt does not exist" in capsys.readouterr().out
    with pytest.raises(InputError, match="its teacher is"):
        start(faces_root, teacher=f"{functions}:g", **options)
    monkeypatch.setattr(TinyHead, "names", ("bar", "disc", "cross"))
    with pytest.raises(InputError, match="its names is"):
        start(faces_root, **options)


@pytest.mark.parametrize(
    ("options", "views", "field"),
    [
        ({"cache": "c"}, 2, "cache is c"),
        ({"teacher_weight": 0.9}, 0, "teacher_weight is 0.9"),
        ({"cache_only": True}, 2, "cache_only is True"),
        ({"teacher": "t", "cache_only": True}, 2, "cache_only is True"),
        *(({"teacher": "t", "teacher_weight": weight}, 0, "teacher_weight is") for weight in (1.5, -0.1, math.nan)),
        *(({"temperature": wrong}, 0, "temperature is") for wrong in (0.0, -1.0, math.inf, math.nan)),
        ({"teacher": "t", "cache": "c"}, 0, "cache is c.* --data.views"),
        ({"teacher": "t", "distance": "mse_logits", "temperature": 7.0}, 0, "temperature is 7.0"),
        ({"teacher": "t", "cache": "c", "mixup_alpha": 0.2}, 2, "mixup_alpha is 0.2"),
        ({"teacher": "t", "cache": "c", "cutmix_alpha": 1.0}, 2, "cutmix_alpha is 1.0"),
        ({}, 0, None),
        ({"teacher": "t", "mixup_alpha": 0.2, "cutmix_alpha": 1.0}, 0, None),
        ({"teacher": "t", "cache": "c"}, 1, None),
        ({"cache": "c", "cache_only": True}, 8, None),
    ],
)
def test_options_that_contradict_each_other_are_refused_and_others_taken(options, views, field):
    if field is None:
        assert check_distillation({**NONE, **options}, views) is None
    else:
        with pytest.raises(InputError, match=f"--model.{field}"):
            check_distillation({**NONE, **options}, views)
