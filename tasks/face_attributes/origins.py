"""What a net learned from, and on which terms: its own pictures, and those of the nets that taught or began it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from backbone.errors import InputError
from data import celeba
from tasks.runs import read_checkpoint

# "by" whom ("" is the net itself), "data" (a folder or file), "licence" (a sentence, "" where they name none)
Origin = dict[str, str]  # plain, as it is kept in the checkpoint


def find_origins(data: Any, options: Mapping[str, Any]) -> list[Origin]:
    """Of a net with these options of the module: those of `data`, and what is in a teacher's and a start's checkpoint.

    Files of other projects name none, and a teacher whose answers are kept may be gone: they have none here.
    """
    own = [origin_of(data)]
    if data.hparams["unlabelled"]:
        folder = Path(data.hparams["unlabelled"]).resolve()
        of_celeba = data.hparams["root"] and any(map(celeba.is_celeba, (folder, *folder.parents[:2])))
        own.append({"by": "", "data": str(data.hparams["unlabelled"]), "licence": celeba.LICENCE if of_celeba else ""})
    asked = options["teacher"] if options["teacher_weight"] != 0 else None
    teachers = [asked] if isinstance(asked, str) else [each.get("source") for each in asked or ()]
    found = [*own, *_inherited("its teacher", teachers), *_inherited("its first weights", [options["weights"]])]
    return unique(found)


def origin_of(data: Any) -> Origin:
    """Of a data module's labelled pictures."""
    return {"by": "", "data": data.hparams["root"] or "the built-in sample", "licence": data.licence}


def unique(origins: Iterable[Origin]) -> list[Origin]:
    """Each once, in their order."""
    return list({tuple(sorted(each.items())): each for each in origins}.values())


def told(origins: Sequence[Origin]) -> str:
    """Them as a sentence, "Trained on A and B; its teacher on C."."""
    if not origins:
        return "Its checkpoint does not say what it was trained on."
    of = {by: " and ".join(each["data"] for each in origins if each["by"] == by) for by in _BY}
    parts = [f"{by or 'Trained'} on {names}" for by, names in of.items() if names]
    return "; ".join(parts) + "."


def licences(origins: Iterable[Origin]) -> str:
    """Their terms, each once; "" where none is named."""
    return " ".join(dict.fromkeys(each["licence"] for each in origins if each["licence"]))


_BY = ("", "its teacher", "its first weights")


def _inherited(by: str, files: Iterable[str | None]) -> list[Origin]:
    found: list[Origin] = []
    for file in files:
        if file and str(file).endswith(".ckpt"):
            try:
                found += read_checkpoint(file, "face_attributes").get("origins", [])
            except InputError:  # another task's, or gone
                continue
    return [{**each, "by": by} for each in found]
