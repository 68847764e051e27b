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


# ── learned features: LEMUR (arXiv 2601.21853), one hidden layer summed over a query ────────────────────────────────


def smooth_gelu(z):
    """Return z times a gate that rises as a cubic from 0 at -2.5 to 1 at 2.5."""
    t = np.clip(0.4 * z, -1.0, 1.0)
    return z * (0.5 + t * (0.75 - t * t / 4))


def sum_features(vectors, weights, center):
    """Σ_x h(W x) - center over the vectors of one item, shape (num_features,); zeros for an empty item."""
    products = vectors.astype(np.float64) @ weights.astype(np.float64).T
    return (smooth_gelu(products) - center.astype(np.float64)).sum(axis=0)


def project(rows, matrix):
    """Return the inner products of all rows and all rows of the matrix."""
    return rows.astype(np.float64) @ matrix.astype(np.float64).T


# ── forms of encodings ──────────────────────────────────────────────────────────────────────────────────────────────


def int8_rows(rows):
    """Return codes, each number over the scale of its row, and scales: the largest magnitude over 127, in float32."""
    scales = np.abs(rows).max(axis=1, initial=0).astype(np.float32) / np.float32(127)
    divisors = np.where(scales > 0, scales, np.float32(np.inf))[:, None]
    return np.clip(np.rint(rows / divisors), -127, 127).astype(np.int8), scales


def sign_bits(rows):
    """Return 1[x > 0], eight to a byte, the lowest bit first."""
    return np.packbits(rows > 0, axis=1, bitorder="little")


def sparse_rows(rows, touched):
    """Return values, columns and offsets of a CSR matrix that lists the columns touched, zeros there too."""
    row, columns = np.nonzero(touched)
    return rows[row, columns], columns, np.searchsorted(row, np.arange(len(rows) + 1))


# ── learned encodings: LEMUR (arXiv 2601.21853), section 3; rows of sets and what they weigh are chamfer's own ──────


def features(vectors, weights, center):
    """φ(x): h(<w, x>) - center, h(z) = z (t (0.75 - 0.25 t²) + 0.5), t = 0.4 z from -1 to 1; and a 1."""
    z = vectors.astype(np.float64) @ weights.astype(np.float64).T
    t = np.clip(0.4 * z, -1, 1)
    return np.column_stack([z * (t * (0.75 - 0.25 * t**2) + 0.5) - center, np.ones(len(z))])


def ridge_regression(phi, targets, offsets, set_weight=0.3, ridge=1e-4):
    """Return A and b of A w = b: rows are φ of each vector and √w times their sum over each set, targets alike."""
    sums, target_sums = (np.add.reduceat(x, offsets[:-1], axis=0) for x in (phi, targets))
    rows = np.concatenate([phi, np.sqrt(set_weight) * sums])
    right = np.concatenate([targets, np.sqrt(set_weight) * target_sums])
    a = rows.T @ rows
    return a + ridge * np.mean(np.diag(a)[:-1]) * np.eye(len(a)), rows.T @ right


# ── binary codes: Hamming distance; recurrent codes and SDC, BEBR (arXiv 2302.08714) ────────────────────────────────


def hamming_topk(query_codes, codes, k):
    """Return distances and rows of the k nearest of each query, ties to the lower row; 2^31 - 1 and -1 fill."""
    distances, rows = np.full((len(query_codes), k), 2**31 - 1, np.int32), np.full((len(query_codes), k), -1)
    for i, query in enumerate(query_codes):
        differing = np.unpackbits(codes ^ query, axis=1).sum(axis=1, dtype=np.int32)
        best = np.argsort(differing, kind="stable")[:k]
        distances[i, : len(best)], rows[i, : len(best)] = differing[best], best
    return distances, rows


def recurrent_values(levels, bits):
    """v(c) = (2c - M) / 2^(bits - 1), M = 2^bits - 1: the sum of the stages' signs, each half of the one before."""
    return (2.0 * levels - (2**bits - 1)) / 2 ** (bits - 1)


def sdc_similarities(query_levels, levels, bits, query_scales=None, scales=None, query_bits=None):
    """Σ v(q_i) v(d_i), rounded to float32, times the product of the scales, float32 as well."""
    queries, codes = recurrent_values(query_levels, query_bits or bits), recurrent_values(levels, bits)
    products = (queries @ codes.T).astype(np.float32)
    query_scales = np.ones(len(query_levels), np.float32) if query_scales is None else query_scales
    scales = np.ones(len(levels), np.float32) if scales is None else scales
    return products * (query_scales[:, None] * scales)


def recurrent_stages(x, center, arrays, loops):
    """b₀ = sgn(W(n)), b += 2^-(i+1) sgn(R_i(n - g_i B_i(b) / |B_i(b)|)), n = (x - center) / |x - center|.

    Return what the codes stand for, and of each stage the numbers whose signs it takes.
    """

    def network(name, rows):
        parts = ("linear", "hidden", "hidden_bias", "output", "bias")
        linear, hidden, hidden_bias, output, bias = (arrays[f"{name}.{part}"].astype(np.float64) for part in parts)
        return rows @ linear.T + np.maximum(rows @ hidden.T + hidden_bias, 0) @ output.T + bias

    rest = x.astype(np.float64) - center
    directions = rest / np.linalg.norm(rest, axis=1, keepdims=True)
    numbers = [network("signs", directions)]
    values = np.where(numbers[0] > 0, 1.0, -1.0)
    for i in range(loops):
        told = network(f"told{i}", values)
        told *= arrays["gains"][i] / np.linalg.norm(told, axis=1, keepdims=True)
        numbers.append(network(f"rest{i}", directions - told))
        values = values + np.where(numbers[-1] > 0, 0.5, -0.5) * 0.5**i
    return values, np.stack(numbers)


# ── codes: what they stand for (cpp/ragged.hpp), how they are made (codes.hpp), what they score (scorer.hpp) ────────

# Max, "Quantizing for minimum distortion" (1960), table 1, to four decimals: the positive half of 2, 4 and 16 levels.
NORMAL_LEVELS = {
    1: [0.7979],
    2: [0.4528, 1.5104],
    4: [0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6181, 2.0691, 2.7326],
}


def normal_levels(bits):
    """Return the levels of codes, ascending, as integers: the outermost is 127."""
    half = np.array(NORMAL_LEVELS[bits])
    return np.rint(np.concatenate([-half[::-1], half]) / half[-1] * 127).astype(int)


# Max (1960), table 2: the distance of equally spaced levels.
EQUAL_STEPS = {1: 1.596, 2: 0.9957, 4: 0.3352}


def levels_of(bits, book):
    """Return the levels of a codebook, and what one root mean square is in their unit: equally spaced if it rotates."""
    if book.rotation is None:
        return normal_levels(bits), 127 / NORMAL_LEVELS[bits][-1]
    highest = 2**bits - 1
    unit = 127 // highest
    return unit * (2 * np.arange(2**bits) - highest), 2 * unit / EQUAL_STEPS[bits]


def bfloat16(x):
    """Return the nearest number of 8 significant bits, ties to even; subnormal below 2^-126, at most the largest."""
    x, largest = x.astype(np.float64), (2 - 2.0**-7) * 2.0**127
    step = np.ldexp(1.0, np.maximum(np.frexp(x)[1] - 8, -133))
    return np.clip(np.rint(x / step) * step, -largest, largest)


def along(x, direction):
    """Return <x, m> / <m, m> of each row, 0 if m is zero."""
    m = direction.astype(np.float64)
    return x.astype(np.float64) @ m / (m @ m or 1.0)


def across(x, direction):
    """P x = x - m <m, x> / <m, m>."""
    return x - np.outer(along(x, direction), direction.astype(np.float64))


def stretched(vectors, book):
    """y = L (d - center), L = I + (stretch - 1) m mᵀ / <m, m>."""
    rest = vectors.astype(np.float64) - book.center
    return rest + (book.stretch - 1) * np.outer(along(rest, book.direction), book.direction.astype(np.float64))


def unstretched(y, direction, stretch):
    """L⁻¹ y."""
    return y - (1 - 1 / stretch) * np.outer(along(y, direction), direction.astype(np.float64))


def encode_int8(document, book):
    """Return the codes, 128 standing for 0, and the scale of one document."""
    y = stretched(document, book)
    scale = max(np.float32(np.abs(y).max(initial=0) / 127), np.finfo(np.float32).tiny)
    return (np.clip(np.rint(y / float(scale)), -127, 127) + 128).astype(np.uint8), scale


def decode_int8(codes, scale, book):
    """d = center + L⁻¹ (scale · (code - 128))."""
    return book.center + unstretched((codes.astype(np.float64) - 128) * float(scale), book.direction, book.stretch)


def encode_short(vectors, bits, book):
    """Return the levels nearest to z / rms(z), scales <z, z> / <z, level> and shifts <r, m> / <m, m>."""
    rest = vectors.astype(np.float64) - book.center  # of rotated vectors, if the codebook rotates
    levels, levels_per_rms = levels_of(bits, book)
    z = across(rest, book.direction) / book.dim_scales
    rms = np.sqrt(np.mean(z**2, axis=1, keepdims=True))
    numbers = np.divide(z, rms, out=np.zeros_like(z), where=rms > 0) * levels_per_rms
    codes = np.abs(numbers[..., None] - levels).argmin(axis=-1)  # the lower of two that are as near
    products = np.sum(z * levels[codes], axis=1)
    scales = np.divide(np.sum(z**2, axis=1), products, out=np.zeros(len(z)), where=products > 0)
    return codes, scales, along(rest, book.direction)


def decode_short(codes, scales, shifts, bits, book):
    """d = center + shift m + P (scale · dim_scales ⊙ level)."""
    numbers = scales[:, None] * book.dim_scales * levels_of(bits, book)[0][codes]
    decoded = book.center + np.outer(shifts, book.direction) + across(numbers, book.direction)
    return decoded if book.rotation is None else decoded @ book.rotation.astype(np.float64)


def packed(codes, bits):
    """Return codes in bytes, the first in the lowest bits, rows padded with zeros to a multiple of four bytes."""
    as_bits = (codes[..., None] >> np.arange(bits) & 1).reshape(len(codes), -1)
    return np.packbits(np.pad(as_bits, ((0, 0), (0, -as_bits.shape[1] % 32))), axis=1, bitorder="little")


def quantized(p):
    """Return p in 8 bits, one scale per row: max |p| / 127 and round(p / scale)."""
    scales = np.abs(p).max(axis=1, initial=0) / 127
    scales[scales == 0] = 1.0
    return scales, np.rint(p / scales[:, None])


def similarities_int8(query, codes, scale, book):
    """<q, center> + q_scale · scale · <p8, code - 128>, p = L⁻¹ q."""
    query = query.astype(np.float64)
    scales, p8 = quantized(unstretched(query, book.direction, book.stretch))
    return (query @ book.center)[:, None] + scales[:, None] * float(scale) * (p8 @ (codes.astype(np.float64) - 128).T)


def similarities_short(query, codes, scales, shifts, bits, book):
    """<q, center> + <q, m> · shift + q_scale · scale · <p8, level>, p = dim_scales ⊙ P q; and |last two|."""
    query = query.astype(np.float64)
    q_scales, p8 = quantized(across(query, book.direction) * book.dim_scales)
    shifted = np.outer(query @ book.direction.astype(np.float64), shifts)
    scaled = q_scales[:, None] * scales * (p8 @ levels_of(bits, book)[0][codes].T)
    return (query @ book.center)[:, None] + shifted + scaled, np.abs(shifted) + np.abs(scaled)


def similarities_signs(query_signs, document_signs):
    """dim - 2 · bits that differ, signs being 0 and 1."""
    return (2 * query_signs.astype(int) - 1) @ (2 * document_signs.astype(int) - 1).T


def maxsim_of_similarities(similarities, weights):
    """Σ_q w_q · max_d similarity; an empty document scores -inf."""
    return float(similarities.max(axis=1) @ weights) if similarities.shape[1] else -np.inf
