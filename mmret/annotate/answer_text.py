"""Takes a model's answer out of what its maker wraps around it: thoughts, channels, boxes, turns, labels, quotes, numbers.

Every family of models has its own marks, and a server that does not know them passes them on. What is left in a text is trained on,
so nothing of it may stay. Works on the stored raw answer, so a mark that is learnt later costs no request. Costs some 10 us an
answer; linear in its length.
"""

from __future__ import annotations

import html
import re

_THOUGHT_NAMES = r"(?:seed:|longcat_)?(?:think(?:ing)?|thoughts?|reasoning|reflection|analysis|scratchpad|inner_monologue)"
_OPEN = re.compile(
    rf"<\|?(?:begin_of_|start_)?{_THOUGHT_NAMES}\|?>|\[(?:THINK(?:ING)?|REASONING)\]|◁think(?:ing)?▷|<unused94>(?:thought)?"
    r"|<\|channel>thought",
    re.IGNORECASE,
)
_CLOSE = re.compile(
    rf"<\|?(?:/|end_of_|end_){_THOUGHT_NAMES}\|?>|\[/(?:THINK(?:ING)?|REASONING)\]|◁/think(?:ing)?▷|<unused95>|<channel\|>",
    re.IGNORECASE,
)
_CHANNEL = re.compile(
    r"<\|channel\|>\s*(\w+)[^<]*(?:<\|[a-z]+\|>[^<]*)??<\|message\|>(.*?)(?=<\|(?:end|return|start|channel|call)\|>|\Z)", re.DOTALL
)
_BARE_CHANNELS = re.compile(r"\s*(?:analysis|commentary).*?assistant\s*final(?:\s*:)?", re.DOTALL)
"""The same where the server has taken the marks out and left the names."""

_ANSWER_NAMES = r"(?:final_)?(?:answer|response|output|result|solution|final|description)"
_ANSWER_OPEN = re.compile(rf"<\|?(?:begin_of_|start_)?(?:{_ANSWER_NAMES}|box)\|?>", re.IGNORECASE)
_ANSWER_CLOSE = re.compile(rf"<\|?(?:/|end_of_|end_)(?:{_ANSWER_NAMES}|box)\|?>", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\s*\{(?:\s*\\text\s*\{)?")

_MODEL_TURN = re.compile(
    r"<\|im_start\|>\s*assistant|<\|start_header_id\|>\s*assistant\s*<\|end_header_id\|>|<start_of_turn>\s*model|\[/INST\]"
    r"|<\|(?:assistant|start_of_role\|>assistant<\|end_of_role)\|>|<[|｜]Assistant[|｜]>|(?m:^\s*ASSISTANT:)|(?s:\A\s*USER:(?!.*\n\s*ASSISTANT:).{0,4000}?\bASSISTANT:)"
)
_TURN_ENDS = re.compile(
    r"<\|(?:im_end|eot_id|eom_id|end_of_text|endoftext|end|return|eos|end_of_turn|im_start|user|START_OF_TURN_TOKEN)\|>|</s>"
    r"|<(?:eos|end_of_turn|start_of_turn|end_of_utterance)>|\[INST\]|<[|｜]end▁of▁sentence[|｜]>",
    re.IGNORECASE,
)
_SPECIAL = re.compile(
    r"<[|｜][\w▁:/-]{1,40}[|｜]>|<(?:bos|pad|unk|s|eoa|eoh|image|img|image_?\d*|video|IMG_CONTEXT)>|</img>|<unused\d+>"
    r"|\[UNUSED_TOKEN_\d+\]|<image_(?:start|end|pad|soft_token)>",
    re.IGNORECASE,
)
_DETAILS = re.compile(r"<details\b.{0,8000}?</details>", re.DOTALL | re.IGNORECASE)
_FINALLY = re.compile(
    r"^[\s*_#>]*(?:(?:the |my )?final (?:answer|response|output|description|version)|answer|response)\s*[*_]*\s*"
    r"(?:[:：][*_]*|$)\s*",
    re.IGNORECASE | re.MULTILINE,
)
_BEGINS_THINKING = re.compile(
    r"[\s*_#>]*(?:thinking|thoughts?|reasoning|analysis|step[- ]by[- ]step)\b[^\n.]{0,40}(?:[:：]|\n)", re.IGNORECASE
)
"""A model without marks that writes its thoughts under one heading and its answer under another."""

_LABEL = re.compile(
    r"[\s*_#>]*(?:assistant|model|ai|bot|system|user"
    r"|(?:the |final |my )?(?:answer|response|output|description|summary|caption|comparison|result))"
    r"\s*[*_]*\s*[:：][*_]*\s*",
    re.IGNORECASE,
)
_LEAD_IN = re.compile(
    r"\s*(?:sure|certainly|of course|absolutely|okay|ok|here(?:['’]s| is| are)|below|based on)\b[^\n]{0,200}?"
    r"[:：]\**\s*(?:\n+|(?=[\"“*]*both\b))",
    re.IGNORECASE,
)
_HEADING = re.compile(r"\s*(?:#{1,6} [^\n]{1,80}|(?:\*\*|__)[^\n*_]{1,80}(?:\*\*|__)[:：]?[ \t]*(?=\n))\n+")
_OPENING = re.compile(r"\s*(?:sure|certainly|of course|absolutely|okay|ok|great)\b[^\n.!:：]{0,40}[!.]\s+(?=\S)", re.IGNORECASE)
_CLOSING = re.compile(
    r"(?:\s+(?:i hope (?:this|that)|(?:please )?let me know|feel free to|if you (?:need|have|would like|want)|would you like)\b"
    r"[^\n.!?]*[.!?]*)+\s*$",
    re.IGNORECASE,
)
_ONE_TAG = re.compile(r"\s*<(\w{1,20})>(.*)</\1>\s*", re.DOTALL)
_BULLET = re.compile(r"^[ \t]*[-*•]\s+", re.MULTILINE)
_BREAK = re.compile(r"<br\s*/?>|</?p>|(?<!\\)\\n", re.IGNORECASE)
_EXPLAINED = re.compile(r"(?:\*\*)?([\"“])(?P<text>[^\"”]{8,})[\"”](?:\*\*)?\s*(?:[-–—:(→]|[.,] ).+", re.DOTALL)
"""A quoted text with an explanation behind it."""
_FENCED = re.compile(r"```[\w-]*[ \t]*\n?(.*?)(?:```|\Z)", re.DOTALL)
_NUMBER = re.compile(
    r"\s*(?:[-*•·–—▪]\s+|[>#]+\s*|\(?\d{1,2}[.)](?!\d)\s*|\d{1,2}\s*:\s+|\[\d{1,2}\]\s*"
    r"|\**(?:search )?(?:quer(?:y|ies)|instructions?|option|text|q)\s*#?\d{0,2}\s*[:.)]\**\s+)",
    re.IGNORECASE,
)
_QUOTES = {
    '"': '"',
    "“": "”",
    "”": "”",
    "„": "“",
    "«": "»",
    "»": "«",
    "‹": "›",
    "「": "」",
    "『": "』",
    "`": "`",
    "'": "'",
    "‘": "’",
}


def final_text(raw: str) -> str:
    """What ``raw`` says when thinking is over; "" where it never is.

    >>> final_text("I compare the pictures.\\n</think>\\n\\nBoth images show a mug.")
    'Both images show a mug.'
    """
    text = raw
    if "<|channel|>" in text:
        said = [words for name, words in _CHANNEL.findall(text) if name == "final"]
        text = "\n".join(said) if said else text[: text.find("<|channel|>")]
    elif bare := _BARE_CHANNELS.match(text):
        text = text[bare.end() :]
    text = _without_thoughts(text)
    if turn := _MODEL_TURN.search(text):
        text = text[turn.end() :]
    text = text.lstrip()
    while (end := _TURN_ENDS.search(text)) and not text[: end.start()].strip():
        text = text[end.end() :]
    text = text[: end.start()] if end else text
    text = _DETAILS.sub("", text) if "</details>" in text else text
    if _BEGINS_THINKING.match(text) and (heads := list(_FINALLY.finditer(text))):
        text = text[heads[-1].end() :]
    return _SPECIAL.sub("", _answer_inside(text)).strip()


def without_echo(text: str, asked: str) -> str:
    """``text`` without a repetition of the prompt, which ends in ``asked``."""
    at = text.rfind(asked) if asked else -1
    return text[at + len(asked) :].strip() if at >= 0 else text


def plain(text: str) -> str:
    """``text`` of a description on one line, without labels, lead-ins, fences, emphasis and quotes around it."""
    fenced = _FENCED.search(text)
    if fenced and fenced[1].strip():
        text = fenced[1]
    if tag := _ONE_TAG.fullmatch(text):
        text = tag[2]
    text = html.unescape(_BREAK.sub(" ", text))
    for pattern in (_LEAD_IN, _OPENING, _HEADING, _LABEL):
        found = pattern.match(text)
        text = text[found.end() :] if found and text[found.end() :].strip() else text
    text = _BULLET.sub("", _CLOSING.sub("", text) or text)
    return unquoted(" ".join(_unemphasised(text).split())).strip()


def plain_item(text: str) -> str:
    """One instruction without the number, bullet, label, quotes, comma or emphasis that it stood with in a list."""
    text = " ".join(_unemphasised(text).split())
    if explained := _EXPLAINED.fullmatch(text):
        text = explained["text"]
    for _ in range(3):  # a number may stand within quotes, and quotes behind a number
        before = text
        numbered = _NUMBER.match(text)
        text = text[numbered.end() :] if numbered and text[numbered.end() :].strip() else text
        text = unquoted(text.strip().rstrip(",;").strip())
        if text == before:
            break
    return text


def unquoted(text: str) -> str:
    """``text`` without quotes that enclose the whole of it, or that stand at one end only."""
    text = text.strip()
    while len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and _encloses(text):
        text = text[1:-1].strip()
    for quote in '"“”':
        if text.count('"') + text.count("“") + text.count("”") == 1:
            text = text.strip(quote).strip()
    return text


def _encloses(text: str) -> bool:
    """Whether the quote at the start of ``text`` is closed by that at its end, not by one before."""
    inner = text[1:-1]
    at = inner.find(text[-1])
    while at >= 0:
        after, before = inner[at + 1 : at + 2], inner[at - 1 : at]
        if text[0] == "'" and after.isalpha() and before.isalpha():
            at = inner.find(text[-1], at + 1)  # an apostrophe
            continue
        return not (after == "" or not after.isalnum()) or inner.count(text[-1]) % 2 == 0 and before.isspace()
    return True


def _unemphasised(text: str) -> str:
    text = re.sub(r"(?<!\w)__(?=\S)|(?<=\S)__(?!\w)", "", text.replace("**", "")).strip()
    return text[1:-1] if len(text) > 2 and text[0] == text[-1] and text[0] in "*_" and text.count(text[0]) == 2 else text


def _without_thoughts(text: str) -> str:
    """The last stretch of ``text`` outside of thoughts; a thought that is only closed began with the text."""
    marks = [(m.start(), m.end(), True) for m in _OPEN.finditer(text)]
    marks = sorted(marks + [(m.start(), m.end(), False) for m in _CLOSE.finditer(text)])
    said: list[str] = []
    at, thinking = 0, False
    for start, end, opens in marks:
        if opens and not thinking:
            said.append(text[at:start])
        elif not opens and not thinking:
            said.clear()
        at, thinking = end, opens
    if not thinking:
        said.append(text[at:])
    return next((part for part in reversed(said) if part.strip()), "")


def _answer_inside(text: str) -> str:
    opens = list(_ANSWER_OPEN.finditer(text))
    if opens:
        inside = text[opens[-1].end() :]
        closed = _ANSWER_CLOSE.search(inside)
        text = inside[: closed.start()] if closed else inside
    text = _ANSWER_CLOSE.sub("", text)
    boxed = None
    for boxed in _BOXED.finditer(text):  # noqa: B007 - the last one counts
        pass
    return _balanced(text[boxed.end() :], boxed[0].count("{")) if boxed else text


def _balanced(text: str, depth: int) -> str:
    """``text`` up to where ``depth`` braces that are open before it are closed."""
    first = len(text)
    levels = depth
    for at, char in enumerate(text):
        levels += (char == "{") - (char == "}")
        if levels < depth:
            first = at
            break
    return text[:first]
