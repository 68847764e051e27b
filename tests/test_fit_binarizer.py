"""chamfer.training.fit_binarizer on small data; what needs torch is skipped by name without it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from chamfer import CorruptIndexError, LearnedReducer, RecurrentBinarizer, TokenVectors, sdc_topk
from chamfer.data import load_stdlib
from chamfer.training import binarizer as module
from chamfer.training import fit_binarizer
from test_binarizer import assert_same_codes, random_binarizer


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is not installed")


def made_up(n=400, dim=24, seed=0):
    """Vectors around twenty centres, off the origin, the first columns longer than the last."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(99).standard_normal((20, dim))
    x = centers[rng.integers(0, 20, n)] + 0.7 * rng.standard_normal((n, dim)) + 0.5
    return (x * np.linspace(2, 0.3, dim)).astype(np.float32)


X = made_up()
SMALL = {"bits": 48, "epochs": 3, "num_threads": 1}


def exact_topk(queries, x, k=10):
    return np.argsort(-(queries @ x.T), axis=1, kind="stable")[:, :k]


def recall(queries, codes, exact, depth):
    found = sdc_topk(queries, codes, depth)[1]
    return float(np.mean([np.isin(best, rows).mean() for best, rows in zip(exact, found, strict=True)]))


# ── arguments ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_torch_the_error_names_the_extra(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError")
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
import numpy as np
from chamfer.training import fit_binarizer
try:
    fit_binarizer(np.random.default_rng(0).standard_normal((100, 4)), bits=8)
except ModuleNotFoundError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == 'chamfer.training needs torch: pip install "chamfer[training]"'


def with_number(value, row=3, column=5):
    x = X.copy()
    x[row, column] = value
    return x


CONSTANT = X.copy()
CONSTANT[:, 7] = 0.25
OLD = random_binarizer(24, 24, 1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": X[0]}, ValueError, r"^x: expected shape \(n, dim\), got \(24,\)"),
        ({"x": X.astype(str)}, TypeError, "^x: expected numbers, got <U"),
        ({"x": X[:63]}, ValueError, "^x: expected at least 64 rows to learn from, got 63"),
        ({"x": with_number(np.nan)}, ValueError, "^x: expected finite numbers, got nan in row 3"),
        ({"x": CONSTANT}, ValueError, "^x: expected columns that vary, got the same number in all rows of column 7"),
        ({"bits": 0}, ValueError, "^bits: expected at least 1, got 0"),
        ({"bits": "48"}, TypeError, "^bits: expected an int, got str"),
        ({"bits": 49}, ValueError, r"^bits: expected a multiple of 2 \(loops=1\), got 49"),
        ({"bits": 2**18}, ValueError, "^bits: expected at most 65536 for each stage, got 262144 for 2"),
        ({"loops": 4}, ValueError, "^loops: expected 0 to 3, got 4"),
        ({"loops": -1}, ValueError, "^loops: expected 0 to 3, got -1"),
        ({"loops": True}, TypeError, "^loops: expected an int, got bool"),
        ({"fine_queries": 1}, TypeError, "^fine_queries: expected a bool, got int"),
        ({"epochs": 0}, ValueError, "^epochs: expected at least 1, got 0"),
        ({"seed": -1}, ValueError, "^seed: expected 0 to"),
        ({"num_threads": 0}, ValueError, "^num_threads: expected at least 1, got 0"),
        ({"pairs": X}, TypeError, "^pairs: expected a tuple of queries and documents"),
        ({"pairs": (X[:, :5], X)}, ValueError, r"^pairs: queries: expected shape \(n, 24\), got \(400, 5\)"),
        ({"pairs": (X[:70], X[:71])}, ValueError, "^pairs: documents: expected 70 rows, got 71"),
        ({"pairs": (X[:9], X[:9])}, ValueError, "^pairs: expected at least 64, got 9"),
        (
            {"pairs": (X, with_number(np.inf))},
            ValueError,
            "^pairs: documents: expected finite numbers, got inf in row 3",
        ),
        ({"old_x": X}, ValueError, "^old_x: expected None without compatible_with"),
        ({"compatible_with": "old"}, TypeError, "^compatible_with: expected a RecurrentBinarizer, got str"),
        ({"compatible_with": OLD}, ValueError, "^old_x: expected the old vectors of the rows of x"),
        ({"compatible_with": OLD, "old_x": X[:9]}, ValueError, "^old_x: expected 400 rows, got 9"),
        ({"compatible_with": OLD, "old_x": X[:, :9]}, ValueError, r"^old_x: expected shape \(n, 24\), got \(400, 9\)"),
        (
            {"compatible_with": OLD, "old_x": X, "bits": 24, "loops": 0},
            ValueError,
            "^compatible_with: expected .*bits=24",
        ),
    ],
)
def test_bad_input_is_named(change, error, message):
    with pytest.raises(error, match=message):
        fit_binarizer(**({"x": X} | SMALL | change))


@pytest.mark.parametrize("device", ["nowhere", "meta", "cuda:99", 3.5])
def test_a_device_that_torch_lacks_is_named(torch, device):
    with pytest.raises((TypeError, ValueError), match=r"^device: expected"):
        fit_binarizer(X, device=device, **SMALL)


# ── what comes out ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("bits", "loops"), [(24, 0), (64, 0), (48, 1), (72, 2), (64, 3)])
def test_codes_find_more_than_signs_of_the_vectors(torch, bits, loops):
    binarizer = fit_binarizer(X, bits=bits, loops=loops, epochs=3, num_threads=1)
    assert (binarizer.bits, binarizer.loops, binarizer.dim, binarizer.searches) == (bits, loops, 24, ())
    queries = made_up(100, seed=1)
    exact = exact_topk(queries, X)
    found = recall(binarizer.encode_queries(queries), binarizer.encode(X), exact, 40)
    signs = [(rows - X.mean(axis=0) > 0) * 2.0 - 1 for rows in (queries, X)]
    by_signs = np.mean([np.isin(a, b).mean() for a, b in zip(exact, exact_topk(*signs, 40), strict=True)])
    print(bits, loops, found, by_signs)
    assert found > by_signs + 0.05
    assert found > (0.75 if loops == 0 else 0.9)


def test_fine_queries_find_more_with_codes_of_few_bits(torch):
    queries = made_up(100, seed=1)
    exact = exact_topk(queries, X)
    found = []
    for fine_queries in (False, True):
        binarizer = fit_binarizer(X, bits=24, loops=0, fine_queries=fine_queries, epochs=2, num_threads=1)
        codes = binarizer.encode_queries(queries)
        assert codes.bits == (4 if fine_queries else 1)
        found.append(recall(codes, binarizer.encode(X), exact, 20))
    print(found)
    assert found[1] > found[0] + 0.05


def test_similarities_are_about_inner_products(torch):
    binarizer = fit_binarizer(X, bits=96, loops=3, epochs=2, num_threads=1)
    queries = made_up(50, seed=1)
    similarities, rows = sdc_topk(binarizer.encode_queries(queries), binarizer.encode(X), 20)
    products = np.einsum("qd,qkd->qk", queries, (X - X.mean(axis=0))[rows])
    assert np.median(np.abs(similarities / products - 1)) < 0.1


def test_equal_seeds_give_equal_binarizers_whatever_torch_drew_before(torch):
    first = fit_binarizer(X, **SMALL)
    torch.manual_seed(7)
    torch.rand(5)
    assert fit_binarizer(X, **SMALL).fingerprint == first.fingerprint
    assert fit_binarizer(X, seed=7, **SMALL).fingerprint != first.fingerprint


def test_threads_and_random_state_of_torch_are_left_as_they_were(torch):
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    fit_binarizer(X, **SMALL)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_unit_of_the_vectors_does_not_matter(torch):
    one, other = (fit_binarizer(X * np.float32(unit), **SMALL) for unit in (1, 2**20))
    same = one.encode(X).levels() == other.encode(X * np.float32(2**20)).levels()
    assert same.mean() > 0.98  # sums of other sizes are rounded otherwise


def test_rows_that_are_all_equal_but_for_noise_and_zero_rows_are_taken(torch):
    x = np.concatenate([np.zeros((50, 6)), np.random.default_rng(0).standard_normal((50, 6)) * 1e-3])
    binarizer = fit_binarizer(x, bits=12, epochs=2, num_threads=1)
    assert np.isfinite(binarizer.encode_queries(x).scales).all()


def test_a_narrow_cone_is_centred_on_both_sides(torch):
    """As token vectors of modern encoders lie: with what they have in common, queries' codes would be all the same."""
    x = made_up() + 5
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    for fine_queries in (False, True):
        binarizer = fit_binarizer(x, fine_queries=fine_queries, **SMALL)
        assert binarizer._arrays["query_center"].any()
        assert recall(binarizer.encode_queries(x[:100]), binarizer.encode(x), exact_topk(x[:100], x), 40) > 0.9


def training_of(torch, output_dimension, loops, epochs, *, is_fine=False):
    data = module._as_data(X, None)
    random = np.random.default_rng(0)
    validation, rows, pairs = module._hold_out(data, None, 1, random)
    start = module._start(data, rows, output_dimension, loops, is_fine, None, validation, 1, random)
    return module.Training(torch, torch.device("cpu"), data, start, rows, pairs, epochs, 0)


def test_exported_networks_are_those_of_training(torch):
    """Hidden units are normalized in training and folded after: the same codes but for rounding."""
    training = training_of(torch, 16, 3, epochs=2)
    training.train(0)
    with torch.no_grad():
        expected = training._codes(training._directions[:100], training=False).numpy()
    levels = training.binarizer().encode(X[:100]).levels()
    values = module.directions_of((2 * levels.astype(np.float32) - 15) / 8)
    assert np.abs(values - expected).max(axis=1).__lt__(1e-5).mean() > 0.95


def test_fine_queries_of_training_are_those_of_the_binarizer(torch):
    training = training_of(torch, 64, 0, epochs=2, is_fine=True)
    training.train(0)
    with torch.no_grad():
        directions = training._query_directions(training._tensor(X[:100]))
        expected = training._codes(directions, training=False, num_queries=100).numpy()
        coarse = training._codes(directions, training=False).numpy()
    levels = training.binarizer().encode_queries(X[:100]).levels()
    values = module.directions_of((2 * levels.astype(np.float32) - 15) / 8)
    assert (values * expected).sum(axis=1).min() > 0.98
    assert (values * coarse).sum(axis=1).max() < 0.95  # signs alone


def reducer_vectors(size, seed=42):
    """Encodings of the packaged collection's documents, and of their ends as queries; other features for each seed."""
    documents = load_stdlib().documents
    reducer = LearnedReducer(documents.dim, output_dimension=size, num_features=256, num_samples=4096, seed=seed)
    reducer.fit(documents, num_threads=1)
    ends = [documents[i][-12:] for i in np.flatnonzero(documents.lengths > 12)]
    return reducer.encode_documents(documents), reducer.encode_queries(TokenVectors.from_list(ends))


@pytest.mark.parametrize(("bits", "loops", "least"), [(64, 0, 0.48), (64, 1, 0.54), (128, 1, 0.7)])
def test_codes_of_real_vectors_find_far_more_than_signs(torch, bits, loops, least):
    x, queries = reducer_vectors(64)
    train, test = queries[::2], queries[1::2]
    pairs = train, x[np.argmax(train @ x.T, axis=1)]
    binarizer = fit_binarizer(x, bits=bits, loops=loops, pairs=pairs, num_threads=1)
    exact = exact_topk(test, x)
    found = recall(binarizer.encode_queries(test), binarizer.encode(x), exact, 10)
    signs = [np.where(rows - x.mean(axis=0) > 0, 1.0, -1.0) for rows in (test, x)]
    by_signs = np.mean([np.isin(a, b).mean() for a, b in zip(exact, exact_topk(*signs), strict=True)])
    print(found, by_signs)
    assert found > by_signs + 0.15
    assert found > least


def test_an_epoch_lowers_the_loss(torch):
    training = training_of(torch, 24, 1, epochs=30)
    losses = [training.train(epoch) for epoch in range(15)]
    print(losses)
    assert np.mean(losses[-3:]) < 0.9 * losses[0]


def test_pairs_teach_what_queries_find(torch):
    """Queries lie elsewhere than documents: half of the dims are noise in them."""
    rng = np.random.default_rng(3)
    answers = rng.integers(0, len(X), 600)
    queries = X[answers].copy()
    queries[:, ::2] = 4 * rng.standard_normal((600, 12))
    binarizer = fit_binarizer(X, pairs=(queries[:400], X[answers[:400]]), **SMALL)
    exact = exact_topk(queries[400:], X)
    assert recall(binarizer.encode_queries(queries[400:]), binarizer.encode(X), exact, 40) > 0.85


# ── when it stops, and what is kept ─────────────────────────────────────────────────────────────────────────────────


def test_training_stops_when_recall_no_longer_rises_and_returns_the_best(torch, monkeypatch):
    recalls = iter([*[0.5] * 3, 0.2, 0.7, *[0.6] * module._PATIENCE, 0.0, 0.0])  # three starts, the start, then epochs
    trained = []
    train = module.Training.train

    def note(self, epoch):
        loss = train(self, epoch)
        trained.append(self.arrays()["signs.linear"])
        return loss

    monkeypatch.setattr(module._Validation, "recall", lambda *_: next(recalls))
    monkeypatch.setattr(module.Training, "train", note)
    binarizer = fit_binarizer(X, **(SMALL | {"epochs": 50}))
    assert len(trained) == 1 + module._PATIENCE
    np.testing.assert_array_equal(binarizer._arrays["signs.linear"], trained[0])


def run_and_die(path, epochs):
    """Train in another process that is killed in its fourth epoch."""
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from chamfer.training import binarizer as module
from test_fit_binarizer import SMALL, X
draw, drawn = module.Training._draw, []
def mortal(self, *arguments):
    drawn.append(1)
    if len(drawn) == 60:  # one for the temperature, then 16 an epoch
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(self, *arguments)
module.Training._draw = mortal
module.fit_binarizer(X, checkpoint={str(path)!r}, **(SMALL | {{"epochs": {epochs}}}))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == -signal.SIGKILL, result.stderr


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_training_goes_on_as_if_nothing_had_been(torch, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint"
    run_and_die(path, 6)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["checkpoint"]
    epochs = []
    train = module.Training.train
    monkeypatch.setattr(module.Training, "train", lambda self, epoch: epochs.append(epoch) or train(self, epoch))
    arguments = SMALL | {"epochs": 6}
    resumed = fit_binarizer(X, checkpoint=path, **arguments)
    assert epochs[0] > 0
    assert fit_binarizer(X, **arguments).fingerprint == resumed.fingerprint
    again = len(epochs)
    assert fit_binarizer(X, checkpoint=path, **arguments).fingerprint == resumed.fingerprint
    assert len(epochs) == again  # nothing was left to do


@pytest.mark.parametrize("change", [{"bits": 96}, {"loops": 0}, {"epochs": 4}, {"seed": 3}, {"x": made_up(seed=9)}])
def test_a_checkpoint_of_other_arguments_is_refused(torch, tmp_path, change):
    arguments = {"x": X, "checkpoint": tmp_path / "checkpoint"} | SMALL
    fit_binarizer(**arguments)
    with pytest.raises(ValueError, match=r"^checkpoint: .*of other arguments"):
        fit_binarizer(**(arguments | change))


def test_a_damaged_checkpoint_is_named(torch, tmp_path):
    (tmp_path / "checkpoint").write_bytes(b"nothing")
    with pytest.raises(CorruptIndexError, match="damaged, or not a saved"):
        fit_binarizer(X, checkpoint=tmp_path / "checkpoint", **SMALL)


def test_what_was_trained_is_loaded_without_torch(torch, tmp_path):
    binarizer = fit_binarizer(X, **SMALL)
    binarizer.save(tmp_path / "b")
    assert_same_codes(RecurrentBinarizer.load(tmp_path / "b").encode(X), binarizer.encode(X))
    load = f"chamfer.RecurrentBinarizer.load({str(tmp_path / 'b')!r})"
    code = f"import sys, chamfer; {load}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_progress_bar_tells_loss_and_recall(torch, capsys):
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    fit_binarizer(X, progress=True, **SMALL)
    shown = capsys.readouterr().err
    assert "fit binarizer" in shown
    assert "loss" in shown
    assert "recall" in shown


# ── upgrades ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_compatible_binarizer_searches_old_codes_and_another_cannot(torch):
    """Two encoders of the same items: other features of one collection, in other dims."""
    x, queries = zip(*(reducer_vectors(size, seed) for size, seed in ((48, 1), (64, 2))), strict=True)
    exact = exact_topk(queries[1], x[1])
    arguments = {"bits": 96, "epochs": 6, "num_threads": 1}
    old = fit_binarizer(x[0], **arguments)
    new = fit_binarizer(x[1], compatible_with=old, old_x=x[0], **arguments)
    strange = fit_binarizer(x[1], seed=1, **arguments)  # of one seed, both start from one random rotation
    assert new.searches == (old.fingerprint,)
    codes = old.encode(x[0])
    with pytest.raises(ValueError, match=r"^query_codes: expected codes of binarizer"):
        sdc_topk(strange.encode_queries(queries[1]), codes, 3)
    forced = strange.encode_queries(queries[1])
    forced.fingerprint = None
    found = {
        "old to old": recall(old.encode_queries(queries[0]), codes, exact, 50),
        "new to old": recall(new.encode_queries(queries[1]), codes, exact, 50),
        "new to new": recall(new.encode_queries(queries[1]), new.encode(x[1]), exact, 50),
        "new to old, not compatible": recall(forced, codes, exact, 50),
    }
    print(found)
    assert found["new to old"] > 0.95 * found["old to old"]
    assert found["new to new"] > 0.95 * found["old to old"]
    assert found["new to old, not compatible"] < 0.5 * found["old to old"]


@pytest.mark.parametrize("size", [48, 144])  # of vectors: fewer numbers than the old code has, and more
def test_the_first_numbers_of_more_bits_search_old_codes(torch, size):
    old_x, new_x = reducer_vectors(48, 1), reducer_vectors(size, 2)
    exact = exact_topk(new_x[1], new_x[0])
    arguments = {"epochs": 4, "num_threads": 1}
    old = fit_binarizer(old_x[0], bits=96, **arguments)
    new = fit_binarizer(new_x[0], bits=192, compatible_with=old, old_x=old_x[0], **arguments)
    codes, queries = old.encode(old_x[0]), new.encode_queries(new_x[1])
    assert (new.output_dimension, new.searches) == (96, (old.fingerprint,))
    found = {
        "old to old": recall(old.encode_queries(old_x[1]), codes, exact, 50),
        "new to old": recall(queries, codes, exact, 50),
        "new to new": recall(queries, new.encode(new_x[0]), exact, 50),
    }
    print(found)
    assert found["new to old"] > 0.95 * found["old to old"]
    assert found["new to new"] > found["old to old"]
    with pytest.raises(ValueError, match=r"^query_codes: expected dim 96 as the codes, got 48"):
        sdc_topk(old.encode_queries(old_x[1]), new.encode(new_x[0]), 3)
