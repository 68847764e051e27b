"""The definitions, straight from the papers, in plain NumPy and float64: the oracle. Slow and obvious on purpose."""

import numpy as np

# ── late interaction: ColBERT (arXiv 2004.12832), equation 3 ────────────────────────────────────────────────────────


def alignment(query, document):
    """Return per query token the largest inner product and the first document token that has it."""
    products = query.astype(np.float64) @ document.astype(np.float64).T
    return products.max(axis=1), products.argmax(axis=1)


def maxsim(query, document, weights=None):
    """Σ_q w_q · max_d <q, d>; an empty document scores -inf."""
    if len(document) == 0:
        return -np.inf
    if len(query) == 0:
        return 0.0
    return float(alignment(query, document)[0] @ (np.ones(len(query)) if weights is None else weights))


def maxsim_all(queries, documents):
    """Return scores, shape (num_queries, num_documents)."""
    scores = [[maxsim(q, d) for d in documents] for q in queries]
    return np.array(scores, np.float64).reshape(len(queries), len(documents))


def topk(scores, k):
    """Return scores and rows of the k highest of one row of scores; ties to the lower row, -inf never, -1 fills."""
    best = sorted((-score, row) for row, score in enumerate(scores) if score > -np.inf)[:k]
    filled = best + [(np.inf, -1)] * (k - len(best))
    return np.array([-score for score, _ in filled]), np.array([row for _, row in filled])


# ── fixed-dimensional encodings: MUVERA (arXiv 2405.19504), section 2; google/graph-mining, sketching/point_cloud ───


def bit_codes(vectors, simhash):
    """φ(x) = (1[<g_i, x> > 0])_i as integers, the first bit most significant."""
    bits = (vectors.astype(np.float64) @ simhash.astype(np.float64).T) > 0
    return bits.astype(int) @ (1 << np.arange(len(simhash))[::-1])


def block_position(code, num_bits, layout):
    """Return where the block of a bit string lies: at its number in the paper, at its prefix XOR in Google's code."""
    index = 0
    for shift in reversed(range(num_bits)):
        bit = code >> shift & 1
        index = (index << 1) + (bit ^ (index & 1) if layout == "google" else bit)
    return index


def fde_repetition(vectors, simhash, projection, *, layout, document, fill):
    """Return one repetition, shape (2^k, width): sums of queries, means of documents, fill by fewest differing bits."""
    codes, num_bits = bit_codes(vectors, simhash), len(simhash)
    payload = vectors.astype(np.float64) @ (projection.T if len(projection) else np.eye(vectors.shape[1]))
    blocks = np.zeros((2**num_bits, payload.shape[1]))
    for code in range(2**num_bits if len(vectors) else 0):
        members = payload[codes == code]
        if len(members):
            blocks[block_position(code, num_bits, layout)] = members.mean(axis=0) if document else members.sum(axis=0)
        elif document and fill:
            nearest = np.argmin(
                [int(other ^ code).bit_count() for other in codes]
            )  # argmin: the lowest token of equals
            blocks[block_position(code, num_bits, layout)] = payload[nearest]
    return blocks


def fde(vectors, simhash, projections, *, layout, document, fill=True, sketch=None):
    """Return the encoding of one set; simhash (R, k, dim), projections (R, p, dim), p = 0 for identity."""
    repetitions = [
        fde_repetition(vectors, g, s, layout=layout, document=document, fill=fill)
        for g, s in zip(simhash, projections, strict=True)
    ]
    encoding = np.concatenate([blocks.ravel() for blocks in repetitions])
    return encoding if sketch is None else count_sketch(encoding, *sketch)


def count_sketch(encoding, columns, signs, final_dimension):
    """out[column_i] += sign_i · x_i."""
    out = np.zeros(final_dimension)
    np.add.at(out, columns, signs * encoding)
    return out


def clear_of_hyperplanes(vectors, simhash):
    """Say which vectors no float32 rounding can put across a hyperplane: |<x, g>| > dim · 2^-24 · Σ|x_i g_i|."""
    x, g = vectors.astype(np.float64), simhash.reshape(-1, simhash.shape[-1]).astype(np.float64)
    return (np.abs(x @ g.T) > x.shape[1] * 2.0**-24 * (np.abs(x) @ np.abs(g).T)).all(axis=1)


# ── the random streams of Google's code, compiled with libstdc++: algorithms.md, section 1.6 ────────────────────────


def words(seed, count):
    """Return the first words of std::mt19937(seed)."""
    return np.frombuffer(np.random.RandomState(seed % 2**32).bytes(4 * count), "<u4")


def normals(seed, count):
    """std::normal_distribution<float>: Marsaglia's polar method in float32, y·m first, then x·m."""
    uniform = words(seed, 4 * count + 64).astype(np.float32) / np.float32(2**32)
    x, y = 2 * uniform[0::2] - 1, 2 * uniform[1::2] - 1
    squared = x * x + y * y
    x, y, squared = (values[(squared <= 1) & (squared > 0)] for values in (x, y, squared))
    factor = np.sqrt(-2 * np.log(squared) / squared)
    return np.stack([y * factor, x * factor], axis=1).ravel()[:count].astype(np.float32)


def columns_and_signs(seed, count, num_columns):
    """Three words a draw: Lemire's column (w·n >> 32), then a fair coin of two words, true below one half."""
    drawn = words(seed, 3 * count).astype(np.uint64).reshape(count, 3)
    columns = drawn[:, 0] * np.uint64(num_columns) >> np.uint64(32)
    coins = (drawn[:, 1] + drawn[:, 2] * 2.0**32) / 2.0**64 < 0.5
    return columns.astype(np.int64), np.where(coins, 1.0, -1.0)


def google_matrices(seed, dim, num_repetitions, num_simhash_projections, projection_dimension):
    """Return simhash (R, k, dim) and the sparse AMS projections (R, p, dim): one entry ±1 per input dimension."""
    simhash = np.empty((num_repetitions, num_simhash_projections, dim), np.float32)
    projections = np.zeros((num_repetitions, projection_dimension or 0, dim), np.float32)
    for r in range(num_repetitions):
        simhash[r] = normals(seed + r, num_simhash_projections * dim).reshape(num_simhash_projections, dim)
        if projection_dimension:
            columns, signs = columns_and_signs(seed + r, dim, projection_dimension)
            projections[r, columns, np.arange(dim)] = signs
    return simhash, projections


# ── ball carving: MUVERA, section C.3 ───────────────────────────────────────────────────────────────────────────────


def ball_carving(query, threshold):
    """Take the first vector left and all within the threshold of it, keep their sum, repeat."""
    left, sums = query.astype(np.float64), []
    while len(left):
        ball = left @ left[0] >= threshold
        ball[0] = True
        sums.append(left[ball].sum(axis=0))
        left = left[~ball]
    return np.array(sums).reshape(-1, query.shape[1])
