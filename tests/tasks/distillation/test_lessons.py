import copy
import math
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from backbone.errors import InputError
from tasks.distillation import lessons
from tasks.distillation.lessons import Distiller, Lessons, build_teacher, check_lessons
from tasks.distillation.teachers import load_teacher

NONE = {
    "input_size": (4, 4),
    "teacher": None,
    "teacher_weight": None,
    "temperature": 1.0,
    "distance": "kl",
    "cache": None,
    "cache_only": False,
    "mixup_alpha": 0.0,
    "cutmix_alpha": 0.0,
}
NAMES = ("a", "b", "c")


@pytest.fixture
def functions(tmp_path, monkeypatch):
    """The name of a module with teachers: `f` says ln 1, ln 2, ln 5 of every picture, `g` the same backwards."""
    (tmp_path / "teaching.py").write_text(
        "import torch\n\n"
        "def f(images):\n    return torch.tensor([1.0, 2, 5]).log().expand(len(images), 3)\n\n"
        "def g(images):\n    return f(images).flip(1)\n\n"
        "asked = []\n\n"
        "def listens(images):\n    asked.extend(images)\n    return f(images)\n\n"
        "def of_four(images):\n    return f(images)[:, [0, 0, 1, 2]]\n\n"
        "def grey(images):\n    return images[:, :, 0, 0] + f(images)\n\n"
        "def white_is_nan(images):\n    return torch.where(images[:, :1, 0, 0] == 255, torch.nan, f(images))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "teaching", raising=False)
    return "teaching"


def pictures():
    return torch.zeros(2, 3, 4, 4, dtype=torch.uint8)


class Data:
    """As much of a data module as a teacher is asked for: ten grey pictures in batches of two."""

    hparams: ClassVar = {"views": 2}
    bad_images = SimpleNamespace(note=lambda bad: None)
    grey = 0

    def file(self, split, position):
        return f"{split}/{position}.jpg"

    def train_keys(self):
        return [self.file("train", position) for position in range(10)]

    def train_view_transform_id(self):
        return "as they are"

    def train_views(self, view, positions):
        for pair in torch.tensor(positions).split(2):
            grey = torch.full((len(pair), 3, 4, 4), self.grey, dtype=torch.uint8)
            yield {"view": torch.full_like(pair, view), "positions": pair, "images": grey, "bad": []}


CPU = torch.device("cpu")


def weighed(options, logits, of_labels, probabilities="softmax"):
    distiller = Distiller({**NONE, **options}, NAMES, probabilities)
    distiller.prepare(views=0)
    distiller.start(Data(), torch.device("cpu"))
    return distiller.weigh({"positions": torch.tensor([0, 1])}, pictures(), logits, of_labels)


def never():
    raise AssertionError("labels were looked at")


def test_the_parts_of_the_loss_worked_by_hand(functions):
    """The teacher's classes are (1/8, 2/8, 5/8), the student's a third each."""
    logits = torch.zeros(2, 3)
    kl = sum(p * math.log(3 * p) for p in (1 / 8, 2 / 8, 5 / 8))
    loss, parts = weighed({"teacher": f"{functions}:f"}, logits, never)
    assert loss.item() == pytest.approx(kl, rel=1e-5)
    assert parts.keys() == {"train/loss_teacher"}
    loss, parts = weighed({"teacher": f"{functions}:f", "teacher_weight": 0.75}, logits, lambda: torch.tensor(4.0))
    assert loss.item() == pytest.approx(0.75 * kl + 1.0, rel=1e-5)
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(
        {"train/loss_teacher": kl, "train/loss_labels": 4.0}, rel=1e-5
    )
    squares = (math.log(2) ** 2 + math.log(5) ** 2) / 3
    loss, _ = weighed({"teacher": f"{functions}:f", "distance": "mse_logits"}, logits, never)
    assert loss.item() == pytest.approx(squares, rel=1e-5)
    # at T = 1/2 the probabilities are (1, 4, 25) / 30
    sharp = sum(p * math.log(3 * p) for p in (1 / 30, 4 / 30, 25 / 30)) / 4
    loss, _ = weighed({"teacher": f"{functions}:f", "temperature": 0.5}, logits, never)
    assert loss.item() == pytest.approx(sharp, rel=1e-5)
    # yes or no, each by itself: 1/2, 2/3 and 5/6 beside 1/2
    yes_no = sum(p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)) for p in (1 / 2, 2 / 3, 5 / 6)) / 3
    loss, _ = weighed({"teacher": f"{functions}:f"}, logits, never, "sigmoid")
    assert loss.item() == pytest.approx(yes_no, rel=1e-5)


def test_a_teacher_without_weight_is_not_asked_and_none_is_labels_alone(functions):
    for options in ({"teacher": f"{functions}:listens", "teacher_weight": 0.0}, {}):
        loss, parts = weighed(options, torch.zeros(2, 3), lambda: torch.tensor(4.0))
        assert loss.item() == 4.0
        assert parts.keys() == {"train/loss_labels"}
    asked = __import__(functions).asked
    assert asked  # about noise, before the fit
    assert all(image.any() for image in asked)  # and never about a picture, which are all black


def test_an_average_of_the_students_weights_takes_no_second_teacher(functions):
    distiller = Distiller({**NONE, "teacher": f"{functions}:f"}, NAMES, "softmax")
    assert copy.deepcopy({"module": distiller})["module"] is distiller


def test_the_teacher_stands_beneath_the_student_where_it_is_compared(functions, capsys):
    logits = torch.zeros(2, 3, dtype=torch.bfloat16)
    distiller = Distiller({**NONE, "teacher": f"{functions}:g"}, NAMES, "softmax")
    distiller.prepare(views=0)
    distiller.start(Data(), torch.device("cpu"))
    files = ["a.jpg", "b.jpg"]
    assert distiller.beside(pictures(), logits, files).shape == (2, 1, 3)  # in a fit it would cost time in every epoch
    distiller.compare(torch.device("cpu"))
    both = distiller.beside(pictures(), logits, files)
    assert both[:, 0].tolist() == [[0.0] * 3] * 2
    assert both[1, 1] == pytest.approx([math.log(5), math.log(2), 0.0])
    gone = Distiller({**NONE, "teacher": "gone.ckpt"}, NAMES, "softmax")
    gone.compare(torch.device("cpu"))
    assert gone.beside(pictures(), logits, files).shape == (2, 1, 3)
    assert "without the teacher's figures: the teacher gone.ckpt does not exist" in capsys.readouterr().out


def test_a_teacher_that_cannot_answer_is_found_before_the_fit(functions):
    for teacher, message in (
        (f"{functions}:of_four", "answers with 4 numbers, but there are 3 names"),
        ("math:sqrt", "cannot take uint8 pictures of 4 by 4 px"),
    ):
        with pytest.raises(InputError, match=message):
            Distiller({**NONE, "teacher": teacher}, NAMES, "softmax").prepare(views=0)


def test_an_answer_that_is_not_finite_names_its_picture_wherever_it_is_asked_for(functions, tmp_path):
    options = {**NONE, "teacher": f"{functions}:white_is_nan"}
    distiller = Distiller(options, NAMES, "softmax")
    distiller.compare(CPU)
    images = pictures()
    images[1] = 255
    with pytest.raises(InputError, match=r"not finite for the picture faces/b\.jpg"):
        distiller.beside(images, torch.zeros(2, 3), ["faces/a.jpg", "faces/b.jpg"])
    kept = {"names": NAMES, "cache": str(tmp_path / "cache")}
    teacher = load_teacher(f"{functions}:white_is_nan").matched(NAMES)
    Lessons(teacher, 3, Data(), CPU, **kept)
    white = Data()
    white.grey = 255  # since the answers were kept
    with pytest.raises(InputError, match=r"not finite for the picture train/\d\.jpg"):
        Lessons(teacher, 3, white, CPU, **kept)


def test_processes_that_do_not_start_together_leave_no_picture_to_nobody(functions, tmp_path, monkeypatch):
    """The second lists what is missing when the first has written all of its own."""
    teacher = load_teacher(f"{functions}:f").matched(NAMES)
    for rank in (0, 1):
        together = {"is_available": True, "is_initialized": True, "get_rank": rank, "get_world_size": 2}
        fake = {name: lambda value=value: value for name, value in together.items()}
        monkeypatch.setattr(lessons, "dist", SimpleNamespace(**fake, barrier=lambda: None))
        found = Lessons(teacher, 3, Data(), CPU, names=NAMES, cache=str(tmp_path / "cache"))
        half = [found._cache.missing(view).tolist() for view in (0, 1)]
        assert half == ([[1, 3, 5, 7, 9]] * 2 if rank == 0 else [[]] * 2)


def test_a_cache_alone_serves_its_own_answers_and_its_own_teacher(functions, tmp_path, capsys):
    def start(names=NAMES, **options):
        distiller = Distiller({**NONE, "cache": str(tmp_path / "cache"), **options}, names, "softmax")
        distiller.prepare(views=2)
        distiller.start(Data(), CPU)
        return distiller

    start(teacher=f"{functions}:f")
    for teacher in (None, f"{functions}:f"):
        alone = start(teacher=teacher, cache_only=True)
        assert alone._lessons.teacher is None  # nothing of it is kept in memory
        with pytest.raises(InputError, match="is of something else: what is answered"):
            start(("b", "a", "c"), teacher=teacher, cache_only=True)
    with pytest.raises(InputError, match="is of something else: the teacher"):
        start(teacher=f"{functions}:g", cache_only=True)
    assert not capsys.readouterr().out
    start(teacher="gone.ckpt", cache_only=True)  # where the teacher is not at hand any more, that is said
    assert "the cache is taken as it is: the teacher gone.ckpt does not exist" in capsys.readouterr().out


def test_answers_about_other_pixels_are_found_in_a_cache_alone_too(functions, tmp_path):
    kept = {"names": NAMES, "cache": str(tmp_path / "cache")}
    teacher = load_teacher(f"{functions}:grey").matched(NAMES)
    Lessons(teacher, 3, Data(), CPU, **kept)
    repainted = Data()
    repainted.grey = 9  # since the answers were kept, under the same names
    for cache_only in (False, True):
        with pytest.raises(InputError, match="is out of date"):
            Lessons(teacher, 3, repainted, CPU, **kept, cache_only=cache_only)
    Lessons(teacher, 3, Data(), CPU, **kept, cache_only=True)


def test_a_teacher_without_weight_fills_no_cache(functions, tmp_path):
    for weight, filled in ((0.0, False), (0.5, True)):
        options = {"teacher": f"{functions}:f", "teacher_weight": weight, "cache": str(tmp_path / "cache")}
        distiller = Distiller({**NONE, **options}, NAMES, "softmax")
        distiller.prepare(views=2)
        distiller.start(Data(), CPU)
        assert (tmp_path / "cache").exists() == filled


def test_several_teachers_are_asked_by_their_shares(functions):
    f, g = (
        {"source": f"{functions}:f", "share": 3, "names": NAMES},
        {"source": f"{functions}:g", "names": ["c", "b", "a"]},
    )
    both = build_teacher([f, {**g, "names": NAMES}], NAMES, "softmax")(pictures())
    # (1, 2, 5) / 8 and its reverse, three to one
    assert both.softmax(1)[0].tolist() == pytest.approx([(3 * 1 + 5) / 32, 8 / 32, (3 * 5 + 1) / 32])
    alike = build_teacher([f, g], NAMES, "softmax")(pictures())  # by name both say the same
    assert alike.softmax(1)[0].tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8])
    with pytest.raises(InputError, match=r"--model.teacher has .*'weigths'.*, which cannot be read"):
        build_teacher([{"source": f"{functions}:f", "weigths": "x"}], NAMES, "softmax")
    for wrong in ({"share": "abc"}, {"share": None}, {"mean": list("abc"), "std": [1, 1, 1]}, {"image_size": "ab"}):
        with pytest.raises(InputError, match=r"--model.teacher has \{.*\}, which cannot be read: "):
            build_teacher([{"source": f"{functions}:f", **wrong}], NAMES, "softmax")
    assert build_teacher(None, NAMES, "softmax") is None


@pytest.mark.parametrize(
    ("options", "views", "message"),
    [
        ({"cache": "c"}, 2, "--model.cache is c, but there is no --model.teacher to ask"),
        ({"teacher_weight": 0.9}, 0, "--model.teacher_weight is 0.9, but there is no --model.teacher to ask"),
        ({"cache_only": True}, 2, "--model.cache_only is True, but there is no --model.teacher to ask"),
        ({"teacher": "t", "cache_only": True}, 2, "there is no --model.cache; name the folder"),
        ({"teacher": "t", "teacher_weight": 1.5}, 0, "--model.teacher_weight is 1.5; it must be from 0"),
        ({"teacher": "t", "teacher_weight": -0.1}, 0, "--model.teacher_weight is -0.1"),
        ({"teacher": "t", "teacher_weight": math.nan}, 0, "--model.teacher_weight is nan"),
        ({"teacher": "t", "cache": "c"}, 0, "--data.views is 0"),
        ({"teacher": "t", "distance": "mse_logits", "temperature": 7.0}, 0, "--model.temperature is 7.0, but the sq"),
        ({"teacher": "t", "cache": "c", "mixup_alpha": 0.2}, 2, "--model.mixup_alpha is 0.2, but a --model.cache"),
        ({"teacher": "t", "cache": "c", "cutmix_alpha": 1.0}, 2, "--model.cutmix_alpha is 1.0, but a --model.cache"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, views, message):
    with pytest.raises(InputError, match=message):
        check_lessons({**NONE, **options}, views)


def test_options_that_hold_are_taken():
    for options, views in (
        ({}, 0),
        ({"teacher": "t", "mixup_alpha": 0.2, "cutmix_alpha": 1.0}, 0),
        ({"teacher": "t", "cache": "c"}, 1),
        ({"cache": "c", "cache_only": True}, 8),
    ):
        check_lessons({**NONE, **options}, views)
    for temperature in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match=r"--model.temperature is .*; it must be above 0"):
            Distiller({**NONE, "temperature": temperature}, NAMES, "softmax")
