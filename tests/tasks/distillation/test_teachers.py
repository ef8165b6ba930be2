import copy
import importlib.util
import math
import warnings

import pytest
import timm
import torch
import torchvision
from helpers import trainer
from lightning.pytorch import LightningModule
from safetensors.torch import save_file
from torch import nn
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader

from backbone import InputError, MobileNetV1
from data import imagenet
from tasks.distillation import teachers
from tasks.distillation.losses import mse_logits
from tasks.distillation.teachers import Ensemble, class_map, load_teacher
from tasks.pooled import PooledClassifier


def images(count=4, side=32, seed=0):
    return torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def network():
    """A norm with statistics of its own, so that training mode shows."""
    torch.manual_seed(0)
    found = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.AdaptiveAvgPool2d(1))
    found.append(nn.Flatten()).append(nn.Linear(8, 3))
    found[1].running_mean.normal_()
    found[1].running_var.uniform_(0.5, 2)
    return found


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The function that writes Python code as a module, and returns its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(code):
        name = f"teacher_{len(list(tmp_path.glob('teacher_*.py')))}_{tmp_path.name}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text("import torch\nfrom torch import nn\n" + code)
        importlib.invalidate_caches()
        return name

    return write


NETWORK = """
torch.manual_seed(0)
net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.AdaptiveAvgPool2d(1))
net.append(nn.Flatten()).append(nn.Linear(8, 3))
net[1].running_mean.normal_()
"""


def normalised(batch, mean, std):
    mean, std = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
    return (batch.float() / 255 - mean) / std


# --- frozen whatever happens ------------------------------------------------------------------------------------------


class Student(LightningModule):
    def __init__(self, teacher):
        super().__init__()
        self.teacher = teacher
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
        self.modes = []

    def training_step(self, batch, batch_idx):
        self.modes += [part.training for part in self.teacher.network.modules()]
        return mse_logits(self.net(batch / 255), self.teacher(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_fit_neither_changes_the_teacher_nor_keeps_it(module, tmp_path):
    teacher = load_teacher(f"{module(NETWORK)}:net", mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3))
    before = copy.deepcopy(teacher.network.state_dict())
    answers = teacher(images())
    student = Student(teacher)
    weights = copy.deepcopy(student.net.state_dict())
    student.train()
    teacher.network.train()  # even by hand
    assert len(list(student.parameters())) == 2
    assert set(student.state_dict()) == {"net.1.weight", "net.1.bias"}

    fit = trainer(tmp_path, max_steps=2)
    fit.fit(student, DataLoader(images(8), batch_size=4))
    fit.save_checkpoint(tmp_path / "student.ckpt")

    assert not torch.equal(student.net[1].weight, weights["1.weight"])  # it did learn
    after = teacher.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)  # norms' statistics and counters too
    assert not any(student.modes[-len(list(teacher.network.modules())) :])
    assert torch.equal(teacher(images()), answers)
    assert not any(p.requires_grad or p.grad is not None for p in teacher.network.parameters())
    [optimizer] = fit.optimizers
    assert [len(group["params"]) for group in optimizer.param_groups] == [2]
    checkpoint = torch.load(tmp_path / "student.ckpt", weights_only=True)
    assert set(checkpoint["state_dict"]) == {"net.1.weight", "net.1.bias"}
    assert (tmp_path / "student.ckpt").stat().st_size < 4 * (3 * 3072 + 3) + 20_000


def test_answers_are_constants_in_a_loss_and_the_average_of_the_student_has_no_copy(module):
    teacher = load_teacher(f"{module(NETWORK)}:net", mean=(0.5,) * 3, std=(0.5,) * 3)
    answers = teacher(images())
    assert answers.dtype == torch.float32
    assert not answers.requires_grad
    assert not answers.is_inference()  # one could not be kept for a backward pass
    student = torch.zeros(4, 3, requires_grad=True)
    mse_logits(student * answers, answers).backward()
    assert copy.deepcopy(Student(teacher)).teacher is teacher
    assert copy.deepcopy(Ensemble([teacher], "softmax")).teachers[0] is teacher


def test_answers_do_not_depend_on_the_students_precision(module):
    teacher = load_teacher(f"{module(NETWORK)}:net", mean=(0.5,) * 3, std=(0.5,) * 3)
    plain = teacher(images())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(teacher(images()), plain)


# --- what it sees -----------------------------------------------------------------------------------------------------


def test_it_normalises_and_resizes_by_itself(module):
    name = module("def look(x):\n    return x.mean((2, 3)) * 10")
    mean, std = (0.5, 0.4, 0.3), (0.1, 0.2, 0.25)
    batch = images(3, 32)
    answers = load_teacher(f"{name}:look", mean=mean, std=std)(batch)
    torch.testing.assert_close(answers, normalised(batch, mean, std).mean((2, 3)) * 10, rtol=1e-4, atol=1e-4)

    size = module(
        "def size(x):\n    y = x.float().mean((1, 2, 3))\n"
        "    return torch.stack([y, torch.full_like(y, x.shape[2]), torch.full_like(y, x.shape[3])], 1)\n"
    )
    one = images(1, 32)
    answers = load_teacher(f"{size}:size", image_size=[16, 24])(one)
    expected = interpolate(one.float(), (16, 24), mode="bilinear", antialias=True).mean().item()
    assert answers[0].tolist() == [pytest.approx(expected, abs=0.5), 16, 24]  # 0.5: pixels are rounded
    answers = load_teacher(f"{size}:size")(one)  # uint8, as they are
    assert answers[0].tolist() == [pytest.approx(one.float().mean().item()), 32, 32]


def test_pictures_normalised_already_are_refused(module):
    teacher = load_teacher(f"{module(NETWORK)}:net", mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(TypeError, match="uint8"):
        teacher(images() / 255)


# --- sources ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["safetensors", "pth", "checkpoint"])
def test_torchvision_by_name_with_a_file_of_any_number_of_classes(tmp_path, form):
    torch.manual_seed(0)
    theirs = torchvision.models.mobilenet_v3_small(num_classes=5).eval()
    file = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(theirs.state_dict(), file)
    elif form == "pth":
        torch.save(theirs.state_dict(), file)
    else:
        torch.save({"epoch": 3, "model": {f"module.{name}": x for name, x in theirs.state_dict().items()}}, file)
    teacher = load_teacher("torchvision:mobilenet_v3_small", weights=file, image_size=64)
    batch = images(2, 64)
    with torch.inference_mode():
        expected = theirs(normalised(batch, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(teacher(batch), expected, rtol=1e-4, atol=1e-5)
    assert teacher.names is None
    assert load_teacher("torchvision:mobilenet_v3_small", weights=file).size == (224, 224)


@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_torchvisions_nets_of_another_normalisation_take_the_pixels_they_learned_from(tmp_path):
    """They turn ImageNet's normalisation into their own, of -1..1, where torchvision knows whose the weights are."""
    torch.manual_seed(0)
    network = torchvision.models.googlenet(init_weights=False, num_classes=5).eval()
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    teacher = load_teacher("torchvision:googlenet", weights=str(tmp_path / "net.safetensors"))
    batch, seen = images(2, 224), []
    teacher.network.conv1.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    answers = teacher(batch)
    torch.testing.assert_close(seen[-1], normalised(batch, (0.5,) * 3, (0.5,) * 3), rtol=1e-3, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(answers, network(seen[-1]))
    found = teachers._Network(network, b"torchvision googlenet" + teachers._state(network), None)
    found = found._replace(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], size=(224, 224))
    assert teachers.Teacher("", found).digest != teacher.digest  # whose kept answers are of other pixels


def test_timm_by_name_with_its_own_numbers_or_without_a_head(tmp_path):
    torch.manual_seed(0)
    theirs = timm.create_model("test_resnet", num_classes=7).eval()
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    teacher = load_teacher("timm:test_resnet", weights=tmp_path / "w.safetensors", image_size=64)
    batch = images(2, 64)
    config = theirs.pretrained_cfg
    with torch.inference_mode():
        expected = theirs(normalised(batch, config["mean"], config["std"]))
    torch.testing.assert_close(teacher(batch), expected, rtol=1e-4, atol=1e-5)

    theirs.reset_classifier(0)
    save_file(theirs.state_dict(), tmp_path / "body.safetensors")
    body = load_teacher("timm:test_resnet", weights=tmp_path / "body.safetensors", image_size=64, answers="embeddings")
    with torch.inference_mode():
        expected = theirs(normalised(batch, config["mean"], config["std"]))
    torch.testing.assert_close(body(batch), expected, rtol=1e-4, atol=1e-5)


def test_a_thousand_classes_are_imagenets(tmp_path):
    save_file(timm.create_model("test_resnet", num_classes=1000).state_dict(), tmp_path / "w.safetensors")
    teacher = load_teacher("timm:test_resnet", weights=tmp_path / "w.safetensors", image_size=64)
    assert teacher.names == imagenet.class_names()
    dogs = teacher.matched(["toy poodle", "Chihuahua"])
    torch.testing.assert_close(dogs(images(2, 64)), teacher(images(2, 64))[:, [265, 151]])  # their ImageNet labels


def test_without_timm_one_sentence_says_so(tmp_path, monkeypatch):
    monkeypatch.setitem(importlib.import_module("sys").modules, "timm", None)
    with pytest.raises(InputError, match="needs timm, which is not installed"):
        load_teacher("timm:resnet50", weights=tmp_path / "w.pth")


@pytest.mark.parametrize("form", ["pt", "pt2"])
def test_programs(tmp_path, form):
    theirs, batch = network().eval(), images()
    path = tmp_path / f"teacher.{form}"
    with warnings.catch_warnings(action="ignore"):
        if form == "pt":
            torch.jit.script(theirs).save(path)
        else:
            shapes = ({0: torch.export.Dim("batch"), 2: torch.export.Dim("h", min=8), 3: torch.export.Dim("w", min=8)},)
            torch.export.save(torch.export.export(theirs, (torch.rand(2, 3, 32, 32),), dynamic_shapes=shapes), path)
    mean, std = (0.5, 0.4, 0.3), (0.1, 0.2, 0.25)
    teacher = load_teacher(path, mean=mean, std=std, names=["a", "b", "c"])
    with torch.inference_mode():
        expected = theirs(normalised(batch, mean, std))
    torch.testing.assert_close(teacher(batch), expected, rtol=1e-4, atol=1e-5)
    assert not teacher.network.training
    torch.testing.assert_close(teacher.matched(["c", "a"])(batch), expected[:, [2, 0]], rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="cannot take uint8 pictures of 32 by 32 px"):
        load_teacher(path)(batch)


def test_a_program_exported_in_training_mode_is_refused(tmp_path):
    """Its batch norm takes the batch's own statistics, and eval() cannot reach it."""
    program = torch.export.export(network().train(), (torch.rand(4, 3, 32, 32),))
    torch.export.save(program, tmp_path / "teacher.pt2")
    teacher = load_teacher(tmp_path / "teacher.pt2", mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(InputError, match="in training mode"):
        teacher(images())


def test_a_checkpoint_of_this_project(tmp_path, monkeypatch):
    """By the task it names; the weights, not the file, are what it is."""
    torch.manual_seed(0)
    model = PooledClassifier(MobileNetV1(0.125), 3).eval()
    asked = []

    def load_network(path):
        asked.append(path)
        return model, ("bar", "cross", "disc")

    monkeypatch.setattr("tasks.classification.inference.load_network", load_network)
    settings = {"input_size": (64, 96), "numerics": {}}
    for name in ("a.ckpt", "b.ckpt"):
        torch.save({"task": "classification", "hyper_parameters": settings, "global_step": len(name)}, tmp_path / name)
    teacher = load_teacher(tmp_path / "a.ckpt")
    assert asked == [tmp_path / "a.ckpt"]
    assert (teacher.names, teacher.size) == (("bar", "cross", "disc"), (64, 96))
    batch = torch.randint(256, (2, 3, 64, 96), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(teacher(batch), model(batch))
    assert load_teacher(tmp_path / "b.ckpt").digest == teacher.digest
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.constant_(model.head.bias, 1 / 3)
    almost = load_teacher(tmp_path / "a.ckpt")(batch.repeat(40, 1, 1, 1))  # logits for certain, whatever they look like
    assert almost.unique().tolist() == pytest.approx([1 / 3])
    with pytest.raises(InputError, match="has a mean and std of its own"):
        load_teacher(tmp_path / "a.ckpt", mean=(0.5,) * 3, std=(0.5,) * 3)


def test_an_embedding_is_what_the_head_sees(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = PooledClassifier(MobileNetV1(0.125), 3).eval()
    networks = {"classification": (model, ("bar", "cross", "disc")), "face_embeddings": (model, ())}
    for task, found in networks.items():
        monkeypatch.setattr(f"tasks.{task}.inference.load_network", lambda path, found=found: found)
        torch.save({"task": task, "hyper_parameters": {"input_size": (64, 96)}}, tmp_path / f"{task}.ckpt")
    batch = torch.randint(256, (2, 3, 64, 96), dtype=torch.uint8)
    features = load_teacher(tmp_path / "classification.ckpt", answers="embeddings")
    with torch.inference_mode():
        torch.testing.assert_close(model.head(features(batch)), model(batch))
    assert (features.names, features.size) == (None, (64, 96))
    assert features.digest != load_teacher(tmp_path / "classification.ckpt").digest
    embedder = load_teacher(tmp_path / "face_embeddings.ckpt", answers="embeddings")  # which is one already
    with torch.inference_mode():
        torch.testing.assert_close(embedder(batch), model(batch))
    with pytest.raises(InputError, match="answers with embeddings, and logits are to be learned"):
        load_teacher(tmp_path / "face_embeddings.ckpt")


@pytest.mark.parametrize("source", ["torchvision:resnet18", "torchvision:mobilenet_v3_small", "timm:test_resnet"])
def test_a_foreign_classifiers_embedding_is_its_last_layers_input(tmp_path, source):
    torch.manual_seed(0)
    library, _, name = source.partition(":")
    theirs = (
        timm.create_model(name, num_classes=5)
        if library == "timm"
        else torchvision.models.get_model(name, num_classes=5)
    )
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    options = {"weights": tmp_path / "w.pth", "image_size": 64}
    logits, features = (load_teacher(source, **options, answers=kind) for kind in ("logits", "embeddings"))
    head = [module for module in theirs.modules() if isinstance(module, nn.Linear)][-1]
    batch = images(2, 64)
    with torch.inference_mode():
        torch.testing.assert_close(head(features(batch)), logits(batch), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("task", ["detection", "unheard_of", "os.path", "../x", 3, None])
def test_checkpoints_without_logits_are_refused(tmp_path, task):
    torch.save({"task": task, "hyper_parameters": {}}, tmp_path / "x.ckpt")
    with pytest.raises(InputError, match="has no logits to learn from"):
        load_teacher(tmp_path / "x.ckpt")


def test_the_output_is_chosen_by_key_or_position(module):
    name = module(
        "def by_key(x):\n    y = x.float().mean((2, 3)) - 300\n    return {'logits': y, 'other': y + 1}\n"
        "def by_place(x):\n    return tuple(by_key(x).values())\n"
        "def pooled(x):\n    return x.float().mean((2, 3), keepdim=True) - 300\n"
        "def flat(x):\n    return x.float().mean()\n"
    )
    batch = images()
    expected = batch.float().mean((2, 3)) - 300
    torch.testing.assert_close(load_teacher(f"{name}:by_key", output="logits")(batch), expected)
    torch.testing.assert_close(load_teacher(f"{name}:by_place", output=1)(batch), expected + 1)
    torch.testing.assert_close(load_teacher(f"{name}:pooled")(batch), expected)  # (B, K, 1, 1)
    for function, options, message in (
        ("by_key", {}, "answers with a dictionary of 'logits', 'other'; say with `output`"),
        ("by_place", {}, "answers with 2 parts, 0 to 1; say with `output`"),
        (
            "by_key",
            {"output": "logit"},
            "has no output 'logit' in its answer, which is a dictionary of 'logits', 'other'",
        ),
        ("by_place", {"output": 2}, "has no output 2"),
        ("pooled", {"output": 0}, "has no output 0 in its answer, which is a tensor"),
        ("flat", {}, r"answers 4 pictures with a tensor of shape \(\)"),
        ("pooled", {"names": ["a", "b"]}, "answers with 3 numbers, but there are 2 names for them"),
    ):
        with pytest.raises(InputError, match=message):
            load_teacher(f"{name}:{function}", **options)(batch)


def test_what_cannot_be_a_teacher_is_refused(module, tmp_path):
    name = module("class Net(nn.Module):\n    pass\nnumber = 3\n")
    for file in ("text.pt", "text.pt2", "text.ckpt", "text.pth"):
        (tmp_path / file).write_text("<!DOCTYPE html>")
    torch.save(network().state_dict(), tmp_path / "weights.pt")
    torch.save(network().state_dict(), tmp_path / "other.pth")
    for source, options, message in (
        ("torchvision:resnet18", {}, "a random one has nothing to teach"),
        ("timm:resnet18", {}, "a random one has nothing to teach"),
        ("torchvision:resnet81", {"weights": "x.pth"}, "no such file|nearest is resnet"),
        ("torchvision:resnet18", {"weights": "gone.pth"}, "there is no such file"),
        ("torchvision:resnet18", {"weights": "text.pth"}, "no file of tensors"),
        (
            "torchvision:mobilenet_v2",
            {"weights": "other.pth"},
            "has a tensor features.0.0.weight that the weights have not",
        ),
        ("weights.pt", {"weights": "other.pth"}, "has weights of its own"),
        ("weights.pt", {}, "goes with torchvision:NAME"),
        ("text.pt", {}, "is not a TorchScript program"),
        ("text.pt2", {}, "is not a program that torch.export.save wrote"),
        ("text.ckpt", {}, "is not a checkpoint of this project"),
        ("gone.pt2", {}, "does not exist"),
        ("resnet50", {}, "is nothing that can be loaded; accepted are torchvision:NAME"),
        ("resnet50.pth", {}, "is nothing that can be loaded; accepted are torchvision:NAME"),
        ("math.sqrt", {}, r"is nothing that can be loaded \(is math:sqrt meant\?\)"),
        ("no_such_module_here:function", {}, "cannot be imported"),
        (f"{name}:Net", {}, "is a class; name a function"),
        (f"{name}:number", {}, "is no function"),
        (f"{name}:gone", {}, f"there is no 'gone' in {name}; check the name"),
        (f"{name}:numbr", {}, "the nearest is 'number'"),
        (f"{name}:Net.gone", {}, "there is no 'Net.gone' in"),
        (f"{module('def f(:')}:f", {}, r"cannot be imported \(SyntaxError: invalid syntax.*line 3"),
        (f"{module('f = numbre')}:f", {}, r"cannot be imported \(NameError: name 'numbre' is not defined"),
        ("math:sqrt", {"mean": (0.5,) * 3}, "give both, or neither"),
        ("math:sqrt", {"mean": (0.5,) * 2, "std": (0.5,) * 2}, "must be three numbers each"),
        ("math:sqrt", {"image_size": 0}, "image_size 0"),
    ):
        with pytest.raises(InputError, match=message):
            load_teacher(source, **options)


# --- answers that cannot be right -------------------------------------------------------------------------------------


def test_an_answer_that_is_not_finite_names_its_picture(module):
    name = module("def f(x):\n    y = x.float().mean((2, 3))\n    return torch.where(y[:, :1] > 254, torch.nan, y)\n")
    teacher, batch = load_teacher(f"{name}:f"), images()
    teacher(batch, list("abcd"))
    batch[2] = 255
    with pytest.raises(InputError, match=r"not finite for the picture faces/c\.jpg;"):
        teacher(batch, [f"faces/{letter}.jpg" for letter in "abcd"])
    with pytest.raises(InputError, match="the picture number 2 of the batch"):
        load_teacher(f"{name}:f")(batch)


def test_probabilities_are_refused_and_small_logits_are_not(module):
    name = module(
        "def y(x):\n    return x.float().mean((2, 3)) / 25\n"
        "def softmax(x):\n    return y(x).softmax(1)\n"
        "def sigmoid(x):\n    return (y(x) - 5).sigmoid()\n"
        "def logits(x):\n    return y(x) - 5\n"
    )
    with pytest.raises(InputError, match="that add up to 1, which are probabilities"):
        load_teacher(f"{name}:softmax")(images(1))
    with pytest.raises(InputError, match="which are probabilities"):
        load_teacher(f"{name}:sigmoid")(images(32))
    few = load_teacher(f"{name}:sigmoid")
    for _ in range(7):  # nine numbers prove nothing
        few(images(3))
    with pytest.raises(InputError, match="which are probabilities"):
        few(images(3))
    load_teacher(f"{name}:sigmoid", answers="embeddings")(images(32))
    teacher = load_teacher(f"{name}:logits")
    teacher(images(16))
    bright = images(16).clamp(min=126)
    assert ((teacher(bright) > 0) & (teacher(bright) < 3)).all()


# --- names ------------------------------------------------------------------------------------------------------------


def test_classes_are_mapped_by_name():
    theirs = ["5_o_Clock_Shadow", "Bald", "Wearing_Hat", "bald "]
    assert class_map(["wearing-hat", "5 o clock shadow", "Bald"], theirs) == [2, 0, 1]
    with pytest.raises(InputError, match=r"'Smilling' is none of the teacher's 2 \(Smiling, Bald\), .* 'Smiling'"):
        class_map(["Smilling"], ["Smiling", "Bald"])
    with pytest.raises(InputError, match="'BALD' is two of the teacher's, number 1 and 3"):
        class_map(["BALD"], theirs)


def test_matching_twice_is_matching_once(module):
    name = module("def f(x):\n    return x.float().mean((2, 3)) * torch.tensor([1.0, 10, 100])\n")
    teacher = load_teacher(f"{name}:f", names=["a", "b", "c"])
    once = teacher.matched(["c", "b"])
    twice = once.matched(["b"])
    assert (once.names, twice.names) == (("c", "b"), ("b",))
    torch.testing.assert_close(twice(images()), teacher(images())[:, [1]])
    torch.testing.assert_close(once(images()), teacher(images())[:, [2, 1]])
    assert len({teacher.digest, once.digest, twice.digest, teacher.matched(["b", "c"]).digest}) == 4
    assert teacher.matched(["a", "b", "c"]) is teacher
    unnamed = load_teacher(f"{name}:f")
    torch.testing.assert_close(unnamed.matched(["x", "y", "z"])(images()), teacher(images()))
    with pytest.raises(InputError, match="answers with 3 numbers, but there are 2 names"):
        unnamed.matched(["x", "y"])(images())


# --- what it is -------------------------------------------------------------------------------------------------------


def test_the_digest_changes_with_all_that_changes_an_answer_and_with_nothing_else(tmp_path):
    state = torchvision.models.mobilenet_v3_small(num_classes=2).state_dict()
    torch.save(state, tmp_path / "a.pth")
    save_file(state, tmp_path / "again.safetensors")
    state["features.0.1.running_mean"][3] += 1e-6
    torch.save(state, tmp_path / "b.pth")

    def digest(file="a.pth", **options):
        return load_teacher("torchvision:mobilenet_v3_small", weights=file, **options).digest

    first = digest()
    assert digest() == first
    assert digest("again.safetensors") == first
    others = [
        digest("b.pth"),
        digest(image_size=192),
        digest(mean=(0.5,) * 3, std=(0.5,) * 3),
        digest(output="logits"),
    ]
    assert len({first, *others}) == 5
    teacher = load_teacher("torchvision:mobilenet_v3_small", weights="a.pth", names=["a", "b"])
    both = [Ensemble([teacher, teacher], "softmax", weights).digest for weights in ((1, 1), (1, 2), (2, 2))]
    assert both[0] == both[2] != both[1]


def test_a_functions_digest_is_its_source(module, tmp_path):
    a, b = module("def f(x):\n    return x\n"), module("def f(x):\n    return x + 1\n")
    assert load_teacher(f"{a}:f").digest != load_teacher(f"{b}:f").digest


# --- several ----------------------------------------------------------------------------------------------------------


def test_an_ensemble_is_the_weighted_mean_of_probabilities(module):
    name = module(
        "def f(x):\n    return x.float().mean((2, 3)) / 20 - 7\n"
        "def g(x):\n    return f(x).flip(1) * 3\n"
        "def far(x):\n    return f(x) * 0 + torch.tensor([200.0, -200, 0])\n"
    )
    batch = images()
    f, g, far = (load_teacher(f"{name}:{part}", names=["a", "b", "c"]) for part in ("f", "g", "far"))
    both = Ensemble([f, g], "softmax", [3, 1])(batch)
    torch.testing.assert_close(both.softmax(1), 0.75 * f(batch).softmax(1) + 0.25 * g(batch).softmax(1))
    both = Ensemble([f, g], "sigmoid")(batch)
    torch.testing.assert_close(both.sigmoid(), 0.5 * f(batch).sigmoid() + 0.5 * g(batch).sigmoid())
    alone = Ensemble([f], "sigmoid", [7.0])(batch)
    torch.testing.assert_close(alone, f(batch))
    # 200 has the probability 1 in float32, whose logit would be infinite.
    assert Ensemble([far, far], "sigmoid")(batch)[0].tolist() == pytest.approx([200, -200, 0], abs=1e-3)
    matched = Ensemble([f, g], "sigmoid").matched(["c", "a"])
    torch.testing.assert_close(matched(batch), both[:, [2, 0]])
    assert matched.names == ("c", "a")


def test_an_ensemble_that_cannot_be_is_refused(module):
    name = module("def f(x):\n    return x.float().mean((2, 3)) - 300\ndef g(x):\n    return f(x)[:, :2]\n")
    f, g = load_teacher(f"{name}:f"), load_teacher(f"{name}:g")
    for weights in ([1], [1, 0], [1, -1], [1, math.nan], [1, math.inf]):
        with pytest.raises(InputError, match="give each of them one above 0"):
            Ensemble([f, f], "softmax", weights)
    with pytest.raises(InputError, match="give each"):
        Ensemble([], "softmax")
    named = [load_teacher(f"{name}:f", names=names) for names in (["a", "b", "c"], ["b", "a", "c"])]
    with pytest.raises(InputError, match="not answer for the same classes"):
        Ensemble(named, "softmax")
    assert Ensemble([teacher.matched(["c", "b"]) for teacher in named], "softmax").names == ("c", "b")
    with pytest.raises(InputError, match=r"answers with 3 numbers and .* with 2"):
        Ensemble([f, g], "softmax")(images())
