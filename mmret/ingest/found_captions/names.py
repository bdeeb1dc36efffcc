"""Words in the name of a file or folder, for pictures that have no caption; nothing where the name says nothing.

Cameras, phones, messengers and crawlers name pictures by number, date, hash or place in a list; a person names them by what they
show, in any script. What is no word of a person is left out, and where only words that fit every picture are left ("photo",
"Screenshot", "untitled") the name says nothing. Costs some 20 us a name.
"""

from __future__ import annotations

import unicodedata

import regex

GENERIC = frozenset(
    # pictures, their kinds and what is done to them
    """image images img imgs photo photos photograph photographs fotos foto picture pictures pic pics bild bilder immagine imagen
    imagem imagenes imagens imatge afbeelding zdjecie obraz kep kuva fotografie obrazek slika resim gambar hinh anh screenshot
    screenshots screen shot screencap screengrab screenclip bildschirmfoto bildschirmaufnahme capture captura schermata
    schermafbeelding ecran écran pantalla tela ekran scan scans scanned scanner thumb thumbs thumbnail thumbnails preview cover icon
    original orig final edit edited copy copia kopie copie kopia cropped crop resized resize small medium large xl full hd hq hires
    lowres raw compressed optimized enhanced retouched web print export exported render rendered output result results collage
    portrait landscape panorama pano burst selfie wallpaper background avatar upload uploads uploaded download downloads downloaded
    received attachment attachments unnamed untitled noname unknown default temp tmp test sample samples example new file files
    document documents dokument doc page pages slide frame frames still video clip movie gif jpg jpeg png webp heic tif tiff bmp
    # cameras, phones, messengers and services
    dcim dsc camera canon nikon sony fuji fujifilm olympus panasonic pentax leica kodak casio samsung iphone pixel gopr gopro dji
    mavic whatsapp telegram signal instagram facebook snapchat tiktok twitter pinterest imgur flickr messenger fb ig wa wechat
    weixin mmexport qq line viber skype zoom lightroom photoshop gimp picasa lrm google microsoftteams msteams clipboard
    unsplash pexels pixabay shutterstock istock istockphoto getty gettyimages alamy freepik depositphotos roll snap snaps snip
    # data sets, folders and sets of them
    data dataset datasets corpus train training val valid validation eval set sets split part batch class classes category
    categories item items object objects instance instances id ids no num number index shard folder directory media assets static
    public album albums gallery galleries collection archive backup misc various other others stuff all my mine home user users
    desktop coco imagenet ilsvrc laion
    # no content of their own
    a an the of and or at on in to from by with for am pm um de la le el les los las un une une der die das den und et y e o i du da
    do von vom zu im am du à alle um uhr at
    # the same in other scripts
    图片 照片 截图 截屏 屏幕截图 屏幕快照 微信图片 微信截图 图像 相册 未命名 下载 扫描 相片 圖片 截圖 螢幕擷取畫面 螢幕截圖
    写真 画像 スクリーンショット 無題 名称未設定 ダウンロード スキャン 사진 이미지 스크린샷 화면 캡처 제목없음 다운로드
    фото изображение изображения картинка рисунок снимок экрана скриншот безымянный копия файл скан без имени
    صورة صور لقطة شاشة الشاشة תמונה צילום מסך รูปภาพ ภาพหน้าจอ ภาพ εικόνα φωτογραφία στιγμιότυπο οθόνης चित्र फोटो स्क्रीनशॉट""".split()
) - {"#"}
"""Words that fit any picture, in small letters."""

_SUFFIX = regex.compile(
    r"\.(?:a?png|jpe?g?|jfif|gif|webp|avif|bmp|dib|tiff?|jp2|j2k|p[pgbn]m|ico|hei[cf]|mpo|jxl|dng|cr2|nef|arw|psd)$", regex.I
)
_UUID = regex.compile(r"[0-9a-f]{8}(?:[-_]?[0-9a-f]{4}){3}[-_]?[0-9a-f]{12}", regex.I)
_ADDRESS = regex.compile(r"https?[:%]\S*|www\.\S*", regex.I)
_SIZE = regex.compile(r"\d+\s*[x×]\s*\d+(?:px)?|\d+(?:px|dpi|k|mp|mm|p)", regex.I)
_SEPARATORS = regex.compile(r"[\s_\-–—+=.,;:~#@!&%$^|/\\(){}\[\]<>'\"“”„«»‘’。、，：；（）【】「」《》・]+")
_HUMPS = regex.compile(r"(?<=\p{L}\p{Ll})(?=\p{Lu}\p{Ll})")
"""Between two words of a name in camel case: RedBarn, not iPhone."""
_CAMEL_CASE = regex.compile(r"[\p{L}\p{M}\ue000]+\d*")
_ENGLISH_GENITIVE = regex.compile(r"(?<=\p{L}{3})['’](?=s\b)", regex.I)
_NUMBERED = regex.compile(r"(\p{L}{3,}?)\d{1,4}")
"""A word with its number: cat12."""
_VOWELS = frozenset("aeiouyàáâãäåæèéêëìíîïòóôõöøùúûüýÿœāēīōūąęėįųůűőăâîıаеёиоуыэюяєіїαεηιουωάέήίόύώ")
_WITHOUT_SPACES = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
_OF_LETTERS = regex.compile(r"[\p{L}\p{M}\p{Join_Control}]+")
_LONGEST = 200


def words_of_name(name: str) -> str | None:
    """What the name of a file or folder says, as words with blanks between them; None where it says nothing.

    >>> [words_of_name(n) for n in ("red-barn_at-night (2).jpg", "IMG_0001.JPG", "Hund im Schnee.png", "20240101_120000.jpg")]
    ['red barn at night', None, 'Hund im Schnee', None]
    """
    text = unicodedata.normalize("NFC", name).strip()
    while stripped := _SUFFIX.search(text):
        text = text[: stripped.start()]
    for noise in (_ADDRESS, _UUID):
        text = noise.sub(" ", text)
    text = _ENGLISH_GENITIVE.sub("\ue000", text)
    kept: list[str] = []
    for part in _SEPARATORS.split(_SIZE_ALONE.sub(" ", text)):
        whole = part.casefold() in GENERIC or not _CAMEL_CASE.fullmatch(part)
        pieces = [part] if whole else _HUMPS.split(part)
        kept += [word for piece in pieces if (word := _word(piece))]
    if _SCREENSHOT.match(text) and len(_DIGITS.findall(text)) >= 6:
        return None  # the name of the program that was seen, at the most
    while kept and kept[0].casefold() in _CAMERA_CODES:
        kept.pop(0)
    if not any(_says_something(word) for word in kept):
        return None
    return " ".join(kept).replace("\ue000", "’")[:_LONGEST]


_SIZE_ALONE = regex.compile(rf"(?<![\p{{L}}\d])(?:{_SIZE.pattern})(?![\p{{L}}\d])", regex.I)
_SCREENSHOT = regex.compile(
    r"(?:screen[\s_-]?(?:shot|cap|grab|clip)|bildschirmfoto|capture|captura|schermata|scherm|snip|スクリーンショット|截屏|截图|屏幕|снимок|скриншот)",
    regex.I,
)
_DIGITS = regex.compile(r"\d")
_CAMERA_CODES = frozenset(
    "img dsc dscn dscf dscf dscs pict pic p cimg imgp imag mvimg pxl vid mov mvi gopr gx dji sam kif hpim sdc sl cam fuji _mg mg "
    "pano burst wp wa fb ig screenshot psx lrm".split()
)
"""What a camera or a phone writes before a number; left out in front of a person's words."""


def _word(piece: str) -> str | None:
    """``piece`` as a word, or None where it is a number, a code or a random string."""
    bare = piece.replace("\ue000", "")
    if numbered := _NUMBERED.fullmatch(bare):
        bare = piece = numbered[1]
    if not bare or not _OF_LETTERS.fullmatch(bare):
        if not _WITHOUT_SPACES.search(bare):
            return None
        bare = piece = regex.sub(r"[\d_]+", "", bare)  # the signs before and behind a number
        if not bare:
            return None
    if _WITHOUT_SPACES.search(bare) or not bare.isascii():
        return piece
    return None if _is_random(bare) else piece


def _is_random(word: str) -> bool:
    """Whether Latin letters are no word: no vowel in four or more, six consonants in a row, letters of both cases mixed up."""
    small = word.casefold()
    if len(word) >= 4 and not _VOWELS.intersection(small):
        return True
    if regex.search(r"[bcdfghjklmnpqrstvwxz]{6}", small):
        return True
    return len(word) >= 6 and bool(regex.search(r"\p{Ll}\p{Lu}.*\p{Ll}\p{Lu}|\p{Ll}\p{Lu}\p{Lu}+\p{Ll}", word)) or len(word) > 30


def _says_something(word: str) -> bool:
    """Whether a word says what is in a picture: more than one letter (or a sign that is a word), and not one that fits any."""
    small = word.casefold().replace("\ue000", "")
    if small in GENERIC or small in _CAMERA_CODES:
        return False
    return len(small) >= 3 or (len(small) >= 1 and not small.isascii() and bool(_WITHOUT_SPACES.search(small))) or small in _SHORT


_SHORT = frozenset("ox ax pc tv ey us uk eu".split())
"""English words of two letters that name what can be seen."""
