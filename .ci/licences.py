"""Fail where the base install pulls in what is under the GPL or AGPL: it could not be used in closed programs.

`python .ci/licences.py` reads the metadata of all that `mobilenet-tasks` without extras needs, as it is installed here;
with `--pins` it prints them as `name==version`. No network.
"""

import re
import sys
from importlib.metadata import Distribution, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_GPL = re.compile(r"\bA?GPL|(?<!Lesser )(?<!Library )General Public Licen[cs]e", re.IGNORECASE)
_LESSER = re.compile(
    r"\bLGPL|(?:Lesser|Library) General Public|WITH GCC-exception", re.IGNORECASE
)  # may be linked with


def needed(name: str) -> dict[str, Distribution]:
    """All distributions that one needs, itself among them, by name. Raises PackageNotFoundError."""
    found: dict[str, Distribution] = {}
    seen, left = set[tuple[str, str]](), [(name, "")]  # with each extra asked for, "" being none
    while left:
        name, extra = left.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        found[name] = distribution(name)
        for requirement in map(Requirement, found[name].requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                left += [(canonicalize_name(requirement.name), wanted) for wanted in ("", *requirement.extras)]
    return dict(sorted(found.items()))


def licence(found: Distribution) -> str:
    """What the metadata say: the SPDX expression, or else the classifiers and, where it is no whole text, the field."""
    fields = found.metadata
    if expression := fields["License-Expression"]:
        return str(expression)
    said = [line.rpartition(" :: ")[2] for line in fields.get_all("Classifier", ()) if line.startswith("License :: ")]
    text = (fields["License"] or "").strip()
    return ", ".join(said + text.splitlines()[:1])


def verdict(name: str, said: str) -> str:
    """Of a licence: refused, lesser (allowed, as LGPL), proprietary, unknown, or free."""
    choices = [said] if "(" in said else said.split(" OR ")  # within parentheses a choice is not looked for
    without_exceptions = [re.sub(r"\bA?GPL\S* WITH GCC-exception", "", choice) for choice in choices]
    if all(_GPL.search(choice) for choice in without_exceptions):
        return "refused"
    if _LESSER.search(said):
        return "lesser"
    if re.search("proprietary", said, re.IGNORECASE) or (not said and name.startswith(("nvidia-", "cuda-"))):
        return "proprietary"
    return "free" if said else "unknown"


def main(arguments: list[str]) -> int:
    """Print what is not simply free, and how many there are; 1 where one is refused."""
    name = "mobilenet-tasks"
    found = needed(name)
    if arguments == ["--pins"]:
        print("\n".join(f"{other}=={found[other].version}" for other in found if other != name))
        return 0
    verdicts = {other: verdict(other, licence(found[other])) for other in found}
    for other, word in verdicts.items():
        if word != "free":
            print(f"{other} {found[other].version}: {word} ({licence(found[other]) or 'its metadata name none'})")
    refused = list(verdicts.values()).count("refused")
    print(f"{len(found)} packages of the base install, {refused} of them under GPL or AGPL")
    return int(refused > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
