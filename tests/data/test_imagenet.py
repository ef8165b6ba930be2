import pytest

from data.imagenet import class_names, find_classes, is_imagenet_id


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


def test_classes_are_found_by_letters_and_digits_alone():
    found = find_classes(["Siberian husky", "toy-poodle", "BEAGLE", "black_and_tan_coonhound", "griffin"])
    assert found == [250, 265, 162, 165, None]
    assert find_classes(["n02088364-beagle", "n02110185 Siberian husky", "n02088364"]) == [162, 250, None]


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
        ("n021136240", False),
        ("beagle", False),
        ("n99999999", False),
    ],
)
def test_an_id_of_imagenet_is_told_from_other_names(folder, known):
    assert is_imagenet_id(folder) is known
