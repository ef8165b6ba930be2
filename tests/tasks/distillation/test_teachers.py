import copy
import importlib
import inspect
import math
import sys
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

from backbone import InputError, trunk_from
from data import imagenet
from tasks.distillation.losses import mse_logits
from tasks.distillation.teachers import Ensemble, build_teacher, class_map, load_teacher
from tasks.pooled import PooledLinear, PooledNetwork

HALVES = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


def images(count=4, side=32, seed=0):
    return torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def network():
    """A norm with statistics of its own, so that training mode shows."""
    torch.manual_seed(0)
    built = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(), nn.AdaptiveAvgPool2d(1))
    built.append(nn.Flatten()).append(nn.Linear(8, 3))
    built[1].running_mean.normal_()
    built[1].running_var.uniform_(0.5, 2)
    return built


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


@pytest.fixture
def net(module):
    """The source of a teacher with `network`."""
    return f"{module(inspect.getsource(network) + 'net = network()')}:net"


def normalised(batch, mean, std):
    mean, std = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
    return (batch.float() / 255 - mean) / std


def alike(outputs, network, batch, mean, std):
    """Whether a teacher's outputs are a network's for the batch normalised so."""
    with torch.inference_mode():
        torch.testing.assert_close(outputs, network(normalised(batch, mean, std)), rtol=1e-4, atol=1e-5)


# --- frozen whatever happens ------------------------------------------------------------------------------------------


class Student(LightningModule):
    def __init__(self, teacher):
        super().__init__()
        self.teacher, self.net, self.modes = teacher, nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3)), []

    def training_step(self, batch, batch_idx):
        loss = mse_logits(self.net(batch / 255), self.teacher(batch))
        self.modes += [part.training for part in self.teacher.network.modules()]
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_fit_neither_changes_the_teacher_nor_keeps_it(net, tmp_path):
    teacher = load_teacher(net, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.3))
    before, logits, student = copy.deepcopy(teacher.network.state_dict()), teacher(images()), Student(teacher)
    weights = copy.deepcopy(student.net.state_dict())
    student.train()
    teacher.network.train()  # even by hand
    assert set(student.state_dict()) == {"net.1.weight", "net.1.bias"}
    fit = trainer(tmp_path, max_steps=2)
    fit.fit(student, DataLoader(images(8), batch_size=4))
    fit.save_checkpoint(tmp_path / "student.ckpt")
    assert not torch.equal(student.net[1].weight, weights["1.weight"])  # it did learn
    after = teacher.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)  # norms' statistics and counters too
    assert not any(student.modes)
    assert torch.equal(teacher(images()), logits)
    assert not any(p.requires_grad or p.grad is not None for p in teacher.network.parameters())
    assert [len(group["params"]) for group in fit.optimizers[0].param_groups] == [2]
    assert set(torch.load(tmp_path / "student.ckpt")["state_dict"]) == {"net.1.weight", "net.1.bias"}
    assert (tmp_path / "student.ckpt").stat().st_size < 4 * (3 * 3072 + 3) + 20_000


def test_logits_are_float32_constants_in_a_loss_and_an_average_of_the_student_has_no_copy(net):
    teacher = load_teacher(net, **HALVES)
    logits = teacher(images())
    assert logits.dtype == torch.float32
    assert [logits.requires_grad, logits.is_inference()] == [False, False]  # or no backward pass could use it
    mse_logits(torch.zeros(4, 3, requires_grad=True) * logits, logits).backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):  # the student's precision is its own
        assert torch.equal(teacher(images()), logits)
    assert copy.deepcopy(Student(teacher)).teacher is teacher
    both = Ensemble([teacher], "softmax", [1])
    assert copy.deepcopy(both) is both


# --- what it sees -----------------------------------------------------------------------------------------------------


def test_it_normalises_and_resizes_by_itself(module):
    name = module(
        "def look(x):\n    return x.mean((2, 3)) * 10\n"
        "def size(x):\n    y = x.float().mean((1, 2, 3))\n"
        "    return torch.stack([y, torch.full_like(y, x.shape[2]), torch.full_like(y, x.shape[3])], 1)\n"
    )
    mean, std = (0.5, 0.4, 0.3), (0.1, 0.2, 0.25)
    batch = images(3, 32)
    teacher = load_teacher(f"{name}:look", mean=mean, std=std)
    torch.testing.assert_close(teacher(batch), normalised(batch, mean, std).mean((2, 3)) * 10, rtol=1e-4, atol=1e-4)
    with pytest.raises(TypeError, match="uint8"):
        teacher(batch / 255)
    one = images(1, 32)
    expected = interpolate(one.float(), (16, 24), mode="bilinear", antialias=True).mean().item()
    outputs = load_teacher(f"{name}:size", image_size=[16, 24])(one)[0].tolist()
    assert outputs == [pytest.approx(expected, abs=0.5), 16, 24]  # 0.5: pixels are rounded
    outputs = load_teacher(f"{name}:size")(one)[0].tolist()  # uint8, as they are
    assert outputs == [pytest.approx(one.float().mean().item()), 32, 32]


# --- sources ----------------------------------------------------------------------------------------------------------


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["safetensors", "pth", "checkpoint"])
@pytest.mark.parametrize("source", ["torchvision:resnet18", "torchvision:mobilenet_v3_small", "timm:test_resnet"])
def test_a_foreign_classifier_by_name_with_a_file_of_any_number_of_classes(tmp_path, source, form):
    """Its embedding is its last layer's input."""
    torch.manual_seed(0)
    library, _, name = source.partition(":")
    theirs = (timm.create_model if library == "timm" else torchvision.models.get_model)(name, num_classes=5).eval()
    pixels = {key: theirs.pretrained_cfg[key] for key in IMAGENET} if library == "timm" else IMAGENET
    state, file = theirs.state_dict(), tmp_path / "weights"
    if form == "safetensors":
        save_file(state, file)
    else:
        wrapped = {"epoch": 3, "model": {f"module.{name}": x for name, x in state.items()}}
        torch.save(state if form == "pth" else wrapped, file)
    logits, features = (load_teacher(source, weights=file, image_size=64, kind=k) for k in ("logits", "embeddings"))
    alike(logits(images(2, 64)), theirs, images(2, 64), **pixels)
    head = [module for module in theirs.modules() if isinstance(module, nn.Linear)][-1]
    with torch.inference_mode():
        torch.testing.assert_close(head(features(images(2, 64))), logits(images(2, 64)), rtol=1e-4, atol=1e-5)
    assert logits.names is None
    assert load_teacher(source, weights=file).size == ((160, 160) if library == "timm" else (224, 224))


@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_torchvisions_nets_of_another_normalisation_take_the_pixels_they_learned_from(tmp_path):
    """They turn ImageNet's normalisation into their own, of -1..1, where torchvision knows whose the weights are."""
    torch.manual_seed(0)
    theirs = torchvision.models.googlenet(init_weights=False, num_classes=5).eval()
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    teacher = load_teacher("torchvision:googlenet", weights=tmp_path / "w.safetensors")
    batch, seen = images(2, 224), []
    teacher.network.conv1.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    logits = teacher(batch)
    torch.testing.assert_close(seen[-1], normalised(batch, **HALVES), rtol=1e-3, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(logits, theirs(seen[-1]))


def test_timm_without_a_head_or_not_installed(tmp_path, monkeypatch):
    theirs = timm.create_model("test_resnet", num_classes=0).eval()
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    options = {"weights": tmp_path / "w.safetensors", "image_size": 64, "kind": "embeddings"}
    pixels = {key: theirs.pretrained_cfg[key] for key in IMAGENET}
    alike(load_teacher("timm:test_resnet", **options)(images(2, 64)), theirs, images(2, 64), **pixels)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match="pip install timm"):
        load_teacher("timm:test_resnet", **options)


def test_a_thousand_classes_are_imagenets(tmp_path):
    save_file(timm.create_model("test_resnet", num_classes=1000).state_dict(), tmp_path / "w.safetensors")
    teacher = load_teacher("timm:test_resnet", weights=tmp_path / "w.safetensors", image_size=64)
    assert teacher.names == imagenet.class_names()
    dogs = teacher.matched(["toy poodle", "Chihuahua"])
    torch.testing.assert_close(dogs(images(2, 64)), teacher(images(2, 64))[:, [265, 151]])  # their ImageNet labels


@pytest.mark.parametrize("form", ["pt", "pt2"])
def test_programs_are_loaded_and_said_to_be_code(tmp_path, form, capsys):
    theirs, batch, path = network().eval(), images(), tmp_path / f"teacher.{form}"
    with warnings.catch_warnings(action="ignore"):
        if form == "pt":
            torch.jit.script(theirs).save(path)
        else:
            shapes = ({0: torch.export.Dim("batch"), 2: torch.export.Dim("h", min=8), 3: torch.export.Dim("w", min=8)},)
            torch.export.save(torch.export.export(theirs, (torch.rand(2, 3, 32, 32),), dynamic_shapes=shapes), path)
    pixels = {"mean": (0.5, 0.4, 0.3), "std": (0.1, 0.2, 0.25)}
    teacher = load_teacher(path, **pixels, names=["a", "b", "c"])
    assert f"{path} is a program" in capsys.readouterr().out
    alike(teacher(batch), theirs, batch, **pixels)
    assert not teacher.network.training
    assert torch.equal(teacher.matched(["c", "a"])(batch), teacher(batch)[:, [2, 0]])
    with pytest.raises(InputError, match="cannot take uint8 images of 32 x 32 px"):
        load_teacher(path)(batch)


def test_a_program_exported_in_training_mode_is_refused(tmp_path):
    """Its batch norm takes the batch's own statistics, and eval() cannot reach it."""
    program = torch.export.export(network().train(), (torch.rand(4, 3, 32, 32),))
    torch.export.save(program, tmp_path / "teacher.pt2")
    with pytest.raises(InputError, match="in training mode"):
        load_teacher(tmp_path / "teacher.pt2", **HALVES)(images())


def save_checkpoint(path, names=("bar", "cross", "disc"), seed=0, bottleneck=0, head_bias=None, **more):
    """What a TaskModule with a pooled head saves; returns its network."""
    torch.manual_seed(seed)
    trunk = trunk_from({"width_mult": 0.125})
    built = PooledNetwork(trunk, PooledLinear(trunk.channels, 3, bottleneck=bottleneck)).eval()
    if head_bias is not None:
        nn.init.zeros_(built.layers.linear.weight)
        nn.init.constant_(built.layers.linear.bias, head_bias)
    state = {name.replace("layers.", "head.layers."): x for name, x in built.state_dict().items()}
    checkpoint = {"task": "any", "trunk": trunk.settings, "head": {"names": list(names)}, "state_dict": state}
    torch.save({**checkpoint, "hyper_parameters": {"input_size": (64, 96)}, **more}, path)
    return built


def test_a_checkpoint_of_this_project(tmp_path):
    """The weights, not the file, are what it is; its embedding is what its head sees."""
    theirs = save_checkpoint(tmp_path / "a.ckpt")
    teacher, features = (load_teacher(tmp_path / "a.ckpt", kind=kind) for kind in ("logits", "embeddings"))
    assert (teacher.names, teacher.size) == (("bar", "cross", "disc"), (64, 96))
    assert (features.names, features.size) == (None, (64, 96))
    batch = torch.randint(256, (2, 3, 64, 96), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(teacher(batch), theirs(batch))
        torch.testing.assert_close(features(batch), theirs.pool(batch))
    with pytest.raises(InputError, match="mean"):
        load_teacher(tmp_path / "a.ckpt", **HALVES)
    save_checkpoint(tmp_path / "b.ckpt", global_step=7)
    save_checkpoint(tmp_path / "c.ckpt", seed=1, head_bias=1 / 3)
    digests = [load_teacher(tmp_path / f"{name}.ckpt").digest for name in "abc"]
    assert digests[0] == digests[1] != digests[2]
    assert features.digest not in digests
    certain = load_teacher(tmp_path / "c.ckpt")  # logits for certain, whatever they look like
    assert certain(batch.repeat(40, 1, 1, 1)).unique().tolist() == pytest.approx([1 / 3])


def test_a_checkpoint_of_embeddings_and_one_of_neither(tmp_path):
    theirs = save_checkpoint(tmp_path / "e.ckpt", names=[], bottleneck=2)
    batch = torch.randint(256, (2, 3, 64, 96), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(load_teacher(tmp_path / "e.ckpt", kind="embeddings")(batch), theirs(batch))
    with pytest.raises(InputError, match="embeddings"):
        load_teacher(tmp_path / "e.ckpt")
    for more in ({"head": {"threshold": 1.0}}, {"state_dict": {"trunk.x": torch.zeros(1)}}):
        save_checkpoint(tmp_path / "x.ckpt", **more)
        with pytest.raises(InputError, match="'any'"):
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
        ("by_place", {}, r"\[0, 1\]"),
        ("by_key", {"output": "logit"}, r"'logit'.*\['logits', 'other'\]"),
        ("by_place", {"output": 2}, "output 2"),
        ("pooled", {"output": 0}, "output 0"),
        ("flat", {}, r"\[\] for 4 images"),
        ("pooled", {"names": ["a", "b"]}, "3 numbers for 2 names"),
    ):
        with pytest.raises(InputError, match=message):
            load_teacher(f"{name}:{function}", **options)(batch)


def test_what_cannot_be_a_teacher_is_refused(module, tmp_path):
    name = module("class Net(nn.Module):\n    pass\nnumber = 3\n")
    for file in ("text.pt2", "text.ckpt", "text.pth"):
        (tmp_path / file).write_text("<!DOCTYPE html>")
    for file in ("weights.pt", "other.pth"):
        torch.save(network().state_dict(), tmp_path / file)
    for source, options, message in (
        ("torchvision:resnet18", {}, "weights None"),
        ("torchvision:resnet81", {"weights": "other.pth"}, "'resnet18' meant"),
        ("torchvision:resnet18", {"weights": "gone.pth"}, r"gone\.pth"),
        ("torchvision:resnet18", {"weights": "text.pth"}, r"text\.pth: .*DOCTYPE"),
        ("torchvision:mobilenet_v2", {"weights": "other.pth"}, r"other\.pth \(0\.weight"),
        ("weights.pt", {"weights": "other.pth"}, r"weights other\.pth"),
        ("weights.pt", {}, r"weights\.pt is not a program"),
        ("text.pt2", {}, r"text\.pt2 is not a program"),
        ("text.ckpt", {}, r"text\.ckpt is not a checkpoint"),
        ("gone.pt2", {}, r"gone\.pt2 does not exist"),
        ("math.sqrt", {}, "package.module:function"),
        ("no_such_module_here:function", {}, "no_such_module_here"),
        (f"{name}:Net", {}, "is a type"),
        (f"{name}:number", {}, "is a int"),
        (f"{name}:gone", {}, "'gone'"),
        (f"{module('def f(:')}:f", {}, "SyntaxError: invalid syntax.*line 3"),
        (f"{module('f = numbre')}:f", {}, "NameError: name 'numbre'"),
        ("math:sqrt", {"mean": (0.5,) * 3}, "std None"),
        ("math:sqrt", {"mean": (0.5,) * 2, "std": (0.5,) * 2}, "three numbers"),
        ("math:sqrt", {"image_size": 0}, "image_size 0"),
    ):
        with pytest.raises(InputError, match=message):
            load_teacher(source, **options)


# --- outputs that cannot be right -------------------------------------------------------------------------------------


def test_an_output_that_is_not_finite_names_its_image(module):
    name = module("def f(x):\n    y = x.float().mean((2, 3))\n    return torch.where(y[:, :1] > 254, torch.nan, y)\n")
    teacher, batch = load_teacher(f"{name}:f"), images()
    teacher(batch, list("abcd"))
    batch[2] = 255
    with pytest.raises(InputError, match=r"image faces/c\.jpg;"):
        teacher(batch, [f"faces/{letter}.jpg" for letter in "abcd"])
    with pytest.raises(InputError, match="image 2;"):
        load_teacher(f"{name}:f")(batch)


def test_probabilities_are_refused_and_small_logits_are_not(module):
    name = module(
        "def y(x):\n    return x.float().mean((2, 3)) / 25\n"
        "def softmax(x):\n    return y(x).softmax(1)\n"
        "def sigmoid(x):\n    return (y(x) - 5).sigmoid()\n"
        "def logits(x):\n    return y(x) - 5\n"
    )
    for function, count in (("softmax", 1), ("sigmoid", 32)):
        with pytest.raises(InputError, match="probabilities"):
            load_teacher(f"{name}:{function}")(images(count))
    few = load_teacher(f"{name}:sigmoid")
    for _ in range(7):  # nine numbers prove nothing
        few(images(3))
    with pytest.raises(InputError, match="probabilities"):
        few(images(3))
    assert load_teacher(f"{name}:sigmoid", kind="embeddings")(images(32)).max() < 1
    teacher, bright = load_teacher(f"{name}:logits"), images(16).clamp(min=126)
    teacher(images(16))
    assert ((teacher(bright) > 0) & (teacher(bright) < 3)).all()


def test_classes_are_mapped_by_name(module):
    theirs = ["5_o_Clock_Shadow", "Bald", "Wearing_Hat", "bald "]
    assert class_map(["wearing-hat", "5 o clock shadow", "Bald"], theirs) == [2, 0, 1]
    with pytest.raises(InputError, match=r"'Smilling' .* 'Smiling'"):
        class_map(["Smilling"], ["Smiling", "Bald"])
    with pytest.raises(InputError, match=r"'BALD' .*\[1, 3\]"):
        class_map(["BALD"], theirs)
    name = module("def f(x):\n    return x.float().mean((2, 3)) * torch.tensor([1.0, 10, 100])\n")
    teacher, unnamed = load_teacher(f"{name}:f", names=["a", "b", "c"]), load_teacher(f"{name}:f")
    matched = teacher.matched(["c", "B"])
    torch.testing.assert_close(matched(images()), teacher(images())[:, [2, 1]])
    assert matched.names == ("c", "B")
    assert len({teacher.digest, matched.digest, teacher.matched(["b", "c"]).digest}) == 3
    assert teacher.matched(["a", "b", "c"]) is teacher
    torch.testing.assert_close(unnamed.matched(["x", "y", "z"])(images()), teacher(images()))
    with pytest.raises(InputError, match="3 numbers for 2 names"):
        unnamed.matched(["x", "y"])(images())


# --- what it is -------------------------------------------------------------------------------------------------------


def test_the_digest_changes_with_all_that_changes_an_output_and_with_nothing_else(tmp_path, module):
    state = torchvision.models.mobilenet_v3_small(num_classes=2).state_dict()
    torch.save(state, tmp_path / "a.pth")
    save_file(state, tmp_path / "again.safetensors")
    state["features.0.1.running_mean"][3] += 1e-6
    torch.save(state, tmp_path / "b.pth")

    def digest(file="a.pth", **options):
        return load_teacher("torchvision:mobilenet_v3_small", weights=file, **options).digest

    first = digest()
    assert digest() == digest("again.safetensors") == first
    others = [digest("b.pth"), digest(image_size=192), digest(**HALVES), digest(output="logits")]
    assert len({first, *others}) == 5
    teacher = load_teacher("torchvision:mobilenet_v3_small", weights="a.pth", names=["a", "b"])
    both = [Ensemble([teacher, teacher], "softmax", weights).digest for weights in ((1, 1), (1, 2), (2, 2))]
    assert both[0] == both[2] != both[1]
    a, b = module("def f(x):\n    return x\n"), module("def f(x):\n    return x + 1\n")  # a function's is its source
    assert load_teacher(f"{a}:f").digest != load_teacher(f"{b}:f").digest


# --- as an option names them, and several -----------------------------------------------------------------------------


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
    both = Ensemble([f, g], "sigmoid", [1, 1])(batch)
    torch.testing.assert_close(both.sigmoid(), 0.5 * f(batch).sigmoid() + 0.5 * g(batch).sigmoid())
    torch.testing.assert_close(Ensemble([f], "sigmoid", [7.0])(batch), f(batch))
    # 200 has the probability 1 in float32, whose logit would be infinite.
    assert Ensemble([far, far], "sigmoid", [1, 1])(batch)[0].tolist() == pytest.approx([200, -200, 0], abs=1e-3)


def test_a_teacher_is_built_as_the_option_says(module):
    name = module(
        "def f(x):\n    return torch.tensor([1.0, 2, 5]).log().expand(len(x), 3)\ndef g(x):\n    return f(x).flip(1)\n"
    )
    names = ["a", "b", "c"]
    f, g = {"source": f"{name}:f", "share": 3, "names": names}, {"source": f"{name}:g", "names": names[::-1]}
    for option in (f"{name}:f", f, [f], [f, g]):  # by name, g says what f does
        probabilities = build_teacher(option, names, "softmax")(images()).softmax(1)[0]
        assert probabilities.tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8])
    both = build_teacher([f, {**g, "names": names}], names, "softmax")(images())
    # (1, 2, 5) / 8 and its reverse, three to one
    assert both.softmax(1)[0].tolist() == pytest.approx([(3 * 1 + 5) / 32, 8 / 32, (3 * 5 + 1) / 32])
    assert build_teacher(f"{name}:f", (), "embeddings")(images()).shape == (4, 3)
    wrong = [{"weigths": "x"}, {"share": "abc"}, {"share": None}, {**HALVES, "mean": list("abc")}, {"image_size": "ab"}]
    for option in [[{"source": f"{name}:f", **each}] for each in wrong] + [[{**f, "share": 0}, g]]:
        with pytest.raises(InputError, match=r"--model.teacher"):
            build_teacher(option, names, "softmax")
    for share in (-1, math.nan, math.inf):
        with pytest.raises(InputError, match=f"{float(share)}"):
            build_teacher([f, {**f, "share": share}], names, "softmax")
    with pytest.raises(InputError, match="one teacher"):
        build_teacher([f, f], (), "embeddings")
