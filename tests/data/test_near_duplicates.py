import io
import os
import tracemalloc

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance
from scipy.fft import dctn

from data import near_duplicates
from data.near_duplicates import hash_images, image_hash, mirrored, without_near_duplicates
from data.records import Records


def scene(seed, height=180, width=240):
    """An image with the spectrum of photos, amplitude 1 / frequency, uint8 RGB."""
    generator = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width) * width).clip(min=1)
    spectrum = generator.normal(size=(3, *frequency.shape)) * np.exp(2j * np.pi * generator.random(frequency.shape))
    pixels = np.fft.irfft2(spectrum / frequency, s=(height, width))
    grey = pixels[0] + 0.2 * pixels  # (3, H, W), its colours alike
    grey = 128 + 50 * (grey - grey.mean()) / grey.std()
    return np.ascontiguousarray(grey.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def jpeg(image, quality=90):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def marked(image):
    ImageDraw.Draw(image).rectangle((170, 160, 234, 172), fill="white")
    return image


CHANGES = {
    "smaller": lambda p: jpeg(p.resize((70, 50))),
    "larger": lambda p: jpeg(p.resize((500, 500))),
    "quality 30": lambda p: jpeg(p, 30),
    "mirrored": lambda p: jpeg(p.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "cropped": lambda p: jpeg(p.crop((5, 4, 236, 177))),
    "darker": lambda p: jpeg(ImageEnhance.Brightness(p).enhance(0.8)),
    "of less contrast": lambda p: jpeg(ImageEnhance.Contrast(p).enhance(0.7)),
    "grey": lambda p: jpeg(p.convert("L")),
    "with a watermark": lambda p: jpeg(marked(p)),
}


def bits(hashes):
    return np.bitwise_count(hashes).sum(axis=-1)


def folder(root, images):
    """Labelled images of these files: arrays and PIL images saved as PNG, bytes as they are."""
    root.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        if isinstance(image, bytes):
            (root / name).write_bytes(image)
        else:
            (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(root / name)
    labels = {"labels": np.arange(len(images))}
    return Records(root, np.array([name.encode() for name in images]), labels)


# --- the hash -------------------------------------------------------------------------------------------------------


def test_the_bits_are_the_signs_of_the_lowest_frequencies():
    image = scene(0, 160, 96)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64)
    small = grey.reshape(32, 5, 32, 3).mean(axis=(1, 3))  # every cell covers whole pixels
    low = dctn(small)[:16, :16]
    clear = np.abs(low) > 0.1  # of amplitudes in the thousands
    found = np.unpackbits(image_hash(image).view(np.uint8)).reshape(16, 16)
    assert image_hash(image).shape == (4,)
    assert image_hash(image).dtype == np.uint64
    assert clear.mean() > 0.99
    assert ((low > 0) == found)[clear].all()
    assert found[0, 0] == 1


@pytest.mark.parametrize("size", [(180, 240), (181, 243), (20, 33), (500, 30)])
def test_the_mirrored_hash_is_that_of_the_mirrored_image(size):
    images = [scene(seed, *size) for seed in range(8)]
    hashes = np.array([image_hash(image) for image in images])
    turned = np.array([image_hash(np.ascontiguousarray(image[:, ::-1])) for image in images])
    assert bits(mirrored(hashes) ^ turned).max() <= 2  # a frequency that is nearly 0 may have either sign
    assert (mirrored(mirrored(hashes)) == hashes).all()
    assert (bits(mirrored(hashes) ^ hashes) == 128).all()
    assert not mirrored(np.zeros((2, 4), np.uint64)).any()


@pytest.mark.parametrize("level", [0, 7, 128, 255])
def test_a_plain_image_has_no_hash_and_a_faint_one_has(level):
    noise = np.random.default_rng(level).normal(level, 6, (200, 300, 3)).clip(0, 255).astype(np.uint8)
    for plain in (np.full((50, 60, 3), level, np.uint8), noise, np.asarray(jpeg(Image.fromarray(noise), 30))):
        assert not image_hash(plain).any()
    faint = (128 + (scene(level).astype(int) - 128) / 8).astype(np.uint8)  # standard deviation about 6 of 255
    assert bits(image_hash(faint) ^ image_hash(scene(level))) <= 40


def test_changed_images_are_near_and_others_far():
    scenes = [scene(seed) for seed in range(30)]
    hashes = np.array([image_hash(image) for image in scenes])
    either = np.stack([hashes, mirrored(hashes)])  # (2, N, 4)
    others = bits(either[:, :, None] ^ hashes).min(axis=0)
    assert others[~np.eye(30, dtype=bool)].min() > near_duplicates.MAX_DISTANCE
    for change in CHANGES.values():
        changed = np.array([image_hash(np.asarray(change(Image.fromarray(image)))) for image in scenes[:10]])
        assert bits(either[:, :10] ^ changed).min(axis=0).max() <= near_duplicates.MAX_DISTANCE


# --- comparing ------------------------------------------------------------------------------------------------------


def by_hand(hashes, of, max_distance):
    def number(row):
        return sum(int(word) << (64 * i) for i, word in enumerate(row))

    others = [number(row) for row in of if row.any()]
    return [
        bool(row.any()) and any((number(row) ^ other).bit_count() <= max_distance for other in others) for row in hashes
    ]


@pytest.mark.parametrize(("words", "max_distance"), [(1, 0), (1, 20), (2, 45), (4, 0), (4, 80), (4, 105), (4, 256)])
def test_near_duplicates_are_those_found_one_by_one(words, max_distance, monkeypatch):
    generator = np.random.default_rng(words)
    hashes = generator.integers(0, 2**64, (300, words), dtype=np.uint64)
    of = generator.integers(0, 2**64, (70, words), dtype=np.uint64)
    hashes[::50] = 0
    of[::20] = 0
    for row, flips in enumerate(range(0, 64 * words, 3), start=1):  # at every distance, to the bit
        flipped = generator.permutation(64 * words)[:flips]
        changed = np.zeros(64 * words, np.uint8)
        changed[flipped] = 1
        hashes[row] = of[row % 19 + 1] ^ np.packbits(changed).view(np.uint64)
    expected = by_hand(hashes, of, max_distance)
    assert near_duplicates.near_duplicates(hashes, of, max_distance).tolist() == expected
    for size in (1, 299):
        assert near_duplicates.near_duplicates(hashes[:size], of, max_distance).tolist() == expected[:size]


def test_opposite_hashes_are_256_bits_apart_and_nothing_is_near_to_nothing():
    one = np.full((1, 4), 0xF0F0F0F0F0F0F0F0, np.uint64)
    assert near_duplicates.near_duplicates(~one, one, 255).tolist() == [False]
    assert near_duplicates.near_duplicates(~one, one, 256).tolist() == [True]
    nothing = np.zeros((3, 4), np.uint64)
    assert near_duplicates.near_duplicates(nothing, nothing, 256).tolist() == [False] * 3
    assert near_duplicates.near_duplicates(one, nothing[:0], 256).tolist() == [False]
    assert near_duplicates.near_duplicates(nothing[:0], one, 256).tolist() == []


def test_comparing_needs_little_memory():
    generator = np.random.default_rng(0)
    hashes, of = (generator.integers(0, 2**64, (size, 4), dtype=np.uint64) for size in (3_000, 20_000))
    tracemalloc.start()
    near_duplicates.near_duplicates(hashes, of, 80)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6 * (os.cpu_count() + 1)  # all pairs at once are 480 MB


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch):
    """Everything is worth caching; the names of the files that were opened."""
    monkeypatch.setattr(near_duplicates, "_WORTH_CACHING", 0.0)
    names, open_image = [], near_duplicates.open_image

    def noted(path, **arguments):
        names.append(path.name)
        return open_image(path, **arguments)

    monkeypatch.setattr(near_duplicates, "open_image", noted)
    return names


def test_near_duplicates_of_the_test_images_are_taken_out_and_nothing_else(tmp_path):
    tested = {f"{i}.png": scene(i) for i in range(12)} | {"white.png": np.full((90, 90, 3), 255, np.uint8)}
    tested["broken.jpg"] = b"\xff\xd8 no image"
    copies = {f"{what}.jpg": change(Image.fromarray(scene(i))) for i, (what, change) in enumerate(CHANGES.items())}
    fresh = {f"fresh {i}.png": scene(100 + i) for i in range(12)}
    plain = {"white.png": np.full((80, 80, 3), 255, np.uint8), "grey.png": np.full((80, 80, 3), 90, np.uint8)}
    odd = {"broken.jpg": b"\xff\xd8 no image", "page.jpg": b"<html>"}
    images = folder(tmp_path / "web", dict(sorted((fresh | copies | plain | odd).items())))
    kept, removed = without_near_duplicates(images, folder(tmp_path / "test", tested))
    assert removed == len(CHANGES)
    expected = [name for name in sorted(fresh | copies | plain | odd) if name not in copies]
    assert [kept.path(i).name for i in range(len(kept))] == expected
    assert kept["labels"].tolist() == [i for i, name in enumerate(images.file_names) if name.decode() not in copies]
    assert not (tmp_path / ".cache").exists()  # it took under a second


def test_hashes_are_those_of_the_files_and_not_computed_twice(tmp_path, opened, monkeypatch):
    monkeypatch.setattr(near_duplicates, "_BLOCK", 16)
    scenes = {f"Ä {i}.png": scene(i) for i in range(40)}  # more than one block
    images = folder(tmp_path / "set", scenes | {"broken.jpg": b"no"})
    hashes = hash_images(images)
    assert (hashes[:-1] == [image_hash(image) for image in scenes.values()]).all()
    assert not hashes[-1].any()
    assert sorted(opened) == sorted([*scenes, "broken.jpg"])

    opened.clear()
    order = np.random.default_rng(0).permutation(len(images))
    assert (hash_images(images.take(order)) == hashes[order]).all()
    assert opened == ["broken.jpg"]  # it may be repaired

    Image.fromarray(scene(500)).save(tmp_path / "set" / "Ä 3.png")
    stat = (tmp_path / "set" / "Ä 4.png").stat()
    os.utime(tmp_path / "set" / "Ä 4.png", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    (tmp_path / "set" / "Ä 5.png").unlink()
    opened.clear()
    again = hash_images(images)
    assert sorted(opened) == ["broken.jpg", "Ä 3.png", "Ä 4.png"]
    assert (again[3] == image_hash(scene(500))).all()
    assert not again[5].any()
    others = np.setdiff1d(np.arange(len(images)), [3, 5])
    assert (again[others] == hashes[others]).all()


def test_parts_of_a_folder_add_to_what_is_cached(tmp_path, opened):
    images = folder(tmp_path / "set", {f"{i}.png": scene(i) for i in range(6)})
    for part in ([0, 2, 4], [1, 2], [5, 3]):
        hash_images(images.take(np.array(part)))
    assert sorted(opened) == [f"{i}.png" for i in range(6)]
    opened.clear()
    assert (hash_images(images) == [image_hash(scene(i)) for i in range(6)]).all()
    assert opened == []


def test_after_an_interruption_it_goes_on_where_it_was(tmp_path, opened, monkeypatch):
    images = folder(tmp_path / "set", {f"{i:02}.png": scene(i, 60, 60) for i in range(20)})
    monkeypatch.setattr(near_duplicates, "_BLOCK", 5)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    noted = near_duplicates.open_image

    def interrupted(path, **arguments):
        if path.name == "13.png":
            raise KeyboardInterrupt
        return noted(path, **arguments)

    monkeypatch.setattr(near_duplicates, "open_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        hash_images(images)
    monkeypatch.setattr(near_duplicates, "open_image", noted)
    done = set(opened)
    assert {f"{i:02}.png" for i in range(13)} <= done
    opened.clear()
    assert (hash_images(images) == [image_hash(scene(i, 60, 60)) for i in range(20)]).all()
    assert set(opened) == {f"{i:02}.png" for i in range(20)} - done


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 torn", "no folder"])
def test_a_damaged_cache_is_made_anew(tmp_path, opened, monkeypatch, damage):
    images = folder(tmp_path / "set", {f"{i}.png": scene(i, 60, 60) for i in range(3)})
    hashes = hash_images(images)
    cached = near_duplicates._cache_file(images.folder)
    assert cached.is_relative_to(tmp_path / ".cache")
    if damage == "no folder":
        monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    else:
        cached.write_bytes(damage)
    opened.clear()
    assert (hash_images(images) == hashes).all()
    assert len(opened) == 3
