import hashlib
import itertools
import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter
from torchvision.datasets import CelebA

from backbone.errors import InputError
from data.samples import faces
from data.samples.__main__ import main
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
    on_picture,
    people_of,
    write_faces_sample,
)

NAMES = list(FREQUENCIES)
SMALL = {"train": 14, "val": 5, "test": 9}


def write_small(folder, patch, seed=0, images=SMALL, unlabelled=6):
    patch.setattr(faces, "IMAGES", images)
    patch.setattr(faces, "UNLABELLED", unlabelled)
    write_faces_sample(folder, seed)
    return folder


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return write_small(tmp_path_factory.mktemp("samples") / "faces", patch)


@pytest.fixture(scope="module")
def many():
    """Who is in each of many pictures, and what they have, by name."""
    rng = np.random.default_rng(0)
    people = people_of(rng, 60000)
    return people, dict(zip(NAMES, attribute_table(rng, people).T, strict=True))


# --- the layout -------------------------------------------------------------------------------------------------------


def test_the_lists_are_celebas(sample):
    assert {path.name for path in sample.iterdir()} == {
        "img_align_celeba",
        "unlabelled",
        "list_attr_celeba.txt",
        "list_eval_partition.txt",
        "identity_CelebA.txt",
    }
    count, names, *rows = (sample / "list_attr_celeba.txt").read_text().removesuffix("\n").split("\n")
    assert count == "28"
    assert names == " ".join(NAMES) + " "  # the space is in CelebA's
    assert len(rows) == 28
    files = [f"{number:06d}.jpg" for number in range(1, 29)]
    for file, row in zip(files, rows, strict=True):
        assert re.fullmatch(re.escape(file) + "(?: (?: 1|-1)){19}", row)
    partition = (sample / "list_eval_partition.txt").read_text().split("\n")
    assert partition == [f"{file} {split}" for file, split in zip(files, [0] * 14 + [1] * 5 + [2] * 9, strict=True)] + [
        ""
    ]
    identities = (sample / "identity_CelebA.txt").read_text().splitlines()
    assert [line.split(" ")[0] for line in identities] == files
    people = np.array([int(line.split(" ")[1]) for line in identities])
    assert sorted(set(people)) == list(range(1, people.max() + 1))
    splits = [set(people[:14]), set(people[14:19]), set(people[19:])]
    assert sum(len(split) for split in splits) == people.max()  # nobody is in two


def test_torchvisions_reader_of_celeba_reads_them(sample):
    reader = SimpleNamespace(root=str(sample), base_folder=".")
    table = CelebA._load_csv(reader, "list_attr_celeba.txt", header=1)
    assert table.header == [*NAMES, ""]  # as it reads CelebA's
    assert table.data.shape == (28, 19)
    assert set(table.data.ravel().tolist()) == {-1, 1}
    for name in ("list_eval_partition.txt", "identity_CelebA.txt"):
        assert CelebA._load_csv(reader, name).index == table.index


def test_every_picture_is_a_small_jpeg_of_celebas_proportions_and_no_two_are_alike(sample):
    assert pytest.approx(178 / 218, rel=0.06) == WIDTH / HEIGHT
    labelled, unlabelled = (sorted((sample / folder).iterdir()) for folder in ("img_align_celeba", "unlabelled"))
    assert [path.name for path in labelled] == [f"{number:06d}.jpg" for number in range(1, 29)]
    assert [path.name for path in unlabelled] == [f"{number:06d}.jpg" for number in range(1, 7)]
    contents = [path.read_bytes() for path in labelled + unlabelled]
    assert len(set(contents)) == 34
    for path in labelled + unlabelled:
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (WIDTH, HEIGHT))
    whole = sum(IMAGES.values()) + faces.UNLABELLED
    assert np.mean([len(content) for content in contents]) * whole < 15e6


def test_the_rows_say_what_was_drawn(sample):
    """A picture drawn anew from what its row says is the same: this row and this picture belong together."""
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


def test_attributes_are_as_frequent_as_declared(many):
    _, has = many
    assert len(FREQUENCIES) >= 12
    assert sorted(NAMES) == NAMES
    assert min(FREQUENCIES.values()) < 0.07
    assert max(FREQUENCIES.values()) >= 0.6
    for name, share in FREQUENCIES.items():
        assert has[name].mean() == pytest.approx(share, abs=0.006), name


def test_each_split_has_its_share_of_every_attribute():
    for split, count in enumerate(IMAGES.values()):
        rng = np.random.default_rng((0, split))
        table = attribute_table(rng, people_of(rng, count))
        np.testing.assert_allclose(table.mean(axis=0), list(FREQUENCIES.values()), atol=0.07)
        assert table.sum(axis=0).min() >= 5


def test_hats_hide_and_the_bald_have_no_hair(many):
    _, has = many
    assert not (has["Bald"] & has["Wearing_Hat"]).any()
    assert not (has["Bald"] & has["Bangs"]).any()
    colours = sum(has[name].astype(int) for name in HAIR_COLOURS)
    assert colours.max() == 1
    assert colours[has["Bald"]].max() == 0
    bare = ~has["Bald"] & ~has["Wearing_Hat"]
    assert has["Bangs"][has["Wearing_Hat"]].mean() == pytest.approx(0.3 * has["Bangs"][bare].mean(), abs=0.01)


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
    same = np.diff(people[order]) == 0  # two pictures of one person, one after the other
    counts = np.bincount(people)
    assert (counts.min(), counts[:-1].max()) == (1, 5)

    def changes(name, of):
        value, both = has[name][order], same & of[order][1:] & of[order][:-1]
        return (value[1:] != value[:-1])[both].mean()

    every = np.ones(len(people), bool)
    for name in NAMES:
        seen = ~has["Wearing_Hat"] if name == "Bald" else ~has["Bald"] if name in HAIR_COLOURS else every
        assert (changes(name, seen) == 0) == (name in LASTING), name


def test_no_pictures_make_an_empty_table():
    assert attribute_table(np.random.default_rng(0), np.zeros(0, int)).shape == (0, len(NAMES))


# --- the picture ------------------------------------------------------------------------------------------------------

# Where each attribute shows, (x1, y1, x2, y2) in units of the head, and whether on the front, which turns.
BROWS, HAIR = (-0.97, -0.75, 0.97, -0.05, True), (-2, -2.2, 2, 2.5, False)
REGIONS = {
    "Arched_Eyebrows": BROWS,
    "Bald": HAIR,
    "Bangs": (-1.05, -1.3, 1.05, -0.25, True),
    "Big_Nose": (-0.55, -0.2, 0.55, 0.8, True),
    "Black_Hair": HAIR,
    "Blond_Hair": HAIR,
    "Bushy_Eyebrows": BROWS,
    "Eyeglasses": (-1.1, -0.37, 1.1, 0.42, True),
    "Freckles": (-0.82, 0.05, 0.82, 0.7, True),
    "Goatee": (-0.65, 1.0, 0.65, 1.85, False),
    "Gray_Hair": HAIR,
    "Mouth_Slightly_Open": (-0.65, 0.65, 0.65, 1.4, True),
    "Mustache": (-0.6, 0.55, 0.6, 1.12, True),
    "Narrow_Eyes": (-0.8, -0.35, 0.8, 0.3, True),
    "Rosy_Cheeks": (-1.05, 0, 1.05, 0.95, True),
    "Smiling": (-0.8, 0.42, 0.8, 1.35, True),
    "Wearing_Earrings": (-1.5, 0.35, 1.5, 1.3, False),
    "Wearing_Hat": (-2.2, -2.4, 2.2, -0.35, False),
    "Wearing_Lipstick": (-0.65, 0.65, 0.65, 1.4, True),
}
# From nose to mouth, and between the eyes: no hair falls there.
MIDDLE = (-0.35, -0.05, 0.35, 0.9, True)
UNTOUCHED = {"Bald": MIDDLE, "Wearing_Earrings": MIDDLE} | dict.fromkeys(HAIR_COLOURS, MIDDLE)
# What would hide the attribute, or bears the colour of hair.
WITHOUT = {
    "Bald": {"Bangs", "Wearing_Hat", *HAIR_COLOURS},
    "Bangs": {"Bald", "Wearing_Hat"},
    "Wearing_Hat": {"Bald"},
} | {name: {"Bald", "Goatee", "Mustache", *HAIR_COLOURS} for name in HAIR_COLOURS}


def mask_of(head, region, grown=0):
    """The pixels of a region, bool (HEIGHT, WIDTH), and so many px around it."""
    x1, y1, x2, y2, front = region
    s = np.linspace(0, 1, 40)
    corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1)]
    edge = np.concatenate([a + s[:, None] * np.subtract(b, a) for a, b in itertools.pairwise(corners)])
    image = Image.new("L", (WIDTH, HEIGHT))
    ImageDraw.Draw(image).polygon(on_picture(head, edge, front=front).ravel().tolist(), fill=1)
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
        if name in UNTOUCHED:
            assert change[mask_of(head, UNTOUCHED[name])].max() == 0
        assert (change > 20).sum() >= 50


def test_under_a_hat_hair_shows_below_its_edge_only():
    for number in range(6):
        streams = [[np.random.default_rng((8, i, number)) for i in (1, 2)] for _ in range(2)]
        black, blond = (
            draw_face(*two, {"Wearing_Hat", colour}).astype(int)
            for two, colour in zip(streams, ("Black_Hair", "Blond_Hair"), strict=True)
        )
        head = head_of(np.random.default_rng((8, 2, number)))
        change = np.abs(black - blond).max(axis=2)
        edge = faces._HAT_EDGE + 0.8 * np.sin(head.nod)
        assert change[mask_of(head, (-2, -2.2, 2, edge - 0.17, False))].max() == 0
        assert (change[mask_of(head, (-1.3, edge, 1.3, 0.1, False))] > 60).sum() > 30


def test_a_person_is_alike_in_two_pictures_and_unlike_others():
    """Skin of the same bare face in other light: nearer to one's own than to most others'."""

    def skin(person, picture):
        streams = [np.random.default_rng(key) for key in ((9, 1, person), (9, 2, picture))]
        pixels = draw_face(*streams, ()).astype(float)
        colour = pixels[mask_of(head_of(np.random.default_rng((9, 2, picture))), (-0.5, 0.2, 0.5, 0.4, True))].mean(
            axis=0
        )
        return colour / colour.sum()

    first, second = (np.array([skin(person, 10 * i + person) for person in range(10)]) for i in (0, 1))
    distances = np.linalg.norm(first[:, None] - second, axis=2)
    assert (distances.argsort(axis=1).argsort(axis=1).diagonal() < 5).mean() >= 0.7
    people = [faces.person_of(np.random.default_rng((9, 1, person))) for person in range(10)]
    assert len({(who.chin, who.nose, who.mouth) for who in people}) == 10


def test_places_on_the_head_worked_by_hand():
    upright = Head(x=40, y=50, unit=20, tilt=0, turn=0, nod=0)
    np.testing.assert_allclose(on_picture(upright, [(0, 0), (0.8, -0.5), (-0.5, 1)]), [(40, 50), (56, 40), (30, 70)])
    lying = Head(40, 50, 20, tilt=np.pi / 2, turn=0, nod=0)
    np.testing.assert_allclose(on_picture(lying, [(1, 0), (0, 1)], front=False), [(40, 70), (20, 50)])
    # The foremost point, (0, 0.1), goes by the sine of the turn; half of the way to the edge it is as deep as cos 30.
    turned = Head(40, 50, 20, tilt=0, turn=np.pi / 6, nod=0)
    np.testing.assert_allclose(on_picture(turned, [(0, 0.1)]), [(50, 52)])
    np.testing.assert_allclose(on_picture(turned, [(0.55, 0.1)]), [(40 + 20 * (0.55 + 0.5) * np.sqrt(0.75), 52)])
    np.testing.assert_allclose(on_picture(turned, [(-1.1, 0.1)], front=False), [(18, 52)])
    np.testing.assert_allclose(on_picture(turned, [(1.0, 0.1)]), [(60, 52)])  # beyond the edge, so on it


def test_paint_covers_by_area():
    head = Head(x=10, y=20, unit=10, tilt=0, turn=0, nod=0)
    canvas = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    of = SimpleNamespace(canvas=canvas, head=head)
    square = np.array([(1, 1), (3, 1), (3, 3), (1, 3)])  # px 20 to 40 across, 30 to 50 down
    faces._paint(of, [square], np.array([200, 100, 0], np.float32), 0.5, front=False)
    np.testing.assert_allclose(canvas[31:49, 21:39], np.broadcast_to((100, 50, 0), (18, 18, 3)), atol=0.5)
    assert canvas[:29].max() == canvas[51:].max() == canvas[:, :19].max() == canvas[:, 41:].max() == 0
    assert canvas[..., 0].sum() / 100 == pytest.approx(400, rel=0.05)
    before = canvas.copy()
    faces._paint(of, [square + 20], np.array([200, 100, 0], np.float32), front=False)  # out of the picture
    np.testing.assert_array_equal(canvas, before)


# --- the command and the files ----------------------------------------------------------------------------------------


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(str(p.relative_to(folder)).encode() + p.read_bytes() for p in files)).hexdigest()


def test_the_same_seed_draws_the_same_files(tmp_path, monkeypatch):
    few = {"train": 3, "val": 1, "test": 1}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_small(tmp_path / name, monkeypatch, seed, few, 2)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c"}  # nothing half-made is left beside


def test_an_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    drawn = []

    def stop(*arguments):
        drawn.append(1)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw_face(*arguments)

    monkeypatch.setattr(faces, "draw_face", stop)
    with pytest.raises(KeyboardInterrupt):
        write_faces_sample(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_refused_and_an_empty_one_is_used(tmp_path, monkeypatch, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match="full exists and is not an empty folder"):
        write_faces_sample(tmp_path / "full")
    assert main(["faces", str(tmp_path / "full")]) == 2
    assert "error: " in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["precious.txt"]
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(faces, "IMAGES", {"train": 2, "val": 0, "test": 1})
    monkeypatch.setattr(faces, "UNLABELLED", 0)
    assert main(["faces", str(tmp_path / "empty")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "empty")
    assert len(list((tmp_path / "empty" / "img_align_celeba").iterdir())) == 3
