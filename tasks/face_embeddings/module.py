"""The LightningModule of face embeddings: its options, and where its teacher comes from."""

from pathlib import Path
from typing import Any

from torch import Tensor

from backbone import InputError
from backbone.errors import check_options
from data.folders import say
from tasks.distillation.module import DistilledModule
from tasks.face_embeddings.head import Distance, EmbeddingHead
from tasks.module import TRUNK_OPTIONS
from tasks.options import has_source
from tasks.run_folders import best_checkpoints
from tasks.runs import read_checkpoint


class FaceEmbeddingsModule(DistilledModule):
    """A net that learns a teacher's embedding of a face; of a teacher with classes, the features that its head sees.

    Without a teacher on the built-in sample, it is the newest run of face_attributes. Where the teacher's embedding has
    another size, a linear layer between the two is learned as well, and left behind with the training.

    Args:
        input_size: (height, width) in pixels; the data say it.
        embedding_size: How many numbers an embedding has; FaceNet's has 128.
        distance: From the teacher's embedding of length 1: squared error, the paper's, or one less the cosine.

    """

    task = "face_embeddings"
    kind = "embeddings"
    compared_in_fit = True
    shape_options = (*TRUNK_OPTIONS, "embedding_size")
    seen_as_trained = ("interpolation",)  # faces are cut out already, at a size of their own
    head: EmbeddingHead

    def __init__(
        self,
        input_size: tuple[int, int],
        embedding_size: int = 128,
        distance: Distance = "squared_error",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check_options("model", ("embedding_size", embedding_size, embedding_size >= 2, "2 or more"))
        head = EmbeddingHead(self.trunk.channels, embedding_size, distance)
        if self.hparams["cache_only"]:  # the teacher is not there in validation either
            head.monitor = "verification_accuracy"
        self.attach(head)

    @classmethod
    def resolve(cls, command: str, model: dict[str, Any], data: dict[str, Any], runs: Path) -> None:
        """Also: on the built-in sample the teacher is the newest net of face attributes, trained on it as well."""
        if command == "fit" and not (model.get("teacher") or model.get("cache_only") or has_source(data)):
            try:
                nets = best_checkpoints("face_attributes", runs)
            except InputError:
                nets = []
            model["teacher"] = next((str(net) for net in nets if _is_of_the_sample(net)), None)
            if model["teacher"] is None:
                raise InputError(
                    f"there is no --model.teacher, and no net of face attributes under {runs} that learnt the built-in "
                    "sample; train one first: `python -m tasks.face_attributes fit`."
                )
            say(f"teacher: {model['teacher']}, the newest net of face attributes that learnt the sample")
        super().resolve(command, model, data, runs)

    def prepare(self, data: Any) -> None:
        """Also make the projector to the teacher's embedding. InputError without a teacher."""
        options = self.hparams
        if options["teacher"] is None and not options["cache_only"]:
            raise InputError(
                "there is no --model.teacher to learn embeddings from; name a checkpoint, a program (.pt, .pt2) or "
                "package.module:function."
            )
        if options["cache_only"] and data.pairs("val") is None:
            raise InputError(
                "--model.cache_only leaves nothing to choose the best epoch by, as there are no validation pairs and "
                "the teacher is not asked; leave it out."
            )
        super().prepare(data)
        assert self.teacher_size is not None  # there is a teacher, or a cache
        self.head.learn_from(self.teacher_size)

    def distance(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """How far embeddings are from the teacher's."""
        return self.head.distance(outputs, targets)


def _is_of_the_sample(checkpoint: Path) -> bool:
    return not has_source(read_checkpoint(checkpoint, "face_attributes")["datamodule_hyper_parameters"])
