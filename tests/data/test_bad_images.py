import pytest
from helpers import one_sentence

from backbone.errors import InputError
from data.bad_images import BadImages


def counted(max_fraction, listed, bad):
    files = {f"{i}.jpg" for i in range(listed)}
    images = BadImages(max_fraction)
    images.start("train", files, listed)
    for i in range(bad):
        images.note([(f"{i}.jpg", f"reason {i}")])
    return images


@pytest.mark.parametrize(
    ("max_fraction", "listed", "most"),
    [(0.01, 98, 3), (0.01, 300, 3), (0.01, 399, 3), (0.01, 400, 4), (0.01, 1000, 10), (0.5, 8, 4), (0.01, 4, 3)],
)
def test_three_images_may_be_bad_or_the_fraction_where_that_is_more(max_fraction, listed, most):
    assert len(counted(max_fraction, listed, most).reasons) == most
    with one_sentence(f"{most + 1} of the {listed:,} images of the train split"):
        counted(max_fraction, listed, most + 1)


def test_a_fraction_of_zero_means_none():
    assert counted(0, 1000, 0).reasons == {}
    with one_sentence("max_bad_fraction 0 allows 0 images: 0.jpg: reason 0"):
        counted(0, 1000, 1)


@pytest.mark.parametrize(("max_fraction", "listed"), [(0.01, 1), (0.01, 3), (1.0, 7)])
def test_a_split_of_bad_images_alone_is_refused(max_fraction, listed):
    assert len(counted(max_fraction, listed, listed - 1).reasons) == listed - 1
    with one_sentence(f"{listed} of the ") as refused:
        counted(max_fraction, listed, listed)
    assert "there are no others" in str(refused.value)


def test_those_known_from_the_start_count_and_the_first_few_are_named():
    known = {f"{i}.jpg": "there is no such file" for i in range(7)}
    with pytest.raises(InputError) as refused:
        BadImages(0.01).start("val", (), 100, known)
    assert str(refused.value).count("there is no such file") == 5
    assert "and 2 more" in str(refused.value)
    images = BadImages(0.01)
    images.start("val", {"a", "b"}, 100, dict(list(known.items())[:2]))
    images.note([("a", "empty"), ("a", "empty"), ("other", "of no split")])
    assert set(images.reasons) == {"0.jpg", "1.jpg", "a"}
    with pytest.raises(InputError, match="4 of the 100"):
        images.note([("b", "empty")])
