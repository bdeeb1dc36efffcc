"""What makes a model's text unusable although it is well formed: refused, in another language, leaking, copied.

Word lists and set operations only, so that the parser stays cheap enough to re-read millions of stored answers (about
20 us each). Each check errs on the side of keeping the text: it speaks up where it is sure.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache

from mmret.annotate.backends.captions import lexicon

_REFUSAL = re.compile(
    r"^\W*(?:i['’]?m (?:very )?sorry|sorry,|i apologi[sz]e|as an? (?:\w+[- ])*(?:ai|llm|language model|assistant)\b"
    r"|je suis désolé|es tut mir leid|lo siento|抱歉|很抱歉|对不起|申し訳|죄송|извините|к сожалению"
    r"|(?:unfortunately, )?i(?: am|['’]m)? (?:can(?:no|['’])t|unable|not able)|i (?:won['’]t|will not) be able"
    r"|i do(?:n['’]t| not) (?:have (?:the ability|access)|feel comfortable|(?:actually )?see (?:any|the|an?) (?:images?|pictures?))"
    r"|i (?:must|have to) decline|this (?:content|request|image) (?:may |might )?(?:violates?|goes against)"
    r"|(?:it (?:seems|looks|appears)(?: like| that| as if)* )?(?:there (?:is|are|were|was) )?no (?:images?|pictures?|photos?) "
    r"(?:were|was|is|are|has been|have been)?\s*(?:provided|attached|uploaded|included|visible|available|given)"
    r"|(?:could you )?please (?:provide|upload|share|attach) (?:the|both|two|your)(?: \w+){0,2} (?:images?|pictures?|photos?)\b)",
    re.IGNORECASE,
)

_CHANGE = re.compile(
    r"\b(?:instead of|rather than|replac\w+|chang\w+|swap\w*|remov\w+|tak\w+ (?:away|off|out)|without|no|not|no longer"
    r"|lose|drop|leav\w+ out|delet\w+|turn\w*|make (?:the|its|his|her|their)|from|convert\w*|transform\w*|free of|minus"
    r"|less|fewer|rid|strip)\b",
    re.IGNORECASE,
)

_SCRIPTS = {
    "CJK": "chinese japanese",
    "HIRAGANA": "japanese",
    "KATAKANA": "japanese",
    "HANGUL": "korean",
    "CYRILLIC": "russian ukrainian bulgarian serbian",
    "ARABIC": "arabic persian urdu",
    "DEVANAGARI": "hindi marathi nepali",
    "GREEK": "greek",
    "HEBREW": "hebrew",
    "THAI": "thai",
    "BENGALI": "bengali",
    "TAMIL": "tamil",
}
_STOPWORDS = {
    "english": "the a an and of with in on is it to but same one this instead from for without at",
    "german": "der die das und mit ein eine ist nicht von zu auf den dem im anstatt ohne aber für wie",
    "french": "le la les et avec un une est pas de des du dans sur mais sans pour au qui plus",
    "spanish": "el la los las y con un una es no de del en sobre pero sin para por más lo",
    "italian": "il lo la gli e con un una è non di del nella su ma senza per che più dei",
    "portuguese": "o a os as e com um uma é não de do da em sobre mas sem para por mais",
    "dutch": "de het een en met is niet van op in maar zonder voor aan dat te bij",
}
_STOPS = {name: frozenset(words.split()) for name, words in _STOPWORDS.items()}
_WORD = re.compile(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*")
_SIDES = re.compile(r"source image\b(.*?)\b(?:whereas|while|but|and)?\s*(?:the )?target image\b(.*)", re.IGNORECASE | re.DOTALL)
_COPY_WORDS = 6
"""A text shorter than this is no copy, however alike it is to a caption."""


def is_refusal(text: str) -> bool:
    """Whether ``text`` begins as a refusal does."""
    return bool(_REFUSAL.match(text))


def in_wrong_language(text: str, language: str) -> bool:
    """Whether ``text`` is surely not in ``language`` (its English name); False for languages not known here."""
    wanted = language.strip().casefold()
    script = _script(text)
    native = {s for s, names in _SCRIPTS.items() if wanted in names.split()}
    if native:
        return script is not None and script not in native
    if wanted not in _STOPS:
        return False
    if script not in (None, "LATIN"):
        return True
    words = [w.casefold() for w in _WORD.findall(text)]
    if len(words) < 8:
        return False
    hits = {name: sum(w in stops for w in words) for name, stops in _STOPS.items()}
    best = max(hits, key=lambda n: hits[n])
    return hits[best] >= 3 and hits[wanted] * 3 < hits[best]


def _script(text: str) -> str | None:
    """Script of most letters of ``text``."""
    counts: dict[str, int] = {}
    for char in text[:400]:
        if char.isalpha():
            name = "LATIN" if char.isascii() else unicodedata.name(char, "?").split(" ")[0]
            counts[name] = counts.get(name, 0) + 1
    return max(counts, key=lambda n: counts[n]) if counts else None


def all_copied(texts: tuple[str, ...], captions: tuple[str, ...]) -> bool:
    """Whether every text is one of the captions again, or all but all of its words."""
    originals = [w for c in captions if (w := _words(c))]
    return bool(texts) and all(any(_copies(_words(t), original) for original in originals) for t in texts)


def _copies(words: tuple[str, ...], original: tuple[str, ...]) -> bool:
    if len(words) < _COPY_WORDS or abs(len(words) - len(original)) > len(original) // 10:
        return False
    return (Counter(words) & Counter(original)).total() >= 0.9 * max(len(words), len(original))


@lru_cache(maxsize=4096)
def _words(text: str) -> tuple[str, ...]:
    return tuple(w.casefold() for w in _WORD.findall(text))


def tells_source(instruction: str, description: str, language: str) -> bool:
    """Whether ``instruction`` tells what, by the description's frame, only the source has, outside of an edit of it.

    Two such words are a leak; one may be a word that both pictures share and the description names once. Only for
    English, whose edit words are known here.
    """
    if language.casefold() != "english" or _CHANGE.search(instruction):
        return False
    return len(set(_words(instruction)) & _only_source(description)) >= 2


def names_only_source(instruction: str, source: str, target: str) -> bool:
    """Whether ``instruction`` has a content word of the source's caption that the target's has not, outside of an edit of it.

    Stricter than :func:`tells_source`, since a caption names few things: meant for counting, not for rejecting.
    """
    if _CHANGE.search(instruction):
        return False
    return bool(set(_words(instruction)) & (set(_words(source)) - set(_words(target)) - _plain()))


@lru_cache(maxsize=1)
def _plain() -> frozenset[str]:
    """Words that tell nothing of a picture."""
    return frozenset(
        {
            *_STOPS["english"],
            *lexicon.AUXILIARIES,
            *lexicon.LOCATIVE,
            *lexicon.GERUNDS,
            *lexicon.VERBS,
            *lexicon.NUMBERS,
            *"all any some both each every only more most other than very so also into onto out up down off be".split(),
            *"image has shows its their which that".split(),
        }
    )


@lru_cache(maxsize=4096)
def _only_source(description: str) -> frozenset[str]:
    sides = _SIDES.search(description)
    if sides is None:
        return frozenset()
    before = description[: sides.start()]
    source, target = (set(_words(side)) for side in sides.groups())
    return frozenset(source - target - set(_words(before)) - _plain())
