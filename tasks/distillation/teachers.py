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
import operator
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resize

from backbone import Preprocessing, normalize
from backbone.errors import InputError
from backbone.weight_files import load_torch, read_tensors
from data import imagenet
from data.folders import say
from tasks.pooled import pooled_network

Kind = Literal["softmax", "sigmoid", "embeddings"]  # logits of one class of all, logits of yes or no for each, neither
TeacherOption = str | dict[str, Any] | list[dict[str, Any]] | None  # --model.teacher
ENOUGH_TO_TELL = 64  # numbers that must all lie in 0..1 before they are taken for probabilities


class _Network(NamedTuple):
    """A network as it was loaded. `identity` is what its digest starts from; without a mean it takes uint8 images."""

    network: Callable[[Tensor], Any]
    identity: bytes
    names: tuple[str, ...] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    size: tuple[int, int] | None = None
    certain: bool = False  # that it does not output probabilities; the outputs of others are looked at


class Teacher:
    """`teacher(images)`: uint8 (B, 3, H, W) RGB to float32 logits (B, K), always the same ones; see `load_teacher`.

    `names` are those of the K outputs where they are known; `digest`, sha256 in hex, changes with anything that could
    change an output; `network` is the function itself, for counting its cost.
    """

    def __init__(self, source: str, loaded: _Network, output: str | int | None = None) -> None:
        self.source = source
        self.network = loaded.network
        self.names = loaded.names
        self.size = loaded.size  # (height, width) px, None where it takes the student's
        mean, std = (tuple(map(float, values or ())) for values in (loaded.mean, loaded.std))
        self._preprocessing = Preprocessing(mean, std) if mean else None  # type: ignore[arg-type]  # it counts them
        self._output = output
        self._width = None if loaded.names is None else len(loaded.names)  # of what the network outputs
        self._columns: Tensor | None = None  # those taken of them
        self._certain = loaded.certain
        self._within = 0  # numbers so far that lie in 0..1, as probabilities do
        self._tried = False
        self.digest = digest_of(loaded.identity, repr((self._preprocessing, loaded.size, output)).encode())
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
                image = [*files, *map(str, range(len(images)))][int((~finite).nonzero()[0])]
                self._refuse(f"outputs numbers that are not finite for the image {image}; look at it, and at `mean`")
            self._refuse_probabilities(outputs)
            if self._columns is not None:
                outputs = outputs[:, self._columns.to(outputs.device)]
        return outputs.clone()  # an inference tensor cannot take part in a loss

    def __deepcopy__(self, memo: dict) -> "Teacher":
        return self  # nothing changes it, and a moving average of the student's weights needs no second one

    def to(self, device: str | torch.device) -> None:
        """Move it to where the images will be."""
        if isinstance(self.network, nn.Module):
            self.network.to(device)

    def matched(self, names: Sequence[str]) -> "Teacher":
        """The same teacher with one output for each of `names`, in their order. InputError where it does not know one.

        A teacher without names is taken to have these, and refused at its first output where it has not as many.
        """
        if tuple(names) == self.names:
            return self
        matched = copy.copy(self)  # of a teacher as it was loaded, with all its outputs
        matched.names = tuple(names)
        if self.names is None:
            matched._width = len(names)
            return matched
        columns = class_map(names, self.names)
        matched._columns = torch.tensor(columns)
        matched.digest = digest_of(self.digest.encode(), repr(columns).encode())
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
                self._refuse(f"has no output {self._output!r}, but outputs {_described(outputs)}; choose another")
        if not isinstance(outputs, Tensor):
            self._refuse(f"outputs {_described(outputs)}; say with `output` which of them to take")
        if outputs.ndim > 2 and math.prod(outputs.shape[2:]) == 1:  # pooled features (B, K, 1, 1)
            outputs = outputs.flatten(1)
        if outputs.ndim != 2 or len(outputs) != len(images):
            self._refuse(f"outputs {_described(outputs)} for {len(images)} images, not a row for each")
        if self._width not in (None, outputs.shape[1]):
            self._refuse(f"outputs {outputs.shape[1]} numbers for {self._width} names; give it `names` of its own")
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
            pixels = f"{'normalised float32' if self._preprocessing else 'uint8'} images of {height} x {width} px"
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._refuse(f"cannot take {pixels}: {reason}; give the `mean`, `std` and `image_size` of its training")
        if (first - again).abs().max() > 1e-2 * first.abs().max().clamp(min=1e-2):
            self._refuse("has two outputs for one image in two batches, as in training mode; export it after `eval()`")
        self._tried = True

    def _refuse_probabilities(self, outputs: Tensor) -> None:
        self._certain = self._certain or bool(((outputs < 0) | (outputs > 1)).any())
        if self._certain or not outputs.numel():
            return
        self._within += outputs.numel()
        sums_to_1 = outputs.shape[1] > 1 and ((outputs.sum(1) - 1).abs() < 1e-3).all()
        if sums_to_1 or self._within >= ENOUGH_TO_TELL:
            self._refuse(
                f"outputs probabilities, from {outputs.min():.3g} to {outputs.max():.3g}, and not logits; give it "
                "without its last softmax or sigmoid, or say with `kind: embeddings` that these are none"
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
        _refuse(self.source, what)


class Ensemble:
    """Several teachers of the same classes as one: the weighted mean of their probabilities, as logits (B, K).

    `kind` says whether these are of one softmax over the K or of K sigmoids. The weights are scaled to a sum of 1.
    """

    def __init__(self, teachers: Sequence[Teacher], kind: Kind, weights: Sequence[float]) -> None:
        if not teachers or not all(0 < weight < math.inf for weight in weights) or kind == "embeddings":
            raise InputError(
                f"--model.teacher has {len(teachers)} teachers with the shares {list(weights)}; these must be above 0, "
                "and embeddings are learned from one teacher."
            )
        self.teachers = list(teachers)
        self.weights = [weight / sum(weights) for weight in weights]
        self._kind = kind
        parts = [f"{teacher.digest} {weight!r}" for teacher, weight in zip(teachers, self.weights, strict=True)]
        self.digest = digest_of(kind.encode(), "\n".join(parts).encode())

    def __call__(self, images: Tensor, files: Sequence[str] = ()) -> Tensor:
        """As one teacher's."""
        logits = torch.stack([teacher(images, files) for teacher in self.teachers])  # (teachers, B, K)
        shares = logits.new_tensor(self.weights).log()[:, None, None]
        if self._kind == "softmax":
            return (logits.log_softmax(2) + shares).logsumexp(0)
        yes, no = ((F.logsigmoid(x) + shares).logsumexp(0) for x in (logits, -logits))
        return yes - no

    def __deepcopy__(self, memo: dict) -> "Ensemble":
        return self

    def to(self, device: str | torch.device) -> None:
        """Move all of them."""
        for teacher in self.teachers:
            teacher.to(device)


def build_teacher(option: TeacherOption, names: Sequence[str], kind: Kind) -> Teacher | Ensemble:
    """The teacher that `--model.teacher` names, with an output for each of `names`, or of embeddings.

    A string is a source of `load_teacher`, a mapping its arguments; in a list of several each may have a `share` too,
    its weight among them (1 by default). Raises InputError where one cannot be loaded or does not know a name.
    """
    teachers, shares = [], []
    for given in [option] if isinstance(option, str | Mapping) else option or []:
        arguments = {"source": given} if isinstance(given, str) else dict(given)
        try:
            shares.append(float(arguments.pop("share", 1.0)))
            if kind == "embeddings":
                teachers.append(load_teacher(**{**arguments, "kind": kind}))
            else:
                teachers.append(load_teacher(**arguments).matched(names))
        except InputError:  # a ValueError as well
            raise
        except (TypeError, ValueError) as error:
            raise InputError(f"--model.teacher has {given}, which cannot be read: {error}.") from error
    return teachers[0] if len(teachers) == 1 else Ensemble(teachers, kind, shares)


def load_teacher(
    source: str | Path,
    *,
    weights: str | Path | None = None,
    names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | Sequence[int] | None = None,
    output: str | int | None = None,
    kind: Literal["logits", "embeddings"] = "logits",
) -> Teacher:
    """Load a teacher, without downloads and never with random weights. InputError where an argument cannot be used.

    Args:
        source: "torchvision:resnet50" or "timm:resnet50", a checkpoint of this project ("x.ckpt"), a TorchScript
            ("x.pt") or exported program ("x.pt2"), or "package.module:function". The last three are code, and are run.
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

    """
    text, embeddings = str(source), kind == "embeddings"
    path = Path(text).expanduser()
    is_name = text.startswith(("torchvision:", "timm:"))
    if is_name != (weights is not None):
        rule = "a name of torchvision or timm needs a file of them, as nothing is downloaded, and others have their own"
        _refuse(text, f"has the weights {weights}; {rule}")
    if weights is not None:
        loaded = _from_library(text, weights, embeddings)
    elif path.suffix in (".ckpt", ".pt", ".pt2"):
        if not path.is_file():
            _refuse(text, "does not exist; check the path")
        loaded = _from_checkpoint(path, embeddings) if path.suffix == ".ckpt" else _from_program(path)
    elif re.fullmatch(r"[\w.]+:[\w.]+", text):
        loaded = _from_callable(text)
    else:
        accepted = "torchvision:NAME, timm:NAME, a checkpoint (.ckpt), a program (.pt, .pt2), package.module:function"
        _refuse(text, f"is nothing that can be loaded; accepted are {accepted}")
    if (mean is None) != (std is None) or (mean and path.suffix == ".ckpt"):
        _refuse(text, f"has mean {mean} and std {std}; give both or neither, and to a checkpoint neither")
    size = None if image_size is None else (image_size, image_size) if isinstance(image_size, int) else (*image_size,)
    if size is not None and (len(size) != 2 or min(size) < 1):
        _refuse(text, f"has the image_size {image_size}; give its side in px, or two")
    loaded = loaded._replace(mean=mean or loaded.mean, std=std or loaded.std, size=size or loaded.size)
    if embeddings:
        loaded = loaded._replace(identity=loaded.identity + b" embeddings", names=None, certain=True)
    elif names is not None:
        loaded = loaded._replace(names=tuple(names))
    return Teacher(text, loaded, output)


def _refuse(source: str | Path, what: str) -> NoReturn:
    raise InputError(f"the teacher {source} {what}.")


def class_map(student_names: Sequence[str], teacher_names: Sequence[str]) -> list[int]:
    """Where each of the student's classes is among the teacher's: by name, whatever its capitals, "_", "-" and spaces.

    Raises InputError for a name that the teacher has not, or has twice.
    """
    folded = [_folded(name) for name in teacher_names]
    columns = []
    for name in student_names:
        places = [i for i, other in enumerate(teacher_names) if other == name]
        places = places or [i for i, other in enumerate(folded) if other == _folded(name)]
        if len(places) != 1:
            problem = f"is two of the teacher's, numbers {places[:2]}"
            if not places:
                few = ", ".join(teacher_names[:3])
                problem = f"is not among the teacher's {len(folded)}, as {few}{_nearest(name, teacher_names)}"
            raise InputError(f"the student's class {name!r} {problem}; give the teacher `names` as the data's.")
        columns.append(places[0])
    return columns


# --- the sources ------------------------------------------------------------------------------------------------------


def _from_library(source: str, weights: str | Path, embeddings: bool) -> _Network:
    """A classifier of torchvision or timm; of 1,000 classes, it has ImageNet's names."""
    library, _, name = source.partition(":")
    if library == "torchvision":
        from torchvision import models

        known = models.list_models(module=models)  # its classifiers; detectors and the like have modules of their own
        build = partial(models.get_model, name, weights=None)
    else:
        try:
            import timm
        except ImportError:
            _refuse(source, "needs timm, which is not installed; `pip install timm`")
        known = [name] if timm.is_model(name) else timm.list_models()
        build = partial(timm.create_model, name, pretrained=False)
    if name not in known:
        _refuse(source, f"is not a classifier of {library}{_nearest(name, known)}")
    network: Any = _filled(source, build, weights)
    identity = f"{library} {name}".encode()
    if library == "timm":
        of_pixels, size = network.pretrained_cfg, network.pretrained_cfg["input_size"][1:]
    else:
        presets = models.get_model_weights(name).DEFAULT.transforms()  # mean, std and size alone; downloads nothing
        of_pixels, size = vars(presets), 2 * presets.crop_size
        if hasattr(network, "transform_input"):
            # GoogLeNet and Inception v3 learned from pixels of -1..1; torchvision has them take ImageNet's
            # normalisation and turn it into that, but only where its own weights are asked for by name.
            network.transform_input = True
            identity += b" transform_input"
    identity += _state(network)
    *_, last = network.parameters()
    names = imagenet.class_names() if last.shape == (1000,) else None
    if embeddings and library == "timm":
        network.reset_classifier(0)
    elif embeddings:
        linear = [place for place, module in network.named_modules() if isinstance(module, nn.Linear)]
        if not linear:
            _refuse(source, "has no linear layer whose input could be its embedding; name another")
        network.set_submodule(linear[-1], nn.Identity())
    return _Network(network, identity, names, of_pixels["mean"], of_pixels["std"], tuple(size))


def _from_checkpoint(path: Path, embeddings: bool) -> _Network:
    """From the trunk's settings, the pooled head's weights and its outputs' names, which are [] for embeddings."""
    try:
        checkpoint = load_torch(path, mmap=True)
        task, trunk = checkpoint["task"], checkpoint["trunk"]
        height, width = checkpoint["hyper_parameters"]["input_size"]
    except Exception:  # torch raises whatever the bytes happen to mean as a pickle
        _refuse(path, "is not a checkpoint of this project; give one that `fit` wrote")
    try:
        names, network = tuple(checkpoint["head"]["names"]), pooled_network(checkpoint)
    except KeyError:
        _refuse(path, f"is a checkpoint of the task {task!r}, which has no logits to learn from; name another")
    identity = f"checkpoint {task} {trunk['numerics']}".encode() + _state(network)
    if names and embeddings:
        network.layers.bottleneck = network.layers.linear = nn.Identity()  # type: ignore[assignment]
    elif not (names or embeddings):
        _refuse(path, "outputs embeddings, and logits are to be learned; name another")
    return _Network(network, identity, names, None, None, (int(height), int(width)), certain=True)


def _from_program(path: Path) -> _Network:
    """What can do whatever a program can: torch.export's file has pickles in it, TorchScript can write files."""
    _say_that_it_is_code(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # TorchScript is deprecated, but files of it are everywhere
            exported = path.suffix == ".pt2"
            network = torch.export.load(path).module() if exported else torch.jit.load(path, map_location="cpu")
    except Exception:  # by the kind of damage: KeyError, RuntimeError, BadZipFile, JSON's and others
        _refuse(path, f"is not a program of {'torch.export' if exported else 'TorchScript'} of this torch or older")
    return _Network(network, (b"exported " if exported else b"torchscript ") + path.read_bytes())


def _say_that_it_is_code(source: str | Path) -> None:
    say(f"note: the teacher {source} is a program and runs as one, with all that you may do; use what you trust")


def _from_callable(text: str) -> _Network:
    """Its digest is of its module's source and, of an `nn.Module`, of its weights; not of other files it reads."""
    _say_that_it_is_code(text)
    where, _, what = text.partition(":")
    try:
        module = importlib.import_module(where)
        function: Any = operator.attrgetter(what)(module)
    except Exception as error:  # whatever a module raises that is written wrong: SyntaxError, NameError and others
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        _refuse(text, f"cannot be imported ({reason}); check the name, the folder and the file")
    if isinstance(function, type) or not callable(function):
        _refuse(text, f"is a {type(function).__name__}; name a function of images, or a built network")
    file = inspect.getsourcefile(module)
    identity = b"callable " + text.encode() + (Path(file).read_bytes() if file else b"")
    return _Network(function, identity + (_state(function) if isinstance(function, nn.Module) else b""))


def _filled(source: str, build: Callable[..., nn.Module], weights: str | Path) -> nn.Module:
    """The network with these weights: of as many classes as they have, or, where they have no head, without one."""
    try:
        tensors = read_tensors(weights)
    except InputError as error:
        problem = str(error).partition(";")[0]
        raise InputError(f"the teacher's {problem}; give .safetensors, or what torch.save writes.") from error
    with torch.device("meta"):
        expected = build().state_dict()
    pairs = [(x, tensors[name]) for name, x in expected.items() if name in tensors and tensors[name].shape != x.shape]
    classes, options = {(len(x), len(y)) for x, y in pairs if x.ndim and y.ndim}, {}
    if len(classes) == 1 and len(pairs) <= 6:  # weight and bias of the head, of auxiliary ones and distilled ones
        options = {"num_classes": classes.pop()[1]}
    elif source.startswith("timm:") and set(expected) > set(tensors):
        options = {"num_classes": 0}  # timm's way of asking for pooled features
    network = build(**options)
    try:
        missing, unknown = network.load_state_dict(tensors, strict=False)
        unlike = [*unknown, *(name for name in missing if not name.endswith("num_batches_tracked"))]
    except RuntimeError as error:  # of another shape
        unlike = str(error).splitlines()[1:]
    if unlike:
        _refuse(source, f"does not fit the weights {weights} ({unlike[0].strip()}); give its own file")
    return network


def _state(network: nn.Module) -> bytes:
    """A digest of its weights and statistics: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.digest()


def digest_of(*parts: bytes) -> str:
    """sha256, in hex, of the parts in their order and of where each ends."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def _nearest(name: str, known: Sequence[str]) -> str:
    """Words that suggest the nearest known name, if there is one."""
    by_folded = {_folded(other): other for other in known}
    nearest = difflib.get_close_matches(_folded(name), by_folded, 1)
    return f" (is {by_folded[nearest[0]]!r} meant?)" if nearest else ""


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _described(outputs: Any) -> str:
    """A network's outputs, for people: their type, and a tensor's shape or the keys and positions there are."""
    keys = range(len(outputs)) if isinstance(outputs, tuple | list) else outputs if isinstance(outputs, Mapping) else ()
    return f"a {type(outputs).__name__} of {list(getattr(outputs, 'shape', keys))}"
