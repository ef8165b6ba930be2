"""Which images of a data set cannot be used: counted while training goes on, and fatal above a limit.

So are those used though their last bytes are missing, for which there is no limit.
"""

from collections.abc import Container, Iterable, Mapping

from backbone.errors import InputError
from data.folders import count_of

_FEW = 3  # images of a split may always be bad: a fraction of a small split is less than one
_NAMED = 5


class BadImages:
    """File to reason by split; a run stops when more than `max_fraction` of a split's images, and more than 3, are bad.

    With `max_fraction` 0 no image may be, and where all images of a split are, a run always stops.
    """

    def __init__(self, max_fraction: float) -> None:
        self.max_fraction = max_fraction
        self._splits: dict[str, tuple[Container[str], int]] = {}  # the files it has, and how many were listed
        self._bad: dict[str, dict[str, str]] = {}
        self.cut_short: dict[str, str] = {}  # file to how far it goes, of every such image used so far

    def start(self, split: str, files: Container[str], listed: int, bad: Mapping[str, str] | None = None) -> None:
        """Count for a split of `listed` images, of which `bad` are known already. Raises InputError as `note`."""
        self._splits[split] = files, listed
        self._bad[split] = dict(bad or {})
        self._stop_if_too_many(split)

    def note(self, bad: Iterable[tuple[str, str]], cut_short: Iterable[tuple[str, str]] = ()) -> None:
        """Note a batch's (file, reason), each file once. Raises InputError when too many of a split cannot be used."""
        self.cut_short.update(cut_short)
        for file, reason in bad:
            for split, (files, _) in self._splits.items():
                if file not in self._bad[split] and file in files:
                    self._bad[split][file] = reason
                    self._stop_if_too_many(split)

    @property
    def reasons(self) -> dict[str, str]:
        """File to reason, of every image found bad so far in any split."""
        return {file: reason for bad in self._bad.values() for file, reason in bad.items()}

    @property
    def listed(self) -> list[tuple[str, str]]:
        """(file, reason) of all that are bad, and then of all that are cut short but used; each sorted."""
        used = [(file, f"used as far as it goes: {reason}") for file, reason in sorted(self.cut_short.items())]
        return sorted(self.reasons.items()) + used

    def _stop_if_too_many(self, split: str) -> None:
        bad, listed = self._bad[split], self._splits[split][1]
        most = max(self.max_fraction * listed, _FEW) if self.max_fraction else 0
        if not bad or (len(bad) <= most and len(bad) < listed):
            return
        named = [f"{file}: {reason}" for file, reason in list(bad.items())[:_NAMED]]
        if len(bad) > _NAMED:
            named.append(f"and {len(bad) - _NAMED:,} more")
        if len(bad) > most:
            limit = f"max_bad_fraction {self.max_fraction:g} allows {count_of(int(most), 'image')}"
            remedy = "repair or remove them, or raise --data.max_bad_fraction"
        else:
            limit, remedy = "and there are no others", "repair them"
        raise InputError(
            f"{len(bad):,} of the {count_of(listed, 'image')} of the {split} split cannot be used, {limit}: "
            f"{'; '.join(named)}; {remedy} (the task's command `check --decode` lists all)."
        )


def said_of_cut_short(count: int) -> str:
    """What to say of so many images used though their last bytes are missing."""
    if count == 1:
        return "1 image lacks its last bytes and was used as far as it goes"
    return f"{count_of(count, 'image')} lack their last bytes and were used as far as they go"
