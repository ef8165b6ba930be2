import itertools
import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter
from torchvision.datasets import CelebA

from data.samples import faces, write_sample
from data.samples.faces import (
    FREQUENCIES,
    HAIR_COLOURS,
    HEIGHT,
    IMAGES,
    LASTING,
    WIDTH,
    Head,
    attribute_table,
    draw_face,
    head_of,
    on_image,
    people_of,
)

NAMES = list(FREQUENCIES)
SMALL = {"train": 14, "val": 5, "test": 9}


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faces, "IMAGES", SMALL)
        patch.setattr(faces, "UNLABELLED", 6)
        folder = tmp_path_factory.mktemp("samples") / "faces"
        write_sample("faces", folder)
        return folder


@pytest.fixture(scope="module")
def many():
    """Who is in each of many images, and what they have, by name."""
    rng = np.random.default_rng(0)
    people = people_of(rng, 60000)
    return people, dict(zip(NAMES, attribute_table(rng, people).T, strict=True))


# --- the layout -------------------------------------------------------------------------------------------------------


def test_the_lists_are_celebas(sample):
    folders = {path.name for path in sample.iterdir() if path.is_dir()}
    assert folders == {"img_align_celeba", "unlabelled"}
    count, names, *rows = (sample / "list_attr_celeba.txt").read_text().removesuffix("\n").split("\n")
    assert (count, names, len(rows)) == ("28", " ".join(NAMES) + " ", 28)  # the space is in CelebA's
    files = [f"{number:06d}.jpg" for number in range(1, 29)]
    for file, row in zip(files, rows, strict=True):
        assert re.fullmatch(re.escape(file) + "(?: (?: 1|-1)){19}", row)
    splits = [0] * 14 + [1] * 5 + [2] * 9
    partition = (sample / "list_eval_partition.txt").read_text()
    assert partition == "".join(f"{file} {split}\n" for file, split in zip(files, splits, strict=True))
    identities = [line.split(" ") for line in (sample / "identity_CelebA.txt").read_text().splitlines()]
    assert [file for file, _ in identities] == files
    people = [int(person) for _, person in identities]
    assert sorted(set(people)) == list(range(1, max(people) + 1))
    assert sum(len(set(part)) for part in (people[:14], people[14:19], people[19:])) == max(people)  # nobody is in two


def test_torchvisions_reader_of_celeba_reads_them(sample):
    reader = SimpleNamespace(root=str(sample), base_folder=".")
    table = CelebA._load_csv(reader, "list_attr_celeba.txt", header=1)
    assert table.header == [*NAMES, ""]  # as it reads CelebA's
    assert table.data.shape == (28, 19)
    assert set(table.data.ravel().tolist()) == {-1, 1}
    for name in ("list_eval_partition.txt", "identity_CelebA.txt"):
        assert CelebA._load_csv(reader, name).index == table.index


def test_every_image_is_a_small_jpeg_and_no_two_are_alike(sample):
    paths = [path for folder in ("img_align_celeba", "unlabelled") for path in sorted((sample / folder).iterdir())]
    assert [path.name for path in paths] == [f"{number:06d}.jpg" for number in (*range(1, 29), *range(1, 7))]
    contents = [path.read_bytes() for path in paths]
    assert len(set(contents)) == 34
    assert np.mean([len(content) for content in contents]) * (sum(IMAGES.values()) + faces.UNLABELLED) < 15e6
    for path in paths:
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (WIDTH, HEIGHT))


def test_the_rows_say_what_was_drawn(sample):
    """A image drawn anew from what its row says is the same: this row and this image belong together."""
    rng = np.random.default_rng((0, 2))
    people = people_of(rng, 9)
    rows = (sample / "list_attr_celeba.txt").read_text().splitlines()[2:][19:]  # those of the test split
    for place in range(9):
        has = {name for name, value in zip(NAMES, rows[place].split()[1:], strict=True) if value == "1"}
        streams = (np.random.default_rng((0, 2, *key)) for key in ((1, people[place]), (2, place)))
        with Image.open(sample / "img_align_celeba" / f"{20 + place:06d}.jpg") as image:
            difference = np.asarray(image).astype(int) - draw_face(*streams, has)
        assert np.abs(difference).mean() < 6  # JPEG's loss; another face is at 40 and more


# --- who has what -----------------------------------------------------------------------------------------------------


def test_every_attribute_is_as_frequent_as_declared_in_every_split_too(many):
    assert sorted(NAMES) == NAMES
    np.testing.assert_allclose([many[1][name].mean() for name in NAMES], list(FREQUENCIES.values()), atol=0.006)
    for split, count in enumerate(IMAGES.values()):
        rng = np.random.default_rng((0, split))
        table = attribute_table(rng, people_of(rng, count))
        np.testing.assert_allclose(table.mean(axis=0), list(FREQUENCIES.values()), atol=0.07)
        assert table.sum(axis=0).min() >= 5


def test_no_attribute_tells_another_but_by_these_rules(many):
    """P(b | a) of every two: 0 by the rules above, and as without a, save for four that go together as in life."""
    _, has = many
    excluded = {frozenset(("Bald", name)) for name in ("Wearing_Hat", "Bangs", *HAIR_COLOURS)}
    excluded |= {frozenset((a, b)) for a in HAIR_COLOURS for b in HAIR_COLOURS if a != b}
    together = {("Smiling", "Mouth_Slightly_Open"): 3, ("Mustache", "Goatee"): 0.5, ("Wearing_Hat", "Bangs"): 0.3}
    for a in NAMES:
        for b in set(NAMES) - {a}:
            given = has[b][has[a]].mean()
            if {a, b} in excluded:
                assert given == 0
            elif {a, b} in [set(pair) for pair in together]:
                assert 0.03 < given < 0.85, (a, b)
            else:  # hats and bald heads hide a little of one another, so not quite as without
                assert given == pytest.approx(FREQUENCIES[b], abs=0.05), (a, b)
    smile = has["Smiling"]
    ratio = has["Mouth_Slightly_Open"][smile].mean() / has["Mouth_Slightly_Open"][~smile].mean()
    assert ratio == pytest.approx(3, abs=0.15)
    assert has["Goatee"][has["Mustache"]].mean() == pytest.approx(0.5, abs=0.03)


def test_a_person_keeps_what_is_lasting_and_changes_the_rest(many):
    people, has = many
    order = np.argsort(people, kind="stable")
    same = np.diff(people[order]) == 0  # two images of one person, one after the other
    counts = np.bincount(people)
    assert (counts.min(), counts[:-1].max()) == (1, 5)

    def changes(name, of):
        value, both = has[name][order], same & of[order][1:] & of[order][:-1]
        return (value[1:] != value[:-1])[both].mean()

    for name in NAMES:
        hidden = has["Wearing_Hat" if name == "Bald" else "Bald"] & (name in {"Bald", *HAIR_COLOURS})
        assert (changes(name, ~hidden) == 0) == (name in LASTING), name


# --- the image ------------------------------------------------------------------------------------------------------

# Where each attribute shows, (x1, y1, x2, y2) in units of the head, and whether on the front, which turns.
BROWS, HAIR = (-0.97, -0.75, 0.97, -0.05, True), (-2, -2.2, 2, 2.5, False)
MOUTH = (-0.65, 0.65, 0.65, 1.4, True)
REGIONS = {
    **dict.fromkeys(("Arched_Eyebrows", "Bushy_Eyebrows"), BROWS),
    **dict.fromkeys(("Bald", *HAIR_COLOURS), HAIR),
    **dict.fromkeys(("Mouth_Slightly_Open", "Wearing_Lipstick"), MOUTH),
    "Bangs": (-1.05, -1.3, 1.05, -0.25, True),
    "Big_Nose": (-0.55, -0.2, 0.55, 0.8, True),
    "Eyeglasses": (-1.1, -0.37, 1.1, 0.42, True),
    "Freckles": (-0.82, 0.05, 0.82, 0.7, True),
    "Goatee": (-0.65, 1.0, 0.65, 1.85, False),
    "Mustache": (-0.6, 0.55, 0.6, 1.12, True),
    "Narrow_Eyes": (-0.8, -0.35, 0.8, 0.3, True),
    "Rosy_Cheeks": (-1.05, 0, 1.05, 0.95, True),
    "Smiling": (-0.8, 0.42, 0.8, 1.35, True),
    "Wearing_Earrings": (-1.5, 0.35, 1.5, 1.3, False),
    "Wearing_Hat": (-2.2, -2.4, 2.2, -0.35, False),
}
MIDDLE = (-0.35, -0.05, 0.35, 0.9, True)  # from nose to mouth, and between the eyes: no hair falls there
WITHOUT = {  # what would hide the attribute, or bears the colour of hair
    **{name: {"Bald", "Goatee", "Mustache", *HAIR_COLOURS} for name in HAIR_COLOURS},
    "Bald": {"Bangs", "Wearing_Hat", *HAIR_COLOURS},
    "Bangs": {"Bald", "Wearing_Hat"},
    "Wearing_Hat": {"Bald"},
}


def mask_of(head, region, grown=0):
    """The pixels of a region, bool (HEIGHT, WIDTH), and so many px around it."""
    x1, y1, x2, y2, front = region
    s = np.linspace(0, 1, 40)
    corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)]
    edge = np.concatenate([a + s[:, None] * np.subtract(b, a) for a, b in itertools.pairwise(corners)])
    image = Image.new("L", (WIDTH, HEIGHT))
    ImageDraw.Draw(image).polygon(on_image(head, edge, front=front).ravel().tolist(), fill=1)
    return np.asarray(image.filter(ImageFilter.MaxFilter(2 * grown + 1))) > 0


@pytest.mark.parametrize("name", NAMES)
def test_an_attribute_changes_its_region_and_nothing_else(name, many):
    """From the same random states with and without it: the same to the bit elsewhere, and plain to see there."""
    _, has = many
    for number in range(4):
        others = {other for other in NAMES if has[other][number]} - WITHOUT.get(name, set()) - {name}
        streams = [[np.random.default_rng((7, i, number)) for i in (1, 2)] for _ in range(2)]
        without, with_ = (draw_face(*two, others | extra) for two, extra in zip(streams, (set(), {name}), strict=True))
        change = np.abs(with_.astype(int) - without).max(axis=2)
        head = head_of(np.random.default_rng((7, 2, number)))
        assert change[~mask_of(head, REGIONS[name], grown=2)].max(initial=0) == 0
        if name in {"Bald", "Wearing_Earrings", *HAIR_COLOURS}:
            assert change[mask_of(head, MIDDLE)].max() == 0
        assert (change > 20).sum() >= 50


def test_places_on_the_head_worked_by_hand():
    upright = Head(x=40, y=50, unit=20, tilt=0, turn=0, nod=0)
    np.testing.assert_allclose(on_image(upright, [(0, 0), (0.8, -0.5), (-0.5, 1)]), [(40, 50), (56, 40), (30, 70)])
    lying = Head(40, 50, 20, tilt=np.pi / 2, turn=0, nod=0)
    np.testing.assert_allclose(on_image(lying, [(1, 0), (0, 1)], front=False), [(40, 70), (20, 50)])
    # The foremost point, (0, 0.1), goes by the sine of the turn; half of the way to the edge it is as deep as cos 30.
    turned = Head(40, 50, 20, tilt=0, turn=np.pi / 6, nod=0)
    np.testing.assert_allclose(on_image(turned, [(0, 0.1)]), [(50, 52)])
    np.testing.assert_allclose(on_image(turned, [(0.55, 0.1)]), [(40 + 20 * (0.55 + 0.5) * np.sqrt(0.75), 52)])
    np.testing.assert_allclose(on_image(turned, [(-1.1, 0.1)], front=False), [(18, 52)])
    np.testing.assert_allclose(on_image(turned, [(1.0, 0.1)]), [(60, 52)])  # beyond the edge, so on it
