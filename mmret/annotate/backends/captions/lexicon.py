"""Closed-class words and common word classes of English, for reading a caption without a parser.

Why: an edit reads well only when an adjective, a noun and a verb are told apart ("make it red", "add a hat", "have it
running"). The lists hold what the rules treat alike, above all function words, and the words whose commonest use in a
caption differs from that in a newspaper; for the rest a dictionary is asked (``parts_of_speech``), and a word unknown to
both is a noun, the safe choice. Nothing here comes from a corpus of ours. Costs nothing: sets and a few endings.
"""

from __future__ import annotations

from functools import lru_cache

from mmret.annotate.backends.captions import parts_of_speech


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARTICLES = _words("a an the")
DETERMINERS = ARTICLES | _words("this that these those some his her its their our my your another")
ACCOMPANYING = _words("with without")
COMPOUND_PLACES = (
    ("in", "front", "of"),
    ("on", "top", "of"),
    ("next", "to"),
    ("close", "to"),
    ("opposite", "to"),
    ("inside", "of"),
    ("outside", "of"),
)
COMPOUND_STARTS = {words[0] for words in COMPOUND_PLACES}
LOCATIVE = {" ".join(words) for words in COMPOUND_PLACES} | _words("""
    at on in under over above below behind beside near inside outside against around between beneath among through
    along across toward towards atop onto underneath alongside before
""")
PRONOUNS = _words("it them him her this that each other")
PREPOSITIONS = LOCATIVE | ACCOMPANYING
"""Words that a prepositional phrase begins with."""
SUBJECTS = _words("he she they it i we you")
INDEFINITE = _words("someone somebody something anyone anybody anything everyone everybody everything nothing nobody")
BINDING = _words("of for to from by into like as per than or and & up off")
CONJUNCTIONS = _words("while as where which that who whose when but because whereas since after until")
NON_FINITE = _words("be being been having")
"""Auxiliaries that do not make a sentence of what they stand in: meat being cooked."""
AUXILIARIES = NON_FINITE | _words("is are was were have has had can could will would may might must do does did")
FINITE_AUXILIARIES = AUXILIARIES - NON_FINITE
NO_SUBJECT = BINDING | AUXILIARIES | SUBJECTS
"""Words that cannot be the subject of the verb after them."""
NUMBERS = _words("""
    one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen twenty thirty
    forty fifty hundred several many few no multiple both single
""")
COUNTS = NUMBERS - _words("no multiple both single few")
"""Numbers that "of them" can follow."""
NO_ARTICLE = NUMBERS | DETERMINERS | CONJUNCTIONS | BINDING | INDEFINITE | AUXILIARIES | {"not", "each"}
"""First words that no article stands before."""
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
    loud quiet fast slow busy crowded urban rural indoor outdoor wooden metal metallic plastic glass stone
    brick human male female pregnant deaf blind drunk raised folded crossed outlined blurry sharp rusty fresh ripe
    raw frozen snowy icy rocky sandy grassy leafy fluffy hairy bearded barefoot naked bare asleep awake alive dead
    double triple ornate simple fancy formal casual colourful colorful monochrome opaque sparse dense partial whole
    half rainbow leftwards rightwards upwards downwards
""")
)
ALSO_NOUNS = _words("""
    human metal glass stone brick male female square oval rainbow half whole top bottom front back left right middle
    light dark double triple plastic orange gold silver pink rose olive lime violet
""")
ATTRIBUTIVE = _words("""
    left right upper lower top bottom front back rear central middle main half whole double triple
    leftwards rightwards
""")
"""Modifiers that need their noun: "make it a top hat", not "make it top"."""
NOT_ADJECTIVES = _words("more most less least better best further same such other done")
COMPOUND_NOUNS = ("fish", "seed", "weed", "table", "cable", "bread", "thread", "steed")
"""Nouns that end as adjectives do; what is joined to them is a noun, even if no dictionary has it."""
CAPITALISED = _words("""
    african american arabian arabic arab argentinian asian australian austrian aztec belgian brazilian british buddhist
    canadian catholic celtic chinese christian cuban danish dutch egyptian english european finnish french german greek
    gothic hindu hungarian indian indonesian iranian iraqi irish islamic israeli italian jamaican japanese jewish korean
    latin mayan mexican mongolian muslim nigerian norwegian pakistani persian peruvian polish portuguese roman russian
    scottish spanish swedish swiss syrian thai tibetan turkish ukrainian victorian vietnamese viking welsh
    monday tuesday wednesday thursday friday saturday sunday january february april june july august september october
    november december
""")
"""Words that keep their capital inside a sentence."""
PARTICIPLE_NOUNS = _words("""
    building buildings painting drawing ring king string wing ceiling clothing evening morning spring thing swing
    something nothing everything anything wedding meeting railing earring ping sing bring sling sibling duckling
    pudding stocking parking landing opening crossing gathering being lightning viking dumpling darling
""")
DIRECTIONS = _words("""
    up down left right forward backward backwards forwards upward downward upwards downwards north south east west
    away back clockwise anticlockwise counterclockwise together apart ahead upside sideways
""")
BARE_PLACES = _words("stage bed night sea space orbit flight fire work school home town front top uniform silhouette")
"""Nouns without an article behind in, on or at: in bed, at night."""
MASS = _words("""
    hair skin water snow ice grass sand rain fire smoke fog mist hay wood metal glass paper cloth clothing furniture
    food bread rice milk coffee tea wine beer juice butter cheese meat chicken fruit sugar salt blood dust dirt
    mud soil ground music art traffic jewelry jewellery luggage equipment machinery scenery vegetation foliage
    wildlife sunlight daylight moonlight lightning weather light darkness makeup text writing graffiti money gold
    silver steel iron stone attire apparel cotton wool leather plastic poultry tone sweat steam joy love
    energy waste electricity power information news mail luck knowledge research advice software hardware pollution
    hockey tennis badminton lacrosse soccer football basketball baseball volleyball rugby polo golf cricket chess judo
    karate gymnastics athletics skiing snowboarding surfing swimming rowing climbing cycling wrestling boxing fencing
    archery sailing bowling yoga knitting shopping
    pasta spaghetti sushi tofu pizza honey flour corn wheat oil petrol gasoline gas lava sewage seaweed coral ivory
    bamboo timber lumber silk velvet lace linen denim fur wax clay concrete marble granite asphalt pottery porcelain
    cutlery silverware lingerie footwear underwear debris rubble trash garbage rubbish litter thunder moss
    greenery ivy algae popcorn candy
""")
PLURALS = _words("""
    men women people children feet teeth mice geese sheep deer fish cattle police data media bacteria fungi oxen
    wolves leaves knives loaves they those these thumbs skis taxis
    headphones glasses sunglasses trousers pants jeans shorts scissors pliers binoculars goggles tongs chopsticks
    pyjamas pajamas earphones earbuds
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
    serve receive prepare build dig extend protrude emerge appear stage embark chase overlook illuminate
    decorate comprise consist march protest kick hit shake lift raise lower emit portray crouch scoop
""")
STRESSED_LAST = _words(
    "emit admit permit submit transmit commit begin forget regret occur refer prefer control propel travel label"
)
"""Verbs of two syllables that double their last letter."""


def gerund(base: str) -> str:
    """``running`` of ``run``, ``emitting`` of ``emit``."""
    if base in STRESSED_LAST:
        return base + base[-1] + "ing"
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


@lru_cache(maxsize=65_536)
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
"""Words for the same thing: they are compared as if they were the first of their line, but written as in the caption."""


@lru_cache(maxsize=65_536)
def is_plural(word: str) -> bool:
    """Whether lower-case noun ``word`` reads as a plural."""
    if word in PLURALS or word in SINGULARS_IN_S or word.endswith(("’s", "'s")):
        return word in PLURALS
    in_s = word.endswith("s") and len(word) > 3 and not word.endswith(("ss", "us", "is", "ics"))
    known = parts_of_speech.plural(word)
    return in_s if known is None else known


@lru_cache(maxsize=65_536)
def is_participle(word: str) -> bool:
    """Whether ``word`` reads as a present participle: running, holding."""
    return (
        word.endswith("ing") and len(word) > 4 and word not in PARTICIPLE_NOUNS and parts_of_speech.verb_in_ing(word) is not False
    )


@lru_cache(maxsize=65_536)
def is_verb_in_s(word: str) -> bool:
    """Whether ``word`` can be the verb of a singular subject: sits, ties."""
    return (
        word in GERUNDS
        or word.endswith("s")
        and not word.endswith(("ss", "’s", "'s"))
        and parts_of_speech.verb_in_s(word) is not False
    )


@lru_cache(maxsize=65_536)
def is_only_a_verb(word: str) -> bool:
    """Whether ``word`` is a verb of the present and hardly anything else: emits, portrays."""
    return word.isalpha() and parts_of_speech.only_a_verb(word)


@lru_cache(maxsize=65_536)
def is_present_verb(word: str) -> bool:
    """Whether ``word`` can be the verb of a plural subject: sit, tie."""
    return word in VERBS or parts_of_speech.present_verb(word) is True


@lru_cache(maxsize=65_536)
def may_be_finite(word: str) -> bool:
    """Whether lower-case ``word`` can be the verb of a sentence by any rule: most words of a caption cannot."""
    return word in GERUNDS or is_present_verb(word) or is_only_a_verb(word) or is_verb_in_s(word)


@lru_cache(maxsize=65_536)
def is_adjective(word: str) -> bool:
    """Whether lower-case ``word`` reads as an adjective or past participle; unknown words are nouns.

    >>> is_adjective("striped"), is_adjective("turntable")
    (True, False)
    """
    if word in ADJECTIVES:
        return True
    if word in NOT_ADJECTIVES or word.endswith("ing"):
        return False
    if "-" in word:
        last = word.rpartition("-")[2]
        return last in ADJECTIVES or last.endswith(("ed", "ing", "like")) and last not in COMPOUND_NOUNS
    known = parts_of_speech.adjective(word)
    if known is not None or word.endswith(COMPOUND_NOUNS):
        return known is True
    if word.endswith("ish"):  # orangish, but not garnish
        return bool({word[:-3], word[:-3] + "e", word[:-4]} & ADJECTIVES)
    return len(word) > 4 and word.endswith(("ed", "ful", "less", "ous", "able", "ible", "ical"))


@lru_cache(maxsize=65_536)
def keeps_capital(word: str) -> bool:
    """Whether lower-case ``word`` is written with a capital inside a sentence: Japanese, Ida."""
    return word in CAPITALISED or parts_of_speech.name(word)


@lru_cache(maxsize=65_536)
def article(word: str) -> str:
    """``a`` or ``an`` before ``word``.

    >>> [article(w) for w in ("apple", "unicorn", "hour", "X-ray", "18")]
    ['an', 'a', 'an', 'an', 'an']
    """
    word = word.lstrip("“\"'‘")
    lower = word.lower()
    if lower.startswith(_SILENT_H) or lower in ("11", "18"):
        return "an"
    if lower.startswith(_Y_OR_W_SOUND) and not lower.startswith(("unin", "unim", "unid", "unig")):
        return "a"
    if len(lower.split("-")[0]) == 1 or (word.isupper() and len(word) < 4):
        return "an" if lower[:1] in "aefhilmnorsx8" else "a"
    return "an" if lower[:1] in "aeiouàáâäåæèéêëìíîïòóôöøùúûü8" else "a"


_SILENT_H = ("hour", "honest", "heir", "honour", "honor")
_Y_OR_W_SOUND = tuple("uni use usu usa uten utop uter ural uran urin ukr uga eu ewe one once ufo uk usb url".split())


def plural(noun: str) -> str:
    """Regular plural of the last word of ``noun``."""
    if is_plural(noun.rpartition(" ")[2]):
        return noun
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "sh", "ch", "x")) else "s")
