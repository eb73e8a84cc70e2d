"""Which photographs of Debian's packages the scenes are made of.

The stamps are photographs cut out along their outline; drawings, of which the package has many,
are left out, and so are photographs of which too little is left at 128 pixels (pins, cutlery). The
backgrounds are photographs too, without those that show what a class is (flowers, sheep).
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from benchmarks.support.debian_packages import unpacked
from benchmarks.support.scenes import Pack

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["debian_pack"]

STAMPS = "tuxpaint-stamps-default"

OBJECTS = {
    "animals/amphibians": {"frog": "frog frog-1"},
    "animals/birds": {
        "chicken": "hen rooster chicken_profile",
        "duck": "drake duck gander",
        "heron": "heron_greatblue crowned_crane pink_flamingo heron_greatblue_flying",
        "owl": "owl",
        "parrot": "adelaide-rosella rainbow-lorikeet",
        "penguin": "penguin little-penguin magellanic_penguin",
        "toucan": "tucan",
        "vulture": "vulture",
    },
    "animals/fish": {
        "fish": "bluegroper butterflyfish clownfish coraltrout dolphinfish moonwrasse stripedfish",
    },
    "animals/insects": {"wasp": "bee hornet hoverfly fly"},
    "animals/mammals": {
        "bear": "bears/bear bears/european-bear",
        "camel": "camel/camel camel/dromedary",
        "cattle": "bovines/bull bovines/cow bovines/cow_white bovines/yak bovines/zebu "
        "bovines/bison",
        "deer": "deer/caribou deer/deer deer/doe deer/wapiti",
        "elephant": "elephant",
        "giraffe": "giraffe",
        "gnu": "bovines/gnu-baby bovines/gnu-baby-stand bovines/gnu-sitting bovines/gnu-stand",
        "lion": "cats/lion cats/lion-2",
        "pig": "pig pig_golden pig_golden2 wildboar",
        "rabbit": "rodents/rabbit rodents/rabbit-2 rabbit_little",
        "rhinoceros": "rhino_black",
        "sheep": "bovines/sheep bovines/sheep_lamb bovines/ram",
        "tiger": "cats/tiger cats/tiger_sumatran",
        "zebra": "equines/zebra",
    },
    "animals/marsupials": {"kangaroo": "kangaroo", "koala": "koala"},
    "food/fruit": {
        "apple": "apple_fuji apple_granny_smith apple_green apple_red apple_sierra_beauty",
        "banana": "banana",
        "grapes": "grapes",
        "lemon": "lemon",
        "orange": "orange mandarine orange_seville",
        "pineapple": "pineapple",
        "strawberry": "strawberry Strawberry2",
    },
    "food/nuts": {"nut": "almond pecan walnut walnut_shelled"},
    "food/vegetables": {
        "broccoli": "broccoli",
        "corn": "corn",
        "pepper": "pepper yellowpepper",
        "tomato": "tomato",
    },
    "plants": {
        "flower": "flowers/adeenia flowers/anemone_red flowers/daffodil flowers/flower1 "
        "flowers/flower2 flowers/flower3 flowers/flower4 flowers/flower5 flowers/flower6 "
        "flowers/flower8 flowers/flower9 flowers/flower10 flowers/iris flowers/marigold "
        "flowers/pigface flowers/red-gazania flowers/rose flowers/whitestar-petunia "
        "flowers/yellow-flower",
        "mushroom": "mushrooms/cep mushrooms/cep-1 mushrooms/cep-2",
    },
    "hobbies": {
        "camera": "camera_35mm",
        "drums": "music/percussion/drumkit music/percussion/drum_tomtom_floor",
        "guitar": "music/string/guitar2 music/string/guitar_classical "
        "music/string/guitar_electric music/string/guitar_electric_bass",
        "violin": "music/string/violin music/string/cello",
    },
    "household": {
        "bin": "garbagecan wheelie_bin home_compost_bin",
        "kettle": "kettle",
        "lightbulb": "Lightbulb",
        "rubber-duck": "rubberduck",
        "teapot": "dishes/teapot",
    },
    "seasonal/halloween": {
        "gravestone": "grave-a grave-b grave-c grave-d grave-e grave-f grave-g grave-h grave-i "
        "grave-j",
    },
    "sports": {"basketball": "basketball", "football": "soccer"},
    "vehicles": {
        "balloon": "flight/balloon360",
        "boat": "ship/chineseJunk ship/walnutBoat",
        "car": "auto/beetle auto/sedan auto/sportscar2 auto/truck",
        "lorry": "emergency/firetruck garbagetruck masstransit/green_korean_bus",
    },
    "military/vehicles": {"tank": "bradley infantry-stryker ww2_german_gun"},
}
"""Folder of stamps -> class -> its photographs."""

BACKGROUNDS = {
    "mate-backgrounds": (
        "share/backgrounds/mate/nature",
        "Aqua Blinds Dune GreenMeadow RainDrops Storm Wood",
    ),
    "plasma-workspace-wallpapers": (
        "share/wallpapers/*/contents/images",
        "BytheWater ColdRipple ColorfulCups DarkestHour FallenLeaf Grey Kite OneStandsOut Path "
        "summer_1am",
    ),
    "lomiri-wallpapers-16.04": (
        "share/backgrounds",
        "Bridge_by_Sander_Klootwijk Picture_1A_by_freespace Wine_by_Jakkub_Mede "
        "aitzgorri_by_Aitzol_Berasategi analogpattern_by_Peter_Nerlich "
        "greentock_by_Peter_Nerlich life_by_Aitzol_Berasategi "
        "picosdeeuropa_by_Aitzol_Berasategi sunset_by_Aitzol_Berasategi",
    ),
    "tuxpaint-data": (
        "share/tuxpaint/templates",
        "burnt_bark cliff corn_maze lighthouse mossy_log mudstone ocean_splash ocean_waves "
        "redwoods_above rocks spiders_web sun_behind_clouds sun_behind_leaves "
        "trees_above trees_at_dusk wool_mill_machine",
    ),
}
"""Package -> the folder of its pictures, and the photographs among them."""


def debian_pack(cache: Path) -> Pack:
    """The photographs, fetched below ``cache`` on the first call (360 MB of packages).

    Raises:
        SystemExit: a package cannot be had. FileNotFoundError: it has not the photographs that are
        named here.
    """
    return Pack(cache / "packages", _objects(cache), _backgrounds(cache))


def _objects(cache: Path) -> dict[str, tuple[Path, ...]]:
    stamps = _package(STAMPS, cache) / "share" / "tuxpaint" / "stamps"
    return {
        name: tuple(_existing(stamps / folder / f"{photo}.png") for photo in photos.split())
        for folder, classes in OBJECTS.items()
        for name, photos in classes.items()
    }


def _backgrounds(cache: Path) -> tuple[Path, ...]:
    photos = []
    for package, (place, names) in BACKGROUNDS.items():
        root = _package(package, cache)
        before, star, after = place.partition("*")
        for name in names.split():
            if star:
                # KDE's have a folder a wallpaper, with the same photograph in several sizes.
                folder = root / before / name / after.strip("/")
                photos.append(_largest(folder))
            else:
                photos.append(_existing(root / place / f"{name}.jpg"))
    return tuple(photos)


def _package(name: str, cache: Path) -> Path:
    try:
        return unpacked(name, cache / "packages" / name) / "usr"
    except (OSError, subprocess.SubprocessError) as error:
        raise SystemExit(
            f"Debian's package {name} cannot be had ({error}): the scenes need its photographs, "
            "through apt-get."
        ) from error


def _largest(folder: Path) -> Path:
    sizes = [file for file in folder.glob("*.jpg") if not file.is_symlink()]
    if not sizes:
        raise FileNotFoundError(f"{folder} has no JPEG: the package is another than expected")
    return max(sizes, key=lambda file: (file.stat().st_size, file.name))


def _existing(file: Path) -> Path:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there: the package is another than expected")
    return file
