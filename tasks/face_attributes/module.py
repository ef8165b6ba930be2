"""The LightningModule of face attributes: its options."""

from typing import Any

from backbone.errors import check_options
from tasks.distillation.module import DistilledLogitsModule
from tasks.face_attributes.head import AttributesHead
from tasks.face_attributes.provenance import find_sources, teacher_names


class FaceAttributesModule(DistilledLogitsModule):
    """A net of K attributes, trained on labels, on a teacher's logits or on both.

    Args:
        categories: Number to name of the attributes; the data say it.
        input_size: (height, width) in pixels; the data say it.
        dropout: Of the pooled features; the paper needs no regularisation with a teacher.

    """

    task = "face_attributes"
    kind = "sigmoid"
    seen_as_trained = ("interpolation",)  # faces are cut out already, at a size of their own
    head: AttributesHead

    def __init__(
        self, categories: dict[int, str], input_size: tuple[int, int], dropout: float = 0.0, **options: Any
    ) -> None:
        super().__init__(**options)
        rule = "0 without a --model.teacher and --model.teacher_weight 1, as labels of mixed faces mean nothing"
        for name in ("mixup_alpha", "cutmix_alpha"):
            mixed = self.hparams[name] > 0
            check_options("model", (name, self.hparams[name], not (mixed and self.teacher_weight < 1), rule))
        self.attach(AttributesHead(self.trunk.channels, tuple(categories.values()), dropout))

    def prepare(self, data: Any) -> None:
        """Also note what the net learns from. InputError where labels are needed and there are none."""
        super().prepare(data)
        weight, teacher = self.teacher_weight, self.hparams["teacher"]
        if weight < 1:
            data.need_labels(f"with --model.teacher_weight {weight}" if weight else "without a --model.teacher")
        head = self.head
        head.provenance = find_sources(data, self.hparams, head.provenance)
        if weight > 0:
            names = teacher_names(teacher) or [f"the teacher whose logits are cached in {self.hparams['cache']}"]
            head.teachers = list(dict.fromkeys([*head.teachers, *names]))
