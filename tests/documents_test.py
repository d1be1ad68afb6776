"""Links, paths, flags and weight names in the documents are those of the project."""

import contextlib
import io
import re
import runpy
import sys
from functools import cache
from pathlib import Path

import pytest

from utils.training.configuration import META_TRAINING, RESTORER_TRAINING, flat_values
from utils.weights.manifest import load_manifest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [path for folder in (".", "docs", "weights", "pretrained_models", "tests")
             for path in sorted((ROOT / folder).glob("*.md"))]
USAGE = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]  # cards name settings of earlier commits
MADE_LATER = ("datasets", "results", "experiments", "weights", "pretrained_models")  # may name what users put there
# described once for all tools
SHARED = {"--max_megapixels", "--overwrite", "--skip_existing", "--shard", "--recursive", "--gpu", "--weights_dir",
          "--help"}


def names(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


def anchors(path):
    headings = re.findall(r"^#+ (.*)", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def help_of(tool, *subcommand):
    """Return what a tool prints; in this process, where most of its imports are made."""
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", [tool, *subcommand, "--help"])
        patch.setattr(sys, "path", [*sys.path])
        with pytest.raises(SystemExit, match="0"):
            runpy.run_path(str(ROOT / tool), run_name="__main__")
    printed.flush()
    return printed.buffer.getvalue().decode()


@cache
def flags_of(tool):
    texts = [help_of(tool)]
    subcommands = re.search(r"^\s+\{([\w,]+)\}", texts[0], re.MULTILINE)
    for subcommand in subcommands[1].split(",") if subcommands else []:
        texts.append(help_of(tool, subcommand))
    return set(re.findall(r"^  (?:-\w.*?, )?(--[a-z]\w*)", "\n".join(texts), re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_links_lead_somewhere(document):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if not re.match(r"https?://", target):
            file, _, anchor = target.partition("#")
            path = (document.parent / file) if file else document
            if not path.exists() or (anchor and anchor not in anchors(path)):
                broken.append(target)
    assert not broken


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_named_files_exist(document):
    named = set(re.findall(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|txt|toml))`", document.read_text()))
    missing = {name for name in named if name.split("/")[0] not in MADE_LATER and name not in ("RF200.txt", "setup.py")
               and not any((base / name).exists() for base in (ROOT, ROOT / "scripts", document.parent))}
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_flags_of_printed_commands_exist(document):
    text = document.read_text().replace("\\\n", " ")
    unknown = [(tool, flag) for tool, rest in re.findall(r"python (?:-m )?((?:scripts/)?\w+\.py)([^`\n#]*)", text)
               for flag in set(re.findall(r"(?<![\w-])--[a-z]\w*", rest)) - flags_of(tool)]
    assert not unknown


@pytest.mark.parametrize("tool", [
    "scripts/restore.py", "scripts/web_app.py", "generate_test_faces.py", "test.py", "main.py", "calculate_metrics.py"])
def test_the_flag_table_is_that_of_the_tool(tool):
    section = (ROOT / "docs" / "cli.md").read_text().split(f"## {tool}\n")[1].split("\n## ")[0]
    described = {flag for cell in re.findall(r"^\| ([^|]*)\|", section, re.MULTILINE)
                 for flag in re.findall(r"--[a-z]\w*", cell)}
    assert described - flags_of(tool) == set()
    assert flags_of(tool) - described - SHARED == set()


@pytest.mark.parametrize("tool", sorted(path.name for path in (ROOT / "scripts").glob("[!_]*.py")))
def test_every_flag_of_a_script_is_documented(tool):
    text = "".join(path.read_text() for path in DOCUMENTS)
    assert {flag for flag in flags_of(f"scripts/{tool}") - SHARED if flag not in text} == set()


def test_settings_of_printed_commands_exist():
    text = "".join(path.read_text() for path in USAGE)
    settings = set(re.findall(r"--set ([\w.]+)=(?!VALUE|value)", text))
    known = {name for kind in (META_TRAINING, RESTORER_TRAINING) for name, _ in flat_values(kind.default)}
    assert settings
    assert settings <= known


def test_downloads_that_the_documents_name_are_in_the_manifest():
    text = "".join(path.read_text() for path in DOCUMENTS)
    named = {name for rest in re.findall(r"download_weights\.py ([a-z][\w -]*?)(?: {2,}#|`|\n|$)", text)
             for name in rest.split() if not name.startswith("--")}
    assert named
    assert named <= set(load_manifest())
