import numpy as np
import pytest
import torch
from helpers import Save, fitted, same, trainer

from backbone import InputError
from data.face_pairs import FacePairsDataModule
from tasks.distillation.teachers import build_teacher
from tasks.face_embeddings.metrics import evaluate
from tasks.face_embeddings.module import FaceEmbeddingsModule
from tasks.pooled import pooled_network

OF_DATA = ("views", "unlabelled")


def build(root, **settings):
    data = {"image_size": 32, "batch_size": 4, "num_workers": 0, "min_crop_area": 0.6}
    data |= {name: settings.pop(name) for name in OF_DATA if name in settings}
    datamodule = FacePairsDataModule(root=str(root), **data)
    torch.manual_seed(0)
    options = {"width_mult": 0.25, "embedding_size": 16, "warmup_steps": 2, "lr": 0.01, **settings}
    return FaceEmbeddingsModule(datamodule.input_size, **options), datamodule


def prepared(root, **settings):
    module, datamodule = build(root, **settings)
    datamodule.setup("fit")
    module.prepare(datamodule)
    return module, datamodule


def fit(root, folder, **settings):
    module, datamodule = prepared(root, **settings)
    _, losses = fitted(folder, module, datamodule, max_epochs=2)
    return module.state_dict(), losses


def embedder(teacher):
    return build_teacher(str(teacher), (), "embeddings")


@pytest.mark.slow
@pytest.mark.parametrize(("size", "distance"), [(16, "squared_error"), (256, "squared_error"), (16, "cosine")])
def test_a_projector_is_there_where_widths_differ_and_is_left_behind(people_root, teacher, tmp_path, size, distance):
    module, datamodule = prepared(people_root, teacher=teacher, embedding_size=size, distance=distance)
    training, losses = fitted(tmp_path, module, datamodule, max_epochs=8)
    training.save_checkpoint(tmp_path / "student.ckpt")
    assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4])
    checkpoint = torch.load(tmp_path / "student.ckpt", weights_only=True)
    assert any("projector" in name for name in checkpoint["state_dict"]) == (size != 256)
    assert checkpoint["head"]["teacher_size"] == 256
    network, loaded = pooled_network(checkpoint), FaceEmbeddingsModule.from_checkpoint(tmp_path / "student.ckpt")[0]
    extra = 0 if size == 256 else 16 * 256 + 256
    optimized = sum(p.numel() for group in training.optimizers[0].param_groups for p in group["params"])
    assert optimized == sum(p.numel() for p in network.parameters()) + extra
    datamodule.setup("validate")
    images = next(iter(datamodule.val_dataloader()))["images"]
    with torch.no_grad():
        expected = module.eval()(images)
        torch.testing.assert_close(network(images), expected)
        torch.testing.assert_close(loaded.head.project(loaded(images)), module.head.project(expected))


@pytest.mark.slow
def test_the_loss_is_the_squared_distance_from_the_teachers_embedding_of_length_1(people_root, teacher, tmp_path):
    module, datamodule = prepared(people_root, teacher=teacher, trunk_lr_mult=0.0, lr=1e-12, ema_decay=0.0)
    _, losses = fitted(tmp_path, module, datamodule, max_epochs=1)
    expected = []
    for batch in datamodule.train_views(0, range(8)):  # the one epoch's view of all; batches of 4, in another order
        with torch.no_grad():
            projected = module.head.project(module(batch["images"]))
        targets = embedder(teacher)(batch["images"])
        expected.append((projected - targets / targets.norm(dim=1, keepdim=True)).square().sum(1).mean())
    assert np.mean(losses) == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.slow
def test_cached_embeddings_give_the_losses_of_the_running_teacher(people_root, teacher, tmp_path):
    settings = {"teacher": teacher, "views": 2, "unlabelled": str(people_root / "unlabelled")}
    settings["lr"] = 1e-7  # or the rounding of float16 would grow from step to step
    _, losses = fit(people_root, tmp_path, **settings)
    cached, cached_losses = fit(people_root, tmp_path, cache=str(tmp_path / "cache"), **settings)
    assert len(losses) == 6  # 2 epochs of 12 images
    assert cached_losses == pytest.approx(losses, rel=1e-2)  # float16
    assert len({round(loss, 6) for loss in losses}) > 4  # or the order would not matter
    settings["teacher"] = None
    again, again_losses = fit(people_root, tmp_path, cache=str(tmp_path / "cache"), cache_only=True, **settings)
    assert again_losses == cached_losses
    assert same(cached, again)


@pytest.mark.slow
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(people_root, teacher, tmp_path):
    whole, _ = fit(people_root, tmp_path, teacher=teacher)
    module, datamodule = prepared(people_root, teacher=teacher)
    trainer(tmp_path, max_epochs=2, callbacks=[Save(tmp_path / "half.ckpt", epoch=0)]).fit(module, datamodule)
    torch.manual_seed(1)  # a fresh projector's, were it not the checkpoint's
    module, datamodule = prepared(people_root, teacher=teacher)
    fitted(tmp_path, module, datamodule, ckpt_path=tmp_path / "half.ckpt", max_epochs=2)
    assert same(module.state_dict(), whole)


@pytest.mark.slow
def test_validation_scores_both_nets_by_the_pairs_and_keeps_the_threshold(people_root, teacher, tmp_path):
    module, datamodule = prepared(people_root, teacher=teacher, weights=teacher, trunk_lr_mult=0.0)
    training, _ = fitted(tmp_path, module, datamodule, max_epochs=2, limit_val_batches=1.0)
    figures = {name: float(value) for name, value in training.callback_metrics.items()}
    training.save_checkpoint(tmp_path / "end.ckpt")
    module.eval()
    batches = [batch["images"] for batch in datamodule.val_dataloader()]
    with torch.no_grad():
        embeddings = torch.cat([module(images) for images in batches])
        projected = module.head.project(embeddings)
    targets = torch.cat([embedder(teacher)(images) for images in batches])
    pairs = datamodule.records("val").pairs
    scores = evaluate(embeddings.numpy(), pairs, projected.numpy(), targets.numpy())
    for name, value in scores.figures.items():
        assert figures[f"val/{name}"] == pytest.approx(value, abs=1e-4), name
    assert {"cosine", "verification_accuracy", "teacher_verification_accuracy", "pairs"} <= set(scores.figures)
    fresh, checkpoint = FaceEmbeddingsModule.from_checkpoint(tmp_path / "end.ckpt")
    assert fresh.head.threshold == checkpoint["head"]["threshold"] == module.head.threshold is not None
    # A teacher of another width than the one learned from cannot be compared with.
    fresh, datamodule = build(people_root, teacher=str(tmp_path / "end.ckpt"))
    with pytest.raises(InputError, match=r"16 numbers.*256"):
        trainer(tmp_path).test(fresh, datamodule, ckpt_path=tmp_path / "end.ckpt", weights_only=True, verbose=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher": None}, "--model.teacher"),
        ({"teacher": "none.ckpt"}, "none.ckpt"),
        ({"teacher": [{"source": "a.ckpt", "weight": "x"}]}, "'weight': 'x'"),
        ({"teacher": "TEACHER", "cache": "c"}, "--data.views is 0"),
        ({"cache": "c", "cache_only": True, "views": 2}, r"cache c\b"),
        ({"cache_only": True, "teacher": "TEACHER"}, "--model.cache"),
        ({"embedding_size": 1}, "--model.embedding_size is 1"),
    ],
)
def test_options_that_contradict_each_other_are_named(people_root, teacher, settings, message):
    settings = {name: teacher if value == "TEACHER" else value for name, value in settings.items()}
    with pytest.raises(InputError, match=message):
        prepared(people_root, **settings)


def test_without_pairs_a_cache_cannot_choose_the_best_epoch(faces_root):
    with pytest.raises(InputError, match="cache_only"):
        prepared(faces_root, cache="c", cache_only=True, views=2)
