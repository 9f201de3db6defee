"""The README's examples run as printed, on a tiny checkpoint in place of the real one."""

import re
import shlex
import shutil
from pathlib import Path

import PIL.Image
import pytest
from typer.testing import CliRunner

import matterport_file
from films import film, square
from maskrcnn.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the examples name."""
    matterport_file.write(tmp_path / "mask_rcnn_coco.h5", matterport_file.arrays())
    matterport_file.write(tmp_path / "nuclei.h5", matterport_file.arrays(classes=2))
    (tmp_path / "nucleus.py").write_text(
        "class NucleusConfig:\n    NAME = 'nucleus'\n    NUM_CLASSES = 1 + 1\n    IMAGE_RESIZE_MODE = 'pad64'\n"
    )
    (tmp_path / "photos").mkdir()
    for name in ("street.jpg", "photos/1.jpg"):
        shutil.copy(ROOT / "examples" / "photos" / "coffee.jpg", tmp_path / name)
    PIL.Image.open(tmp_path / "street.jpg").save(tmp_path / "ortho.tif")
    film(tmp_path / "clip.mp4", [square(5 + i, 9) for i in range(2)])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(language: str) -> list[str]:
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for name, text in fences if name == language]


def test_the_python_example_writes_a_picture(here: Path) -> None:
    (code,) = blocks("python")
    exec(compile(code, "README.md", "exec"), {})
    assert (here / "out.png").stat().st_size > 10_000


COMMANDS = [line.split("#")[0].strip() for block in blocks("") for line in block.splitlines()]
COMMANDS = [line for line in COMMANDS if line.startswith("maskrcnn ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_run(here: Path, command: str) -> None:
    before = set(here.rglob("*"))
    result = CliRunner().invoke(app, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output
    assert command == "maskrcnn models" or set(here.rglob("*")) > before


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
