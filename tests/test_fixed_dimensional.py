"""Fixed-dimensional encodings: Google's golden numbers, the definition of both layouts, the paper's laws."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import reference
from chamfer import FixedDimensionalEncoder, TokenVectors, maxsim
from samples import positive_vectors, ragged, read_npz, unit_vectors

GOLDEN = read_npz(Path(__file__).parent / "data" / "fde_reference.npz")
GOLDEN_CONFIGS = json.loads(str(GOLDEN["meta"]))

# float32 sums and projections of unit vectors; the figure that the project promises for Google's numbers too.
ERROR = {"rtol": 1e-5, "atol": 1e-5}

# The encoding of three points by layout "paper", seed 1: these numbers are saved in people's indexes.
PAPER_DOCUMENT = [
    *(0.14142136, 0.07071067, 0.70710677, -0.70710677, 0.70710677, -0.70710677, 0.70710677, -0.70710677),
    *(-0.84852815, -0.14142136, 0.0, -0.70710677, -0.70710677, 0.70710677, 0.0, -0.70710677),
]

# num_repetitions, num_simhash_projections, projection_dimension, fill, final, dim
SHAPES = [
    (1, 0, None, True, None, 3),
    (3, 1, None, True, None, 1),
    (3, 3, None, True, None, 17),
    (2, 3, None, False, None, 8),
    (5, 5, 16, True, None, 33),
    (2, 4, 7, False, None, 96),
    (4, 2, 16, True, None, 16),  # as many as dims
    (2, 3, 40, True, None, 17),  # more than dims
    (2, 6, 1, True, None, 129),
    (20, 5, 16, True, None, 128),
    (1, 10, 3, True, None, 5),  # almost all partitions empty
    (3, 4, 8, True, 50, 31),
    (2, 0, 5, True, 10, 9),
    (7, 4, None, True, 3, 15),
    (1, 9, 2, False, 1000, 7),  # 1,024 numbers: four blocks of the paper's final matrix
]


def make(shape, layout, **keywords):
    repetitions, simhash, projection, fill, final, dim = shape
    return FixedDimensionalEncoder(
        dim,
        num_repetitions=repetitions,
        num_simhash_projections=simhash,
        projection_dimension=projection,
        final_projection_dimension=final,
        fill_empty_partitions=fill,
        layout=layout,
        **{"center": False, "seed": 5} | keywords,
    )


def saved_arrays(encoder, folder):
    encoder.save(folder / "encoder.npz")
    with np.load(folder / "encoder.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files if name != "header"}


def clear_of_hyperplanes(rng, lengths, dim, simhash, dtype=np.float32):
    """Unit vectors of which none is so near to a hyperplane that rounding could put it on the other side."""
    vectors = unit_vectors(rng, 2 * sum(lengths), dim).astype(dtype)
    vectors = vectors[reference.clear_of_hyperplanes(vectors, simhash)]
    return TokenVectors(vectors[: sum(lengths)], np.concatenate([[0], np.cumsum(lengths)]))


def expected(encoder, collection, folder, *, document):
    """Encode by the definition: Google's matrices from the recipe, the paper's from the saved encoder."""
    saved, sketch, final = saved_arrays(encoder, folder), None, encoder.final_projection_dimension
    matrices = saved["simhash"], saved["projections"]
    if encoder.layout == "google":
        numbers = encoder.num_repetitions, encoder.num_simhash_projections, encoder.projection_dimension
        matrices = reference.google_matrices(encoder.seed, encoder.dim, *numbers)
        if final:
            sketch = *reference.columns_and_signs(encoder.seed, encoder.encoding_dimension, final), final
    keywords = {"layout": encoder.layout, "document": document, "fill": encoder.fill_empty_partitions}
    encodings = np.array([reference.fde(item, *matrices, **keywords, sketch=sketch) for item in collection])
    if encoder.layout == "paper" and final:
        signs = np.unpackbits(saved["final_bits"], axis=1, count=final) * 2.0 - 1
        return encodings @ signs / np.sqrt(final)
    return encodings


# ── Google's numbers ────────────────────────────────────────────────────────────────────────────────────────────────


def golden_encoder(config):
    ams = config["projection_type"] == "AMS_SKETCH"
    shape = (
        config["num_repetitions"],
        config["num_simhash_projections"],
        config["projection_dimension"] if ams else None,
        config["fill_empty_partitions"],
        config["final_projection_dimension"] or None,
        config["dimension"],
    )
    return make(shape, "google", seed=config["seed"])


@pytest.mark.parametrize("i", range(len(GOLDEN_CONFIGS)))
@pytest.mark.parametrize("side", ["query", "document"])
def test_encodings_have_googles_numbers(isa, i, side):
    encoder = golden_encoder(GOLDEN_CONFIGS[i])
    encode = encoder.encode_queries if side == "query" else encoder.encode_documents
    np.testing.assert_allclose(encode(GOLDEN[f"{i}/{side}"], isa=isa)[0], GOLDEN[f"{i}/{side}_fde"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("i", range(len(GOLDEN_CONFIGS)))
@pytest.mark.parametrize("side", ["query", "document"])
def test_golden_inputs_are_clear_of_every_hyperplane(i, side):
    config = GOLDEN_CONFIGS[i]
    numbers = config["dimension"], config["num_repetitions"], config["num_simhash_projections"]
    simhash, _ = reference.google_matrices(config["seed"], *numbers, 0)
    assert reference.clear_of_hyperplanes(GOLDEN[f"{i}/{side}"], simhash).all()


@pytest.mark.parametrize("side", ["query", "document"])
@pytest.mark.parametrize("i", range(len(GOLDEN_CONFIGS)))
def test_the_reference_has_googles_numbers(i, side):
    encoder, vectors = golden_encoder(GOLDEN_CONFIGS[i]), GOLDEN[f"{i}/{side}"]
    numbers = encoder.dim, encoder.num_repetitions, encoder.num_simhash_projections, encoder.projection_dimension
    final, sketch = encoder.final_projection_dimension, None
    if final:
        sketch = *reference.columns_and_signs(encoder.seed, encoder.encoding_dimension, final), final
    encoding = reference.fde(
        vectors,
        *reference.google_matrices(encoder.seed, *numbers),
        layout="google",
        document=side == "document",
        fill=encoder.fill_empty_partitions,
        sketch=sketch,
    )
    np.testing.assert_allclose(encoding, GOLDEN[f"{i}/{side}_fde"], rtol=0, atol=1e-5)


# ── the definition ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", ["paper", "google"])
def test_documents_are_encoded_by_the_definition(isa, layout, shape, dtype, tmp_path):
    encoder = make(shape, layout)
    simhash, rng = saved_arrays(encoder, tmp_path)["simhash"], np.random.default_rng(0)
    documents = clear_of_hyperplanes(rng, [0, 1, 2, 5, 0, 17, 130], encoder.dim, simhash, dtype)
    encodings = encoder.encode_documents(documents, isa=isa)
    np.testing.assert_allclose(encodings, expected(encoder, documents, tmp_path, document=True), **ERROR)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", ["paper", "google"])
def test_queries_are_encoded_by_the_definition(isa, layout, shape, tmp_path):
    encoder = make(shape, layout)
    simhash, rng = saved_arrays(encoder, tmp_path)["simhash"], np.random.default_rng(0)
    queries = clear_of_hyperplanes(rng, [0, 1, 16, 33], encoder.dim, simhash)
    encodings = encoder.encode_queries(queries, isa=isa)
    np.testing.assert_allclose(encodings, expected(encoder, queries, tmp_path, document=False), **ERROR)


def test_a_fixed_paper_encoding_never_changes(isa):
    encoder = make((2, 2, 2, True, None, 4), "paper", seed=1)
    points = np.array([[1, 0, 0, 0], [0, 0.6, 0.8, 0], [-0.5, 0.5, -0.5, 0.5]], np.float32)
    np.testing.assert_allclose(encoder.encode_documents(points, isa=isa)[0], PAPER_DOCUMENT, rtol=0, atol=1e-6)


def test_output_dimension_is_repetitions_times_partitions_times_width():
    assert make((3, 4, 8, True, None, 31), "paper").output_dimension == 3 * 2**4 * 8
    assert make((3, 4, None, True, None, 31), "paper").output_dimension == 3 * 2**4 * 31


def test_output_dimension_is_the_final_one_where_given():
    assert make((3, 4, 8, True, 50, 31), "paper").output_dimension == 50


@pytest.mark.parametrize("layout", ["paper", "google"])
def test_another_seed_gives_another_encoding(layout):
    points = unit_vectors(np.random.default_rng(0), 9, 17)
    first, other = (make((1, 3, 4, True, None, 17), layout, seed=seed).encode_queries(points) for seed in (1, 2))
    assert not np.allclose(first, other)


def test_repr_makes_the_encoder_again():
    encoder = make((3, 4, 8, False, 50, 31), "google", seed=9)
    assert repr(eval(repr(encoder))) == repr(encoder)


# ── sums, means, empties ────────────────────────────────────────────────────────────────────────────────────────────

LAYOUTS_AND_FINALS = [("paper", None), ("paper", 50), ("google", None), ("google", 50)]


@pytest.mark.parametrize(("layout", "final"), LAYOUTS_AND_FINALS)
def test_an_empty_item_is_all_zeros(isa, layout, final):
    encoder = make((2, 3, 4, True, final, 9), layout)
    empty = TokenVectors(np.empty((0, 9), np.float32), [0, 0])
    for encode in (encoder.encode_documents, encoder.encode_queries):
        np.testing.assert_array_equal(encode(empty, isa=isa), np.zeros((1, encoder.output_dimension)))


@pytest.mark.parametrize("layout", ["paper", "google"])
def test_an_empty_document_is_all_zeros_without_partitions_too(isa, layout):
    empty = TokenVectors(np.empty((0, 9), np.float32), [0, 0])
    assert not make((2, 0, None, True, None, 9), layout).encode_documents(empty, isa=isa).any()


@pytest.mark.parametrize(("layout", "final"), LAYOUTS_AND_FINALS)
def test_an_empty_collection_has_no_encodings(isa, layout, final):
    encoder = make((2, 3, 4, True, final, 9), layout)
    empty = TokenVectors(np.empty((0, 9), np.float32), [0])
    assert encoder.encode_documents(empty, isa=isa).shape == (0, encoder.output_dimension)


def test_a_vector_given_twice_counts_twice_in_a_query_and_once_in_a_document(isa):
    encoder, x = make((4, 3, 4, True, None, 9), "paper"), unit_vectors(np.random.default_rng(0), 1, 9)
    twice = np.concatenate([x, x])
    np.testing.assert_array_equal(encoder.encode_queries(twice, isa=isa), 2 * encoder.encode_queries(x, isa=isa))
    np.testing.assert_array_equal(encoder.encode_documents(twice, isa=isa), encoder.encode_documents(x, isa=isa))


@pytest.mark.parametrize(("fill", "num_blocks"), [(True, 32), (False, 1)])
def test_a_document_of_one_vector_fills_all_partitions_or_one(isa, fill, num_blocks):
    encoder = make((3, 5, None, fill, None, 9), "paper")
    blocks = encoder.encode_documents(positive_vectors(np.random.default_rng(0), 1, 9), isa=isa).reshape(3, 32, 9)
    assert blocks.any(axis=2).sum(axis=1).tolist() == [num_blocks] * 3


def test_a_query_fills_only_the_partitions_it_touches(isa):
    encoder = make((3, 5, None, True, None, 9), "paper")
    blocks = encoder.encode_queries(positive_vectors(np.random.default_rng(0), 1, 9), isa=isa).reshape(3, 32, 9)
    assert blocks.any(axis=2).sum(axis=1).tolist() == [1] * 3


@pytest.mark.parametrize("layout", ["paper", "google"])
def test_a_million_partitions_can_be_filled(layout):
    encoding = make((1, 20, 1, True, None, 3), layout).encode_documents(np.ones((2, 3), np.float32))
    assert len(np.unique(encoding)) == 1


# ── laws of the paper ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("layout", ["paper", "google"])
def test_each_repetition_is_at_most_maxsim_without_projection(isa, layout):
    # Lemma A.3: a block pairs a query vector with a mean of document vectors, which is at most the best of them
    encoder, rng = make((9, 3, None, True, None, 16), layout), np.random.default_rng(0)
    queries, documents = ragged(unit_vectors, rng, [1, 5, 32], 16), ragged(unit_vectors, rng, [1, 7, 60], 16)
    q = encoder.encode_queries(queries, isa=isa).reshape(3, 9, -1)
    d = encoder.encode_documents(documents, isa=isa).reshape(3, 9, -1)
    products = np.einsum("qri,dri->qdr", q, d)
    assert np.all(products <= maxsim(queries, documents)[:, :, None] + 1e-5)  # rounding of 32 products of unit vectors


@pytest.mark.parametrize("layout", ["paper", "google"])
def test_far_apart_vectors_find_themselves(layout):
    # eight orthogonal vectors share one of 1,024 partitions 28/1024 times a repetition: at most 5 % of MaxSim is lost
    encoder, points = make((10, 10, None, True, None, 16), layout), np.eye(16, dtype=np.float32)[:8]
    product = (encoder.encode_queries(points) @ encoder.encode_documents(points).T).item() / 10
    assert 0.95 * 8 <= product <= 8 + 1e-5


def within_five_standard_errors(products, exact):
    return abs(np.mean(products) - exact) <= 5 * np.std(products) / np.sqrt(len(products))


@pytest.mark.parametrize("layout", ["paper", "google"])
def test_inner_projections_keep_inner_products_on_average(layout):
    rng, repetitions = np.random.default_rng(0), 4000
    query, document = unit_vectors(rng, 5, 12), unit_vectors(rng, 9, 12)
    encoder = make((repetitions, 0, 3, True, None, 12), layout)
    q = encoder.encode_queries(query).reshape(repetitions, 3)
    d = encoder.encode_documents(document).reshape(repetitions, 3)
    exact = query.sum(axis=0) @ document.mean(axis=0)
    assert within_five_standard_errors((q * d).sum(axis=1, dtype=float), exact)


@pytest.mark.parametrize("layout", ["paper", "google"])
def test_final_projections_keep_inner_products_on_average(layout):
    rng = np.random.default_rng(0)
    query, document = positive_vectors(rng, 5, 12), positive_vectors(rng, 9, 12)
    encoders = [make((1, 0, None, True, 8, 12), layout, seed=seed) for seed in range(400)]
    products = [encoder.encode_queries(query)[0] @ encoder.encode_documents(document)[0] for encoder in encoders]
    assert within_five_standard_errors(products, query.sum(axis=0) @ document.mean(axis=0))


@pytest.mark.parametrize("layout", ["paper", "google"])
def test_more_repetitions_vary_less(layout):
    rng = np.random.default_rng(0)
    query, document = positive_vectors(rng, 8, 12), positive_vectors(rng, 20, 12)
    deviations = []
    for repetitions in (1, 16):
        encoders = [make((repetitions, 3, 4, True, None, 12), layout, seed=100 * seed) for seed in range(60)]
        pairs = [(e.encode_queries(query)[0], e.encode_documents(document)[0]) for e in encoders]
        deviations.append(np.std([q @ d / repetitions for q, d in pairs]))
    assert all(more > 2 * less for more, less in pairwise(deviations))  # a factor 4 is expected of 16 repetitions
