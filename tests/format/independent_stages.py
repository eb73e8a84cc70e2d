"""Stages of views by section 9 of SPEC.md alone, one view after another in plain Python."""

from __future__ import annotations

import itertools
import math

import xxhash

from tests.format.independent_reader import philox

LIST = (
    *("identity", "shear-x", "shear-y", "translate-x", "translate-y", "rotate", "brightness"),
    *("saturation", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)


def stages_of(law, key_hash, view):
    """For each stage the operations that are no identity: (name, values)."""

    def draw(position, number):
        words = (key_hash % 2**32, key_hash // 2**32, 65536 * (position + 1) + number, view)
        return philox((law["seed"] % 2**32, law["seed"] // 2**32), words)

    return [
        [step for step in stage_of(stage, lambda n, p=p: draw(p, n)) if step[0] != "identity"]
        for p, stage in enumerate(law["stages"])
    ]


def partner_of(law, hashes, image, view):
    """Whom the last stage mixes a view with, as (position, view number); None where it does not.

    ``hashes`` are those of the store's keys, in order.
    """
    stage, position = law["stages"][-1], len(law["stages"]) - 1

    def draw(number, view):
        words = (hashes[image] % 2**32, hashes[image] // 2**32)
        words = (*words, 65536 * (position + 1) + number, view)
        return philox((law["seed"] % 2**32, law["seed"] // 2**32), words)

    x = draw(0, view)
    if u(x[0]) >= stage["probability"]:
        return None
    first = hashes[: stage["partners"]]
    ranked = sorted(range(len(first)), key=first.__getitem__)
    listed = b"".join(first[place].to_bytes(8, "little") for place in ranked)
    assert xxhash.xxh3_128_hexdigest(listed) == stage["partners_digest"]
    others = [place for place in ranked if place != image]
    chosen = draw(1, view - view % stage["run"])[0]
    return others[choose(chosen, len(others))], x[1] % 65536


def share_of(alpha, draw):
    for number in range(2, 258):
        words = draw(number)
        for pair in (words[:2], words[2:]):
            b, c = (((word + 1) / 2**32) ** (1 / alpha) for word in pair)
            if b + c <= 1:
                return round(65536 * b / (b + c)) / 65536
    return 0.5


def u(word):
    return word / 2**32


def between(a, b, word):
    return a + (b - a) * u(word)


def choose(word, count):
    return word * count // 2**32


def stage_of(stage, draw):
    """Steps of one stage of one view."""
    x, name = draw(0), stage["name"]
    if name == "jitter":
        y = draw(1)
        if u(y[1]) >= stage["probability"]:
            return []
        names = ("brightness", "contrast", "saturation", "hue")
        order = list(itertools.permutations(range(4)))[choose(y[0], 24)]
        steps = []
        for number in order:
            s = stage[names[number]]
            low, high = (-s, s) if names[number] == "hue" else (max(0, 1 - s), 1 + s)
            if s:
                steps.append((names[number], (between(low, high, x[number]),)))
        return steps
    if name == "rotate":
        return [("rotate", (between(-stage["degrees"], stage["degrees"], x[0]),))]
    if name == "ra":
        steps = []
        for j in range(stage["operations"]):
            a, b = draw(j // 2)[2 * (j % 2) :][:2]
            steps.append(chosen(choose(a, 14), stage["magnitude"], choose(b, 2), False))
        return steps
    if name == "ta-wide":
        return [chosen(choose(x[0], 14), choose(x[1], 31), choose(x[2], 2), True)]
    if u(x[0]) >= stage["probability"]:
        return []
    if name == "mixup" or (name == "mix" and x[1] < 2**31):
        return [("mixup", (share_of(stage.get("alpha") or stage["mixup"], draw), 0.0, 0.0))]
    if name in ("cutmix", "mix"):
        share = share_of(stage.get("alpha") or stage["cutmix"], draw)
        return [("cutmix", (share, u(x[2]), u(x[3])))]
    if name == "erase":
        for t in range(1, 11):
            z = draw(t)
            area = between(0.02, 0.33, z[0])
            aspect = math.exp(between(math.log(0.3), math.log(3.3), z[1]))
            h, w = math.sqrt(area * aspect), math.sqrt(area / aspect)
            if h < 1 and w < 1:
                return [("erase", (h, w, u(z[2]), u(z[3])))]
        return []
    if name == "blur":
        return [("blur", (between(stage["low"], stage["high"], x[1]),))]
    if name == "solarize":
        return [("solarize", (stage["threshold"],))]
    assert name == "gray"
    return [("grayscale", (0.0,))]


def chosen(number, m, minus, wide):
    """An operation of the list of 14, with its value (two: a share of the side, and pixels)."""
    name, sign = LIST[number], -1 if minus else 1
    if name.startswith("shear"):
        return name, (sign * ((0.99 if wide else 0.3) * m / 30), 0.0)
    if name.startswith("translate"):
        return name, (0.0, sign * (32 * m / 30)) if wide else (sign * (150 / 331 * m / 30), 0.0)
    if name == "rotate":
        return name, (sign * ((135 if wide else 30) * m / 30), 0.0)
    if number in (6, 7, 8, 9):
        return name, (1 + sign * ((0.99 if wide else 0.9) * m / 30), 0.0)
    if name == "posterize":
        return name, (8 - round((6 if wide else 4) * m / 30), 0.0)
    if name == "solarize":
        return name, (255 * (30 - m) / 30, 0.0)
    return name, (0.0, 0.0)
