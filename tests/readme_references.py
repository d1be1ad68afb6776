"""What the documentation points to: files, headings, and flags with their defaults."""

import argparse
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from unittest import mock
from urllib.parse import unquote

from main import SHORTHANDS
from utils.training.configuration import META_TRAINING

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "pretrained_models/*.md", "weights/README.md")
FLAG = re.compile(r"`(--[a-z_]+)")
FLAG_TABLE = "| flag | default | |"


class _Captured(Exception):
    """Carries a parser out of a tool that was about to use it."""


def find_faults() -> list[str]:
    """Give every link, anchor, flag and default of the documentation that is wrong, a line each."""
    faults = []
    for document in sorted(path for pattern in DOCUMENTS for path in ROOT.glob(pattern)):
        faults += [f"{document.relative_to(ROOT)}: {fault}" for fault in _wrong_links(document)]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    parsers = {path.relative_to(ROOT).as_posix(): _parser_of(path) for path in _tools()}
    return faults + [f"README.md: {fault}" for fault in (*_wrong_tables(readme, parsers),
                                                         *_unknown_flags(readme, parsers))]


def prose_of(text: str) -> str:
    """Give a Markdown text without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def _wrong_links(document: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(document.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = unquote(target).partition("#")
        path = document.parent / name if name else document
        if not path.exists():
            yield f"the link {target} leads nowhere"
        elif anchor and anchor not in _anchors(path):
            yield f"{path.name} has no heading for the link {target}"


def _anchors(document: Path) -> set[str]:
    """Give the anchors that GitHub makes of headings, which are all different here."""
    headings = re.findall(r"^#+ +(.*?) *$", prose_of(document.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _tools() -> Iterator[Path]:
    """Give every program with a command line."""
    for path in sorted([*ROOT.glob("*.py"), *ROOT.glob("scripts/*.py")]):
        text = path.read_text(encoding="utf-8")
        if "ArgumentParser(" in text and "def main(argv" in text:
            yield path


def _parser_of(path: Path) -> argparse.ArgumentParser:
    """Call a tool until it parses its command line."""
    specification = importlib.util.spec_from_file_location(f"readme_{path.stem}", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)

    def capture(parser, *_, **__):
        raise _Captured(parser)

    with mock.patch.object(argparse.ArgumentParser, "parse_args", capture):
        try:
            module.main([])
        except _Captured as captured:
            return captured.args[0]
    raise AssertionError(f"{path} does not parse its command line first")


def _flags_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Give the flags of a tool, and of its commands if it has any."""
    flags = {option: action for action in parser._actions for option in action.option_strings
             if option not in ("-h", "--help")}
    for action in parser._actions:
        for command in action.choices.values() if isinstance(action, argparse._SubParsersAction) else ():
            flags |= _flags_of(command)
    return flags


def _wrong_tables(readme: str, parsers: dict[str, argparse.ArgumentParser]) -> Iterator[str]:
    """Compare the tables of flags, which stand under the names of their tools, with the tools."""
    for section in re.split(r"^## ", prose_of(readme), flags=re.MULTILINE):
        tool, flags = section.splitlines()[0].strip() if section.strip() else "", {}
        if FLAG_TABLE not in section:
            continue
        known = _flags_of(parsers[tool])
        for row in section.split(FLAG_TABLE)[1].split("\n\n")[0].splitlines()[2:]:
            names, default = row.split("|")[1:3]
            flags |= dict.fromkeys(names := FLAG.findall(names), "") | _pair(names, default.strip())
        for flag in known.keys() ^ flags.keys():
            yield f"{tool}: {flag} is {'only in the table' if flag in flags else 'not in the table'}"
        for flag in known.keys() & flags.keys():
            if not _agrees(tool, known[flag], flags[flag].strip("`")):
                yield f"{tool}: the default of {flag} is not {flags[flag]}"


def _pair(names: list[str], default: str) -> dict[str, str]:
    """Give the literal defaults of a row: one for all of its flags, or one each."""
    defaults = default.split(", ") if default.count(", ") == len(names) - 1 else [default] * len(names)
    return {name: text for name, text in zip(names, defaults, strict=True) if re.fullmatch(r"`[^`]*`|[\d.]+", text)}


def _agrees(tool: str, action: argparse.Action, stated: str) -> bool:
    """Tell whether a default that the table states, if it does, is the tool's, or what its help says."""
    default, name = action.default, action.dest
    if tool == "main.py" and name in SHORTHANDS:
        group, field = SHORTHANDS[name][0].split(".")
        default = getattr(getattr(META_TRAINING.default, group), field)
    if not stated or default is None or default == []:
        return not stated or re.search(rf"default: .*{re.escape(stated)}", action.help) is not None
    if stated.endswith("..."):
        return str(default).removeprefix("./").startswith(stated[:-3])
    if isinstance(default, float):
        return default == float(stated)
    return str(default).removeprefix("./") == stated


def _unknown_flags(readme: str, parsers: dict[str, argparse.ArgumentParser]) -> Iterator[str]:
    """Find flags in the text that no tool has, and those of the tools' one-line synopses that this tool has not."""
    flags = {tool: set(_flags_of(parser)) for tool, parser in parsers.items()}
    for flag in sorted(set(FLAG.findall(readme)) - set().union(*flags.values())):
        yield f"no tool has {flag}"
    for tool, synopsis in re.findall(r"`python ([\w/]+\.py)([^`]*)`", readme):
        for flag in re.findall(r"--[a-z_]+", synopsis):
            if flag not in flags.get(tool, ()):
                yield f"{tool} has no {flag}"
