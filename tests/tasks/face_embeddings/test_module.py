import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import Save, same, trainer
from lightning.pytorch.callbacks import Callback

from backbone import InputError
from data.face_pairs import FacePairsDataModule
from tasks.distillation.losses import cosine, squared_error
from tasks.distillation.teachers import Teacher
from tasks.face_embeddings.metrics import evaluate
from tasks.face_embeddings.module import FaceEmbeddingsModule
from tasks.face_embeddings.teacher import load_embedder

OF_DATA = ("views", "unlabelled", "num_workers")


def build(root, **settings):
    data = {"image_size": 32, "batch_size": 4, "num_workers": 0, "min_crop_area": 0.6}
    data |= {name: settings.pop(name) for name in OF_DATA if name in settings}
    datamodule = FacePairsDataModule(str(root), **data)
    torch.manual_seed(0)
    options = {"width_mult": 0.25, "embedding_size": 16, "warmup_steps": 2, "lr": 0.01, **settings}
    return FaceEmbeddingsModule(datamodule.categories, datamodule.input_size, **options), datamodule


def prepared(root, **settings):
    module, datamodule = build(root, **settings)
    datamodule.setup("fit")
    module.prepare_fit(datamodule)
    return module, datamodule


class Losses(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(outputs["loss"].item())


def taught(root, folder, **settings):
    losses = Losses()
    module, datamodule = prepared(root, **settings)
    trainer(folder, callbacks=[losses]).fit(module, datamodule)
    return module.state_dict(), losses.seen


def first_batch(datamodule):
    datamodule.setup("validate")
    return next(iter(datamodule.val_dataloader()))["images"]


def test_the_teachers_embedding_is_what_its_head_sees(people_root, teacher):
    from tasks.face_attributes.inference import load_network

    network, _ = load_network(teacher)
    images = first_batch(build(people_root)[1])
    embedder = load_embedder(teacher)
    features = embedder(images)
    assert features.shape == (4, 256)
    assert features.std(0).max() > 0.05  # or it would tell nothing to learn
    with torch.no_grad():
        torch.testing.assert_close(network.eval().head(features), network(images))


@pytest.mark.slow
def test_a_student_that_is_its_teacher_has_nothing_to_learn(people_root, teacher, tmp_path):
    """Equal nets: the checkpoint of one is the other's teacher, and its outputs have length 1 by construction."""
    module, datamodule = prepared(people_root, teacher=teacher, weights=teacher, trunk_lr_mult=0.0)
    training = trainer(tmp_path, max_epochs=1)
    training.fit(module, datamodule)
    training.save_checkpoint(tmp_path / "student.ckpt")
    embedder = load_embedder(str(tmp_path / "student.ckpt"))
    module.eval().requires_grad_(True)  # of the trunk, which was frozen
    images = first_batch(datamodule)
    answers = module.model(images)
    wanted = embedder(images)
    assert wanted.std(0).max() > 0.01
    torch.testing.assert_close(answers, wanted, rtol=1e-4, atol=1e-6)
    for loss in (cosine(answers, wanted), squared_error(F.normalize(answers), wanted, unit_teacher=True)):
        module.zero_grad()
        loss.backward(retain_graph=True)
        assert loss.item() == pytest.approx(0, abs=1e-6)
        assert max(p.grad.abs().max().item() for p in module.model.parameters()) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("size", "distance"), [(16, "squared_error"), (256, "squared_error"), (16, "cosine")])
def test_a_projector_is_there_where_widths_differ_and_is_left_behind(people_root, teacher, tmp_path, size, distance):
    from tasks.face_embeddings.inference import load_network

    module, datamodule = prepared(people_root, teacher=teacher, embedding_size=size, distance=distance)
    losses = Losses()
    training = trainer(tmp_path, max_epochs=8, callbacks=[losses])
    training.fit(module, datamodule)
    training.save_checkpoint(tmp_path / "student.ckpt")
    assert np.mean(losses.seen[-4:]) < 0.9 * np.mean(losses.seen[:4])
    checkpoint = torch.load(tmp_path / "student.ckpt", weights_only=True)
    names = {name.split(".")[0] for name in checkpoint["state_dict"]}
    assert names == ({"model"} if size == 256 else {"model", "projector"})
    assert checkpoint["hyper_parameters"]["teacher_size"] == 256
    optimized = sum(p.numel() for group in training.optimizers[0].param_groups for p in group["params"])
    assert optimized == sum(p.numel() for p in module.model.parameters()) + (0 if size == 256 else 16 * 256 + 256)
    network, _ = load_network(tmp_path / "student.ckpt")
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in module.model.parameters())
    with torch.no_grad():
        images = first_batch(datamodule)
        torch.testing.assert_close(network.eval()(images), module.eval().model(images))


@pytest.mark.slow
def test_the_loss_is_the_squared_distance_from_the_teachers_embedding_of_length_1(people_root, teacher, tmp_path):
    module, datamodule = prepared(people_root, teacher=teacher, trunk_lr_mult=0.0, lr=1e-12, ema_decay=0.0)
    losses = Losses()
    trainer(tmp_path, max_epochs=1, callbacks=[losses]).fit(module, datamodule)
    expected = []
    for batch in datamodule.train_views(0, range(8)):  # the one epoch's view of all; batches of 4, in another order
        with torch.no_grad():
            answers = module.projector(module.model(batch["images"]))
        wanted = load_embedder(teacher)(batch["images"])
        expected.append((answers - wanted / wanted.norm(dim=1, keepdim=True)).square().sum(1).mean())
    assert np.mean(losses.seen) == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_kept_answers_give_the_losses_of_asking(people_root, teacher, tmp_path, workers):
    settings = {"teacher": teacher, "views": 2, "unlabelled": str(people_root / "unlabelled"), "num_workers": workers}
    settings["lr"] = 1e-7  # or the rounding of float16 would grow from step to step
    _, losses = taught(people_root, tmp_path, **settings)
    kept, kept_losses = taught(people_root, tmp_path, cache=str(tmp_path / "cache"), **settings)
    assert len(losses) == 12  # 4 epochs of 12 pictures
    assert kept_losses == pytest.approx(losses, rel=1e-2)  # float16
    assert len({round(loss, 6) for loss in losses}) > 8  # or the order would not matter
    settings["teacher"] = None
    again, again_losses = taught(people_root, tmp_path, cache=str(tmp_path / "cache"), cache_only=True, **settings)
    assert again_losses == kept_losses
    assert same(kept, again)


@pytest.mark.slow
def test_a_cache_alone_is_compared_with_a_teacher_that_is_at_hand(people_root, teacher, tmp_path, capsys):
    settings = {"teacher": teacher, "views": 2, "cache": str(tmp_path / "cache")}
    taught(people_root, tmp_path, **settings)
    settings["cache_only"] = True
    taught(people_root, tmp_path, **settings)
    changed = torch.load(teacher, weights_only=True)
    changed["state_dict"]["model.head.weight"] += 1
    torch.save(changed, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="is of something else: the teacher"):
        taught(people_root, tmp_path, **{**settings, "teacher": str(tmp_path / "other.ckpt")})
    assert "taken as it is" not in capsys.readouterr().out
    taught(people_root, tmp_path, **{**settings, "teacher": "gone.ckpt"})
    assert "the cache is taken as it is: the teacher gone.ckpt does not exist" in capsys.readouterr().out


@pytest.mark.slow
def test_a_net_is_compared_with_what_its_teacher_says_of_the_pictures_it_is_tested_on(people_root, teacher, tmp_path):
    """Not of those that it was validated on in the fit before, in which the teacher is asked about each once."""
    module, datamodule = prepared(people_root, teacher=teacher)
    asked, answer = [], module._teacher

    class Listening:
        def __call__(self, images, files):
            asked.extend(files)
            return answer(images, files)

        def to(self, device):
            return self

    module._teacher = Listening()
    trainer(tmp_path, max_epochs=3, limit_val_batches=1.0).fit(module, datamodule)
    validated = [datamodule.file("val", i) for i in range(8)]
    assert [asked.count(file) for file in validated] == [1] * 8
    asked.clear()
    [found] = trainer(tmp_path).test(module, datamodule, verbose=False)
    assert asked == [datamodule.file("test", i) for i in range(8)]
    fresh, datamodule = build(people_root, teacher=teacher, teacher_size=256)
    fresh.load_state_dict(module.state_dict())
    [expected] = trainer(tmp_path).test(fresh, datamodule, verbose=False)
    assert found == pytest.approx(expected, nan_ok=True)


@pytest.mark.slow
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(people_root, teacher, tmp_path):
    whole, _ = taught(people_root, tmp_path, teacher=teacher)
    module, datamodule = prepared(people_root, teacher=teacher)
    trainer(tmp_path, callbacks=[Save(tmp_path / "half.ckpt", epoch=1)]).fit(module, datamodule)
    size = torch.load(tmp_path / "half.ckpt", weights_only=True)["hyper_parameters"]["teacher_size"]
    module, datamodule = prepared(people_root, teacher=teacher, teacher_size=size)
    trainer(tmp_path).fit(module, datamodule, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert same(module.state_dict(), whole)


@pytest.mark.slow
def test_the_teacher_is_unchanged_and_in_no_checkpoint(people_root, teacher, tmp_path):
    module, datamodule = prepared(people_root, teacher=teacher)
    network = module._teacher.network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    training = trainer(tmp_path, max_epochs=2, limit_val_batches=1.0)
    training.fit(module, datamodule)
    assert module._teacher.network is network
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.training
    parameters = {id(p) for p in network.parameters()}
    assert not parameters & {id(p) for group in training.optimizers[0].param_groups for p in group["params"]}
    training.save_checkpoint(tmp_path / "student.ckpt")
    state = torch.load(tmp_path / "student.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in state} == {"model", "projector"}


@pytest.mark.slow
def test_validation_scores_both_nets_by_the_pairs_and_keeps_the_threshold(people_root, teacher, tmp_path):
    module, datamodule = prepared(people_root, teacher=teacher, weights=teacher, trunk_lr_mult=0.0)
    training = trainer(tmp_path, max_epochs=2, limit_val_batches=1.0)
    training.fit(module, datamodule)
    figures = {name: float(value) for name, value in training.callback_metrics.items()}
    training.save_checkpoint(tmp_path / "end.ckpt")
    module.eval()
    batches = [batch["images"] for batch in datamodule.val_dataloader()]
    with torch.no_grad():
        embeddings = torch.cat([module.model(images) for images in batches])
        answers = module.projector(embeddings)
    wanted = torch.cat([load_embedder(teacher)(images) for images in batches])
    scores = evaluate(*(embeddings.numpy(), datamodule.pairs("val")), answers.numpy(), wanted.numpy())
    for name, value in scores.figures.items():
        assert figures[f"val/{name}"] == pytest.approx(value, abs=1e-4), name
    assert {"cosine", "verification_accuracy", "teacher_verification_accuracy", "pairs"} <= set(scores.figures)
    assert torch.load(tmp_path / "end.ckpt", weights_only=True)["threshold"] == module.threshold
    fresh, datamodule = build(people_root, teacher_size=256)
    trainer(tmp_path).test(fresh, datamodule, ckpt_path=tmp_path / "end.ckpt", weights_only=True, verbose=False)
    assert fresh.threshold == module.threshold
    # A teacher of another width than the one learned from cannot be compared with.
    fresh, datamodule = build(people_root, teacher_size=256, teacher=str(tmp_path / "end.ckpt"))
    with pytest.raises(InputError, match="has 16 numbers, but this net learned one of 256"):
        trainer(tmp_path).test(fresh, datamodule, ckpt_path=tmp_path / "end.ckpt", weights_only=True, verbose=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": None}, "there is no --model.teacher to learn embeddings from"),
        ({"teacher": "none.ckpt"}, "the teacher none.ckpt does not exist"),
        ({"teacher": {"source": "TEACHER", "weight": "x"}}, "--model.teacher is .*, which cannot be read"),
        ({"teacher": "TEACHER", "teacher_size": 128}, "is 128, but the teacher's embedding has 256 numbers"),
        ({"teacher": "TEACHER", "cache": "c"}, "--data.views is 0"),
        ({"cache": "c", "cache_only": True, "views": 2}, "--model.cache c holds no answers"),
        ({"cache_only": True, "teacher": "TEACHER"}, "there is no --model.cache"),
        ({"embedding_size": 1}, "--model.embedding_size is 1"),
        ({"lr": 0.0}, "--model.lr is 0"),
    ],
)
def test_options_that_contradict_each_other_are_one_sentence(people_root, teacher, tmp_path, settings, message):
    if isinstance(settings.get("teacher"), dict):
        settings["teacher"]["source"] = teacher
    settings = {name: teacher if value == "TEACHER" else value for name, value in settings.items()}
    with pytest.raises(InputError, match=message):
        taught(people_root, tmp_path, **settings)


def test_a_module_that_is_not_prepared_says_so(people_root, teacher, tmp_path):
    module, datamodule = build(people_root, teacher=teacher)
    with pytest.raises(RuntimeError, match="prepare_fit"):
        trainer(tmp_path).fit(module, datamodule)


def test_without_pairs_a_cache_cannot_choose_the_best_epoch(faces_root, tmp_path):
    with pytest.raises(InputError, match="leaves nothing to choose the best epoch by"):
        taught(faces_root, tmp_path, cache="c", cache_only=True, views=2)


@pytest.mark.parametrize("split", ["val", "test"])
def test_an_answer_that_is_not_finite_names_its_picture_in_an_evaluation_too(
    people_root, teacher, tmp_path, monkeypatch, split
):
    module, datamodule = build(people_root, teacher=teacher, teacher_size=256)
    answer = Teacher._answer
    monkeypatch.setattr(Teacher, "_answer", lambda self, images: answer(self, images) * torch.nan)
    training = trainer(tmp_path, limit_val_batches=1.0)
    with pytest.raises(InputError) as error:
        (training.validate if split == "val" else training.test)(module, datamodule, verbose=False)
    assert f"not finite for the picture {datamodule.file(split, 0)}; look at it" in str(error.value)
