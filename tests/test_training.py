"""chamfer.training against definitions and small data; what needs torch is skipped by name without it."""

import subprocess
import sys

import numpy as np
import pytest

from chamfer import LearnedReducer, maxsim_topk
from chamfer.data import load_stdlib
from chamfer.training import fit_features

SMALL = {"num_features": 32, "epochs": 4, "num_samples": 2048, "num_targets": 64, "num_threads": 1}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture(scope="module")
def collection():
    return load_stdlib()


# ── without torch ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_torch_the_error_names_the_extra(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError")
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
import numpy as np
from chamfer.training import fit_features
try:
    fit_features(np.eye(4, dtype=np.float32)[:, None])
except ModuleNotFoundError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == 'chamfer.training needs torch: pip install "chamfer[training]"'


def test_importing_training_does_not_import_torch():
    code = "import sys, chamfer.training; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"documents": "text"}, TypeError, "^documents: "),
        ({"documents": np.zeros((3, 0, 8), np.float32)}, ValueError, "^documents: expected at least two with vectors"),
        ({"queries": np.zeros((1, 3, 7), np.float32)}, ValueError, r"^queries: expected dim 8 .*got 7"),
        ({"queries": np.zeros((1, 0, 8), np.float32)}, ValueError, "^queries: expected at least one vector"),
        ({"num_features": 0}, ValueError, "^num_features: expected at least 1, got 0"),
        ({"num_features": 65_537}, ValueError, "^num_features: expected at most 65536, got 65537"),
        ({"epochs": 1.5}, TypeError, "^epochs: expected an int, got float"),
        ({"num_targets": 1}, ValueError, "^num_targets: expected at least 2, got 1"),
        ({"num_samples": True}, TypeError, "^num_samples: expected an int, got bool"),
        ({"num_samples": 63}, ValueError, "^num_samples: expected at least 64, got 63"),
        ({"seed": "7"}, TypeError, "^seed: expected an int, got str"),
        ({"seed": -1}, ValueError, "^seed: expected 0 to"),
        ({"num_threads": 0}, ValueError, "^num_threads: expected at least 1, got 0"),
    ],
)
def test_bad_input_is_named(change, error, message):
    documents = np.random.default_rng(0).standard_normal((5, 4, 8)).astype(np.float32)
    with pytest.raises(error, match=message):
        fit_features(**({"documents": documents} | change))


# ── with torch ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("device", ["nowhere", "meta", "cuda:99", 3.5])
def test_a_device_that_torch_lacks_is_named(torch, documents, device):
    with pytest.raises((TypeError, ValueError), match=r"^device: expected"):
        fit_features(documents, device=device, **SMALL)


def test_weights_are_float32_and_finite_and_learned_reducer_takes_them(torch, documents, queries):
    weights = fit_features(documents, queries, **SMALL)
    assert weights.dtype == np.float32
    assert weights.shape == (32, documents.dim)
    assert np.isfinite(weights).all()
    reducer = LearnedReducer(documents.dim, output_dimension=16, num_samples=2048, features=weights)
    assert reducer.fit(documents, queries).encode_queries(queries).shape == (len(queries), 16)


def test_equal_seeds_give_equal_weights_whatever_torch_drew_before(torch, documents):
    first = fit_features(documents, **SMALL)
    torch.manual_seed(7)
    torch.rand(5)
    np.testing.assert_array_equal(fit_features(documents, **SMALL), first)
    assert (fit_features(documents, seed=7, **SMALL) != first).mean() > 0.9


def test_threads_and_random_state_of_torch_are_left_as_they_were(torch, documents):
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    fit_features(documents, **SMALL)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_single_vector_in_each_document_is_enough(torch):
    documents = np.random.default_rng(0).standard_normal((2, 1, 3)).astype(np.float32)
    assert fit_features(documents, **SMALL).shape == (32, 3)


def test_training_stops_when_the_error_no_longer_falls_and_returns_the_best(torch, documents, monkeypatch):
    from chamfer.training.features import _PATIENCE, _Layer

    errors = iter([0.5, 0.9, 0.3, *[0.4] * _PATIENCE])  # the start, then epoch by epoch
    trained = []
    train = _Layer.train

    def note(self, *arguments):
        loss = train(self, *arguments)
        trained.append(self.weights.detach().numpy().copy())
        return loss

    monkeypatch.setattr(_Layer, "error", lambda *_: next(errors))
    monkeypatch.setattr(_Layer, "train", note)
    weights = fit_features(documents, **(SMALL | {"epochs": 50}))
    assert len(trained) == 2 + _PATIENCE
    np.testing.assert_array_equal(weights, trained[1])


def test_the_random_start_is_returned_if_no_epoch_is_better(torch, documents, monkeypatch):
    from chamfer.training.features import _Layer

    errors = iter([0.5, 0.9, 0.9, 0.9, 0.9])
    starts = []
    train = _Layer.train

    def note(self, *arguments):
        starts.append(self.weights.detach().numpy().copy())
        return train(self, *arguments)

    monkeypatch.setattr(_Layer, "error", lambda *_: next(errors))
    monkeypatch.setattr(_Layer, "train", note)
    weights = fit_features(documents, **SMALL)
    np.testing.assert_array_equal(weights, starts[0])
    assert (starts[1] != starts[0]).any()


def test_the_activation_is_the_one_of_the_core(torch, documents, queries):
    from chamfer import _core
    from chamfer.training.features import _Layer

    weights = np.random.default_rng(0).standard_normal((9, queries.dim)).astype(np.float32) * 3
    targets = np.zeros((queries.num_tokens, 2), np.float32)
    layer = _Layer(torch, torch.device("cpu"), queries, targets, torch.from_numpy(weights), 0.1)
    part = layer._part(np.arange(len(queries)))
    with torch.no_grad():
        sums = layer._sums(layer._features(part), part).numpy()
    feature_map = _core.FeatureMap(weights, np.zeros(9, np.float32), isa="scalar")
    expected = feature_map.sum(queries._core_collection(), num_threads=1)
    np.testing.assert_allclose(sums[:, :-1], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(sums[:, -1], queries.lengths)


def test_heads_are_those_of_ridge_regression_on_vectors_and_sums_of_sets(torch, queries):
    from chamfer.reducers.regression import SET_WEIGHT
    from chamfer.training.features import _RIDGE, _Layer

    rng = np.random.default_rng(0)
    weights = rng.standard_normal((9, queries.dim)).astype(np.float32)
    targets = rng.standard_normal((queries.num_tokens, 3)).astype(np.float32)
    layer = _Layer(torch, torch.device("cpu"), queries, targets, torch.from_numpy(weights), 0.1)
    rows = np.arange(len(queries))
    layer.solve_heads(rows)
    with torch.no_grad():
        found = (layer._whitening @ layer._heads).numpy()
        z = layer._features(layer._part(rows)).numpy().astype(np.float64)
    root = np.sqrt(SET_WEIGHT)
    z = np.concatenate([z, root * np.add.reduceat(z, queries.offsets[:-1])])
    y = np.concatenate([targets, root * np.add.reduceat(targets.astype(np.float64), queries.offsets[:-1])])
    a = z.T @ z
    expected = np.linalg.solve(a + _RIDGE * np.diag(a)[:-1].mean() * np.eye(10), z.T @ y)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    residual = y - z @ found
    assert layer.error(rows) == pytest.approx((residual**2).sum() / (y**2).sum(), rel=1e-3)


@pytest.mark.parametrize("with_queries", [True, False])
def test_trained_features_miss_less_and_find_more_than_random_ones(torch, collection, with_queries):
    """64 features, of the packaged collection; half of the questions to train, the other half to judge."""
    questions = collection.queries
    train, test = (questions.select(np.arange(half, len(questions), 2)) for half in (0, 1))
    given = train if with_queries else None
    documents = collection.documents.select(np.arange(0, len(collection.documents), 3))
    weights = fit_features(documents, given, num_features=64, epochs=8, num_samples=4096, num_targets=256)
    exact = maxsim_topk(test, documents, 10)[1]
    missed, found = [], []
    for features in (None, weights):
        reducer = LearnedReducer(
            documents.dim, output_dimension=64, num_features=64, num_samples=4096, features=features
        ).fit(documents, given)
        missed.append(reducer.stats()["missed_at_fit"])
        products = reducer.encode_queries(test) @ reducer.encode_documents(documents).T
        rows = np.argsort(-products, axis=1)[:, :20]
        found.append(np.mean([np.isin(best, some).mean() for best, some in zip(exact, rows, strict=True)]))
    print(missed, found)
    assert missed[1] < 0.9 * missed[0]
    assert found[1] > found[0]


def test_the_progress_bar_tells_loss_and_error(torch, documents, capsys):
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    fit_features(documents, progress=True, **SMALL)
    shown = capsys.readouterr().err
    assert "fit features" in shown
    assert "loss" in shown
    assert "error held out" in shown
