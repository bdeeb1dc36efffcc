"""The checks of a model's texts one by one, at their borders: each speaks up where it is sure, and keeps the text otherwise."""

from __future__ import annotations

import pytest

from mmret.annotate.checks import all_copied, in_wrong_language, is_refusal, names_only_source, tells_source

CAPTION = "a small brown dog runs along the sandy beach at noon"


def test_one_text_of_its_own_among_copies_saves_the_answer_and_one_copy_among_others_does_not_spoil_it():
    assert all_copied((CAPTION,), (CAPTION, "a cat")) and all_copied((CAPTION, CAPTION.upper() + "."), ("a cat", CAPTION))
    assert not all_copied((CAPTION, "make the dog white and let it sleep"), (CAPTION,))
    assert not all_copied((), (CAPTION,)) and not all_copied((CAPTION,), ()) and not all_copied((CAPTION,), ("", " "))
    other = "two cats sleep on the old grey sofa in the evening light"
    assert all_copied((CAPTION, other), (CAPTION, other)), "each of another caption"


def test_a_copy_has_nine_words_of_ten_and_is_no_short_text():
    ten = "one two three four five six seven eight nine ten"
    assert all_copied((ten.replace("ten", "red"),), (ten,)) and not all_copied((ten.replace("nine ten", "red car"),), (ten,))
    assert all_copied(("five six seven one two three",), ("one two three five six seven",)), "in any order"
    assert not all_copied(("make it a red car",), ("make it a red car",)), "five words are too few to be sure"
    assert all_copied((ten + " more",), (ten,)) and not all_copied((ten + " and more",), (ten,))


@pytest.mark.parametrize(
    "text", ["I'm sorry, but I can't", "Sorry, no.", "As an AI model", "I cannot help", "Unfortunately, I can't", '"I am unable']
)
def test_a_refusal_is_known_by_how_it_begins(text):
    assert is_refusal(text) and not is_refusal("the sign says: " + text)


@pytest.mark.parametrize("text", ["A sorry dog", "make it an AI robot", "Unfortunate weather"])
def test_a_word_of_refusals_elsewhere_is_none(text):
    assert not is_refusal(text)


GERMAN = "der Hund und die Katze liegen auf dem Sofa und das Kind ist nicht im Zimmer"


def test_a_language_is_told_by_its_common_words_where_there_are_enough():
    assert in_wrong_language(GERMAN, "English") and not in_wrong_language(GERMAN, " german ")
    assert not in_wrong_language("der Hund und die Katze auf dem", "English"), "seven words are too few"
    assert in_wrong_language("der Hund und die Katze auf dem Sofa", "English"), "eight are enough"
    assert not in_wrong_language("Hund Katze Maus Haus Baum Auto Kind Ball", "English"), "no common word says anything"
    assert not in_wrong_language("der Hund und Katze Maus Haus Baum Auto Kind", "English"), "nor do two"
    assert not in_wrong_language(GERMAN, "Klingon")
    mixed = "the dog and the cat with the ball der die das und auf dem im zu von"
    assert not in_wrong_language(mixed, "English"), "more than a third of the best: not sure"


def test_a_script_tells_a_language_at_once():
    assert in_wrong_language("собака", "English") and not in_wrong_language("собака", "Russian")
    assert (
        in_wrong_language("собака", "Japanese")
        and not in_wrong_language("猫", "Japanese")
        and not in_wrong_language("猫", "Chinese")
    )
    assert in_wrong_language("a dog", "Greek") and not in_wrong_language("123 !", "Greek"), "no letter, no language"
    assert not in_wrong_language("кот is the name of the cat on the sofa", "English"), "by most of its letters"


DESCRIPTION = (
    "Both images show a dog on a beach. However, the Source Image shows a striped towel and a yellow bucket, "
    "whereas the Target Image shows a wooden boat."
)


def test_two_words_that_only_the_source_has_are_a_leak_unless_they_are_edited_away():
    assert tells_source("a dog beside a striped towel", DESCRIPTION, "English")
    assert not tells_source("a dog beside a towel", DESCRIPTION, "English"), "one may be chance"
    assert not tells_source("replace the striped towel by a boat", DESCRIPTION, "English")
    assert not tells_source("a dog beside a striped towel", DESCRIPTION, "German")
    assert not tells_source("a dog on a beach with a wooden boat", DESCRIPTION, "English")
    assert not tells_source("a dog beside a striped towel", "Both show a dog.", "English"), "no frame, nothing known"


def test_one_word_of_the_source_s_caption_alone_is_counted():
    source, target = "a dog beside a towel", "a dog beside a boat"
    assert names_only_source("the dog and a towel", source, target)
    assert not names_only_source("the dog and a boat", source, target) and not names_only_source("remove the towel", source, target)
    assert not names_only_source("it is on the one", "it is on the one", "a boat"), "words that tell nothing of a picture"
