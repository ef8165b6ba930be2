from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat
from sklearn.linear_model import RidgeClassifier
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from data.samples import dogs, write_sample
from data.samples.dogs import BREEDS, DETAILS, box_of, draw_dog, folder_name

COPY, PNG = (1, 2), (6, 0)  # breed and place in the small samples


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """Few images, drawn roughly on plain magenta without shadows, so that a dog is whatever is not magenta."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dogs, "_ground", lambda rng, width, height, horizon: np.full((height, width, 3), (255, 0, 255.0)))
        patch.setattr(dogs, "_shadow", lambda *arguments: None)
        settings = {"TRAIN_IMAGES": 4, "TEST_IMAGES": (1, 2, 1, 3, 1, 1, 2, 1), "_SUPERSAMPLING": 1}
        for name, value in {**settings, "COPY_OF_THE_ONE_BEFORE": COPY, "PNG_NAMED_JPG": PNG}.items():
            patch.setattr(dogs, name, value)
        folder = tmp_path_factory.mktemp("samples") / "dogs"
        write_sample("dogs", folder)
        return folder


def read_list(folder, name):
    """Files, annotations and labels of one of the lists, which must be of the official ones' types."""
    content = loadmat(folder / "lists" / name)
    assert {key for key in content if not key.startswith("__")} == {"file_list", "annotation_list", "labels"}
    for key in ("file_list", "annotation_list"):
        assert content[key].dtype == object
        assert content[key].shape == (len(content["labels"]), 1)
        assert {(cell.shape, cell.dtype.kind) for cell in content[key][:, 0]} == {((1,), "U")}
    assert content["labels"].dtype == np.uint8
    assert content["labels"].shape == (len(content["file_list"]), 1)
    texts = ([str(row[0][0]) for row in content[key]] for key in ("file_list", "annotation_list"))
    return (*texts, content["labels"][:, 0].tolist())


# --- the layout -------------------------------------------------------------------------------------------------------


def test_the_lists_name_every_file_once_with_the_number_of_its_folder(sample):
    folders = sorted(path.name for path in (sample / "Images").iterdir())
    assert len(folders) == 8
    every, train, test = (read_list(sample, f"{name}_list.mat") for name in ("file", "train", "test"))
    for files, annotations, labels in (every, train, test):
        assert [f"{name}.jpg" for name in annotations] == files
        assert labels == sorted(labels) == [folders.index(file.split("/")[0]) + 1 for file in files]
        assert all(Path(file).name.startswith(file.split("-")[0] + "_") for file in files)  # <id>-<breed>/<id>_<n>.jpg
    assert sorted(train[0] + test[0]) == every[0]
    for kind, names in (("Images", every[0]), ("Annotation", every[1])):
        root = sample / kind
        assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()) == sorted(names)
    assert np.bincount(train[2]).tolist() == [0] + 8 * [4]
    assert np.bincount(test[2]).tolist() == [0, 1, 2, 1, 3, 1, 1, 2, 1]


def test_one_training_image_is_a_png_named_jpg_and_one_a_copy(sample):
    files, _, labels = read_list(sample, "train_list.mat")
    contents = [(sample / "Images" / file).read_bytes() for file in files]
    copies = [i for i, content in enumerate(contents) if content in contents[:i]]
    assert [(labels[i] - 1, i % 4) for i in copies] == [COPY]
    assert contents[copies[0]] == contents[copies[0] - 1]
    assert [(labels[i] - 1, i % 4) for i, content in enumerate(contents) if content.startswith(b"\x89PNG")] == [PNG]
    assert sum(content.startswith(b"\xff\xd8") for content in contents) == len(files) - 1  # the others are JPEGs


def test_an_annotation_tells_the_size_of_its_image_and_encloses_the_dog(sample):
    sizes = set()
    for file, annotation, _ in zip(*read_list(sample, "file_list.mat"), strict=True):
        with Image.open(sample / "Images" / file) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        height, width, _ = pixels.shape
        sizes.add((height, width))
        root = ElementTree.parse(sample / "Annotation" / annotation).getroot()
        assert [int(root.findtext(f"size/{key}")) for key in ("height", "width", "depth")] == [height, width, 3]
        folder, _, identifier = annotation.partition("/")
        assert (f"n{root.findtext('folder')}", root.findtext("filename")) == (folder.partition("-")[0], identifier)
        assert [item.findtext("name") for item in root.findall("object")] == [folder.partition("-")[2]]
        x1, y1, x2, y2 = (int(root.findtext(f"object/bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax"))
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        dog = np.abs(pixels - (255, 0, 255)).max(axis=2) > 100  # what JPEG adds beside an edge stays below
        np.testing.assert_allclose([x1, y1, x2, y2], box_of(dog), atol=2)
        assert dog[y1:y2, x1:x2].sum() > 0.99 * dog.sum()
    assert len(sizes) > 20


def test_a_box_worked_by_hand():
    coverage = np.zeros((6, 9))
    coverage[2, 3] = coverage[4, 7] = 0.1
    assert box_of(coverage) == (3, 2, 8, 5)


# --- what tells the breeds apart --------------------------------------------------------------------------------------


def test_one_detail_leaves_half_of_the_breeds_open():
    assert len(set(BREEDS)) == 8
    for position, choices in enumerate(DETAILS):
        assert all(sum(breed[position] == choice for breed in BREEDS) == 4 for choice in choices)
    ids, names = zip(*(folder_name(breed).split("-", 1) for breed in range(8)), strict=True)
    assert [name.split("_") for name in names] == [list(breed) for breed in BREEDS]
    assert list(ids) == sorted(ids)
    assert all(len(wnid) == 9 and wnid[0] == "n" and 0 < int(wnid[1:]) < 1740 for wnid in ids)  # none is WordNet's


def test_images_of_two_breeds_are_alike_but_for_the_details():
    """From the same random state: each detail changes a small part, and beyond these parts all eight breeds agree."""
    for seed in range(4):
        images = {breed: draw_dog(np.random.default_rng(seed), breed) for breed in BREEDS}
        pixels, coverage = images[BREEDS[0]]
        changed = []
        for detail in range(3):
            other = tuple(DETAILS[i][int(i == detail)] for i in range(3))
            changed.append(np.abs(pixels.astype(int) - images[other][0]).max(axis=2) > 2)
            assert 0.002 < changed[-1].mean() < (0.08, 0.08, 0.2)[detail]
        ears, tail, coat = changed
        assert not (ears & tail).any()
        np.testing.assert_array_equal(coverage, images[("prick-ear", "curl-tail", "spots")][1])
        assert (coverage[coat] > 0).all()
        for other, _ in images.values():
            np.testing.assert_allclose(other[~(ears | tail | coat)].astype(int), pixels[~(ears | tail | coat)], atol=2)


@pytest.mark.slow
def test_colours_place_and_size_tell_nothing(monkeypatch):
    """Linear classifiers on them stay near chance, one in eight, and far above it where colour does tell the class."""
    monkeypatch.setattr(dogs, "_SUPERSAMPLING", 1)
    labels = np.tile(np.arange(8), 25)
    drawn = [draw_dog(np.random.default_rng((1, i)), BREEDS[label]) for i, label in enumerate(labels)]

    def histogram(pixels):  # 5 x 5 x 5 colours
        return np.sqrt(np.bincount((pixels // 52).astype(int).reshape(-1, 3) @ (25, 5, 1), minlength=125))

    def score(features):
        classifier = make_pipeline(StandardScaler(), RidgeClassifier(alpha=100))
        return cross_val_score(classifier, np.stack(features), labels, cv=5).mean()

    scores = {
        "colours": score([histogram(pixels) for pixels, _ in drawn]),
        "the dog's colours": score([histogram(pixels[coverage > 0.5]) for pixels, coverage in drawn]),
        "pixels": score([np.asarray(Image.fromarray(pixels).resize((16, 12))).ravel() for pixels, _ in drawn]),
        "size and place": score([[*coverage.shape, *np.argwhere(coverage).mean(axis=0)] for _, coverage in drawn]),
    }
    assert max(scores.values()) < 0.25, scores
    reddened = [pixels * ((label + 1) / 8, 1, 1) for (pixels, _), label in zip(drawn, labels, strict=True)]
    assert score([histogram(pixels) for pixels in reddened]) > 0.5
