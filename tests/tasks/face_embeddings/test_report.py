import numpy as np
from helpers import HOSTILE, figures, harmless, rows_of
from PIL import Image

from data.face_pairs import Pairs
from tasks.face_embeddings.metrics import evaluate
from tasks.face_embeddings.report import worst_pairs, write_report


def case(rows=24, count=60, seed=0):
    """Embeddings of twelve people in two images each, and pairs of them in three folds."""
    rng = np.random.default_rng(seed)
    student = np.repeat(rng.normal(size=(rows // 2, 8)), 2, axis=0) + 0.8 * rng.normal(size=(rows, 8))
    teacher = student + 0.3 * rng.normal(size=(rows, 8))
    one = np.arange(0, rows, 2)
    first, second = np.tile(one, 3)[: count // 2], np.tile(one + 1, 3)[: count // 2]
    two = np.array([rng.choice(one, 2, replace=False) for _ in range(count // 2)])
    same = np.arange(count) < count // 2
    pairs = Pairs(np.append(first, two[:, 0]), np.append(second, two[:, 1]), same, np.arange(count) % 3)
    return student, teacher, pairs


def write(folder, student, teacher, pairs, files=None):
    files = files or [f"person_{i // 2}/{i:03}.jpg" for i in range(len(student))]
    scores = evaluate(student, pairs, None if teacher is None else student, teacher)
    write_report(folder, "test", scores, files, lambda i: np.full((40 + i, 50, 3), 8 * i, np.uint8))
    return figures(folder), scores, files


def test_the_tables_say_what_the_figures_say(tmp_path):
    flat, scores, files = write(tmp_path, *case())
    rows = rows_of(tmp_path / "pairs.csv")
    assert len(rows) == 60
    by_fold = [[int(row["right"]) for row in rows if row["fold"] == str(fold)] for fold in range(3)]
    assert np.isclose(np.mean([np.mean(right) for right in by_fold]), flat["test/verification_accuracy"])
    pairs = scores.pairs
    for i, row in enumerate(rows):
        assert (row["first"], row["second"]) == (files[pairs.first[i]], files[pairs.second[i]])
        accepted = float(row["squared_distance"]) <= float(row["threshold"])
        assert (row["same"], row["accepted"]) == (str(int(pairs.same[i])), str(int(accepted)))
        assert float(row["teacher_squared_distance"]) == round(scores.teacher.distances[i], 6)
    student, teacher = rows_of(tmp_path / "nets.csv")
    assert (student["net"], teacher["net"]) == ("student", "teacher")
    for name in ("verification_accuracy", "auc", "tar_at_far_0.001"):
        assert float(student[name]) == flat[f"test/{name}"]
        assert float(teacher[name]) == flat[f"test/teacher_{name}"]
    cosines = [float(row["cosine_to_teacher"]) for row in rows_of(tmp_path / "images.csv")]
    assert cosines == sorted(cosines)
    assert np.isclose(np.mean(cosines), flat["test/cosine"], atol=1e-6)


def test_the_worst_pairs_are_the_farthest_beyond_their_threshold_each_image_once():
    student, teacher, pairs = case(count=72)
    net = evaluate(student, pairs, student, teacher).student
    accepts, rejects = worst_pairs(pairs, net, 5)
    assert accepts
    assert rejects
    for chosen, same, sign in ((accepts, False, 1), (rejects, True, -1)):
        beyond = sign * (net.distances - net.thresholds)[chosen]
        assert beyond.tolist() == sorted(beyond)
        assert beyond.max() <= 0
        assert (pairs.same[chosen] == same).all()
        images = [*pairs.first[chosen], *pairs.second[chosen]]
        assert len(set(images)) == len(images)
    wrong = (net.distances <= net.thresholds) != pairs.same
    worst = np.flatnonzero(wrong & pairs.same)[np.argmax((net.distances - net.thresholds)[wrong & pairs.same])]
    assert rejects[0] == worst


def test_what_was_not_measured_is_not_drawn(tmp_path):
    student, teacher, pairs = case()
    for name, given, files in (
        ("alone", (student, None, None), set()),
        ("teacher", (student, teacher, None), {"images.csv", "pictures/farthest_from_teacher.png"}),
        (
            "pairs",
            (student, None, pairs),
            {"nets.csv", "pairs.csv", "pictures/roc.png", "pictures/worst_pairs.png"},
        ),
    ):
        write(tmp_path / name, *given)
        found = {path.relative_to(tmp_path / name).as_posix() for path in (tmp_path / name).rglob("*.*")}
        assert found == files | {"metrics.json"}
        assert (tmp_path / name / "pictures").is_dir()
    assert [row["net"] for row in rows_of(tmp_path / "pairs" / "nets.csv")] == ["student"]


def test_one_fold_has_no_accuracy_and_perfect_pairs_no_errors(tmp_path):
    _, _, pairs = case()
    flat, _, _ = write(tmp_path, np.repeat(np.eye(12), 2, axis=0), None, pairs._replace(folds=0 * pairs.folds))
    assert flat["test/verification_accuracy"] is None
    assert flat["test/auc"] == 1
    assert rows_of(tmp_path / "nets.csv")[0]["verification_accuracy"] == ""
    assert Image.open(tmp_path / "pictures" / "worst_pairs.png").size[1] < 100  # a title alone
    write(tmp_path / "collapsed", np.ones((24, 4)), None, pairs)  # no distance tells anything


def test_names_from_strangers_do_no_harm(tmp_path):
    files = [f"{name}/{i}.jpg" for i, name in enumerate([*HOSTILE, *HOSTILE][:24])]
    write(tmp_path, *case(), files)
    harmless(tmp_path)
    assert rows_of(tmp_path / "pairs.csv")[0]["first"] == "n" * 5000 + "/0.jpg"
