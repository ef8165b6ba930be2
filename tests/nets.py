"""A small untrained net of each task that `predict` is tried with."""

import numpy as np


def classification():
    from tasks.classification.module import ClassificationModule

    return ClassificationModule({0: "bar", 1: "disc"}, (32, 32), width_mult=0.25)


def detection():
    from tasks.detection.module import DetectionModule

    return DetectionModule({2: "disc", 5: "bar"}, (96, 96), width_mult=0.25)


def face_embeddings():
    from tasks.face_embeddings.module import FaceEmbeddingsModule

    module = FaceEmbeddingsModule((32, 32), 8, width_mult=0.25)
    module.head.threshold = 0.5
    return module


def geolocalization():
    from tasks.geolocalization import s2
    from tasks.geolocalization.cells import partitions_of
    from tasks.geolocalization.module import GeolocalizationModule

    latlng = np.random.default_rng(0).uniform((-60, -180), (60, 180), (100, 2))
    module = GeolocalizationModule((32, 32), width_mult=0.25)
    module.head.take(partitions_of(s2.leaf_ids(latlng), [20], min_images=1))
    return module


def face_attributes():
    from tasks.face_attributes.module import FaceAttributesModule

    return FaceAttributesModule({0: "disc", 1: "bar"}, (32, 32), width_mult=0.25)


NETS = {net.__name__: net for net in (classification, detection, face_embeddings, geolocalization)}
