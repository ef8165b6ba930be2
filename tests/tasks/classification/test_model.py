import pytest
import torch

from backbone import InputError, MobileNetV1, Numerics, Pretrained
from tasks.classification.model import load_classifier
from tasks.pooled import PooledClassifier


def test_a_classifier_goes_into_the_head_and_a_file_without_one_is_refused():
    model = PooledClassifier(MobileNetV1(0.25), 3)
    weight, bias = torch.rand(3, 256), torch.rand(3)
    load_classifier(model, Pretrained({}, Numerics(), 0.25, 1, "a test", (weight, bias)), "x.h5")
    assert torch.equal(model.head.weight, weight)
    assert torch.equal(model.head.bias, bias)
    with pytest.raises(InputError, match=r"a test has no ImageNet classifier"):
        load_classifier(model, Pretrained({}, Numerics(), 0.25, 1, "a test"), "x.safetensors")
    with pytest.raises(InputError, match=r"goes in with --ckpt_path"):
        load_classifier(model, Pretrained({}, Numerics(), 0.25, 1, "a test"), "x.ckpt")
    with pytest.raises(InputError, match=r"takes the classifier of --model.weights"):
        load_classifier(model, None, None)
