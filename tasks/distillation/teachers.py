"""Teachers: a network of any origin as a function from uint8 images to logits or embeddings, which nothing can train.

A teacher is a plain object and not an `nn.Module`, so that a LightningModule that has one has it neither among its
modules, parameters and optimiser's groups nor in its checkpoint, and `train()` does not reach it.
"""

import copy
import difflib
import hashlib
import importlib
import inspect
import math
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resize

from backbone import Preprocessing, normalize
from backbone.errors import InputError
from backbone.pretrained import read_tensors
from tasks.pooled import pool, pooled_network

Kind = Literal["softmax", "sigmoid", "embeddings"]  # logits of one class of all, logits of yes or no for each, neither
TeacherOption = str | dict[str, Any] | list[dict[str, Any]] | None  # --model.teacher
Normalisation = Sequence[float] | None
ENOUGH_TO_TELL = 64  # numbers that must all lie in 0..1 before they are taken for probabilities
_ACCEPTED = (
    "accepted are torchvision:NAME and timm:NAME with a file of weights, a checkpoint of this project (.ckpt), a "
    "TorchScript (.pt) or exported (.pt2) program, and package.module:function"
)


class _Network(NamedTuple):
    """A network as it was loaded. `identity` is what its digest starts from; without a mean it takes uint8 images."""

    network: Callable[[Tensor], Any]
    identity: bytes
    names: tuple[str, ...] | None = None
    mean: Normalisation = None
    std: Normalisation = None
    size: tuple[int, int] | None = None
    are_logits: bool = False  # for certain; the outputs of others are looked at


class Teacher:
    """`teacher(images)`: uint8 (B, 3, H, W) RGB to float32 logits (B, K), always the same ones; see `load_teacher`.

    `names` are those of the K outputs where they are known; `digest`, sha256 in hex, changes with anything that could
    change an output; `network` is the function itself, for counting its cost.
    """

    def __init__(self, source: str, loaded: _Network, output: str | int | None, *, maybe_probabilities: bool) -> None:
        self.source = source
        self.network = loaded.network
        self.names = loaded.names
        self.size = loaded.size  # (height, width) px, None where it takes the student's
        self._preprocessing: Preprocessing | None = None
        if loaded.mean is not None and loaded.std is not None:
            self._preprocessing = Preprocessing(*(tuple(map(float, row)) for row in (loaded.mean, loaded.std)))  # type: ignore[arg-type]
        self._output = output
        self._width = None if loaded.names is None else len(loaded.names)  # of what the network outputs
        self._columns: Tensor | None = None  # those taken of them
        self._maybe_probabilities = maybe_probabilities
        self._within = 0  # numbers so far that lie in 0..1, as probabilities do
        self._tried = False
        self.digest = _sha256(loaded.identity, repr((self._preprocessing, loaded.size, output)).encode())
        self._freeze()

    def __call__(self, images: Tensor, files: Sequence[str] = ()) -> Tensor:
        """The outputs for a batch; `files` name its images in what goes wrong.

        Raises InputError where an output is not finite, is not a row of numbers for each image, looks like
        probabilities, or, at the first call, where the network cannot take the images or its output for one depends on
        the others.
        """
        if images.dtype != torch.uint8:
            raise TypeError(f"a teacher takes uint8 images of 0..255, not {images.dtype}")
        self._freeze()
        # In full precision whatever the student trains in, so that cached logits equal those of any other run.
        with torch.inference_mode(), torch.autocast(images.device.type, enabled=False):
            if not self._tried:
                self._try(images)
            outputs = self._outputs(images)
            finite = outputs.isfinite().all(1)
            if not finite.all():
                row = int((~finite).nonzero()[0])
                self._refuse(
                    f"outputs numbers that are not finite for the image {[*files, *map(str, range(len(images)))][row]};"
                    " look at it, and at the `mean`, `std` and weights of the teacher"
                )
            self._refuse_probabilities(outputs)
            if self._columns is not None:
                outputs = outputs[:, self._columns.to(outputs.device)]
        return outputs.clone()  # an inference tensor cannot take part in a loss

    def __deepcopy__(self, memo: dict) -> "Teacher":
        return self  # nothing changes it, and a moving average of the student's weights needs no second one

    def to(self, device: str | torch.device) -> "Teacher":
        """Move it to where the images will be, and return it."""
        if isinstance(self.network, nn.Module):
            self.network.to(device)
        return self

    def matched(self, names: Sequence[str]) -> "Teacher":
        """The same teacher with one output for each of `names`, in their order. InputError where it does not know one.

        A teacher without names is taken to have these, and refused at its first output where it has not as many.
        """
        if tuple(names) == self.names:
            return self
        matched = copy.copy(self)
        matched.names = tuple(names)
        if self.names is None:
            matched._width = len(names)
            return matched
        columns = class_map(names, self.names)
        matched._columns = torch.tensor(columns) if self._columns is None else self._columns[columns]
        matched.digest = _sha256(self.digest.encode(), repr(columns).encode())
        return matched

    def _outputs(self, images: Tensor) -> Tensor:
        """What the network outputs, float32 (B, K)."""
        if self.size is not None and tuple(images.shape[2:]) != self.size:
            images = resize(images, list(self.size), antialias=True)
        outputs = self.network(normalize(images, self._preprocessing) if self._preprocessing else images)
        if self._output is not None:
            try:
                if isinstance(outputs, Tensor):
                    raise TypeError("a tensor would give one of its images")
                outputs = outputs[self._output]
            except (LookupError, TypeError):
                self._refuse(f"outputs {_described(outputs)}, without {self._output!r}; choose another `output`")
        if not isinstance(outputs, Tensor):
            self._refuse(f"outputs {_described(outputs)}; say with `output` which of them to take")
        if outputs.ndim > 2 and math.prod(outputs.shape[2:]) == 1:  # pooled features (B, K, 1, 1)
            outputs = outputs.flatten(1)
        if outputs.ndim != 2 or len(outputs) != len(images):
            self._refuse(f"outputs {_described(outputs)} for {len(images)} images, not a row of numbers for each")
        if self._width not in (None, outputs.shape[1]):
            self._refuse(
                f"outputs {outputs.shape[1]} numbers, but there are {self._width} names for them; give it `names` of "
                "its own, in its order"
            )
        return outputs.float()

    def _try(self, images: Tensor) -> None:
        """Ask twice for the first image, among different ones.

        A program exported, or traced, in training mode has its dropout and batch norms built in, and a function may do
        as it likes: outputs that depend on chance or on the batch cannot be learned, still less cached.
        """
        others = images.clone()
        others[1:] = 255 - others[1:]
        try:
            first, again = self._outputs(images)[:1], self._outputs(others)[:1]
        except (InputError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a foreign network raises at a wrong size or type
            height, width = self.size or images.shape[2:]
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"the teacher {self.source} cannot take {'normalised float32' if self._preprocessing else 'uint8'} "
                f"images of {height} x {width} px: {reason}; give the `mean`, `std` and `image_size` that it was "
                "trained with."
            ) from error
        if (first - again).abs().max() > 1e-2 * first.abs().max().clamp(min=1e-2):
            self._refuse(
                "has two outputs for one image in two batches, as a program exported in training mode has; export it "
                "after `eval()`"
            )
        self._tried = True

    def _refuse_probabilities(self, outputs: Tensor) -> None:
        if not self._maybe_probabilities or not outputs.numel():
            return
        if ((outputs < 0) | (outputs > 1)).any():
            self._maybe_probabilities = False
            return
        self._within += outputs.numel()
        sums_to_1 = outputs.shape[1] > 1 and ((outputs.sum(1) - 1).abs() < 1e-3).all()
        if sums_to_1 or self._within >= ENOUGH_TO_TELL:
            self._refuse(
                f"outputs probabilities and not logits (from {outputs.min():.3g} to {outputs.max():.3g}"
                f"{', which add up to 1' if sums_to_1 else ''}); give it without its last softmax or sigmoid, or say "
                "with `kind: embeddings` that these are none"
            )

    def _freeze(self) -> None:
        if isinstance(self.network, nn.Module):
            try:
                self.network.eval()
            except NotImplementedError:  # an exported program's: it is as it was exported, see `_try`
                self.network.training = False
            for parameter in self.network.parameters():  # TorchScript's modules have no requires_grad_()
                parameter.requires_grad_(False)

    def _refuse(self, what: str) -> NoReturn:
        raise InputError(f"the teacher {self.source} {what}.")


class Ensemble:
    """Several teachers as one: the weighted mean of their probabilities, as logits (B, K).

    `kind` says whether these are of one softmax over the K or of K sigmoids. The weights are scaled to a sum of 1.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        kind: Literal["softmax", "sigmoid"],
        weights: Sequence[float] | None = None,
    ) -> None:
        weights = [1.0] * len(teachers) if weights is None else [float(weight) for weight in weights]
        if not teachers or len(weights) != len(teachers) or not all(0 < weight < math.inf for weight in weights):
            raise InputError(f"{len(teachers)} teachers have the weights {weights}; give each of them one above 0.")
        self.teachers = list(teachers)
        self.weights = [weight / sum(weights) for weight in weights]
        self.names = teachers[0].names
        for teacher in teachers[1:]:
            if teacher.names != self.names:
                raise InputError(
                    f"the teachers {teachers[0].source} and {teacher.source} have not the same classes in the same "
                    "order; match each to the student's names first."
                )
        self._kind = kind
        parts = [f"{teacher.digest} {weight!r}" for teacher, weight in zip(teachers, self.weights, strict=True)]
        self.digest = _sha256(kind.encode(), "\n".join(parts).encode())

    def __call__(self, images: Tensor, files: Sequence[str] = ()) -> Tensor:
        """As one teacher's. Raises InputError also where one outputs more numbers than another."""
        outputs = [teacher(images, files) for teacher in self.teachers]
        for teacher, rows in zip(self.teachers, outputs, strict=True):
            if rows.shape != outputs[0].shape:
                raise InputError(
                    f"the teacher {self.teachers[0].source} outputs {outputs[0].shape[1]} numbers and {teacher.source} "
                    f"{rows.shape[1]}; give `names` to both, so that they can be matched."
                )
        logits = torch.stack(outputs)  # (teachers, B, K)
        shares = logits.new_tensor(self.weights).log()[:, None, None]
        if self._kind == "softmax":
            return (logits.log_softmax(2) + shares).logsumexp(0)
        yes, no = ((F.logsigmoid(x) + shares).logsumexp(0) for x in (logits, -logits))
        return yes - no

    def __deepcopy__(self, memo: dict) -> "Ensemble":
        return self

    def to(self, device: str | torch.device) -> "Ensemble":
        """Move all of them, and return it."""
        for teacher in self.teachers:
            teacher.to(device)
        return self


def build_teacher(option: TeacherOption, names: Sequence[str], kind: Kind) -> Teacher | Ensemble:
    """The teacher that `--model.teacher` names, with an output for each of `names`, or of embeddings.

    A string is a source of `load_teacher`, a mapping its arguments; in a list of several each may have a `share` too,
    its weight among them (1 by default). Raises InputError where one cannot be loaded or does not know a name.
    """
    given = [option] if isinstance(option, str | Mapping) else option or []
    teachers, shares = [], []
    for one in given:
        arguments = {"source": one} if isinstance(one, str) else dict(one)
        if kind == "embeddings":
            arguments["kind"] = kind
        try:
            shares.append(float(arguments.pop("share", 1.0)))
            teacher = load_teacher(**arguments)
        except InputError:  # a ValueError as well
            raise
        except (TypeError, ValueError) as error:
            raise InputError(f"--model.teacher has {one}, which cannot be read: {error}.") from error
        teachers.append(teacher if kind == "embeddings" else teacher.matched(names))
    if len(teachers) == 1:
        return teachers[0]
    if kind == "embeddings":
        raise InputError(f"--model.teacher names {len(teachers)} teachers; embeddings are learned from one.")
    return Ensemble(teachers, kind, shares)


def output_size(teacher: Teacher | Ensemble, input_size: tuple[int, int]) -> int:
    """How many numbers it outputs for an image of (height, width) px, from two of noise. InputError where it cannot."""
    noise = torch.randint(256, (2, 3, *input_size), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return teacher(noise, ["of noise, which it was tried on"] * 2).shape[1]


def load_teacher(
    source: str | Path,
    *,
    weights: str | Path | None = None,
    names: Sequence[str] | None = None,
    mean: Normalisation = None,
    std: Normalisation = None,
    image_size: int | Sequence[int] | None = None,
    output: str | int | None = None,
    kind: Literal["logits", "embeddings"] = "logits",
) -> Teacher:
    """Load a teacher. Nothing is downloaded, and none has random weights: a name needs its file of weights.

    Args:
        source: "torchvision:resnet50" or "timm:resnet50", a checkpoint of this project ("x.ckpt"), a TorchScript
            ("x.pt") or exported program ("x.pt2"), or "package.module:function". The last is code, and is run.
        weights: Of torchvision's and timm's: a state dict as safetensors, or as torch.save writes it.
        names: Of its outputs in their order; a checkpoint knows its own, and 1,000 outputs are ImageNet's classes.
        mean: Of pixels scaled to 0..1, with `std`. torchvision's and timm's come with the name; a program or a function
            without them gets uint8 images, as a checkpoint of this project does.
        std: As `mean`.
        image_size: Side, or [height, width], in px, that images are resized to; by default what torchvision, timm or
            the checkpoint says, and otherwise the student's.
        output: Key or position of the logits where the network outputs a dictionary or a tuple.
        kind: Embeddings are what a head sees: the pooled features of a checkpoint of this project or of timm's, and of
            torchvision's the input of its last layer. Those of other sources are what they output; they are not
            mistaken for probabilities.

    Raises:
        InputError: Where any of that cannot be used.

    """
    text, embeddings = str(source), kind == "embeddings"
    library, _, name = text.partition(":")
    path = Path(text).expanduser()
    if library in ("torchvision", "timm") and name:
        if weights is None:
            raise InputError(
                f"the teacher {text} has no weights, and a random one has nothing to teach; name their file "
                "(.safetensors or .pth), as nothing is downloaded."
            )
        load = _from_torchvision if library == "torchvision" else _from_timm
        loaded = load(name, weights, embeddings)
    else:
        if weights is not None:
            raise InputError(f"the teacher {text} has weights of its own; leave {weights} out.")
        if path.suffix in (".ckpt", ".pt", ".pt2"):
            if not path.is_file():
                raise InputError(f"the teacher {path} does not exist; check the path.")
            programs = {".pt": _from_torchscript, ".pt2": _from_exported}
            loaded = _from_checkpoint(path, embeddings) if path.suffix == ".ckpt" else programs[path.suffix](path)
        elif re.fullmatch(r"[\w.]+:[\w.]+", text):
            loaded = _from_callable(text)
        else:
            raise InputError(f"the teacher {text!r} is nothing that can be loaded; {_ACCEPTED}.")
    if (mean is None) != (std is None):
        raise InputError(f"the teacher {text} has mean {mean} and std {std}; give both, or neither.")
    if mean is not None:
        if path.suffix == ".ckpt":
            raise InputError(f"the teacher {text} has a mean and std of its own; leave them out.")
        loaded = loaded._replace(mean=mean, std=std)
    if image_size is not None:
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if len(size) != 2 or min(size) < 1:
            raise InputError(f"the teacher {text} has the image_size {image_size}; give its side in px, or two.")
        loaded = loaded._replace(size=(size[0], size[1]))
    if embeddings:
        loaded = loaded._replace(identity=loaded.identity + b" embeddings", names=None)
    elif names is not None:
        loaded = loaded._replace(names=tuple(names))
    return Teacher(text, loaded, output, maybe_probabilities=not (embeddings or loaded.are_logits))


def class_map(student_names: Sequence[str], teacher_names: Sequence[str]) -> list[int]:
    """Where each of the student's classes is among the teacher's: by name, whatever its capitals, "_", "-" and spaces.

    Raises InputError for a name that the teacher has not, or has twice.
    """
    folded = [_folded(name) for name in teacher_names]
    columns = []
    for name in student_names:
        places = [i for i, other in enumerate(teacher_names) if other == name]
        places = places or [i for i, other in enumerate(folded) if other == _folded(name)]
        if len(places) > 1:
            raise InputError(
                f"the student's class {name!r} is two of the teacher's, number {places[0]} and {places[1]}; rename "
                "them with the teacher's `names`."
            )
        if not places:
            raise InputError(
                f"the student's class {name!r} is not among the teacher's {len(teacher_names)}, as "
                f"{', '.join(teacher_names[:3])}{_nearest(name, teacher_names)}; give the teacher's `names` as the "
                "student's data have them."
            )
        columns.append(places[0])
    return columns


# --- the sources ------------------------------------------------------------------------------------------------------


def _from_torchvision(name: str, weights: str | Path, embeddings: bool) -> _Network:
    from torchvision import models

    known = models.list_models(module=models)  # its classifiers; detectors and the like have modules of their own
    if name not in known:
        raise InputError(f"the teacher torchvision:{name} is not a classifier of torchvision{_nearest(name, known)}.")
    network = _filled(f"torchvision:{name}", lambda **classes: models.get_model(name, weights=None, **classes), weights)
    identity = b"torchvision " + name.encode()
    if hasattr(network, "transform_input"):
        # GoogLeNet and Inception v3 learned from pixels of -1..1; torchvision has them take ImageNet's normalisation
        # and turn it into that, but only where its own weights are asked for by name.
        setattr(network, "transform_input", True)  # noqa: B010  # to mypy any attribute of a module is a tensor
        identity += b" transform_input"
    presets = models.get_model_weights(name).DEFAULT.transforms()  # mean, std and size alone; downloads nothing
    side, identity, names = presets.crop_size[0], identity + _state(network), _imagenet_names(network)
    if embeddings:
        *_, last = (name for name, module in network.named_modules() if isinstance(module, nn.Linear))
        network.set_submodule(last, nn.Identity())
    return _Network(network, identity, names, presets.mean, presets.std, (side, side))


def _from_timm(name: str, weights: str | Path, embeddings: bool) -> _Network:
    try:
        import timm
    except ImportError:
        raise InputError(f"the teacher timm:{name} needs timm, which is not installed; `pip install timm`.") from None
    if not timm.is_model(name):
        raise InputError(f"the teacher timm:{name} is not a model of timm{_nearest(name, timm.list_models())}.")
    network: Any = _filled(
        f"timm:{name}", lambda **classes: timm.create_model(name, pretrained=False, **classes), weights
    )
    config, identity, names = network.pretrained_cfg, b"timm " + name.encode() + _state(network), None
    if embeddings:
        network.reset_classifier(0)
    else:
        names = _imagenet_names(network)
    return _Network(network, identity, names, config["mean"], config["std"], tuple(config["input_size"][1:]))


class _Pool(nn.Module):
    def forward(self, maps: Mapping[int, Tensor]) -> Tensor:
        return pool(maps)


def _from_checkpoint(path: Path, embeddings: bool) -> _Network:
    """From the trunk's settings, the pooled head's weights and its outputs' names, which are [] for embeddings."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        task, trunk, (height, width) = (
            checkpoint["task"],
            checkpoint["trunk"],
            checkpoint["hyper_parameters"]["input_size"],
        )
    except Exception:  # torch raises whatever the bytes happen to mean as a pickle
        raise InputError(
            f"the teacher {path} is not a checkpoint of this project; give one that `fit` wrote."
        ) from None
    try:
        names, network = tuple(checkpoint["head"]["names"]), pooled_network(checkpoint)
    except KeyError:
        raise InputError(f"the teacher {path} is a checkpoint of the task {task!r}, which has no logits.") from None
    identity = f"checkpoint {task} {trunk['numerics']}".encode() + _state(network)
    if names and embeddings:
        network.layers = _Pool()  # type: ignore[assignment]  # a module of maps, as the head's
    elif not (names or embeddings):
        raise InputError(f"the teacher {path} outputs embeddings, and logits are to be learned; name another.")
    return _Network(network, identity, names, None, None, (int(height), int(width)), are_logits=True)


def _from_torchscript(path: Path) -> _Network:
    try:
        with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated, but files of it are everywhere
            network = torch.jit.load(path, map_location="cpu")
    except RuntimeError:
        raise InputError(
            f"the teacher {path} is not a TorchScript program; a file of weights goes with torchvision:NAME or "
            "timm:NAME."
        ) from None
    return _Network(network, b"torchscript " + path.read_bytes())


def _from_exported(path: Path) -> _Network:
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("not an archive")
        network = torch.export.load(path).module()
    except Exception:  # by the kind of damage: KeyError, RuntimeError, BadZipFile, JSON's and others
        raise InputError(
            f"the teacher {path} is not a program that torch.export.save wrote with this version of torch or an "
            "older one."
        ) from None
    return _Network(network, b"exported " + path.read_bytes())


def _from_callable(text: str) -> _Network:
    """Its digest is of its module's source and, of an `nn.Module`, of its weights; not of other files it reads."""
    where, _, what = text.partition(":")
    try:
        module = importlib.import_module(where)
    except Exception as error:  # whatever a module raises that is written wrong: SyntaxError, NameError and others
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"the teacher {text} cannot be imported ({reason}); check the name, the folder and the file."
        ) from error
    function: Any = module
    for part in what.split("."):
        if not hasattr(function, part):
            raise InputError(f"the teacher {text}: {where} has no {what!r}{_nearest(part, dir(function))}.")
        function = getattr(function, part)
    if isinstance(function, type) or not callable(function):
        raise InputError(
            f"the teacher {text} is {'a class' if isinstance(function, type) else 'not a function'}; name a function "
            f"of images, or a built network, in {where}."
        )
    file = inspect.getsourcefile(module)
    identity = b"callable " + text.encode() + (Path(file).read_bytes() if file else b"")
    return _Network(function, identity + (_state(function) if isinstance(function, nn.Module) else b""))


def _filled(source: str, build: Callable[..., nn.Module], weights: str | Path) -> nn.Module:
    """The network with these weights: of as many classes as they have, or, where they have no head, without one."""
    try:
        tensors = read_tensors(weights)
    except InputError as error:
        problem = str(error).partition(";")[0]
        raise InputError(f"the teacher's {problem}; give a .safetensors, or what torch.save writes.") from error
    with torch.device("meta"):
        expected = build().state_dict()
    unlike = [name for name, x in expected.items() if name in tensors and tensors[name].shape != x.shape]
    classes = {
        (len(expected[name]), len(tensors[name])) for name in unlike if expected[name].ndim and tensors[name].ndim
    }
    options = {}
    if len(classes) == 1 and len(unlike) <= 6:  # weight and bias of the head, of auxiliary ones and distilled ones
        options = {"num_classes": classes.pop()[1]}
    elif source.startswith("timm:") and set(expected) > set(tensors):
        options = {"num_classes": 0}  # timm's way of asking for pooled features
    network = build(**options)
    own = network.state_dict()
    tensors |= {name: x for name, x in own.items() if name.endswith("num_batches_tracked") and name not in tensors}
    unlike = [
        name
        for name in {**own, **tensors}
        if getattr(own.get(name), "shape", 0) != getattr(tensors.get(name), "shape", 0)
    ]
    if unlike:
        has, have = (tuple(x[unlike[0]].shape) if unlike[0] in x else "not there" for x in (own, tensors))
        raise InputError(
            f"the teacher {source} does not fit its weights {weights}: its {unlike[0]} is {has}, theirs {have}; give "
            "its own file."
        )
    network.load_state_dict(tensors)
    return network


def _imagenet_names(network: nn.Module) -> tuple[str, ...] | None:
    """ImageNet's names, where the network's last parameter is the bias of 1,000 classes."""
    from data import imagenet

    *_, last = network.parameters()
    return imagenet.class_names() if last.shape == (1000,) else None


def _state(network: nn.Module) -> bytes:
    """A digest of its weights and statistics: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.digest()


def _sha256(*parts: bytes) -> str:
    """Of the parts and of where one ends."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def _nearest(name: str, known: Sequence[str]) -> str:
    """Words that suggest the nearest known name, if there is one."""
    by_folded = {_folded(other): other for other in known}
    nearest = difflib.get_close_matches(_folded(name), by_folded, 1)
    return f" (is {by_folded[nearest[0]]!r} meant?)" if nearest else ""


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _described(outputs: Any) -> str:
    """What a network outputs, for people."""
    if isinstance(outputs, Tensor):
        return f"a tensor of shape {tuple(outputs.shape)}"
    if isinstance(outputs, Mapping):
        return f"a dictionary of {', '.join(map(repr, outputs))}"
    if isinstance(outputs, tuple | list):
        return f"{len(outputs)} parts, 0 to {len(outputs) - 1}"
    return f"a {type(outputs).__name__}"
