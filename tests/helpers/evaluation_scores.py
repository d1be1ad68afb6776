"""Made-up scores of an evaluation of three photos, and their summary."""

from utils.evaluation.table import summarize_set

# by variant: PSNR and NIQE of the photos a, b, c; c has no face
VALUES = {"bicubic": [(20, 9), (21, 9), (22, 9)], "base": [(21, 5), (22, 5), (23, 5)],
          "unadapted": [(22, 6), (23, 6), (24, 6)], "adapted": [(23, 7), (25, 5), (24, 6)],
          "other-faces": [(22.5, 7), (24, 5), (24, 6)]}


def scores(values=VALUES):
    return [{"set": "iid", "photo": photo, "variant": variant, "num_faces": 1, "partner": "b", "partner_faces": 2,
             "psnr_y": float(psnr), "niqe": float(niqe)}
            for variant, figures in values.items() for photo, (psnr, niqe) in zip("abc", figures, strict=True)]


def summarize(values=None, **options):
    given = {"with_faces": ["a", "b"], "paired": ["a", "b"], **options}
    return summarize_set(scores() if values is None else values, ["psnr_y", "niqe"], **given)
