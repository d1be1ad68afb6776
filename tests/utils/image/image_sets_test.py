import re

import pytest

from utils.errors import UserError
from utils.image.image_sets import group_images
from utils.image.listing import list_images


@pytest.fixture
def fill(tmp_path):
    def make(folder, *names):
        (tmp_path / folder).mkdir(exist_ok=True)
        for name in names:
            (tmp_path / folder / name).touch()
        return tmp_path / folder

    return make


def fails(match, *args, **kwargs):
    with pytest.raises(UserError, match=match) as caught:
        group_images(*args, **kwargs)
    assert "\n" not in str(caught.value)


def names(group):
    return tuple(path.name if path else None for path in (group.result, group.other, group.truth))


def test_images_belong_together_by_stem_whatever_the_ending(fill):
    result, other = fill("result", "b.png", "a.JPG", "a.b.png"), fill("other", "a.webp", "a.b.tif", "b.bmp")
    truth = fill("truth", "a.png", "b.jpeg", "a.b.PNG", "notes.txt", ".hidden.png")
    groups = group_images(result, truth_dir=truth, other_dir=other)
    assert [(group.stem, *names(group)) for group in groups] == [
        ("a", "a.JPG", "a.webp", "a.png"), ("a.b", "a.b.png", "a.b.tif", "a.b.PNG"), ("b", "b.png", "b.bmp", "b.jpeg")]


def test_results_alone_are_groups_too(fill):
    folder = fill("result", "b.png", "a.jpg", "metrics.csv", "metrics.json")
    assert [names(group) for group in group_images(folder)] == [("a.jpg", None, None), ("b.png", None, None)]


def test_subfolders_do_not_count(fill):
    folder = fill("result", "a.png")
    fill("result/comparison", "c.png")
    (folder / "folder.png").mkdir()
    assert [group.stem for group in group_images(folder)] == ["a"]


def test_missing_partners_are_named_unless_allowed(fill):
    result, truth = fill("result", "a.png", "b.png"), fill("truth", "a.png", *(f"t{index}.png" for index in range(5)))
    fails(rf"^{re.escape(str(result))} has no image for t0, t1, t2 and 2 more\. Add them, or .*--allow_missing", result,
          truth_dir=truth)
    fails(rf"^{re.escape(str(truth))} has no image for b\. Add it, ", fill("whole", "a.png", "b.png", *(
        f"t{index}.png" for index in range(5))), truth_dir=truth)
    groups = group_images(result, truth_dir=truth, allow_missing=True)
    assert [names(group) for group in groups][:3] == [("a.png", None, "a.png"), ("b.png", None, None),
                                                      (None, None, "t0.png")]


def test_folders_without_common_names_are_refused_even_when_images_may_be_missing(fill):
    result, truth = fill("result", "a_out.png"), fill("truth", "a.png")
    fails("no image has the same name, without its ending, in .*result and .*truth. Check", result, truth_dir=truth,
          allow_missing=True)


def test_two_images_of_one_stem_are_refused(fill):
    fails("a.jpg and a.png in .*result have one name", fill("result", "a.png", "a.jpg"))
    assert [path.name for path in list_images(fill("result"), "--fid_ref_dir")] == ["a.jpg", "a.png"]


def test_missing_and_empty_folders_are_named_with_their_option(fill, tmp_path):
    fails("the folder .*none does not exist or is not a folder. Check --result_dir", tmp_path / "none")
    result = fill("result", "a.png")
    fails("the folder .*a.png does not exist or is not a folder. Check --gt_dir", result, truth_dir=result / "a.png")
    fails("no image in .*empty. Check --compare. Known endings: .png, ", result, other_dir=fill("empty", "a.txt"))
