"""The Dockerfile, as far as it can be read without an engine."""

import json
import re
from pathlib import Path

import tomllib
from typer.testing import CliRunner

from maskrcnn.cli import app as cli
from maskrcnn.serve import create_app
from serving import Held

ROOT = Path(__file__).parent.parent
TEXT = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
LINES = [line.split(" ", 1) for line in TEXT.splitlines() if line and not line.startswith("#")]
KNOWN = {
    "ARG",
    "FROM",
    "WORKDIR",
    "RUN",
    "ENV",
    "COPY",
    "USER",
    "EXPOSE",
    "STOPSIGNAL",
    "HEALTHCHECK",
    "ENTRYPOINT",
    "CMD",
}


def values(name: str) -> list[str]:
    return [rest.strip() for word, rest in LINES if word == name]


def test_every_line_is_an_instruction() -> None:
    assert {word for word, _ in LINES} == KNOWN
    assert LINES[0][0] == "ARG" and [word for word, _ in LINES].count("FROM") == 2
    declared = {line.partition("=")[0] for line in values("ARG")}
    assert set(re.findall(r"\$\{(\w+)\}", TEXT)) <= declared


def test_what_is_copied_exists_and_is_let_in() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ignored[0] == "*"
    copied = [name for line in values("COPY") if "--from" not in line for name in line.split()[:-1]]
    assert set(copied) == {name[1:] for name in ignored if name.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {package["readme"], *package["license-files"]} <= set(copied)  # the build reads them


def test_it_installs_what_the_readme_says_with_the_versions_of_the_tests() -> None:
    assert "pip install '.[serve]'" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "EXTRAS=serve" in values("ARG")
    torch, package = (line for line in values("RUN") if line.startswith("pip"))
    assert package == 'pip install -c constraints.txt ".[${EXTRAS}]"'
    assert torch == "pip install -c constraints.txt --index-url ${TORCH} torch"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"serve", "scale"} <= set(extras)


def test_it_serves_as_nobody_special_and_says_how_it_is() -> None:
    words = [word for word, _ in LINES]
    assert words.index("USER") < words.index("ENTRYPOINT") and values("USER") == ["maskrcnn"]
    probe = json.loads(values("HEALTHCHECK")[0].partition("CMD ")[2])
    port, path = re.search(r"127\.0\.0\.1:(\d+)(/\w+)", probe[2]).groups()  # type: ignore[union-attr]
    assert [port] == values("EXPOSE") and path in create_app(Held()).openapi()["paths"]
    (command,) = map(json.loads, values("CMD"))
    assert values("ENTRYPOINT") == ['["maskrcnn"]']
    told = CliRunner().invoke(cli, [command[0], "--help"], env={"COLUMNS": "200"}).output
    assert command[1] in told and f"default: {port}" in told
