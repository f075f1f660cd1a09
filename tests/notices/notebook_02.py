"""What notebook 02 says of its outputs."""

import re

import numpy as np


def what_does_a_model_read_instead_of_a_text(shown):
    assert shown.startswith("xxbos ")
    for marked in ("xxup loved", "xxmaj movie", "xxrep 3 o", "xxwrep 3 very"):
        assert f" {marked} " in shown


def where_in_the_text_did_a_token_come_from(shown):
    first, second, third = (shown[i] for i in range(3))
    assert (first["token"], first["start"], first["stop"]) == ("xxbos", 0, 0)
    assert (second["token"], third["token"], third["characters"]) == ("xxup", "no", "NO")
    # It shares the place of the word, and no character is given to two tokens.
    assert second["start"] == third["start"]


def which_words_get_an_id(vocab, store, printed):
    assert vocab[:2] == ["xxunk", "xxpad"]
    assert all(word.startswith("xx") for word in vocab[:9])
    assert vocab[-1] == "xxfake" and len(vocab) % 8 == 0
    assert f"{len(store.words):,} different words, {len(vocab):,} with an id" in printed


def how_does_a_sentence_become_numbers(shown, printed, by_hand, tokens):
    assert shown.loc["by hand"].tolist() == shown.loc["by the package"].tolist() == by_hand
    assert by_hand[tokens.index("dulltastic")] == 0
    assert f"({len(by_hand)},)" in printed


def how_many_words_are_enough(curves):
    train, valid = curves["tokens of train"], curves["tokens of valid"]
    assert np.abs(train - valid)[:100].max() < 0.03
    assert train[-1] - valid[-1] > 0.05
    assert train[-1] == 1 and valid[-1] < 0.99


def what_does_a_pretrained_model_know_of_our_words(vocab, both, store, rows, ids, start, printed):
    assert len(both) > 5 * len(vocab)
    counts = dict(zip(store.words, store.counts(rows["train"]), strict=True))
    assert any(counts.get(word) == 1 for word in both)
    assert any(word not in counts for word in both)
    n_new, share = re.search(r"(\d+) of them new to the start \(([\d.]+)%", printed).groups()
    own = ids.counts(rows["train"])
    new = [i for i, word in enumerate(both) if own[i] and word not in set(start.vocab)]
    assert int(n_new) == len(new)
    assert abs(float(share) - 100 * own[new].sum() / own.sum()) < 0.06
    assert f"{100 * own[0] / own.sum():.1f}% are not in the vocabulary" in printed


def what_does_a_language_model_see_in_one_step(shown, by_hand):
    x, y = (
        [[int(one) for one in row.split()] for row in part.split(" and ")]
        for part in re.search(
            r"which the model reads: ([\d and]+)\. .* token later: ([\d and]+)\.",
            shown.description,
        ).groups()
    )
    for row, target in zip(x, y, strict=True):
        assert row[1:] == target[:-1]
    assert x[0] == by_hand[: len(x[0])]


def how_is_a_batch_cut_from_all_texts(x, y, batch, printed, stream, shown):
    assert [block.tolist() for block in batch] == [x, y]
    assert "[[4, 12], [4, 12]] equal: True" in printed
    assert all(row[1:] == target[:-1] for row, target in zip(x, y, strict=True))
    assert stream[:12] == x[0] and stream[1:13] == y[0]
    assert not all(row.startswith("xxbos") for row in shown["x"])


def what_does_the_classifier_see(x, printed):
    lengths = (x != 1).sum(1).tolist()
    assert lengths == sorted(lengths, reverse=True) and lengths[0] == x.shape[1]
    assert all((row[:n] != 1).all() for row, n in zip(x, lengths, strict=True))
    assert f"{x.shape[1]} places" in printed


def break_it_what_if_somebody_types_a_special_token(read_by):
    fastais, ours = read_by["plain fastai"], read_by["this package"]
    assert "xxpad" in fastais and list(fastais).count("xxbos") == 2
    assert "xxpad" not in ours and list(ours).count("xxbos") == 1


def break_it_what_if_two_vocabularies_have_the_same_size(shown, same_words, same_places):
    assert "All keys matched successfully" in str(shown)
    assert same_words and not same_places


def how_much_does_it_break(perplexities, bundle):
    assert perplexities["shuffled"] > len(bundle.vocab) > 10 * perplexities["its own"]


def how_can_that_be_mended(printed):
    assert "another vocabulary than the language model's" in printed
    assert "would read every word as another" in printed and "Run " in printed
