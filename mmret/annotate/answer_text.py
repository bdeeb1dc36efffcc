"""Takes a model's answer out of what its maker wraps around it: thoughts, channels, boxes, turns, labels, quotes, numbers.

Every family of models has its own marks, and a server that does not know them passes them on. What is left in a text is trained on,
so nothing of it may stay. Works on the stored raw answer, so a mark that is learnt later costs no request. Costs some 10 us an
answer; linear in its length.
"""

from __future__ import annotations

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
    r"|<\|(?:assistant|start_of_role\|>assistant<\|end_of_role)\|>|<[|｜]Assistant[|｜]>|(?m:^\s*ASSISTANT:)"
)
_TURN_ENDS = re.compile(
    r"<\|(?:im_end|eot_id|eom_id|end_of_text|endoftext|end|return|eos|end_of_turn|im_start|user|START_OF_TURN_TOKEN)\|>|</s>"
    r"|<(?:eos|end_of_turn|start_of_turn|end_of_utterance)>|\[INST\]|<[|｜]end▁of▁sentence[|｜]>",
    re.IGNORECASE,
)
_SPECIAL = re.compile(r"<[|｜][\w▁:/-]{1,40}[|｜]>|<(?:bos|pad|unk|s)>|<unused\d+>")

_LABEL = re.compile(
    r"[\s*_#>]*(?:assistant|model|ai|bot|system|user|(?:the |final |my )?(?:answer|response|output|description|summary|caption))"
    r"\s*[*_]*\s*[:：][*_]*\s*",
    re.IGNORECASE,
)
_LEAD_IN = re.compile(
    r"\s*(?:sure|certainly|of course|absolutely|okay|ok|here(?:['’]s| is| are)|below|based on)\b[^\n]{0,200}?"
    r"[:：]\**\s*(?:\n+|(?=[\"“*]*both\b))",
    re.IGNORECASE,
)
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
    for pattern in (_LEAD_IN, _LABEL):
        found = pattern.match(text)
        text = text[found.end() :] if found and text[found.end() :].strip() else text
    return unquoted(" ".join(_unemphasised(text).split())).strip()


def plain_item(text: str) -> str:
    """One instruction without the number, bullet, label, quotes, comma or emphasis that it stood with in a list."""
    text = " ".join(_unemphasised(text).split())
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
    return re.sub(r"(?<!\w)__(?=\S)|(?<=\S)__(?!\w)", "", text.replace("**", ""))


def _without_thoughts(text: str) -> str:
    closes = list(_CLOSE.finditer(text))
    opened = _OPEN.search(text)
    if closes:
        after = text[closes[-1].end() :]
        unclosed = _OPEN.search(after)
        after = after[: unclosed.start()] if unclosed else after
        if after.strip() or opened is None or opened.start() > closes[-1].start():
            return after
    return text[: opened.start()] if opened else text


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
