"""Where answers come from: a network of any origin, as one function of uint8 pictures that nothing can train.

A teacher is a plain object and no `nn.Module`, so that a LightningModule that holds one has it neither among its
modules, parameters and optimizer's groups nor in its checkpoint, and `train()` does not reach it.
"""

import copy
import difflib
import hashlib
import importlib
import importlib.util
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

Normalisation = Sequence[float] | None
_ACCEPTED = (
    "accepted are torchvision:NAME and timm:NAME with a file of weights, a checkpoint of this project (.ckpt), a "
    "TorchScript (.pt) or exported (.pt2) program, and package.module:function"
)
TELLING = 64  # numbers that must all lie in 0..1 before they are taken for probabilities


class _Network(NamedTuple):
    """A network as it was found. `identity` is what its digest starts from; `mean` None: it takes uint8 images."""

    network: Callable[[Tensor], Any]
    identity: bytes
    names: tuple[str, ...] | None = None
    mean: Normalisation = None
    std: Normalisation = None
    size: tuple[int, int] | None = None
    are_logits: bool = False  # for certain; the answers of others are looked at


class Teacher:
    """`teacher(images)`: uint8 (B, 3, H, W) RGB to float32 logits (B, K), always the same ones; see `load_teacher`.

    `names` are those of the K answers where they are known; `digest`, sha256 in hex, changes with anything that could
    change an answer; `network` is the function itself, for counting its cost.
    """

    def __init__(
        self,
        source: str,
        found: _Network,
        output: str | int | None = None,
        answers: Literal["logits", "embeddings"] = "logits",
    ) -> None:
        self.source = source
        self.network = found.network
        self.names = found.names
        self.size = found.size  # (height, width) px, None where it takes the student's
        self._preprocessing = (
            None if found.mean is None or found.std is None else Preprocessing(_triple(found.mean), _triple(found.std))
        )
        self._output = output
        self._width = None if found.names is None else len(found.names)  # of what the network answers
        self._columns: Tensor | None = None  # those taken of them
        self._told_apart = answers == "embeddings" or found.are_logits  # both may well lie in 0..1
        self._within = 0  # numbers so far that lie in 0..1, as probabilities do
        self._tried = False
        settings = repr((self._preprocessing, found.size, output)).encode()
        self.digest = _sha256(found.identity, settings)
        self._freeze()

    def __call__(self, images: Tensor, files: Sequence[str] = ()) -> Tensor:
        """The answers for a batch; `files` name its pictures in what goes wrong.

        Raises InputError where an answer is not finite, is not a row of numbers per picture, looks like probabilities,
        or, at the first call, where the network cannot take the pictures or answers for one by what else is with it.
        """
        if images.dtype != torch.uint8:
            raise TypeError(f"a teacher takes uint8 images of 0..255, not {images.dtype}")
        self._freeze()
        # In full precision whatever the student trains in, so that kept answers equal those of any other run.
        with torch.inference_mode(), torch.autocast(images.device.type, enabled=False):
            if not self._tried:
                self._try(images)
            answers = self._answer(images)
            finite = answers.isfinite().all(1)
            if not finite.all():
                row = int((~finite).nonzero()[0])
                picture = files[row] if row < len(files) else f"number {row} of the batch"
                self._refuse(
                    f"answers with numbers that are not finite for the picture {picture}; look at it, and at the "
                    "`mean`, `std` and weights of the teacher"
                )
            self._refuse_probabilities(answers)
            if self._columns is not None:
                answers = answers[:, self._columns.to(answers.device)]
        return answers.clone()  # an inference tensor cannot take part in a loss

    def __deepcopy__(self, memo: dict) -> "Teacher":
        return self  # nothing changes it, and a moving average of the student's weights needs no second one

    def to(self, device: str | torch.device) -> "Teacher":
        """Move it to where the pictures will be, and return it."""
        if isinstance(self.network, nn.Module):
            self.network.to(device)
        return self

    def matched(self, names: Sequence[str]) -> "Teacher":
        """The same teacher, with one answer for each of `names`, in their order. InputError where it does not know one.

        A teacher that has no names is taken to answer for these, and refused at its first answer where it has not as
        many.
        """
        if tuple(names) == self.names:
            return self
        matched = copy.copy(self)
        matched.names = tuple(names)
        if self.names is None:
            matched._width = len(names)
            return matched
        columns = class_map(names, self.names)
        matched._columns = torch.tensor(columns)
        if self._columns is not None:
            matched._columns = self._columns[matched._columns]
        matched.digest = _sha256(self.digest.encode(), repr(columns).encode())
        return matched

    def _answer(self, images: Tensor) -> Tensor:
        """Raw answers, float32 (B, K)."""
        if self.size is not None and tuple(images.shape[2:]) != self.size:
            images = resize(images, list(self.size), antialias=True)
        found = self.network(normalize(images, self._preprocessing) if self._preprocessing else images)
        if self._output is not None:
            try:
                if isinstance(found, Tensor):
                    raise TypeError("a tensor would give one of its pictures")
                found = found[self._output]
            except (LookupError, TypeError):
                self._refuse(
                    f"has no output {self._output!r} in its answer, which is {_described(found)}; choose another"
                )
        if not isinstance(found, Tensor):
            self._refuse(f"answers with {_described(found)}; say with `output` which of them to take")
        if found.ndim > 2 and math.prod(found.shape[2:]) == 1:  # pooled features (B, K, 1, 1)
            found = found.flatten(1)
        if found.ndim != 2 or len(found) != len(images):
            self._refuse(f"answers {len(images)} pictures with {_described(found)}, not with a row of numbers for each")
        if self._width not in (None, found.shape[1]):
            self._refuse(
                f"answers with {found.shape[1]} numbers, but there are {self._width} names for them; give it `names` "
                "of its own, in its order"
            )
        return found.float()

    def _try(self, images: Tensor) -> None:
        """Ask twice for the first picture in unlike company.

        A program exported, or traced, in training mode has its dropout and batch norms built in, and a function may do
        as it likes: answers that depend on chance or on the batch cannot be learned, still less kept.
        """
        others = images.clone()
        others[1:] = 255 - others[1:]
        try:
            first, again = self._answer(images)[:1], self._answer(others)[:1]
        except (InputError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever a foreign network raises at a wrong size or type
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"the teacher {self.source} cannot take {self._pictures(images)}: {reason}; give the `mean`, `std` and "
                "`image_size` it was trained with."
            ) from error
        if (first - again).abs().max() > 1e-2 * first.abs().max().clamp(min=1e-2):
            self._refuse(
                "does not answer alike for one picture in two batches, as a program exported in training mode; export "
                "it after `eval()`"
            )
        self._tried = True

    def _pictures(self, images: Tensor) -> str:
        size = self.size or tuple(images.shape[2:])
        kind = "normalised float32" if self._preprocessing else "uint8"
        return f"{kind} pictures of {size[0]} by {size[1]} px"

    def _refuse_probabilities(self, answers: Tensor) -> None:
        if self._told_apart or not answers.numel():
            return
        if ((answers < 0) | (answers > 1)).any():
            self._told_apart = True
            return
        self._within += answers.numel()
        sums_to_1 = answers.shape[1] > 1 and ((answers.sum(1) - 1).abs() < 1e-3).all()
        if sums_to_1 or self._within >= TELLING:
            self._refuse(
                f"answers with numbers from {answers.min():.3g} to {answers.max():.3g}"
                + (" that add up to 1" if sums_to_1 else "")
                + ", which are probabilities; give it without its last softmax or sigmoid, or say that its answers "
                "are embeddings"
            )

    def _freeze(self) -> None:
        if isinstance(self.network, nn.Module):
            try:
                self.network.eval()
            except NotImplementedError:  # an exported program's: it is as it was exported, see `_try`
                self.network.training = False
            for parameter in self.network.parameters():  # requires_grad_() of the module is none of TorchScript's
                parameter.requires_grad_(False)

    def _refuse(self, what: str) -> NoReturn:
        raise InputError(f"the teacher {self.source} {what}.")


class Ensemble:
    """Several teachers as one: the weighted mean of their probabilities, given back as logits (B, K).

    `probabilities` are those of one softmax over the K, or of K sigmoids. The weights are brought to a sum of 1.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        probabilities: Literal["softmax", "sigmoid"],
        weights: Sequence[float] | None = None,
    ) -> None:
        weights = [1.0] * len(teachers) if weights is None else [float(weight) for weight in weights]
        if not teachers or len(weights) != len(teachers) or not all(0 < weight < math.inf for weight in weights):
            raise InputError(f"{len(teachers)} teachers have the weights {weights}; give each of them one above 0.")
        self.teachers = list(teachers)
        self.weights = [weight / sum(weights) for weight in weights]
        self.source = " + ".join(teacher.source for teacher in teachers)
        self.names = teachers[0].names
        for teacher in teachers[1:]:
            if teacher.names != self.names:
                raise InputError(
                    f"the teachers {teachers[0].source} and {teacher.source} do not answer for the same classes in the "
                    "same order; match each to the student's names first."
                )
        self._probabilities = probabilities
        parts = [f"{teacher.digest} {weight!r}" for teacher, weight in zip(teachers, self.weights, strict=True)]
        self.digest = _sha256(probabilities.encode(), "\n".join(parts).encode())

    def __call__(self, images: Tensor, files: Sequence[str] = ()) -> Tensor:
        """As one teacher's. Raises InputError also where one answers with more numbers than another."""
        answers = [teacher(images, files) for teacher in self.teachers]
        for teacher, answer in zip(self.teachers[1:], answers[1:], strict=True):
            if answer.shape != answers[0].shape:
                raise InputError(
                    f"the teacher {self.teachers[0].source} answers with {answers[0].shape[1]} numbers and "
                    f"{teacher.source} with {answer.shape[1]}; give `names` to both, so that they can be matched."
                )
        logits = torch.stack(answers)  # (teachers, B, K)
        shares = logits.new_tensor(self.weights).log()[:, None, None]
        if self._probabilities == "softmax":
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

    def matched(self, names: Sequence[str]) -> "Ensemble":
        """As a teacher's."""
        return Ensemble([teacher.matched(names) for teacher in self.teachers], self._probabilities, self.weights)


def load_teacher(
    source: str | Path,
    *,
    weights: str | Path | None = None,
    names: Sequence[str] | None = None,
    mean: Normalisation = None,
    std: Normalisation = None,
    image_size: int | Sequence[int] | None = None,
    output: str | int | None = None,
    answers: Literal["logits", "embeddings"] = "logits",
) -> Teacher:
    """Load a teacher. Nothing is downloaded, and nothing random answers: a name needs its file of weights.

    Args:
        source: "torchvision:resnet50" or "timm:resnet50", a checkpoint of this project ("x.ckpt"), a TorchScript
            ("x.pt") or exported program ("x.pt2"), or "package.module:function". The last is code, and is run.
        weights: Of torchvision's and timm's: a state dict as safetensors, or as torch.save writes it.
        names: Of its answers in their order; a checkpoint knows its own, and 1,000 answers are ImageNet's classes.
        mean: Of pixels scaled to 0..1, with `std`. torchvision's and timm's come with the name; a program or a function
            without them gets uint8 images, as a checkpoint of this project does.
        std: As `mean`.
        image_size: Side, or [height, width], in px, that pictures are resized to; by default what torchvision, timm or
            the checkpoint says, and otherwise the student's.
        output: Key or position of the logits where the network answers with a dictionary or a tuple.
        answers: Embeddings are what a head sees: the pooled features of a checkpoint of this project or of timm's, and
            of torchvision's the input of its last layer. Other sources answer with them as they are; they are not
            mistaken for probabilities.

    Raises:
        InputError: Where any of that cannot be used.

    """
    text = str(source)
    library, _, name = text.partition(":")
    path = Path(text).expanduser()
    if library in ("torchvision", "timm") and name:
        if weights is None:
            raise InputError(
                f"the teacher {text} has no weights, and a random one has nothing to teach; name their file "
                "(.safetensors or .pth), as nothing is downloaded."
            )
        find = _from_torchvision if library == "torchvision" else _from_timm
        found = find(name, Path(weights).expanduser())
    else:
        if weights is not None:
            raise InputError(f"the teacher {text} has weights of its own, so {weights} cannot be its; leave them out.")
        if path.suffix in _READERS:
            if not path.is_file():
                raise InputError(f"the teacher {path} does not exist; check the path.")
            found = _READERS[path.suffix](path)
        elif re.fullmatch(r"[\w.]+:[\w.]+", text):
            found = _from_callable(text)
        else:
            where, _, what = text.rpartition(".")
            dotted = re.fullmatch(r"\w+(\.\w+)+", text) and importlib.util.find_spec(text.split(".")[0])
            meant = f" (is {where}:{what} meant?)" if dotted else ""
            raise InputError(f"the teacher {text!r} is nothing that can be loaded{meant}; {_ACCEPTED}.")
    if (mean is None) != (std is None):
        raise InputError(f"the teacher {text} has mean {mean} and std {std}; give both, or neither.")
    if mean is not None:
        if path.suffix == ".ckpt":
            raise InputError(f"the teacher {text} has a mean and std of its own; leave them out.")
        found = found._replace(mean=mean, std=std)
    if image_size is not None:
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if len(size) != 2 or min(size) < 1:
            raise InputError(
                f"the teacher {text} has the image_size {image_size}; give its side in px, or two of them."
            )
        found = found._replace(size=(size[0], size[1]))
    if answers == "embeddings":
        found = _without_head(library, found)
    elif found.names == ():
        raise InputError(f"the teacher {text} answers with embeddings, and logits are to be learned; name another.")
    elif names is not None:
        found = found._replace(names=tuple(names))
    return Teacher(text, found, output, answers)


def class_map(student_names: Sequence[str], teacher_names: Sequence[str]) -> list[int]:
    """Where each of the student's classes is among the teacher's: by name, whatever its capitals, "_", "-" and spaces.

    Raises InputError for a name that the teacher has not, or has twice.
    """
    folded = [_folded(name) for name in teacher_names]
    found = []
    for name in student_names:
        places = [i for i, other in enumerate(teacher_names) if other == name]
        places = places or [i for i, other in enumerate(folded) if other == _folded(name)]
        if len(places) > 1:
            raise InputError(
                f"the student's class {name!r} is two of the teacher's, number {places[0]} and {places[1]}; rename "
                "them with the teacher's `names`."
            )
        if not places:
            nearest = difflib.get_close_matches(_folded(name), folded, 1)
            like = f", the nearest is {teacher_names[folded.index(nearest[0])]!r}" if nearest else ""
            raise InputError(
                f"the student's class {name!r} is none of the teacher's {len(teacher_names)} ({_few(teacher_names)})"
                f"{like}; give the teacher's `names` as the student's data have them."
            )
        found.append(places[0])
    return found


# --- the sources ------------------------------------------------------------------------------------------------------


def _from_torchvision(name: str, weights: Path) -> _Network:
    from torchvision import models

    known = models.list_models(module=models)  # its classifiers; detectors and the like have modules of their own
    if name not in known:
        _unknown("torchvision", name, known)
    network = _filled(
        f"torchvision:{name}", lambda **classes: models.get_model(name, weights=None, **classes), _read_weights(weights)
    )
    identity = b"torchvision " + name.encode()
    if hasattr(network, "transform_input"):
        # GoogLeNet and Inception v3 learned from pixels of -1..1; torchvision has them take ImageNet's normalisation
        # and turn it into that, but only where its own weights are asked for by name.
        setattr(network, "transform_input", True)  # noqa: B010  # to mypy any attribute of a module is a tensor
        identity += b" transform_input"
    presets = models.get_model_weights(name).DEFAULT.transforms()  # mean, std and size alone; downloads nothing
    side = presets.crop_size[0]
    return _named_by_imagenet(
        _Network(network, identity + _state(network), None, presets.mean, presets.std, (side, side))
    )


def _from_timm(name: str, weights: Path) -> _Network:
    try:
        import timm
    except ImportError:
        raise InputError(f"the teacher timm:{name} needs timm, which is not installed; `pip install timm`.") from None
    if not timm.is_model(name):
        _unknown("timm", name, timm.list_models())
    tensors = _read_weights(weights)
    network = _filled(f"timm:{name}", lambda **classes: timm.create_model(name, pretrained=False, **classes), tensors)
    config: dict[str, Any] = network.pretrained_cfg  # type: ignore[assignment]  # no tensor, and of timm alone
    _, height, width = config["input_size"]
    return _named_by_imagenet(
        _Network(
            network, b"timm " + name.encode() + _state(network), None, config["mean"], config["std"], (height, width)
        )
    )


def _from_checkpoint(path: Path) -> _Network:
    """By the task that the checkpoint names, of which nothing is imported here: shared code knows no task."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        task, settings = checkpoint["task"], checkpoint["hyper_parameters"]
    except Exception:  # torch raises whatever the bytes happen to mean as a pickle
        raise InputError(
            f"the teacher {path} is not a checkpoint of this project; give a .ckpt that `fit` wrote."
        ) from None
    name = f"tasks.{task}.inference"
    ours = isinstance(task, str) and task.isidentifier() and importlib.util.find_spec(f"tasks.{task}") is not None
    load_network = getattr(importlib.import_module(name), "load_network", None) if ours else None
    if load_network is None:
        raise InputError(f"the teacher {path} is a checkpoint of the task {task!r}, which has no logits to learn from.")
    network, names = load_network(path)
    height, width = settings["input_size"]
    identity = b"checkpoint " + task.encode() + repr(settings.get("numerics")).encode() + _state(network)
    return _Network(network, identity, tuple(names), None, None, (int(height), int(width)), are_logits=True)


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


_READERS: dict[str, Callable[[Path], _Network]] = {
    ".ckpt": _from_checkpoint,
    ".pt": _from_torchscript,
    ".pt2": _from_exported,
}


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
            nearest = difflib.get_close_matches(part, dir(function), 1)
            like = f", the nearest is {nearest[0]!r}" if nearest else ""
            raise InputError(f"the teacher {text}: there is no {what!r} in {where}{like}; check the name.")
        function = getattr(function, part)
    if isinstance(function, type) or not callable(function):
        raise InputError(
            f"the teacher {text} is {'a class' if isinstance(function, type) else 'no function'}; name a function of "
            f"images, or a built network, in {where}."
        )
    file = inspect.getsourcefile(module)
    identity = b"callable " + text.encode() + (Path(file).read_bytes() if file else b"")
    return _Network(function, identity + (_state(function) if isinstance(function, nn.Module) else b""))


class _Features(nn.Module):
    """Pooled features of a network of this project: uint8 (B, 3, H, W) to (B, channels)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        network: Any = self.network  # a PooledClassifier, of which shared code knows these two
        return network.pool(normalize(images, network.trunk.preprocessing))


def _without_head(library: str, found: _Network) -> _Network:
    """The network that answers with what its head would see; one that is no classifier, as it is."""
    network: Any = found.network
    if library == "timm":
        network.reset_classifier(0)
    elif library == "torchvision":
        linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise InputError(f"the teacher {library} {type(network).__name__} has no linear layer to take away.")
        parent, _, last = linear[-1].rpartition(".")
        setattr(network.get_submodule(parent), last, nn.Identity())
    elif found.identity.startswith(b"checkpoint ") and found.names:
        network = _Features(network)
    return found._replace(network=network, identity=found.identity + b" embeddings", names=None)


def _filled(source: str, build: Callable[..., nn.Module], tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network with these weights: of as many classes as they have, or, where they have no head, without one."""
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
    wanted = network.state_dict()
    for name, x in wanted.items():
        if name not in tensors:
            if not name.endswith("num_batches_tracked"):
                raise InputError(
                    f"the teacher {source} has a tensor {name} that the weights have not; give its own file."
                )
        elif tensors[name].shape != x.shape:
            raise InputError(
                f"the teacher {source} has {name} of shape {tuple(x.shape)}, but the weights have "
                f"{tuple(tensors[name].shape)}; give its own file."
            )
    extra = sorted(set(tensors) - set(wanted))
    if extra:
        raise InputError(f"the teacher {source} has no tensor {extra[0]}, which the weights have; give its own file.")
    network.load_state_dict(dict(tensors), strict=False)  # but for counters of batches, checked above
    return network


def _read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict by name, out of safetensors or torch.save's, of an averaged model where the file has one too."""
    if not path.is_file():
        raise InputError(f"the teacher's weights {path}: there is no such file; check the path.")
    try:
        with path.open("rb") as file:
            start = file.read(9)
        if start[8:] == b"{":
            from safetensors.torch import load_file

            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
        for key in ("state_dict_ema", "state_dict", "model"):
            if isinstance(found.get(key), Mapping):
                found = found[key]
                break
        tensors = {str(name).removeprefix("module."): x for name, x in found.items() if isinstance(x, Tensor)}
    except Exception:  # by the kind of damage: UnpicklingError, RuntimeError, SafetensorError, EOFError and others
        tensors = {}
    if not tensors:
        raise InputError(
            f"the teacher's weights {path} are no file of tensors that can be read safely; give a .safetensors, or a "
            "state dict as torch.save writes it."
        )
    return tensors


def _named_by_imagenet(found: _Network) -> _Network:
    """With ImageNet's names, where the network's last parameter is the bias of 1,000 classes."""
    from data import imagenet

    *_, last = found.network.parameters()  # type: ignore[attr-defined]  # a module, here
    return found._replace(names=imagenet.class_names()) if last.shape == (1000,) else found


def _unknown(library: str, name: str, known: Sequence[str]) -> NoReturn:
    nearest = difflib.get_close_matches(name, known, 1)
    like = f"; the nearest is {nearest[0]}" if nearest else ""
    raise InputError(f"the teacher {library}:{name} is no classifier that {library} has{like}.")


def _state(network: nn.Module) -> bytes:
    """A digest of its weights and statistics: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.digest()


def _sha256(*parts: bytes) -> str:
    """Of the parts and of where one ends."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    return tuple(map(float, values))  # type: ignore[return-value]  # Preprocessing counts them


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _described(found: Any) -> str:
    """What a network answered with, for people."""
    if isinstance(found, Tensor):
        return f"a tensor of shape {tuple(found.shape)}"
    if isinstance(found, Mapping):
        return f"a dictionary of {', '.join(map(repr, found))}"
    if isinstance(found, tuple | list):
        return f"{len(found)} parts, 0 to {len(found) - 1}"
    return f"a {type(found).__name__}"
