"""Texts of the embedded back-end are stored under its version: rules that write other texts under the same version would leave
old texts beside new ones, and nothing would say so. So the texts of many pairs are pinned for the version that wrote them."""

from __future__ import annotations

import hashlib
import json
from itertools import product

import pytest

from mmret.annotate.backends.captions import VARIED, VERSION, CaptionsAnnotator, comparatives, frames
from mmret.annotate.protocol import Request
from mmret.hashing import pair_id
from mmret.ingest.shapes import caption, scene

WRITTEN = {
    "3": {"describe": "13d7de7cc0abfef6", "instruct": "e1d22d8bc22f02de", "rare": "d05b14c13cbdf880"},
    "4": {"describe": "13d7de7cc0abfef6", "instruct": "2e016ed998083a2a", "rare": "d05b14c13cbdf880", "scales": "a9d37de78185dbfc"},
    "6": {"describe": "13d7de7cc0abfef6", "instruct": "b10d6f6bc3a65393", "rare": "71276d1a8d3b872a", "scales": "b42f35a80b755143"},
}
"""Digests of all texts below by version; ``rare``: of the pairs that meet the rules for what is seldom written; ``scales``: of the
pairs that differ along a scale, which version 4 words with comparatives. Version 6 are varied wordings of version 4.
Other texts? Raise ``VERSION`` or ``VARIED``, and pin the new ones under it."""

SENTENCES = """
A man in a blue shirt is riding a brown horse on the beach.
A woman in a red dress rides a white horse along the beach at sunset
Two dogs are playing with a ball in the snow
Three small dogs play with a stick in deep snow
A dog
the dog's red collar
A young girl who is holding an umbrella, standing in the rain
A boy holding a black umbrella stands in the rain
An old wooden house with a green door and two windows
An old stone house with a white door, three windows and a chimney
There is a cat sleeping on the sofa
There are two cats lying on a grey sofa next to a lamp
A photo of a bowl of fresh fruit on a kitchen table
This picture shows a plate of cooked vegetables on a table
A close-up of a yellow flower with water drops
close up of several pink flowers without leaves
People walking across a busy street in the city at night
A crowd of people crossing the street during the day
No people are on the empty street
A train is leaving the station as passengers wait
A red-and-white train arriving at an old station
The mayor of Paris speaking to reporters, 1998
Portrait of a lady by Jan Vermeer, oil on canvas
Self-portrait of the artist with a straw hat; oil on wood
man wearing glasses and a hat
man not wearing a hat
men wearing hats and sunglasses
a man and his son fishing from a boat
a woman and her daughters in a boat on the lake
a black and white photograph of a bridge over the river
a colour photograph of a wooden bridge over a small river in autumn
Half-eaten pizza on a plate beside a glass of beer
A whole pizza on a wooden board, with a glass of red wine
A kitchen with white cabinets, a stove and an oven
A kitchen that has dark cabinets but no oven
The tall building on the left of the church
The tall building to the right of a church behind trees
He is running very fast.
Runners in a marathon, running through the rain!
person walking: light skin tone
person walking: dark skin tone
woman scientist: medium skin tone
man scientist: medium-dark skin tone
family: man, woman, boy
family: man, woman, girl, girl
flag: France
flag: Sierra Leone
cloud with lightning and rain
sun behind rain cloud
O button (blood type)
keycap: 5
a painting of "The Tower", unfinished
an illustration of a mouse's skull (side view)
1 apple, 2 pears
twelve apples in a basket and one on the floor
ein Hund im Schnee
un chien noir sur la plage
一只黑色的猫坐在红色的垫子上
a horse-drawn carriage in front of the castle
an empty carriage
workers repairing a roof
children's drawing of a house by the sea
the sea
a quick brown fox jumps over the lazy dog
a fox that is jumping over two sleeping dogs
a mountain covered with snow under a clear blue sky
mountains covered in fog under a cloudy sky
broken window of a parked car
parked cars with open doors
A baker takes bread out of the oven
The baker, taking rolls out of an oven, smiles
a bird flying above the water towards the shore
two birds sitting on a wire
"""

CAPTIONS = [
    *SENTENCES.strip().splitlines(),
    *(caption(scene(5, i)) for i in range(14)),
    *(
        f"a {size} {colour} cup on the {place}"
        for size, colour, place in product(("small", "large"), ("red", "green"), ("table", "shelf"))
    ),
]


RARE = """
A button (blood type) | O button (blood type)
kiss: light skin tone, dark skin tone | kiss: dark skin tone, light skin tone
flags: France, Italy, Spain | flags: Spain, Italy, France
people: light skin tone, dark skin tone | people: medium skin tone, dark skin tone
people: light skin tone, light skin tone | people: light skin tone
keycap: 5 | keycap: 7
A bear, wearing a hat, stands on a rock | A bear, wearing a scarf, sits on a chair
A bear stands on a rock | A bear, wearing a hat, stands on a rock
a dog in front of | a cat next to
a dog in front of a house | a dog on top of a house
an oil painting of a boat | a pencil drawing of a boat
a painting of a boat | a boat
an oil painting of a boat at sea | a sketch of an old house
a cat on the table | a cat under the table
a cat in the garden | a cat at the garden
a lamp on the desk | a lamp beside the desk
a dog with a ball | a dog with a ball and a stick
cloud with lightning | cloud with lightning and rain
a ball | a ball beside it
a dog with a ball beside it | a dog with a bone beside it
a red hat on a table | a hat
red hats on a table | hats
two dogs | three dogs
2 dogs | 12 dogs
one heart | two hearts
Paris | London
5 | 7
! | ?
finger pointing up | finger pointing down
finger pointing | finger pointing up
arrow up | arrow down
muted speaker | speaker low volume
a man sleeping while it rains | a man sleeping while it snows
a dog that is barking | a dog that is asleep
a dog waits because it is hungry | a dog waits until it is fed
a tree without leaves | a tree with leaves
a tree | a tree without leaves
a dark green car | a light green car
a green car | a dark green car
a glass of milk | a cup of milk
a glass of milk | a glass of water
cats on a sofa | dogs on a sofa
a man holding a red umbrella and a bag | a man holding a blue umbrella and a hat
a boy | a girl
a boy scout leader | a girl leader
an old man | an old woman
a man with a beard | a woman with glasses
一只黑色的猫 | 一只白色的猫
日本語のボタン | 中国語のボタン
a sign saying "stop" | a sign saying "go"
the word “open | the word “closed” on a door
A dog sits on grass. It is brown. | A dog sits on grass. It is white.
A dog. A cat. | A cat. A dog. A bird.
The image shows a dog in a park | In this picture, a cat in a park
A dog is shown in the photo | There are two dogs
a cup on white | a cup on dark blue
a dog running and barking | a dog running
a man sits and talks | a man sits and reads
a man looking left | a man looking right
his hat | her hat
this car | those cars
a very old car | an old car
a soccer ball | a tennis ball
wind chime | wind turbine
radioactive | biohazard
radioactive waste | something radioactive
hugging face | grinning face with big eyes
covered with snow | covered with sand
a mountain covered with snow | a mountain covered with trees
a house at the lake | a house at the river
a plane over London | a plane over Paris
aerial view of an island | aerial view of a city
a dog (black) | a dog (white)
a table, a chair and a lamp | a table, a chair, a lamp and a rug
the sky is blue | the sky is grey and it is raining
two people sit on a bench | two people stand near a bench
a nurse ties a bandage | a nurse holds a child
men wear hats | men wear coats
a man not wearing a hat | a man wearing a hat
no dogs | dogs
information: please do not enter this room today | a red door
a small red wooden box with a lid on a shelf in a shop near the sea on a sunny day in June, seen from above | a box
six cups | cups: red, green, blue, white
"""


SCALES = """
a large red star | a small red star
a big striped blue star | a little dotted blue star
small blue diamond | large orange diamond
a tiny dog on a sofa | a huge dog on the floor
a tall tower behind trees | a short tower behind trees
large cups | small cups
thick fog | thin fog
a woman with long hair | a woman with short hair
a man in a large boat | a man in the small boat
a man wearing a new hat | a man wearing an old hat
an old woman reading | a young woman reading
a cat on a dark background | a cat on a light background
a dim room | a bright room
speaker low volume | speaker high volume
a long narrow street | a short wide street
deep snow on a roof | shallow snow on a roof
light rain over a city | heavy rain over a city
light blue coat | dark blue coat
"""


def pair_texts(listed: str, varied: bool = False) -> list[str]:
    """Every answer to every one of these pairs in both directions, of as many instructions as there are and more."""
    pairs = [pair for line in listed.strip().splitlines() for a, b in [line.split(" | ")] for pair in ((a, b), (b, a))]
    requests = [
        Request(kind, pair_id(a, b), a, b, a, b, count=count, seed=seed)
        for a, b in pairs
        for kind, count, seed in (("describe", 3, 0), *(("instruct", count, seed) for count in (3, 60) for seed in range(3)))
    ]
    return [answer.text or answer.finish_reason for _, answer in CaptionsAnnotator(varied).answers(requests)]


def texts(varied: bool = False) -> dict[str, list[str]]:
    """Every answer to every ordered pair: text, or the reason why there is none."""
    found = {}
    for kind, counts in (("describe", (3,)), ("instruct", (3, 6))):
        requests = [
            Request(kind, pair_id(f"{a}", f"{b}"), f"{a}", f"{b}", CAPTIONS[a], CAPTIONS[b], count=count, seed=a % 3)
            for a in range(len(CAPTIONS))
            for b in range(len(CAPTIONS))
            for count in counts
            if a != b and (len(counts) == 1 or (a + b) % 2 == (count == 6))
        ]
        found[kind] = [answer.text or answer.finish_reason for _, answer in CaptionsAnnotator(varied).answers(requests)]
    return found


def digests(written: dict[str, list[str]]) -> dict[str, str]:
    return {kind: hashlib.sha256(json.dumps(all_).encode()).hexdigest()[:16] for kind, all_ in written.items()}


@pytest.mark.parametrize("varied", [False, True])
def test_a_version_of_the_rules_writes_the_same_texts_for_ever(varied):
    version = VARIED if varied else VERSION
    assert CaptionsAnnotator(varied).model_for("instruct") == f"captions@{version}"
    assert version in WRITTEN, "pin the digests of the texts of the new version"
    written = {**texts(varied), "rare": pair_texts(RARE, varied), "scales": pair_texts(SCALES, varied)}
    assert digests(written) == WRITTEN[version], "the rules write other texts: raise the version, or stored texts stay unnoticed"


def test_without_scales_version_4_writes_the_texts_of_version_3(monkeypatch):
    monkeypatch.setattr(comparatives, "STEPS", {})
    monkeypatch.setattr(frames, "_worded", frames._worded.__wrapped__)  # else those of before are kept
    assert digests({**texts(), "rare": pair_texts(RARE)}) == WRITTEN["3"]
