"""Texts to tokenize: many scripts, code, white space, controls, contractions; the same ones every time."""

from __future__ import annotations

import random

SURROGATES = range(0xD800, 0xE000)
# Samples are drawn character by character, so that what belongs together meets what does not.
ALPHABETS = (
    "The quick brown fox's isn't we'll you've they're I'm he'd ",
    "stmdrvle'SMTRVLE'ſ stop 'step 'rest 'lle ",
    "  \t\n\r\u3000\u00a0\x0b\x0c\x85\u2028ab1!'",
    "0123456789１２²½٣ a,.",
    "从前有一位公主，住在山里。「！",
    "مرحبا بالعالم ؟ العربية",
    "👩‍👩‍👧😀🇨🇳🏽\u200d\ufe0f ab",
    "{}()[];=+-*/_\"'<>|&\n    if return x1\t",
    "\x00\x01\x08\x1b\x1f\x7f\x80\x9f\ufeff\ufffd\ud7ff\ue000\U0010ffff a",
    "éñüßſK e\u0301 a\u0308\u0323",
    "हिन्दी क्ष นี่ 한국어 עברית ",
)
WHOLE = (
    "",
    " ",
    "\n",
    "Once upon a time, there was a princess who couldn't sleep.",
    "从前有一位公主，住在山里。她很美丽，可是不快乐！",
    "كان يا ما كان، في قديم الزمان، أميرة لا تنام.",
    "def f(x):\n    return [y ** 2 for y in range(x)]  # squares\n\n\nprint(f(12345))\n",
    " " * 300,
    "=" * 80 + "\n" + "-" * 79,
    "\n\n \n\t \r\n  x",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "👩‍👩‍👧‍👦 family, 🏴󠁧󠁢󠁥󠁮󠁧󠁿 flag",
    "<|endoftext|>",
    "a<|endoftext|> <|endoftext|><|endoftext|>\n<|endoftext",
    "''s'' 's 'S \t's\n's 1's !'s",
)


def texts(count: int, seed: int) -> list[str]:
    """So many texts: those above, then samples of one to three alphabets, or of all of Unicode."""
    chance = random.Random(seed)
    return [*WHOLE, *(_sample(chance) for _ in range(count - len(WHOLE)))]


def _sample(chance: random.Random) -> str:
    if chance.random() < 0.15:
        highest = 0x110000 if chance.random() < 0.5 else 0x3000
        points = [chance.randrange(highest) for _ in range(chance.randrange(1, 20))]
        return "".join(chr(point) for point in points if point not in SURROGATES)
    alphabets = chance.sample(ALPHABETS, chance.choice([1, 1, 2, 3]))
    text = "".join(chance.choice(chance.choice(alphabets)) for _ in range(chance.randrange(50)))
    return text + chance.choice(["", "", "", "<|endoftext|>", "<|endoftext|>  x"])
