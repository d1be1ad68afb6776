"""Which images of several folders belong together."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError
from utils.image.listing import list_images

NAMES_IN_MESSAGES = 3


@dataclass(frozen=True)
class ImageGroup:
    """The files of one stem; None where a folder has none, or there is no such folder."""

    stem: str
    result: Path | None = None
    other: Path | None = None
    truth: Path | None = None


def group_images(result_dir: Path, *, truth_dir: Path | None = None, other_dir: Path | None = None,
                 allow_missing: bool = False) -> list[ImageGroup]:
    """Group the images of result folders and their ground truth by stem, whatever their endings; sorted by stem.

    Args:
        result_dir: --result_dir.
        truth_dir: --gt_dir.
        other_dir: --compare.
        allow_missing: also give groups in which a folder has no file.

    Raises:
        UserError: a folder is missing or empty, has two images of one stem, or, unless `allow_missing`, lacks an image
            another one has; or no stem is in all folders.
    """
    folders = {"result": (result_dir, "--result_dir"), "other": (other_dir, "--compare"),
               "truth": (truth_dir, "--gt_dir")}
    files = {role: _by_stem(folder, option) for role, (folder, option) in folders.items() if folder is not None}
    stems = sorted(set().union(*files.values()))
    if not set.intersection(*(set(found) for found in files.values())):
        raise UserError(f"no image has the same name, without its ending, in "
                        f"{' and '.join(str(folders[role][0]) for role in files)}. Check the folders.")
    for role, found in files.items():
        missing = [stem for stem in stems if stem not in found]
        if missing and not allow_missing:
            raise UserError(f"{folders[role][0]} has no image for {_named(missing)}. Add {_them(missing)}, or go on "
                            "without with --allow_missing.")
    return [ImageGroup(stem, **{role: found.get(stem) for role, found in files.items()}) for stem in stems]


def _by_stem(folder: Path, option: str) -> dict[str, Path]:
    names = defaultdict(list)
    for path in list_images(folder, option):
        names[path.stem].append(path)
    for paths in names.values():
        if len(paths) > 1:
            raise UserError(f"{' and '.join(path.name for path in paths)} in {folder} have one name, so that it is "
                            "unclear which belongs to its partner. Rename or remove one.")
    return {stem: path for stem, [path] in names.items()}


def _named(stems: list[str]) -> str:
    more = len(stems) - NAMES_IN_MESSAGES
    return ", ".join(stems[:NAMES_IN_MESSAGES]) + (f" and {more} more" if more > 0 else "")


def _them(stems: list[str]) -> str:
    return "it" if len(stems) == 1 else "them"
