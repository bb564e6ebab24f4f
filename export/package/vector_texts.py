"""The texts that vectors are made of: hard ones for tokenizers, and prompts to continue."""

from __future__ import annotations

from collections.abc import Sequence

PROMPTS = (
    "Once upon a time there was a king who had three daughters, and the youngest of them",
    "The old woman opened the door of the little house and said:",
    "In the middle of the dark forest there stood",
    "“Dear mother,” said the boy, “",
    "Every morning the fisherman went down to the sea, and",
    "There were once a man and a woman who had long wished for a child, but",
    "Water is made of two parts",
    "1, 2, 3, 4,",
)

TOKENIZER_TEXTS = (
    "",
    " ",
    "Hello, world!",
    "hello",
    " hello",
    "hello ",
    "  two  spaces   three    four",
    "a\nb\n\nc\r\nd\te",
    "line one \n  indented\n\n\n end\n",
    "\t\ttabs\t",
    "I'm you're he'd we'll they've it's DON'T o'clock 'tis 's 'S",
    "don't,can't;won't'''",
    "1 22 333 4444 55555 3.14159 1,000,000 0x1F 1e-5 ½ ² ٣٤ 一二",
    "snake_case camelCase kebab-case __init__ SCREAMING",
    "def f(x: int) -> int:\n    return x ** 2  # comment\n",
    '{"key": [1, 2.5e-3, null], "b": "\\u00e9"}',
    "<html><body class='x'>&nbsp;</body></html>",
    "https://example.org/path?query=1&other=%20#part",
    "!!!???...---===***///\\\\\\",
    "naïve café Ångström ﬁ ß İstanbul ǅ",
    "e\u0301 e\u0301e\u0301 a\u0308\u0304",
    "从前有一个国王，他有三个女儿。",
    "北京 2026 年 11 月",
    "こんにちは、世界。カタカナ",
    "안녕하세요 세계",
    "في قديم الزمان كان هناك ملك",
    "שלום עולם",
    "Жил-был царь, и было у него три дочери.",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "🙂 😀😀 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷",
    "x🙂y 中🙂文",
    "∑∫√≈≠ €£¥ ™©®",
    "\u00a0nbsp\u00a0 \u2003em\u2003 \u3000ideographic\u3000",
    "\u200bzero\u200dwidth\ufeff",
    "\u0000\u0001\u001f\u007f\u0080\u009f",
    "\ufffd \uffff \U0010ffff \ue000",
    "𝕸𝖆𝖙𝖍 𐍈 𓀀",
    "a" * 70,
    "ha" * 40,
    "the quick brown fox jumps over the lazy dog " * 4,
    "Mixed中文and English和العربية🙂.",
)


def special_texts(added_tokens: Sequence[str]) -> list[str]:
    """Texts with the tokenizer's first few added tokens in them: they are recognized in any text."""
    return [text for token in added_tokens[:3] for text in (token, f"a{token}b", f"a {token} b{token}{token}")]
