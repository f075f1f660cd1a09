"""Which scripts and languages write words without spaces between them."""

# Scripts without spaces between words, and Hangul: Thai, Han, kana and bopomofo, their punctuation, full-width forms.
UNSPACED = "\u0e00-\u0e7f\u2e80-\u2fff\u3001-\u9fff\uac00-\ud7ff\uf900-\ufaff\ufe30-\ufe4f\uff01-\uffef\U00020000-\U0003ffff"
