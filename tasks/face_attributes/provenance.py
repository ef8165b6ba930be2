"""What a net learned from, and on which terms: its own images, and those of its teachers' and its first weights."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from backbone.errors import InputError
from data.readers import celeba
from tasks.runs import read_checkpoint

# "by" whom ("" is the net itself), "data" (a folder or file), "licence" (a sentence, "" where they name none)
Source = dict[str, str]  # plain, as it is kept in the checkpoint
_BY = ("", "its teacher", "its first weights")


def find_sources(data: Any, options: Mapping[str, Any], before: Sequence[Source] = ()) -> list[Source]:
    """What a net with these options of the module learns from: `data`, and what its teacher's and start's files say.

    Files of other projects name none, and a teacher whose logits are cached may be gone: they have none here.
    """
    sources = [*before, source_of(data)]
    if unlabelled := data.hparams["unlabelled"]:
        folder = Path(unlabelled).resolve()
        of_celeba = data.hparams["root"] and any(map(celeba.is_celeba, (folder, *folder.parents[:2])))
        sources.append({"by": "", "data": str(unlabelled), "licence": celeba.LICENCE if of_celeba else ""})
    teacher = options["teacher"] if options["teacher_weight"] != 0 else None
    files = [("its first weights", options["weights"])]
    files += [("its teacher", name) for name in teacher_names(teacher)]
    for by, file in files:
        if str(file).endswith(".ckpt"):
            try:
                inherited = read_checkpoint(file, "face_attributes")["head"]["provenance"]
            except InputError:  # another task's, or gone
                continue
            sources += [{**source, "by": by} for source in inherited]
    return [source for i, source in enumerate(sources) if source not in sources[:i]]


def teacher_names(teacher: str | Sequence[Mapping[str, Any]] | None) -> list[str]:
    """The sources in an option `--model.teacher`."""
    return [teacher] if isinstance(teacher, str) else [str(each.get("source")) for each in teacher or ()]


def source_of(data: Any) -> Source:
    """A data module's labelled images."""
    return {"by": "", "data": data.source or "the built-in sample", "licence": data.licence}


def sentence(sources: Sequence[Source]) -> str:
    """Them as a sentence, "Trained on A and B; its teacher on C."."""
    if not sources:
        return "Its checkpoint does not say what it was trained on."
    by = {by: " and ".join(each["data"] for each in sources if each["by"] == by) for by in _BY}
    return "; ".join(f"{by or 'Trained'} on {names}" for by, names in by.items() if names) + "."


def licences(sources: Iterable[Source]) -> str:
    """Their terms, each once; "" where none is named."""
    return " ".join(dict.fromkeys(each["licence"] for each in sources if each["licence"]))
