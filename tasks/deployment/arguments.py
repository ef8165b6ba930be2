"""The options of `export` and `page`, apart from what does it, so that help is given without torch."""

from pathlib import Path

from backbone.errors import Arguments

ENDINGS = {"onnx": ".onnx", "executorch": ".pte"}


def export_arguments(task: str) -> Arguments:
    """The parser of the command, for what is not an option of `validate` too."""
    parser = Arguments(
        prog=f"python -m tasks.{task} export",
        description="Write a model as one file that works alone: uint8 images in, the answer in the task's terms out. "
        "It is run and scored on the validation images before it is called good. The model is that of --weights F, "
        "a run folder, a .ckpt, or weights that come whole; by default the newest run's. The images are those of "
        "--data DIR; by default those that it was trained on. --size, --batch, --workers and the options of `validate` "
        "that begin with --data. and --model. count here too.",
    )
    parser.add_argument("--out", type=Path, metavar="F", help="default: TASK.onnx, TASK_int8.onnx, TASK.pte, ...")
    parser.add_argument("--format", choices=list(ENDINGS), help="default: as the ending of --out says, or onnx")
    parser.add_argument("--int8", action="store_true", help="integers of 8 bits: a quarter of the size, and faster")
    help = "fine-tune for the rounding of int8 in so many epochs first (default: %(default)s)"
    parser.add_argument("--qat", type=int, default=0, metavar="EPOCHS", help=help)
    if task == "detection":
        help = "none: give the raw boxes and scores of all anchors (default: suppression is in the file)"
        parser.add_argument("--nms", choices=("in_graph", "none"), default="in_graph", help=help)
    help = "what the file may lose of the metric, as a part of the most it can be (default: 0.001, and 0.01 in int8)"
    parser.add_argument("--max_loss", type=float, metavar="X", help=help)
    return parser


def page_arguments(task: str) -> Arguments:
    """The parser of `page`."""
    parser = Arguments(
        prog=f"python -m tasks.{task} page",
        description="Write an exported model as a folder for a web server: a page on which a browser runs it on "
        "photographs and its camera. Nothing that it sees leaves the machine, and once loaded it needs no network.",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="F.onnx", help="what `export` wrote")
    parser.add_argument("--out", type=Path, default=Path("site"), metavar="DIR", help="default: %(default)s")
    help = "onnxruntime-web's package, where there is no network (default: fetched from npm, once)"
    parser.add_argument("--runtime", type=Path, metavar="F.tgz", help=help)
    parser.add_argument("--serve", action="store_true", help="give it to browsers of this machine, until Ctrl-C")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="of --serve; 0: a free one (default: 8000)")
    return parser
