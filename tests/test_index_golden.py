"""Golden indexes: one of each format that there was opens for ever, and answers as it did."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

import chamfer as ch
from chamfer.index import SearchSettings
from samples import read_npz

GOLDEN = Path(__file__).parent / "data"


def test_the_golden_index_of_format_1_opens_for_ever(tmp_path):
    shutil.copytree(GOLDEN / "index_v1" / "index", tmp_path / "index")
    expected = read_npz(GOLDEN / "index_v1" / "expected.npz")
    index = ch.Index.open(tmp_path / "index", verify=True)
    result = index.search(expected["query"], 5, num_candidates=8)
    assert result.ids[0].tolist() == expected["ids"].tolist()
    np.testing.assert_allclose(result.scores[0], expected["scores"], rtol=1e-6)  # the last bit may differ by machine


def check_stages(index, expected):
    """Compare the scores of each stage, of codes as stored and as the codec makes them again."""
    documents = ch.TokenVectors.from_list([index.get(one) for one in index.ids])
    for stage in index._snapshot.cascade.stages:
        wanted = expected[stage.name.replace(":", "_")]
        rows = np.repeat(index._snapshot.live_rows()[None], len(wanted), axis=0)
        scores = stage.documents.maxsim(ch.TokenVectors.from_list([expected["query"]]), rows, 1)
        np.testing.assert_allclose(scores, wanted, rtol=1e-6)
        if stage.codec is not None:  # the codec goes on as it began
            again = ch.maxsim(expected["query"], stage.codec.encode(documents))
            np.testing.assert_allclose(again, wanted, rtol=1e-6)


def test_the_golden_index_of_format_2_opens_for_ever(tmp_path):
    """One stage of each codec, and settings that decide which documents come through."""
    shutil.copytree(GOLDEN / "index_v2" / "index", tmp_path / "index")
    expected = read_npz(GOLDEN / "index_v2" / "expected.npz")
    index = ch.Index.open(tmp_path / "index", verify=True)
    stages = ["binary", "scalar:2", "scalar:4", "int8", "bfloat16", "float16", "exact"]
    assert index.stats()["rerank"] == stages
    assert index.settings == SearchSettings(6, (6, 6, 5, 5, 4, 4), float("inf"))
    result = index.search(expected["query"], 3)
    assert result.ids[0].tolist() == expected["ids"].tolist()
    np.testing.assert_allclose(result.scores[0], expected["scores"], rtol=1e-6)
    assert list(result.kept.values()) == [6, 6, 6, 5, 5, 4, 4, 3]
    check_stages(index, {name: np.atleast_2d(array) for name, array in expected.items()})


STAGES_OF_FORMAT_3 = [
    *("binary", "recurrent:1", "scalar:2", "recurrent:2", "scalar:4", "recurrent:4"),
    *("int8", "bfloat16", "float16", "exact"),
]


# tests/data/index_v3 came from:
#
#     rng = np.random.default_rng(3)
#     documents = off_centre_collection(rng, [4, 2, 0, 5, 3, 1, 6, 2, 3, 4, 2, 3], dim=8)
#     queries = off_centre_collection(rng, [3, 2, 4], dim=8)
#     names = [f"é{i}" for i in range(12)]
#     metadata = [{"year": 2000 + i, "venue": "SIGIR", "open": i % 2 == 0} if i % 3 else None for i in range(12)]
#     reducer = ch.FixedDimensionalEncoder(8, num_repetitions=2, num_simhash_projections=1, projection_dimension=None)
#     stages = STAGES_OF_FORMAT_3
#     index = ch.Index.build(documents._run(0, 8), names[:8], path="index", reducer=reducer, candidates="SQ8",
#                            rerank=stages, metadata=metadata[:8], queries=queries)
#     index.add(documents._run(8, 10), names[8:10], metadata[8:10])
#     index.add(documents._run(10, 12), names[10:], metadata[10:])
#     index.update(documents._run(0, 1), ["é5"])  # now in a fourth segment; its metadata is kept
#     index.delete(["é1", "é9"])
#     index.settings = SearchSettings(9, (8, 8, 8, 8, 7, 7, 7, 6, 6), float("inf"), 5)
#     index.save("index"); index.close()
#     found, few = index.search(queries[0], 4), index.search(queries[0], 4, filter="year >= 2004 and not open")
#     live = ch.TokenVectors.from_list([index.get(one) for one in index.ids])
#     scores = {stage.name.replace(":", "_"): stage.documents.maxsim(one_query, live_rows[None], 1) of each stage}
#     np.savez("expected.npz", query=queries[0], ids=found.ids[0].astype(str), scores=found.scores[0],
#              filtered=few.ids[0, :found].astype(str), all_ids=index.ids.astype(str), queries=those of the model,
#              metadata=np.array(json.dumps(...)), vectors=live.vectors, offsets=live.offsets, **scores)
def test_the_golden_index_of_format_3_opens_for_ever(tmp_path):
    """Segments, deleted documents, metadata, one stage of each codec, sample queries, and settings."""
    shutil.copytree(GOLDEN / "index_v3" / "index", tmp_path / "index")
    expected = read_npz(GOLDEN / "index_v3" / "expected.npz")
    index = ch.Index.open(tmp_path / "index", verify=True)
    assert index.stats()["rerank"] == STAGES_OF_FORMAT_3
    assert index.settings == SearchSettings(9, (8, 8, 8, 8, 7, 7, 7, 6, 6), float("inf"), 5)
    assert (index.stats()["num_segments"], index.stats()["num_deleted"]) == (4, 3)
    assert index.ids.tolist() == expected["all_ids"].tolist()
    assert [index.get_metadata(one) for one in index.ids] == json.loads(str(expected["metadata"]))
    live = ch.TokenVectors.from_list([index.get(one) for one in index.ids])
    np.testing.assert_array_equal(live.vectors, expected["vectors"])
    np.testing.assert_array_equal(live.offsets, expected["offsets"])
    np.testing.assert_array_equal(index._snapshot.model.queries.vectors, expected["queries"])
    result = index.search(expected["query"], 4)
    assert result.ids[0].tolist() == expected["ids"].tolist()
    np.testing.assert_allclose(result.scores[0], expected["scores"], rtol=1e-6)
    assert list(result.kept.values()) == [9, 8, 8, 8, 8, 7, 7, 7, 6, 6, 4]
    few = index.search(expected["query"], 4, filter="year >= 2004 and not open").ids[0]
    assert few[: len(expected["filtered"])].tolist() == expected["filtered"].tolist()
    assert set(few[len(expected["filtered"]) :].tolist()) <= {None}
    check_stages(index, expected)
    with ch.Index.open(tmp_path / "index", "a") as writer:  # and goes on
        writer.add(live.select([0]), ["new"])
        writer.compact()
    assert index.refresh()
    assert index.ids.tolist() == [*expected["all_ids"].tolist(), "new"]
