from importlib import resources

import pytest
from torchvision.models import MobileNet_V2_Weights

from data.imagenet import class_ids, class_names, find_classes, is_imagenet_id


def test_the_names_are_imagenets_in_their_usual_order():
    names = class_names()
    assert len(names) == len(set(names)) == 1000
    assert (names[0], names[162], names[250], names[265], names[999]) == (
        "tench",
        "beagle",
        "Siberian husky",
        "toy poodle",
        "toilet tissue",
    )


def test_the_names_are_those_of_torchvisions_weights():
    assert list(class_names()) == MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]


def test_the_ids_are_timms_in_its_order():
    ids = resources.files("timm").joinpath("data/_info/imagenet_synsets.txt").read_text().split()
    assert len(ids) == 1000
    assert list(class_ids()) == ids
    assert find_classes(ids) == list(range(1000))
    assert find_classes(ids[::-1]) == list(range(999, -1, -1))


def test_an_id_alone_is_its_class():
    assert find_classes(["n01440764", "n03445777", "n03888257"]) == [0, 574, 701]


def test_classes_are_found_by_letters_and_digits_alone():
    found = find_classes(["Siberian husky", "toy-poodle", "BEAGLE", "black_and_tan_coonhound", "griffin"])
    assert found == [250, 265, 162, 165, None]
    assert find_classes(["n02088364-beagle", "n02110185 Siberian husky", "n00000001-beagle"]) == [162, 250, 162]


def test_a_dog_is_told_from_a_garment():
    assert find_classes(["Cardigan", "cardigan", "CARDIGAN"]) == [264, 474, None]


def test_no_two_of_imagenets_names_become_one():
    assert find_classes(class_names()) == list(range(1000))


@pytest.mark.parametrize(
    ("folder", "known"),
    [
        ("n01440764", True),
        ("n02113624-toy_poodle", True),
        ("n15075141", True),
        ("n00000001-invented", False),
        ("n02084071", False),  # dog, a class of the larger ImageNet alone
        ("n021136240", False),
        ("beagle", False),
        ("n99999999", False),
    ],
)
def test_an_id_of_imagenet_is_told_from_other_names(folder, known):
    assert is_imagenet_id(folder) is known
