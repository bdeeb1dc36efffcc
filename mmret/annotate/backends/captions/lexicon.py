"""Closed-class words and common word classes of English, for reading a caption without a parser.

Why: an edit reads well only when an adjective, a noun and a verb are told apart ("make it red", "add a hat", "have it
running"). A tagger would need a model; function words, word endings and the commonest words of each class are enough,
because every unknown word is treated as a noun, the safe choice. Nothing here comes from a corpus of ours.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARTICLES = _words("a an the")
DETERMINERS = ARTICLES | _words("this that these those some his her its their our my your another")
ACCOMPANYING = _words("with without")
COMPOUND_PLACES = {("next", "to"), ("close", "to"), ("opposite", "to")}
LOCATIVE = {" ".join(pair) for pair in COMPOUND_PLACES} | _words("""
    at on in under over above below behind beside near inside outside against around between beneath among through
    along across toward towards atop onto underneath alongside before
""")
PRONOUNS = _words("it them him her this that each other")
BINDING = _words("of for to from by into like as per than or and & up off")
CONJUNCTIONS = _words("while as where which that who whose when but because whereas since after until")
AUXILIARIES = _words("is are was were be been being has have had can could will would may might must do does did")
NUMBERS = _words("""
    one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen twenty thirty
    forty fifty hundred several many few no multiple both single
""")
PERSONS = _words("""
    man woman boy girl person adult child baby lady gentleman men women boys girls people adults children babies
    mother father son daughter
""")
SEXES = _words("man woman boy girl")
COLOURS = _words("""
    red green blue yellow orange purple violet pink brown black white grey gray cyan magenta teal navy turquoise
    beige gold golden silver maroon crimson scarlet indigo olive lime tan blond blonde
""")
INTENSITIES = _words("light dark bright pale deep medium vivid dull very slightly")
ADJECTIVES = (
    COLOURS
    | INTENSITIES
    | _words("""
    small large big tiny huge little tall short long wide narrow thick thin high low round square oval rectangular
    triangular flat curved straight curly wavy bald old young new older younger ancient modern empty full open
    closed broken clean dirty wet dry hot cold warm cool soft hard smooth rough shiny matte plain solid striped
    spotted dotted checked checkered hollow filled transparent clear cloudy sunny foggy rainy happy sad angry calm
    left right upper lower top bottom front rear central middle horizontal vertical diagonal upright sideways heavy
    loud quiet fast slow busy crowded quiet urban rural indoor outdoor wooden metal metallic plastic glass stone
    brick human male female pregnant deaf blind drunk raised folded crossed outlined blurry sharp rusty fresh ripe
    raw frozen snowy icy rocky sandy grassy leafy fluffy hairy bearded barefoot naked bare asleep awake alive dead
    double triple ornate simple fancy formal casual colourful colorful monochrome opaque sparse dense partial whole
    half rainbow leftwards rightwards upwards downwards
""")
)
ALSO_NOUNS = _words("""
    human metal glass stone brick male female square oval rainbow half whole top bottom front back left right middle
    light dark double triple orange gold silver pink rose olive lime violet
""")
NOT_ADJECTIVES = (
    _words("""
    bed shed seed weed feed speed breed sled bread red thread weekend hundred tread steed reed need deed family
    table vegetable cable syllable people couple apple mess business glass grass dress
""")
    - COLOURS
)
PARTICIPLE_NOUNS = _words("""
    building buildings painting drawing ring king string wing ceiling clothing evening morning spring thing swing
    something nothing everything anything wedding meeting railing earring ping sing bring sling sibling duckling
    pudding stocking parking landing opening crossing gathering being king lightning viking dumpling darling
""")
DIRECTIONS = _words("""
    up down left right forward backward backwards forwards upward downward upwards downwards north south east west
    away back clockwise anticlockwise counterclockwise together apart ahead upside sideways
""")
MASS = _words("""
    hair skin water snow ice grass sand rain fire smoke fog mist hay wood metal glass paper cloth clothing furniture
    food bread rice milk coffee tea wine beer juice butter cheese meat chicken fish fruit sugar salt blood dust dirt
    mud soil ground music art traffic jewelry jewellery luggage equipment machinery scenery vegetation foliage
    wildlife sunlight daylight moonlight lightning weather light darkness makeup text writing graffiti money gold
    silver steel iron stone cotton wool leather plastic haircut-less cattle poultry tone sweat steam joy love
    headphones glasses sunglasses trousers pants jeans shorts scissors pliers binoculars goggles tongs chopsticks
    pyjamas pajamas
""")
PLURALS = _words("""
    men women people children feet teeth mice geese sheep deer fish cattle police data media bacteria fungi oxen
    wolves leaves knives loaves they those these
""")
SINGULARS_IN_S = _words("""
    bus glass grass dress cross compass mattress princess actress waitress lens cactus octopus walrus hippopotamus
    asterisk iris canvas atlas virus campus circus tennis chess news series species gas boss kiss mess brass chorus
    status genius bias swiss class mass address business process success access abacus venus mars christmas texas
    paris hibiscus platypus dais basis crisis
""")
VERBS = _words("""
    stand sit walk run ride hold wear look watch play work show smile lie lay lean jump climb swim eat drink read
    write talk speak point carry push pull throw catch hang cover surround rest move fly float rise set shine cross
    face reach touch use make take give wave dance sing cook cut draw paint drive stare gaze pose gather perform
    travel pass enter leave fall grow bloom burn glow melt flow stretch line fill contain feature display depict
    include attach embrace hug kiss laugh cry sleep kneel bend turn examine inspect study teach listen help assist
    serve receive prepare build dig extend protrude emerge appear stage embark chase play overlook illuminate
    decorate comprise consist march protest kick hit shake lift raise lower
""")


def gerund(base: str) -> str:
    """``running`` of ``run``."""
    if base.endswith("ie"):
        return base[:-2] + "ying"
    if base.endswith("e") and not base.endswith(("ee", "ye", "oe")):
        return base[:-1] + "ing"
    vowels = sum(c in "aeiou" for c in base)
    if vowels == 1 and len(base) > 2 and base[-2] in "aeiou" and base[-1] not in "aeiouwxy":
        return base + base[-1] + "ing"
    return base + "ing"


def participle_of(verb: str) -> str:
    """``tying`` of ``ties``, ``sitting`` of ``sit``; ``verb`` is a form of the present."""
    if verb in GERUNDS:
        return GERUNDS[verb]
    if verb.endswith("ies"):
        return verb[:-3] + "ying"
    if verb.endswith(("shes", "ches", "xes", "sses")):
        return gerund(verb[:-2])
    return gerund(verb[:-1] if verb.endswith("s") and not verb.endswith("ss") else verb)


def is_function_word(word: str) -> bool:
    """Whether ``word`` is of a closed class."""
    return (
        word in DETERMINERS
        or word in BINDING
        or word in CONJUNCTIONS
        or word in LOCATIVE
        or word in ACCOMPANYING
        or word in AUXILIARIES
        or word in PRONOUNS
        or word in NUMBERS
        or word in DIRECTIONS
    )


def _third_person(base: str) -> str:
    if base.endswith("y") and base[-2] not in "aeo":
        return base[:-1] + "ies"
    return base + ("es" if base.endswith(("s", "sh", "ch", "x", "o")) else "s")


GERUNDS = {_third_person(v): gerund(v) for v in VERBS}
"""Participle of a verb in the third person: sits to sitting."""


SYNONYMS = {
    word: words.split()[0]
    for words in (
        "large big", "small little", "dotted spotted", "gray grey", "center centre middle", "bicycle bike",
        "photograph photo", "car automobile", "sofa couch", "child kid", "children kids", "airplane plane aeroplane",
        "television tv", "rug carpet",
        "phone telephone", "refrigerator fridge", "glasses eyeglasses", "blond blonde", "color colour", "disk disc",
        "motorcycle motorbike", "sneakers trainers", "trash rubbish", "multicolored multicoloured",
    )
    for word in words.split()[1:]
}  # fmt: skip
"""Another word for the same thing is no difference: compared as the first of its line, said as the caption says it."""


def is_plural(word: str) -> bool:
    """Whether lower-case noun ``word`` reads as a plural."""
    return word in PLURALS or (
        word.endswith("s") and len(word) > 3 and word not in SINGULARS_IN_S and not word.endswith(("ss", "us", "is", "’s", "'s"))
    )


def is_participle(word: str) -> bool:
    """Whether ``word`` reads as a present participle: running, holding."""
    return word.endswith("ing") and len(word) > 4 and word not in PARTICIPLE_NOUNS


def is_adjective(word: str) -> bool:
    """Whether ``word`` reads as an adjective or past participle; unknown words are nouns."""
    if word in ADJECTIVES:
        return True
    if "-" in word:
        last = word.rpartition("-")[2]
        return last in ADJECTIVES or last.endswith(("ed", "ing")) or last in DIRECTIONS
    return (
        len(word) > 4
        and word not in NOT_ADJECTIVES
        and word.endswith(("ed", "ful", "less", "ous", "ish", "able", "ible", "ical", "-like"))
    )


def article(word: str) -> str:
    """``a`` or ``an`` before ``word``."""
    lower = word.lstrip("“\"'‘").lower()
    if lower.startswith(("hour", "honest", "heir")):
        return "an"
    if lower.startswith(("uni", "use", "euro", "one", "once", "ufo", "uk", "usb")) and not lower.startswith(("unin", "unim")):
        return "a"
    if len(lower) == 1 or (word.isupper() and len(word) < 4):
        return "an" if lower[:1] in "aefhilmnorsx8" else "a"
    return "an" if lower[:1] in "aeiouàáâäåæèéêëìíîïòóôöøùúûü8" else "a"


def plural(noun: str) -> str:
    """Regular plural of the last word of ``noun``."""
    if is_plural(noun.rpartition(" ")[2]):
        return noun
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "sh", "ch", "x")) else "s")
