"""Every name that Matterport's modules had is there, with the same arguments in the same order, and its defaults.

tests/data/matterport/api.txt lists them as of its last commit, 3deaec5d: module, class or function, signature.
"""

import importlib
import inspect

import pytest

from conftest import DATA

LINES = (DATA / "matterport" / "api.txt").read_text().splitlines()


def shown(parameter: inspect.Parameter) -> str:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(
        parameter.kind, ""
    )
    default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
    return f"{stars}{parameter.name}{default}"


@pytest.mark.parametrize("line", LINES)
def test_name_and_signature(line: str) -> None:
    module, _, rest = line.partition(" ")
    path, _, signature = rest.partition("(")
    found = importlib.import_module(f"mrcnn.{module}")
    for part in path.split("."):
        if type(found).__name__ == "_Gone":  # a piece of a Keras graph: raises, naming its replacement
            return
        found = getattr(found, part)
    if not signature or not inspect.isroutine(found) or inspect.isbuiltin(found):
        return
    ours = ", ".join(shown(p) for p in inspect.signature(found).parameters.values())
    assert ours == signature.removesuffix(")")
