"""Real words in the language of the text: coherent sentences in many languages are real, letters at random in none."""

import random
import string

import numpy as np
import pandas as pd
import pytest
from spellchecker import SpellChecker

from emotrace.judges import regimes
from emotrace.judges.real_words import NOT_TESTED, REAL, real_words
from emotrace.whatif.results import Side

COHERENT = {
    "fr": [
        "La porte s'ouvrit lentement et l'enfant entra dans la chambre obscure, sans faire de bruit.",
        "Je ne sais pas pourquoi elle est partie si tôt, mais j'espère qu'elle reviendra bientôt.",
        "Qu’est-ce que tu veux que je te dise ? Il faudrait recommencer depuis le début.",
        "Marie ouvrit la lettre de Jean et se mit à pleurer.",
    ],
    "de": [
        "Die Tür öffnete sich langsam, und das Kind trat leise in das dunkle Zimmer.",
        "Der Arzt hatte ihm gesagt, er solle warten, also wartete er, die Hände auf den Knien.",
        "Es ist ein schöner Herbsttag; die Blätter fallen und der Wind weht sanft.",
        "Die Krankenschwester wechselte den Verband und schaute auf die Wanduhr über der Kellertreppe.",
    ],
    "es": [
        "Anoche cenamos con mis padres en el restaurante y después volvimos a casa andando junto al río.",
        "No sé por qué se fue tan pronto, pero espero que vuelva enseguida.",
        "¿Qué quieres que te diga? Tendríamos que empezar otra vez desde el principio.",
        "María abrió la carta de Juan y se echó a llorar.",
    ],
    "it": ["Non so perché sia andata via così presto, ma spero che torni subito.", "È una bella giornata d'autunno."],
    "pt": ["Não sei por que ela foi embora tão cedo, mas espero que volte logo.", "O vento sopra devagar sobre o rio."],
    "nl": ["Ik weet niet waarom ze zo vroeg is vertrokken, maar ik hoop dat ze snel terugkomt."],
    "lv": ["Es nezinu, kāpēc viņa aizgāja tik agri, bet es ceru, ka viņa drīz atgriezīsies."],
    "eu": ["Ez dakit zergatik joan den hain goiz, baina laster itzuliko dela espero dut."],
    "ru": [
        "Дверь медленно открылась, и ребёнок тихо вошёл в тёмную комнату.",
        "Вчера вечером мы ужинали с моими родителями в ресторане, а потом пошли домой пешком вдоль реки.",
        "Что ты хочешь, чтобы я тебе сказал? Нам пришлось бы начать всё сначала.",
        "Мария открыла письмо от Ивана и заплакала.",
    ],
    "ar": [
        "فتح الباب ببطء ودخل الطفل إلى الغرفة المظلمة دون أن يصدر أي صوت.",
        "لا أعرف لماذا غادرت مبكرا جدا لكنني أتمنى أن تعود قريبا.",
        "فتحت مريم رسالة يوسف وبدأت تبكي.",
    ],
    "fa": ["در به آرامی باز شد و کودک بی‌صدا وارد اتاق تاریک شد."],
}
NO_DICTIONARY = [
    "门慢慢地开了，孩子悄悄地走进了黑暗的房间。",
    "我喜欢用 Python 写代码，因为它很简单。",
    "ドアがゆっくりと開き、子どもは静かに暗い部屋に入った。",
    "문이 천천히 열리고 아이가 조용히 어두운 방으로 들어왔다.",
    "Η πόρτα άνοιξε αργά και το παιδί μπήκε αθόρυβα στο σκοτεινό δωμάτιο.",
    "הדלת נפתחה לאט והילד נכנס בשקט לחדר החשוך.",
    "दरवाज़ा धीरे से खुला और बच्चा चुपचाप अँधेरे कमरे में आया।",
    "ประตูค่อยๆ เปิดออกและเด็กก็เดินเข้าไปในห้องมืด",
    "Bonjour, comment allez-vous ce matin ? 你好，你今天早上怎么样？",  # one language after the other
    "The doctor said that she could go home. Врач сказал ему подождать.",
]
MEASURES = {"n_tokens": 30, "longest_loop": 0.1, "distinct_2": 0.95, "perplexity_ratio": 1.0}


def regime(text, prompt=""):
    return regimes.label(pd.DataFrame([MEASURES | {"real_words": real_words(text, prompt)}]))[0]


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("The children walked home along the river.", 1.0),
        ("xqzvk brrplt wrtzz", 0.0),
        ("The xqzvk walked brrplt", 0.5),
        ("He didn't go, and they're late", 1.0),
        ("He didn’t go, and they’re late", 1.0),
        ("她很高兴", np.nan),
        ("The house 她很", 0.5),  # scraps: each character is a word, none of them English
        ("12 + 30 = 42 !!", 1.0),
        ("", 1.0),
        ("THE River", 1.0),
        ("A) 5\nB) 100\nC) 300", 1.0),  # the English dictionary has every single letter
        ("Die Tu\u0308r o\u0308ffnete sich, und das Ma\u0308dchen trat leise ein.", 1.0),  # letter and accent apart
        ("Дверь открылась xqzvk brrplt wrtzz qqwx", 0.0),
    ],
)
def test_the_share_of_real_words(text, share):
    assert real_words(text) == pytest.approx(share, nan_ok=True)


@pytest.mark.parametrize("language", COHERENT)
def test_coherent_text_is_real_in_its_own_language(language):
    for text in COHERENT[language]:
        assert real_words(text) >= REAL
        assert regime(text) == regimes.SURGICAL


@pytest.mark.parametrize("text", NO_DICTIONARY)
def test_where_no_dictionary_applies_the_test_is_left_out(text):
    assert np.isnan(real_words(text))
    assert regime(text) == regimes.SURGICAL


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("Drzwi powoli się otworzyły i", "dziecko cicho weszło do ciemnego pokoju."),
        ("Dörren öppnades långsamt, och", "barnet gick tyst in i det mörka rummet."),
        ("Двері повільно відчинилися, і", "дитина тихо увійшла в темну кімнату."),
    ],
)
def test_a_prompt_whose_language_has_no_dictionary_leaves_the_test_out(prompt, text):
    assert np.isnan(real_words(text, prompt))
    assert regime(text) == regimes.EXPLOSIVE  # by itself it could be scraps as well
    assert regime(text, "The door opened slowly, and") == regimes.EXPLOSIVE


def words(rng, letters, longest=8, n=20):
    return " ".join("".join(rng.choices(letters, k=rng.randint(1, longest))) for _ in range(n))


def soup(rng):
    """Scraps of many scripts in turn."""
    parts = (string.ascii_lowercase, "бвгджзклмнпрстаеиоу", "ابتثجحخدذرزسشصضطظ", "的回避看得最適我你她")
    return " ".join(words(rng, rng.choice(parts), 6, 1) for _ in range(20))


def of_all_languages(rng):
    """Words drawn from seven dictionaries."""
    known = [sorted(SpellChecker(language=name).word_frequency.dictionary) for name in ("en", "fr", "de", "es", "nl")]
    return lambda: " ".join(rng.choice(rng.choice(known)) for _ in range(20))


@pytest.mark.parametrize(
    "letters",
    [
        string.ascii_lowercase,
        string.ascii_lowercase + "éèàäöüßçñ",
        "абвгдежзийклмнопрстуфхцчшщъыьэюя",
        "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    ],
)
def test_letters_at_random_are_explosive_in_every_script_that_has_a_dictionary(letters):
    rng = random.Random(0)
    for _ in range(100):
        assert regime(words(rng, letters)) == regimes.EXPLOSIVE
    short = [regime(words(rng, letters, n=4)) for _ in range(200)]
    assert short.count(regimes.EXPLOSIVE) >= 190  # four short ones may spell words


def test_scraps_of_many_scripts_and_words_of_many_languages_are_explosive():
    rng = random.Random(1)
    mixed = of_all_languages(rng)
    for _ in range(100):
        assert regime(soup(rng)) == regimes.EXPLOSIVE
        assert regime(mixed()) == regimes.EXPLOSIVE


@pytest.mark.parametrize(
    "text",
    [
        "went slud or went liveled-led. and monid goledled wentledledled",
        "started reading a start-spoore-comforter-soramute-sonéblon-s",
        "ationingly joyfulness-es theallying prepoz umumum gole sonebl",
        "laughs кри vidrio レ rappresent 객 ộc bony erows жд",
    ],
)
def test_scraps_that_steering_gave_stay_explosive(text):
    assert regime(text, "The old woman closed the book, and she") == regimes.EXPLOSIVE


def test_names_and_code_keep_what_english_says():
    dictionary = set(SpellChecker(language="en").word_frequency.dictionary)
    for text in ("Akiko Nakamura met Oluwaseun and Siobhan", "def fit(xs): return np.dot(xs, ws) + bias"):
        found = "".join(letter if letter.isalpha() else " " for letter in text.lower()).split()
        assert real_words(text) == pytest.approx(sum(word in dictionary for word in found) / len(found))


def test_english_keeps_its_number_exactly():
    dictionary, rng = set(SpellChecker(language="en").word_frequency.dictionary), random.Random(2)
    english = "The doctor had told him to wait, so he waited with both hands on his knees".lower().replace(",", "")
    for broken in range(5):
        text = " ".join(english.split()[broken:] + [words(rng, "bcdfgxz", 6, 1) + "q" for _ in range(broken)])
        share = sum(word in dictionary for word in text.split()) / len(text.split())
        assert real_words(text) == share


def test_a_what_if_says_where_no_dictionary_was_asked():
    chinese, english = (
        Side("plain", text, 12, regime(text), 1.0, None, real_words(text)).summary()
        for text in (NO_DICTIONARY[0], "She waited for him.")
    )
    assert chinese == f"surgical; 12 tokens; {NOT_TESTED}"
    assert english == "surgical; 12 tokens"
