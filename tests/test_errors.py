from refseg.errors import CheckpointMismatch, UnknownName, nearest


def test_an_unknown_name_suggests_the_nearest_known_one():
    assert "did you mean 'scout'" in str(UnknownName("family", "scuot", ["scout", "referformer"]))


def test_an_unknown_name_without_a_near_one_lists_what_is_known():
    message = str(UnknownName("family", "zzz", ["scout", "referformer"]))
    assert "known: referformer, scout" in message


def test_a_mismatch_tells_both_lists():
    message = str(
        CheckpointMismatch("r101 weights for r50", missing=["a.weight"], unexpected=["b.weight", "c.bias"])
    )
    assert "1 names: a.weight" in message
    assert "2 names: b.weight, c.bias" in message


def test_nearest_is_empty_for_strange_names():
    assert nearest("qqqq", ["left", "right"]) == []
