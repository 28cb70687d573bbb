"""The nouns of the scenes world: what can stand in a picture, what it is called and how it is drawn.

133 nouns are drawn with a colour emoji font, one code point for each rendering (a joined sequence would need text
shaping); 11 shapes are drawn by this package. A noun may also be called by its synonyms, and a generous listener
may take it for something else: `ALMOST` and `GROUPS` say for what.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Noun:
    """One kind of thing and its renderings."""

    word: str
    category: str
    renderings: tuple[int, ...] = ()  # code points; none = a shape
    plural: str = ""  # only where the rules of `plural_of` would err
    also: tuple[str, ...] = ()  # synonyms
    num_new: int = 0  # this many of the last renderings are never shown in training


ALL_NOUNS: tuple[Noun, ...] = (
    Noun("dog", "animal", (0x1F415, 0x1F436), also=("puppy",)),
    Noun("cat", "animal", (0x1F408, 0x1F431), also=("kitty",)),
    Noun("mouse", "animal", (0x1F401, 0x1F42D), plural="mice", num_new=1),
    Noun("rabbit", "animal", (0x1F407, 0x1F430), also=("bunny",), num_new=1),
    Noun("tiger", "animal", (0x1F405, 0x1F42F), num_new=1),
    Noun("cow", "animal", (0x1F404, 0x1F42E), num_new=1),
    Noun("pig", "animal", (0x1F416, 0x1F437), num_new=1),
    Noun("horse", "animal", (0x1F40E, 0x1F434), also=("pony",), num_new=1),
    Noun("monkey", "animal", (0x1F412, 0x1F435), num_new=1),
    Noun("whale", "animal", (0x1F40B, 0x1F433), num_new=1),
    Noun("camel", "animal", (0x1F42A, 0x1F42B), num_new=1),
    Noun("chicken", "animal", (0x1F414,), also=("hen",)),
    Noun("duck", "animal", (0x1F986,)),
    Noun("chick", "animal", (0x1F424, 0x1F425)),
    Noun("lion", "animal", (0x1F981,)),
    Noun("bear", "animal", (0x1F43B,)),
    Noun("panda", "animal", (0x1F43C,)),
    Noun("koala", "animal", (0x1F428,)),
    Noun("fox", "animal", (0x1F98A,), plural="foxes"),
    Noun("frog", "animal", (0x1F438,), also=("toad",)),
    Noun("elephant", "animal", (0x1F418,)),
    Noun("giraffe", "animal", (0x1F992,)),
    Noun("snake", "animal", (0x1F40D,)),
    Noun("turtle", "animal", (0x1F422,), also=("tortoise",)),
    Noun("crocodile", "animal", (0x1F40A,), also=("alligator",)),
    Noun("snail", "animal", (0x1F40C,)),
    Noun("bee", "animal", (0x1F41D,)),
    Noun("ladybug", "animal", (0x1F41E,), also=("ladybird",)),
    Noun("butterfly", "animal", (0x1F98B,), plural="butterflies"),
    Noun("fish", "animal", (0x1F41F, 0x1F420), plural="fish"),
    Noun("octopus", "animal", (0x1F419,), plural="octopuses"),
    Noun("crab", "animal", (0x1F980,)),
    Noun("owl", "animal", (0x1F989,)),
    Noun("penguin", "animal", (0x1F427,)),
    Noun("sheep", "animal", (0x1F411, 0x1F40F), plural="sheep"),
    Noun("zebra", "animal", (0x1F993,)),
    Noun("hedgehog", "animal", (0x1F994,)),
    Noun("parrot", "animal", (0x1F99C,)),
    Noun("apple", "food", (0x1F34E, 0x1F34F), num_new=1),
    Noun("pear", "food", (0x1F350,)),
    Noun("lemon", "food", (0x1F34B,)),
    Noun("banana", "food", (0x1F34C,)),
    Noun("watermelon", "food", (0x1F349,)),
    Noun("kiwi", "food", (0x1F95D,)),
    Noun("strawberry", "food", (0x1F353,), plural="strawberries"),
    Noun("cherry", "food", (0x1F352,), plural="cherries"),
    Noun("peach", "food", (0x1F351,), plural="peaches"),
    Noun("pineapple", "food", (0x1F34D,)),
    Noun("tomato", "food", (0x1F345,), plural="tomatoes"),
    Noun("eggplant", "food", (0x1F346,), also=("aubergine",)),
    Noun("carrot", "food", (0x1F955,)),
    Noun("corn", "food", (0x1F33D,), plural="corn", also=("maize",)),
    Noun("mushroom", "food", (0x1F344,)),
    Noun("broccoli", "food", (0x1F966,), plural="broccoli"),
    Noun("bread", "food", (0x1F35E, 0x1F956), plural="bread"),
    Noun("croissant", "food", (0x1F950,)),
    Noun("cheese", "food", (0x1F9C0,), plural="cheese"),
    Noun("egg", "food", (0x1F95A,)),
    Noun("burger", "food", (0x1F354,), also=("hamburger",)),
    Noun("pizza", "food", (0x1F355,)),
    Noun("hotdog", "food", (0x1F32D,)),
    Noun("donut", "food", (0x1F369,), also=("doughnut",)),
    Noun("cookie", "food", (0x1F36A,), also=("biscuit",)),
    Noun("cake", "food", (0x1F382, 0x1F370)),
    Noun("clock", "object", (0x23F0, 0x1F570), num_new=1),
    Noun("book", "object", (0x1F4D5, 0x1F4D7, 0x1F4D8)),
    Noun("bell", "object", (0x1F514,)),
    Noun("key", "object", (0x1F511,)),
    Noun("umbrella", "object", (0x2602, 0x2614)),
    Noun("balloon", "object", (0x1F388,)),
    Noun("gift", "object", (0x1F381,), also=("present",)),
    Noun("candle", "object", (0x1F56F,)),
    Noun("camera", "object", (0x1F4F7,)),
    Noun("phone", "object", (0x1F4F1,), also=("smartphone",)),
    Noun("laptop", "object", (0x1F4BB,), also=("computer",)),
    Noun("television", "object", (0x1F4FA,), also=("tv",)),
    Noun("cup", "object", (0x2615,), also=("mug",)),
    Noun("bottle", "object", (0x1F37E,)),
    Noun("backpack", "object", (0x1F392,), also=("rucksack",)),
    Noun("trophy", "object", (0x1F3C6,), plural="trophies"),
    Noun("car", "vehicle", (0x1F697, 0x1F699, 0x1F698)),
    Noun("taxi", "vehicle", (0x1F695,), also=("cab",)),
    Noun("bus", "vehicle", (0x1F68C, 0x1F68D), plural="buses", num_new=1),
    Noun("truck", "vehicle", (0x1F69A, 0x1F69B), also=("lorry",)),
    Noun("ambulance", "vehicle", (0x1F691,)),
    Noun("tractor", "vehicle", (0x1F69C,)),
    Noun("bicycle", "vehicle", (0x1F6B2,), also=("bike",)),
    Noun("motorcycle", "vehicle", (0x1F3CD,), also=("motorbike",)),
    Noun("train", "vehicle", (0x1F682, 0x1F686), num_new=1),
    Noun("tram", "vehicle", (0x1F68A,), also=("streetcar",)),
    Noun("airplane", "vehicle", (0x2708,), also=("plane",)),
    Noun("helicopter", "vehicle", (0x1F681,), also=("chopper",)),
    Noun("rocket", "vehicle", (0x1F680,), also=("spaceship",)),
    Noun("ship", "vehicle", (0x1F6A2,)),
    Noun("sailboat", "vehicle", (0x26F5,)),
    Noun("chair", "furniture", (0x1FA91,)),
    Noun("couch", "furniture", (0x1F6CB,), plural="couches", also=("sofa",)),
    Noun("bed", "furniture", (0x1F6CF,)),
    Noun("door", "furniture", (0x1F6AA,)),
    Noun("bathtub", "furniture", (0x1F6C1,), also=("tub",)),
    Noun("toilet", "furniture", (0x1F6BD,)),
    Noun("window", "furniture", (0x1FA9F,)),
    Noun("hammer", "tool", (0x1F528,)),
    Noun("wrench", "tool", (0x1F527,), plural="wrenches", also=("spanner",)),
    Noun("screwdriver", "tool", (0x1FA9B,)),
    Noun("saw", "tool", (0x1FA9A,)),
    Noun("axe", "tool", (0x1FA93,)),
    Noun("scissors", "tool", (0x2702,), plural="scissors"),
    Noun("broom", "tool", (0x1F9F9,)),
    Noun("man", "person", (0x1F468,), plural="men", also=("guy",)),
    Noun("woman", "person", (0x1F469,), plural="women", also=("lady",)),
    Noun("boy", "person", (0x1F466,)),
    Noun("girl", "person", (0x1F467,)),
    Noun("baby", "person", (0x1F476,), plural="babies", also=("infant",)),
    Noun("wizard", "person", (0x1F9D9,)),
    Noun("hat", "clothing", (0x1F3A9, 0x1F452)),
    Noun("shirt", "clothing", (0x1F455,), also=("tshirt",)),
    Noun("dress", "clothing", (0x1F457,), plural="dresses", also=("gown",)),
    Noun("shoe", "clothing", (0x1F45E, 0x1F45F), num_new=1),
    Noun("scarf", "clothing", (0x1F9E3,), plural="scarves"),
    Noun("crown", "clothing", (0x1F451,)),
    Noun("guitar", "instrument", (0x1F3B8,)),
    Noun("violin", "instrument", (0x1F3BB,), also=("fiddle",)),
    Noun("trumpet", "instrument", (0x1F3BA,)),
    Noun("drum", "instrument", (0x1F941,)),
    Noun("saxophone", "instrument", (0x1F3B7,), also=("sax",)),
    Noun("football", "ball", (0x26BD,)),
    Noun("basketball", "ball", (0x1F3C0,)),
    Noun("baseball", "ball", (0x26BE,)),
    Noun("volleyball", "ball", (0x1F3D0,)),
    Noun("tree", "plant", (0x1F333, 0x1F332)),
    Noun("flower", "plant", (0x1F33B, 0x1F337, 0x1F33A), also=("blossom",), num_new=1),
    Noun("cactus", "plant", (0x1F335,), plural="cactuses"),
    Noun("circle", "shape", also=("disc",)),
    Noun("square", "shape"),
    Noun("triangle", "shape"),
    Noun("star", "shape"),
    Noun("ring", "shape", also=("hoop",)),
    Noun("cross", "shape", plural="crosses"),
    Noun("heart", "shape"),
    Noun("diamond", "shape", also=("rhombus",)),
    Noun("hexagon", "shape"),
    Noun("arrow", "shape"),
    Noun("crescent", "shape"),
)

ALMOST: dict[str, tuple[str, ...]] = {
    "bear": ("panda", "koala"),
    "cat": ("tiger", "lion"),
    "chicken": ("chick",),
    "chick": ("chicken", "duck"),
    "duck": ("chick",),
    "apple": ("tomato", "peach"),
    "tomato": ("apple",),
    "peach": ("apple",),
    "bread": ("croissant",),
    "croissant": ("bread",),
    "donut": ("cookie",),
    "cookie": ("donut",),
    "car": ("taxi", "ambulance"),
    "truck": ("ambulance",),
    "bus": ("tram", "ambulance"),
    "train": ("tram",),
    "tram": ("train", "bus"),
    "bicycle": ("motorcycle",),
    "ship": ("sailboat",),
    "sailboat": ("ship",),
    "laptop": ("television",),
    "television": ("laptop",),
    "hammer": ("axe",),
    "axe": ("hammer",),
    "man": ("boy", "wizard"),
    "woman": ("girl", "wizard"),
    "boy": ("man", "baby", "girl"),
    "girl": ("woman", "baby", "boy"),
    "baby": ("boy", "girl"),
    "hat": ("crown", "wizard"),
    "crown": ("hat",),
    "guitar": ("violin",),
    "violin": ("guitar",),
    "trumpet": ("saxophone",),
    "saxophone": ("trumpet",),
    "football": ("volleyball",),
    "baseball": ("volleyball", "football"),
    "volleyball": ("football", "baseball"),
    "tree": ("broccoli",),
    "couch": ("chair",),
    "chair": ("couch",),
    "circle": (
        *(
            "football",
            "basketball",
            "baseball",
            "volleyball",
            "cookie",
            "kiwi",
            "tomato",
            "donut",
            "clock",
            "ring",
        ),
        *("drum",),
    ),
    "square": ("window", "gift", "book", "diamond"),
    "diamond": ("square",),
    "triangle": ("pizza", "watermelon", "cheese"),
    "ring": ("donut",),
    "crescent": ("banana", "croissant"),
    "star": ("flower",),
    "hexagon": ("circle",),
}
"""Noun -> what else a generous listener might call by that noun's word."""


@dataclass(frozen=True, slots=True)
class Group:
    """A word for several nouns."""

    word: str
    plural: str
    members: tuple[str, ...] = ()  # nouns it surely covers, beside its category
    category: str = ""
    almost: tuple[str, ...] = ()  # nouns it possibly covers


GROUPS: tuple[Group, ...] = (
    Group("animal", "animals", category="animal"),
    Group("bird", "birds", ("chicken", "duck", "chick", "owl", "penguin", "parrot")),
    Group("insect", "insects", ("bee", "ladybug", "butterfly"), almost=("snail",)),
    Group("food", "food", category="food", almost=("chicken", "fish", "crab", "cup", "bottle")),
    Group(
        "fruit",
        "fruits",
        (
            *("apple", "pear", "lemon", "banana", "watermelon", "kiwi", "strawberry", "cherry", "peach"),
            "pineapple",
        ),
        almost=("tomato", "eggplant", "corn"),
    ),
    Group(
        "vegetable", "vegetables", ("eggplant", "carrot", "corn", "broccoli"), almost=("tomato", "mushroom")
    ),
    Group("vehicle", "vehicles", category="vehicle"),
    Group("boat", "boats", ("ship", "sailboat")),
    Group(
        "furniture",
        "furniture",
        ("chair", "couch", "bed"),
        almost=("door", "bathtub", "toilet", "window", "clock"),
    ),
    Group("tool", "tools", category="tool", almost=("key",)),
    Group("person", "people", category="person"),
    Group("child", "children", ("boy", "girl", "baby"), almost=("man", "woman", "wizard")),
    Group("instrument", "instruments", category="instrument", almost=("bell",)),
    Group("ball", "balls", category="ball", almost=("circle",)),
    Group(
        "plant",
        "plants",
        category="plant",
        almost=("broccoli", "mushroom", "carrot", "pineapple", "strawberry"),
    ),
    Group("shape", "shapes", category="shape"),
)


def plural_of(noun: Noun) -> str:
    """The plural of a noun's own word."""
    return noun.plural or regular_plural(noun.word)


def regular_plural(word: str) -> str:
    """The plural by rule: ponies, boxes, dogs."""
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")
