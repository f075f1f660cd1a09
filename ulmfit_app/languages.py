"""Which scripts and languages write words without spaces between them."""

# Scripts without spaces between words, and Hangul: Thai, Han, kana and bopomofo, their
# punctuation, full-width forms. What stands between the brackets of a regular expression.
UNSPACED = (
    "\u0e00-\u0e7f\u2e80-\u2fff\u3001-\u9fff\uac00-\ud7ff"
    "\uf900-\ufaff\ufe30-\ufe4f\uff01-\uffef\U00020000-\U0003ffff"
)

# Languages without spaces between words, so that what stands between two spaces is a sentence.
WITHOUT_SPACES = {"zh", "ja", "th", "lo", "km", "my"}
# Those of them that spaCy cuts into words or characters, so that no space stood between tokens. In
# the others a token is what stood between two spaces, which a text made of tokens has to keep.
SEGMENTED = {"zh", "ja", "th"}
